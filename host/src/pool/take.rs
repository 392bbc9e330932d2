//! Takes a blank out of a pool, for whoever starts a machine.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use cloister_jailer::spec::Limits;
use rustix::process::Pid;
use tokio::net::UnixStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::{Answer, Ask, Kind, Place, PoolError, SOCKET, Status, Word};
use crate::launch::group::change_limits;
use crate::launch::jail::limits_of_blank;
use crate::warden::channel::{Channel, ChannelError};

/// How long a pool may take to answer: it does nothing else.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A vmm that waits in its jail. Dropped, it ends.
#[derive(Debug)]
pub struct Blank {
    /// Its process, a child of its parent's.
    pub pid: Pid,
    /// The process's descriptor.
    pub handle: OwnedFd,
    /// The host's end of its control socket.
    pub control: OwnedFd,
    /// What it writes to its standard error.
    pub words: OwnedFd,
    /// To its parent.
    pub parent: Parent,
    group: PathBuf,
}

impl Blank {
    /// Gives its control group the limits of a machine.
    ///
    /// # Errors
    /// The system refuses.
    pub fn limit(&self, limits: &Limits) -> Result<(), PoolError> {
        Ok(change_limits(&self.group, &limits_of_blank(), limits)?)
    }
}

/// The connection to a blank's parent. Closed, the blank ends.
#[derive(Debug)]
pub struct Parent(Channel);

impl Parent {
    /// Waits until nothing of the blank is left; how it ended, as `waitpid` gives it. `None`: its parent was killed, and
    /// it with its parent. Cancel safe.
    pub async fn ended(&mut self) -> Option<i32> {
        match self.0.receive().await {
            Ok(Some(Word::Ended { status })) => Some(status),
            _ => None,
        }
    }
}

/// A blank of this kind; `None`: there is none. Where no pool was named, one that does not answer is none.
///
/// # Errors
/// The pool that was named does not answer.
pub async fn take(place: &Place, kind: &Kind) -> Result<Option<Blank>, PoolError> {
    match ask_for(place, kind).await {
        Err(_) if !place.named => Ok(None),
        taken => taken,
    }
}

async fn ask_for(place: &Place, kind: &Kind) -> Result<Option<Blank>, PoolError> {
    let asked = ask(place, &Ask::Take(kind.clone())).await?;
    let answered = timeout(ANSWER_LIMIT, answer(place, asked)).await;
    let (mut pool, given) = answered.unwrap_or_else(|_| Err(silent(place, ChannelError::Gone)))?;
    match given {
        Answer::Given => {}
        Answer::Nothing => return Ok(None),
        Answer::Status(_) => return Err(PoolError::Broken(place.folder.clone())),
    }
    let broken = |_| PoolError::Broken(place.folder.clone());
    let stream = pool.take_descriptors(1).map_err(broken)?.pop();
    let stream = stream.ok_or(PoolError::Broken(place.folder.clone()))?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    let stream = UnixStream::from_std(stream).map_err(PoolError::setup("a connection"))?;
    let mut parent = Channel::new(stream);
    // It was sent before the pool had it to give.
    let word = timeout(ANSWER_LIMIT, parent.receive::<Word>()).await;
    let Ok(Ok(Some(Word::Ready { pid, group }))) = word else {
        return Err(PoolError::Broken(place.folder.clone()));
    };
    let descriptors = parent.take_descriptors(3).map_err(broken)?;
    let (Some(pid), Ok([control, handle, words])) =
        (Pid::from_raw(pid), <[OwnedFd; 3]>::try_from(descriptors))
    else {
        return Err(PoolError::Broken(place.folder.clone()));
    };
    Ok(Some(Blank { pid, handle, control, words, parent: Parent(parent), group }))
}

/// How a pool stands.
///
/// # Errors
/// There is none, or it does not answer.
pub async fn status(place: &Place) -> Result<Status, PoolError> {
    let asked = ask(place, &Ask::Status { when_full: false }).await?;
    status_of(place, timeout(ANSWER_LIMIT, answer(place, asked)).await)
}

/// Waits until every blank of a pool is ready.
///
/// # Errors
/// There is none, or it has ended.
pub async fn await_full(place: &Place) -> Result<Status, PoolError> {
    let asked = ask(place, &Ask::Status { when_full: true }).await?;
    status_of(place, Ok(answer(place, asked).await))
}

fn status_of(
    place: &Place,
    answered: Result<Result<(Channel, Answer), PoolError>, Elapsed>,
) -> Result<Status, PoolError> {
    match answered {
        Ok(Ok((_, Answer::Status(status)))) => Ok(status),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) => Err(PoolError::Broken(place.folder.clone())),
        Err(_) => Err(silent(place, ChannelError::Gone)),
    }
}

fn silent(place: &Place, source: ChannelError) -> PoolError {
    let source = match source {
        ChannelError::Connect(error) | ChannelError::Broken(error) => error,
        ChannelError::Frame(error) => io::Error::other(error),
        ChannelError::Gone => io::ErrorKind::UnexpectedEof.into(),
    };
    PoolError::Silent { folder: place.folder.clone(), source }
}

async fn ask(place: &Place, ask: &Ask) -> Result<Channel, PoolError> {
    let silent = |source| silent(place, source);
    let mut pool = Channel::connect(&place.folder, SOCKET).await.map_err(silent)?;
    // Another user's vmm would be in no jail that we know of.
    let peer = pool.peer_uid().map_err(|error| silent(ChannelError::Connect(error)))?;
    if peer != rustix::process::geteuid().as_raw() {
        return Err(PoolError::NotOurs(place.folder.clone()));
    }
    pool.send(ask, &[]).await.map_err(silent)?;
    Ok(pool)
}

async fn answer(place: &Place, mut pool: Channel) -> Result<(Channel, Answer), PoolError> {
    match pool.receive().await {
        Ok(Some(answer)) => Ok((pool, answer)),
        Ok(None) => Err(silent(place, ChannelError::Gone)),
        Err(error) => Err(silent(place, error)),
    }
}
