//! How much an agent may send and receive, all its connections together, until its team ends.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::relay::Direction;
use crate::team::amount::show_size;

/// Bytes that may pass; nothing: any number. What is counted is what connections carry, with TLS and heads where those
/// are not looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// To the outside.
    pub sent: Option<u64>,
    /// From the outside.
    pub received: Option<u64>,
}

impl Quota {
    const fn of(&self, direction: Direction) -> Option<u64> {
        match direction {
            Direction::Out => self.sent,
            Direction::Back => self.received,
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |most: Option<u64>| most.map_or_else(|| "any number".to_owned(), show_size);
        write!(f, "sends {}, receives {}", shown(self.sent), shown(self.received))
    }
}

/// What an agent has used of it.
#[derive(Debug)]
pub(super) struct Used {
    quota: Cell<Quota>,
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Why nothing may pass any more.
    over: watch::Sender<Option<String>>,
    told: RefCell<Option<String>>,
}

impl Used {
    pub(super) fn new(quota: Quota) -> Self {
        let (over, _) = watch::channel(None);
        let used = Self {
            quota: Cell::default(),
            sent: Cell::default(),
            received: Cell::default(),
            over,
            told: RefCell::default(),
        };
        used.allow(quota);
        used
    }

    /// Another quota holds from now on; what was used stays so.
    pub(super) fn allow(&self, quota: Quota) {
        self.quota.set(quota);
        self.over.send_replace(self.judge(Direction::Out).or_else(|| self.judge(Direction::Back)));
    }

    /// Bytes that were sent and received.
    pub(super) const fn so_far(&self) -> (u64, u64) {
        (self.sent.get(), self.received.get())
    }

    /// So many bytes have passed.
    pub(super) fn count(&self, direction: Direction, bytes: u64) {
        let counter = self.counter(direction);
        counter.set(counter.get().saturating_add(bytes));
        if self.over.borrow().is_none()
            && let Some(why) = self.judge(direction)
        {
            self.over.send_replace(Some(why));
        }
    }

    /// Why nothing may pass any more, in words; nothing if it may.
    pub(super) fn refusal(&self) -> Option<String> {
        self.over.borrow().clone()
    }

    /// Waits until nothing may pass any more: why.
    pub(super) async fn until_over(&self) -> String {
        let mut over = self.over.subscribe();
        let why = over.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        // The sender is in `self`.
        why.unwrap_or_default()
    }

    /// Whether this was not told yet; it is from now on.
    pub(super) fn is_news(&self, why: &str) -> bool {
        self.told.replace(Some(why.to_owned())).as_deref() != Some(why)
    }

    const fn counter(&self, direction: Direction) -> &Cell<u64> {
        match direction {
            Direction::Out => &self.sent,
            Direction::Back => &self.received,
        }
    }

    fn judge(&self, direction: Direction) -> Option<String> {
        let most = self.quota.get().of(direction)?;
        let verb = match direction {
            Direction::Out => "send",
            Direction::Back => "receive",
        };
        let is_over = self.counter(direction).get() >= most;
        is_over.then(|| {
            format!("all that `egress-quota` lets it {verb} is used up ({})", show_size(most))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_stays_so_until_more_is_allowed() {
        let used = Used::new(Quota { sent: Some(10), received: None });
        used.count(Direction::Back, u64::MAX);
        used.count(Direction::Out, 9);
        assert_eq!(used.refusal(), None);
        used.count(Direction::Out, 1);
        let why = used.refusal().unwrap();
        assert!(why.contains("lets it send is used up (10 bytes)"), "{why}");
        assert!(used.is_news(&why) && !used.is_news(&why));
        used.allow(Quota { sent: Some(20), received: None });
        assert_eq!(used.refusal(), None);
        used.allow(Quota { sent: None, received: Some(5) });
        let why = used.refusal().unwrap();
        assert!(why.contains("lets it receive") && used.is_news(&why), "{why}");
        used.count(Direction::Back, u64::MAX);
        used.allow(Quota::default());
        assert_eq!(used.refusal(), None);
    }
}
