//! A command's calls to a team's warden.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::api::{Call, Reply, VERSION};
use super::channel::{Channel, ChannelError, MAX_DESCRIPTORS};
use crate::state::{CONTROL, StateDir};

/// A call that was made.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
}

impl Connection {
    /// Connects to a team's warden and makes a call.
    ///
    /// # Errors
    /// The team does not run.
    pub async fn call(state: &StateDir, team: &str, call: &Call) -> Result<Self, ChannelError> {
        let mut channel = Channel::connect(&state.team(team), CONTROL).await?;
        channel.send(&Call::Hello { version: VERSION }, &[]).await?;
        channel.send(call, &[]).await?;
        Ok(Self { channel })
    }

    /// The next reply; an error if the warden has gone.
    ///
    /// # Errors
    /// The connection ended or broke.
    pub async fn reply(&mut self) -> Result<Reply, ChannelError> {
        self.channel.receive().await?.ok_or(ChannelError::Gone)
    }

    /// Says something more on the same call.
    ///
    /// # Errors
    /// The warden has gone.
    pub async fn say(&mut self, call: &Call) -> Result<(), ChannelError> {
        self.channel.send(call, &[]).await
    }

    /// Hands over the locks of a [`Call::Checkpoint`].
    ///
    /// # Errors
    /// The warden has gone.
    pub async fn hand_over(&mut self, locks: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        for some in locks.chunks(MAX_DESCRIPTORS) {
            let count = u8::try_from(some.len()).unwrap_or(u8::MAX);
            self.channel.send(&Call::Locks(count), some).await?;
        }
        Ok(())
    }

    /// The descriptors that came with a reply.
    ///
    /// # Errors
    /// They did not come.
    pub fn descriptors(&mut self, count: u8) -> Result<Vec<OwnedFd>, ChannelError> {
        self.channel.take_descriptors(usize::from(count))
    }
}
