//! A command that runs in a machine.

use std::sync::Arc;

use cloister_protocol::message::{ExitStatus, WindowSize};
use tokio::sync::{mpsc, oneshot, watch};

use super::commands::Started;
use super::requests::Request;
use super::streams::Streams;
use super::{MachineEnd, MachineError, send, wait_for_end};

/// A command that runs in a machine. Dropped, it runs on, without streams.
#[derive(Debug)]
pub struct Command {
    id: u32,
    streams: Option<Streams>,
    exited: oneshot::Receiver<ExitStatus>,
    /// Once it has been told.
    status: Option<ExitStatus>,
    requests: mpsc::Sender<Request>,
    ended: watch::Receiver<Option<Arc<MachineEnd>>>,
}

impl Command {
    pub(super) fn new(
        started: Started,
        requests: mpsc::Sender<Request>,
        ended: watch::Receiver<Option<Arc<MachineEnd>>>,
    ) -> Self {
        let Started { id, streams, exited } = started;
        Self { id, streams: Some(streams), exited, status: None, requests, ended }
    }

    /// Its number in its machine, and in those that go on from it.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The host's ends of its streams; only the first call gets them.
    pub fn take_streams(&mut self) -> Option<Streams> {
        self.streams.take()
    }

    /// Sends a signal to its process group, or to the foreground group of its terminal.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn signal(&self, signal: u8) -> Result<(), MachineError> {
        send(&self.requests, &self.ended, Request::Signal { id: self.id, signal }).await
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn resize(&self, size: WindowSize) -> Result<(), MachineError> {
        send(&self.requests, &self.ended, Request::Resize { id: self.id, size }).await
    }

    /// Waits for its end. Cancel safe; called again, it tells the same.
    ///
    /// # Errors
    /// The machine ended first.
    pub async fn wait(&mut self) -> Result<ExitStatus, MachineError> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        match (&mut self.exited).await {
            Ok(status) => {
                self.status = Some(status);
                Ok(status)
            }
            Err(_) => Err(MachineError::Ended(wait_for_end(&mut self.ended).await)),
        }
    }
}
