//! Bodies on their way: passed on as they come, counted, and told of when they are over.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::Way;
use super::secret::Stopped;
use crate::egress::credential::{PLACEHOLDER, find_placeholder};
use crate::egress::gate::{Facts, REQUEST, came_to};
use crate::egress::relay::Direction;

/// What is recorded of one request: it is told when the last that holds it goes, however that comes about.
pub(super) struct Record {
    pub(super) way: Way,
    /// Method and address, for people.
    pub(super) shown: String,
    /// By which rule.
    pub(super) rule: String,
    /// What was asked, for programs.
    pub(super) facts: RefCell<Facts>,
    pub(super) begin: Instant,
    /// 0: no answer.
    pub(super) status: Cell<u16>,
    pub(super) sent: Cell<u64>,
    pub(super) received: Cell<u64>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut words = format!("{}: ", self.shown);
        // Writing to a text can't fail.
        match self.status.get() {
            0 => write!(words, "no answer"),
            status => write!(words, "{status}"),
        }
        .ok();
        write!(
            words,
            ", {} bytes sent, {} received in {:.3} s, {}",
            self.sent.get(),
            self.received.get(),
            self.begin.elapsed().as_secs_f64(),
            self.rule,
        )
        .ok();
        let kind = if self.status.get() == 0 { "egress-failed" } else { REQUEST };
        let (sent, received) = (self.sent.get(), self.received.get());
        let mut facts = came_to(self.facts.take(), sent, received, self.begin.elapsed());
        if self.status.get() != 0 {
            facts.insert("status", self.status.get().into());
        }
        self.way.gate.tell_facts(self.way.agent, kind, words, facts);
    }
}

/// A body that is passed on.
pub(super) struct Passed {
    inner: Incoming,
    direction: Direction,
    record: Rc<Record>,
    /// The last bytes that went by: a placeholder may lie across two pieces.
    tail: Vec<u8>,
}

/// Why a body breaks off.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// More than a placeholder's name has.
const MAX_PLACEHOLDER: usize = 64;

impl Passed {
    pub(super) const fn new(inner: Incoming, direction: Direction, record: Rc<Record>) -> Self {
        Self { inner, direction, record, tail: Vec::new() }
    }

    /// Looks for a placeholder in what an agent sends, which is for nobody here; its name.
    fn search(&mut self, data: &[u8]) -> Option<String> {
        let most = PLACEHOLDER.0.len() - 1;
        let mut joint = std::mem::take(&mut self.tail);
        joint.extend(data.iter().take(most + MAX_PLACEHOLDER));
        let found = find_placeholder(&joint).or_else(|| find_placeholder(data));
        let last = if data.len() >= most { data } else { &joint };
        self.tail = last.get(last.len().saturating_sub(most)..).unwrap_or_default().to_vec();
        found
    }
}

impl Body for Passed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            if self.direction == Direction::Out
                && let Some(name) = self.search(data)
            {
                let words = Stopped::Placeholder(name).words();
                let Record { way, shown, .. } = &*self.record;
                way.gate.tell(way.agent, "secret-denied", format!("{shown}: {words}"));
                return Poll::Ready(Some(Err(words.into())));
            }
            let own = match self.direction {
                Direction::Out => &self.record.sent,
                Direction::Back => &self.record.received,
            };
            own.set(own.get().saturating_add(data.len() as u64));
            let traffic = &self.record.way.traffic;
            traffic.moved(self.direction, data.len() as u64);
            if let Err(error) = traffic.check() {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
