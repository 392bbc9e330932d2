//! The team's audit log as its warden keeps it: what happens is recorded, and made durable within a
//! second; when it can't be recorded, the team ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::events::Event;
use crate::audit::AuditError;
use crate::audit::log::Log;
use crate::audit::record::Entry;
use crate::report::{describe, tell_line};

/// How long a record may wait to be made durable, so that many go at once.
const DURABLE_AFTER: Duration = Duration::from_secs(1);

/// A log that is being written, shared by everything that the warden does at once (on one thread).
#[derive(Debug)]
pub(super) struct Audit {
    /// `None`: closed.
    log: RefCell<Option<Log>>,
    written: Notify,
    /// Why nothing can be recorded any more.
    broken: watch::Sender<Option<String>>,
}

impl Audit {
    /// Takes the log over.
    pub(super) fn new(log: Log) -> Rc<Self> {
        let (broken, _) = watch::channel(None);
        Rc::new(Self { log: RefCell::new(Some(log)), written: Notify::new(), broken })
    }

    /// Records something. If that fails, [`Self::broken`] tells it.
    pub(super) fn note(&self, entry: Entry) {
        self.with(|log| log.append(entry));
        self.written.notify_one();
    }

    /// Records something that happened to the team or an agent.
    pub(super) fn note_event(&self, event: &Event) {
        self.note(event.entry());
    }

    fn with(&self, write: impl FnOnce(&mut Log) -> Result<(), AuditError>) {
        if let Some(log) = self.log.borrow_mut().as_mut()
            && let Err(error) = write(log)
        {
            let words = describe(&error, Some(error.remedy()));
            self.broken.send_if_modified(|broken| {
                let first = broken.is_none();
                if first {
                    tell_line(&words);
                    *broken = Some(crate::report::chain(&error));
                }
                first
            });
        }
    }

    /// Waits until something could not be recorded; why.
    pub(super) async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        match broken.wait_for(Option::is_some).await {
            Ok(words) => words.clone().unwrap_or_default(),
            // The sender is in `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Makes what was recorded durable, from time to time; never comes back.
    pub(super) async fn keep_durable(self: Rc<Self>) {
        loop {
            self.written.notified().await;
            sleep(DURABLE_AFTER).await;
            self.with(|log| if log.behind() > 0 { log.sync() } else { Ok(()) });
        }
    }

    /// Records the last word, and closes the log.
    pub(super) fn end(&self, entry: Entry) {
        self.with(|log| log.append_last(entry));
        if let Some(Err(error)) = self.log.borrow_mut().take().map(Log::close) {
            tell_line(describe(&error, Some(error.remedy())));
        }
    }
}
