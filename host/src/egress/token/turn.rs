//! Waiting for a secret's turn among the processes of this user, by one thread for each secret at most: the kernel tells
//! of a lock that becomes free only to who waits for it.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::TokenError;
use crate::secrets::SecretError;

/// Bytes of the stack of a thread that waits for a lock.
const STACK: usize = 128 << 10;

/// A secret's turn: a locked file, or why there is none.
type Taken = Result<File, SecretError>;

/// Who waits for one secret's turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// A thread waits for the lock.
    has_thread: bool,
    /// Who gets it. Whoever gave up has closed it, and then the lock is let go.
    for_whom: Option<oneshot::Sender<Taken>>,
}

impl Turn {
    /// Waits for the turn, which `take` waits for in a thread. Where that of an earlier attempt still waits, it is this
    /// one's.
    ///
    /// # Errors
    /// It did not come in time, or can't be had.
    pub(super) async fn wait(
        &self,
        limit: Duration,
        take: impl FnOnce() -> Taken + Send + 'static,
    ) -> Result<File, TokenError> {
        let receiver = self.ask(take)?;
        let turn = timeout(limit, receiver).await.map_err(|_| TokenError::Turn)?;
        Ok(turn.map_err(|_| TokenError::Lost)??)
    }

    fn ask(
        &self,
        take: impl FnOnce() -> Taken + Send + 'static,
    ) -> Result<oneshot::Receiver<Taken>, TokenError> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.for_whom = Some(sender);
        if !waiting.has_thread {
            let turn = self.clone();
            // One that nobody waits for at the end, unlike those of the runtime.
            std::thread::Builder::new()
                .name("token turn".into())
                .stack_size(STACK)
                .spawn(move || turn.hand_over(take()))
                .map_err(TokenError::Thread)?;
            waiting.has_thread = true;
        }
        Ok(receiver)
    }

    fn hand_over(&self, taken: Taken) {
        let for_whom = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.has_thread = false;
            waiting.for_whom.take()
        };
        if let Some(for_whom) = for_whom {
            // What nobody waits for any more is let go.
            for_whom.send(taken).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    fn file() -> File {
        File::open("/dev/null").unwrap()
    }

    #[tokio::test]
    async fn however_often_it_is_tried_one_thread_waits() {
        let turn = Turn::default();
        let threads = Arc::new(AtomicUsize::new(0));
        let (free, freed) = mpsc::channel::<File>();
        let freed = Arc::new(Mutex::new(freed));
        let take = || {
            let (threads, freed) = (Arc::clone(&threads), Arc::clone(&freed));
            move || {
                threads.fetch_add(1, Ordering::Relaxed);
                Ok(freed.lock().unwrap().recv().unwrap())
            }
        };
        for _ in 0..10 {
            assert!(matches!(turn.wait(SHORT, take()).await, Err(TokenError::Turn)));
        }
        // The thread of the first attempt gets it for the last one.
        let freeing = async { free.send(file()).unwrap() };
        let (taken, ()) = tokio::join!(biased; turn.wait(LONG, take()), freeing);
        taken.unwrap();
        assert_eq!(threads.load(Ordering::Relaxed), 1);
        // And the next one has a thread again.
        free.send(file()).unwrap();
        turn.wait(LONG, take()).await.unwrap();
        assert_eq!(threads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_is_let_go() {
        let turn = Turn::default();
        let (free, freed) = mpsc::channel::<File>();
        let take = move || Ok(freed.recv().unwrap());
        assert!(matches!(turn.wait(SHORT, take).await, Err(TokenError::Turn)));
        // A pipe's writing end stands for the lock: its reader sees that it is closed.
        let (mut reader, writer) = std::io::pipe().unwrap();
        free.send(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }
}
