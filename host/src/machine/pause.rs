//! Whether a machine is paused, and waits that stand still while it is.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::requests::Request;
use super::{Machine, MachineError};

/// Whether a machine is paused, as its user last had it.
#[derive(Debug)]
pub struct Pause(watch::Sender<bool>);

impl Default for Pause {
    fn default() -> Self {
        Self(watch::channel(false).0)
    }
}

impl Pause {
    /// Whether it is paused now.
    #[must_use]
    pub fn is(&self) -> bool {
        *self.0.borrow()
    }

    /// It is so from now on.
    pub(super) fn set(&self, paused: bool) {
        self.0.send_replace(paused);
    }

    /// Comes back when the machine has had this much time, in which it was not paused.
    pub async fn pass(&self, time: Duration) {
        let mut paused = self.0.subscribe();
        let mut left = time;
        loop {
            // The sender is in `self`.
            paused.wait_for(|paused| !paused).await.ok();
            let begin = Instant::now();
            let Some(end) = begin.checked_add(left) else {
                return std::future::pending().await;
            };
            tokio::select! {
                () = sleep_until(end) => return,
                _ = paused.wait_for(|paused| *paused) => {
                    left = left.saturating_sub(begin.elapsed());
                }
            }
        }
    }

    /// What `work` comes to, if the machine does not take longer than `limit` for it.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = self.pass(limit) => None,
        }
    }
}

impl Machine {
    /// Takes every vCPU out of the guest and keeps it out: it does nothing, and answers nothing. What was asked of it
    /// waits until [`Self::resume`]. If it can be saved, its file server has answered everything then.
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended; it goes on if it still can.
    pub async fn pause(&self) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        let paused = self.ask_vmm(Request::Pause { reply }, answer).await;
        if matches!(paused, Err(MachineError::NoAnswer { .. })) {
            // A file may take longer than anybody waits for a pause. Nobody waits for the answer either, nor for room to ask.
            // In the same queue: a later pause must not overtake it and be undone by it.
            let (reply, _) = oneshot::channel();
            self.direct.try_send(Request::Resume { reply }).ok();
        }
        paused??;
        self.pause.set(true);
        Ok(())
    }

    /// Undoes [`Self::pause`].
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended.
    pub async fn resume(&self) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask_vmm(Request::Resume { reply }, answer).await??;
        self.pause.set(false);
        Ok(())
    }

    /// Whether it is paused, and waits that stand still then.
    #[must_use]
    pub const fn paused(&self) -> &Pause {
        &self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn no_time_passes_for_a_machine_that_is_paused() {
        let pause = Pause::default();
        let begin = Instant::now();
        let both = async {
            tokio::time::sleep(SECOND).await;
            pause.set(true);
            assert!(pause.is());
            tokio::time::sleep(100 * SECOND).await;
            pause.set(false);
        };
        let ((), late) = tokio::join!(both, pause.within(3 * SECOND, std::future::pending::<()>()));
        assert_eq!((late, begin.elapsed().as_secs()), (None, 103));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_in_time_is_taken() {
        let pause = Pause::default();
        pause.set(true);
        let work = async {
            tokio::time::sleep(500 * SECOND).await;
            7
        };
        assert_eq!(pause.within(SECOND, work).await, Some(7));
        let begin = Instant::now();
        pause.set(false);
        pause.pass(2 * SECOND).await;
        assert_eq!(begin.elapsed().as_secs(), 2);
    }
}
