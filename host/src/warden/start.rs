//! The command's side of a start: a warden of its own for the team, and its word that it runs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};

use tokio::net::UnixStream;

use super::api::{Handover, Progress};
use super::channel::{Channel, ChannelError, MAX_DESCRIPTORS};
use crate::state::{StateDir, TeamLock};

/// A warden that starts its team.
#[derive(Debug)]
pub struct Starter {
    channel: Channel,
    /// Reaped if it ends while this command lives.
    child: Child,
    /// Until the warden has it.
    lock: Option<TeamLock>,
}

/// How a start went.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// The team runs.
    Running,
    /// It does not; in words, ready to be shown.
    Failed(String),
}

/// Starts the warden of a team whose row is in the database, and whose lock is ours.
///
/// # Errors
/// The system refuses.
pub fn start(state: &StateDir, name: &str, lock: TeamLock) -> io::Result<Starter> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let folder = state.team(name);
    let words = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.join("warden.log"))?;
    // Nothing of this command's environment: what the team needs is in its row.
    let child = Command::new(std::env::current_exe()?)
        .arg("warden")
        .arg("--state")
        .arg(state.path())
        .arg("--")
        .arg(name)
        .env_clear()
        .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
        .envs(std::env::var_os("XDG_DATA_HOME").map(|home| ("XDG_DATA_HOME", home)))
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(words.try_clone()?)
        .stderr(words)
        .spawn()?;
    ours.set_nonblocking(true)?;
    Ok(Starter { channel: Channel::new(UnixStream::from_std(ours)?), child, lock: Some(lock) })
}

/// Bytes of the plan in one message: well below the frame's bound.
pub(crate) const PART: usize = 64 << 10;

impl Starter {
    /// Hands the team's lock over, and its plan with the descriptors that it speaks of; `kept`: it goes on from the disk.
    ///
    /// # Errors
    /// The warden has gone.
    pub async fn hand_over(
        &mut self,
        plan: &[u8],
        descriptors: &[OwnedFd],
        kept: bool,
    ) -> Result<(), ChannelError> {
        if let Some(lock) = &self.lock {
            self.channel.send(&Handover::Lock, &[lock.as_fd()]).await?;
            self.lock = None;
        }
        for part in plan.chunks(PART) {
            self.channel.send(&Handover::Plan(part.to_vec()), &[]).await?;
        }
        for some in descriptors.chunks(MAX_DESCRIPTORS) {
            let count = u8::try_from(some.len()).unwrap_or(u8::MAX);
            let borrowed: Vec<_> = some.iter().map(|one| one.as_fd()).collect();
            self.channel.send(&Handover::Descriptors(count), &borrowed).await?;
        }
        self.channel.send(&Handover::Begin { kept }, &[]).await
    }

    /// Wants the team no more: what was begun is taken back, unless the warden had said before that it runs. That is
    /// known in the end: its word, which came or not.
    ///
    /// # Errors
    /// The warden took everything back, and ended.
    pub async fn give_up(&mut self) -> Result<Started, ChannelError> {
        self.lock = None;
        self.channel.close_sending().await.map_err(ChannelError::Broken)?;
        self.wait(|_| ()).await
    }

    /// Waits until the team runs, or does not; `doing` hears what is going on. Dropped before, the
    /// warden takes everything back and ends.
    ///
    /// # Errors
    /// The warden ended without a word.
    pub async fn wait(&mut self, mut doing: impl FnMut(&str)) -> Result<Started, ChannelError> {
        loop {
            match self.channel.receive().await? {
                Some(Progress::Doing(what)) => doing(&what),
                Some(Progress::Ready) => return Ok(Started::Running),
                Some(Progress::Failed { words }) => {
                    // It ends now; nothing is done with how.
                    self.child.wait().ok();
                    return Ok(Started::Failed(words));
                }
                None => {
                    self.child.wait().ok();
                    return Err(ChannelError::Gone);
                }
            }
        }
    }
}
