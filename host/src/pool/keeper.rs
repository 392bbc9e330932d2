//! The pool's process: keeps so many blanks ready, gives them away, and makes new ones when nobody is in a hurry.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{RecvFlags, recv};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::{Answer, Ask, Kind, LOCK, Place, PoolError, SOCKET, Status};
use crate::launch::files::Files;
use crate::launch::jail::JailSpec;
use crate::report::tell_line;
use crate::warden::channel::{Channel, listen};

/// How long a blank may take to be ready: as long as a start may.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Who has taken a blank starts a machine with it: that has the processors for so long before a new blank is made. A
/// fork takes some 20 ms.
const PAUSE: Duration = Duration::from_millis(100);
/// After a blank that could not be made.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long a blank that nobody wants may take to end before it is left to do so alone.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long somebody who has connected may take to say what is wanted.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Most connections at once: the rest wait in the socket's queue.
const MAX_CALLS: usize = 64;

/// What a pool keeps.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The programs.
    pub files: Files,
    /// Their jails.
    pub jail: JailSpec,
    /// The words after `cloister blank` that say the same.
    pub words: Vec<std::ffi::OsString>,
    /// How many blanks are ready; none is allowed.
    pub size: u16,
}

/// A blank that is ready.
#[derive(Debug)]
struct Ready {
    connection: UnixStream,
    kind: Kind,
    process: Option<u32>,
    /// Comes to its end when the blank's parent has ended.
    gone: JoinHandle<()>,
}

#[derive(Debug)]
struct Pool {
    wish: Wish,
    ready: RefCell<VecDeque<Ready>>,
    status: RefCell<Status>,
    /// One was taken, or has ended.
    missing: Notify,
    /// Whether every blank is ready.
    full: watch::Sender<bool>,
}

/// A place that is this process's.
#[derive(Debug)]
pub struct Kept {
    listener: UnixListener,
    place: Place,
    _lock: File,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The next pool replaces what stays.
        fs::remove_file(self.place.folder.join(SOCKET)).ok();
    }
}

/// Takes a place for a pool.
///
/// # Errors
/// Another pool has it, or the file system refuses.
pub fn open(place: &Place) -> Result<Kept, PoolError> {
    let folder = &place.folder;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(PoolError::io("make", folder))?;
    check_ours(folder)?;
    let path = folder.join(LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(PoolError::io("open", &path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| PoolError::Kept(folder.clone()))?;
    let listener = listen(folder, SOCKET).map_err(PoolError::io("listen in", folder))?;
    Ok(Kept { listener, place: place.clone(), _lock: lock })
}

fn check_ours(folder: &Path) -> Result<(), PoolError> {
    let facts = folder.metadata().map_err(PoolError::io("look at", folder))?;
    let ours = facts.uid() == rustix::process::geteuid().as_raw();
    if ours && facts.permissions().mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(PoolError::NotOurs(folder.to_owned()))
    }
}

/// Keeps the pool until `end` comes. Call it within a local set: its work runs beside it.
///
/// # Errors
/// The first blank can't be made: then none can.
pub async fn keep(
    kept: &Kept,
    wish: Wish,
    begun: impl FnOnce(),
    end: impl Future<Output = ()>,
) -> Result<(), PoolError> {
    let size = wish.size;
    let pool = Rc::new(Pool {
        wish,
        ready: RefCell::default(),
        status: RefCell::new(Status { size, ..Status::default() }),
        missing: Notify::new(),
        full: watch::Sender::new(false),
    });
    let mut end = std::pin::pin!(end);
    if size > 0 {
        let first = tokio::select! {
            first = pool.make() => first?,
            () = &mut end => return Ok(()),
        };
        pool.ready.borrow_mut().push_back(first);
    }
    begun();
    let mut work = JoinSet::new();
    work.spawn_local(Rc::clone(&pool).refill());
    let serve = async {
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                call = kept.listener.accept(), if calls.len() < MAX_CALLS => {
                    // One that has gone already is no caller.
                    if let Ok((stream, _)) = call {
                        calls.spawn_local(Rc::clone(&pool).answer(stream));
                    }
                }
                Some(_) = calls.join_next() => {}
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = end => {}
    }
    work.shutdown().await;
    // Those that nobody has taken end with their connections.
    let left: Vec<_> = pool.ready.take().into_iter().map(|blank| blank.gone).collect();
    for gone in left {
        timeout(END_LIMIT, gone).await.ok();
    }
    Ok(())
}

impl Pool {
    /// Makes blanks as long as some are missing.
    async fn refill(self: Rc<Self>) {
        loop {
            if self.ready.borrow().len() >= usize::from(self.wish.size) {
                self.full.send_replace(true);
                self.missing.notified().await;
                self.full.send_replace(false);
                sleep(PAUSE).await;
                continue;
            }
            match self.make().await {
                Ok(blank) => self.ready.borrow_mut().push_back(blank),
                Err(error) => {
                    tell_line(crate::report::describe(&error, error.remedy()));
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Makes a blank and waits until it is one.
    async fn make(self: &Rc<Self>) -> Result<Ready, PoolError> {
        let kind = Kind::of(&self.wish.files, &self.wish.jail)?;
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(PoolError::setup("a connection"))?;
        let program = std::env::current_exe().map_err(PoolError::setup("a blank"))?;
        let child = Command::new(program)
            .arg("blank")
            .args(&self.wish.words)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(PoolError::setup("a blank"))?;
        let process = child.id();
        let gone = spawn_local(Rc::clone(self).see_off(child));
        ours.set_nonblocking(true).map_err(PoolError::setup("a connection"))?;
        let connection = UnixStream::from_std(ours).map_err(PoolError::setup("a connection"))?;
        // Its word stays unread: it is for whoever takes the blank.
        match timeout(READY_LIMIT, connection.readable()).await {
            Ok(Ok(())) if has_word(&connection) => Ok(Ready { connection, kind, process, gone }),
            _ => Err(PoolError::Blank),
        }
    }

    /// Reaps a blank's parent, and forgets the blank if nobody has taken it.
    async fn see_off(self: Rc<Self>, mut child: Child) {
        let process = child.id();
        // It fails only for what is no child.
        child.wait().await.ok();
        let mut ready = self.ready.borrow_mut();
        let before = ready.len();
        ready.retain(|blank| blank.process != process);
        if ready.len() < before {
            self.missing.notify_one();
        }
    }

    /// Answers one caller.
    async fn answer(self: Rc<Self>, stream: UnixStream) {
        let mut caller = Channel::new(stream);
        let ours = rustix::process::geteuid().as_raw();
        if !caller.peer_uid().is_ok_and(|uid| uid == ours) {
            return;
        }
        let Ok(Ok(Some(ask))) = timeout(ASK_LIMIT, caller.receive::<Ask>()).await else { return };
        match ask {
            Ask::Status { when_full } => {
                if when_full {
                    self.full.subscribe().wait_for(|full| *full).await.ok();
                }
                let status = self.status();
                caller.send(&Answer::Status(status), &[]).await.ok();
            }
            Ask::Take(kind) => match self.take(&kind) {
                Some(blank) => {
                    // If the caller has gone, so has the blank.
                    caller.send(&Answer::Given, &[blank.connection.as_fd()]).await.ok();
                    self.missing.notify_one();
                }
                None => {
                    caller.send(&Answer::Nothing, &[]).await.ok();
                }
            },
        }
    }

    fn status(&self) -> Status {
        let ready = u16::try_from(self.ready.borrow().len()).unwrap_or(u16::MAX);
        Status { ready, ..*self.status.borrow() }
    }

    /// The oldest blank, if it fits. Those of programs that are not what they were are dropped.
    fn take(&self, kind: &Kind) -> Option<Ready> {
        let mut ready = self.ready.borrow_mut();
        let mut status = self.status.borrow_mut();
        let place = ready.iter().position(|blank| blank.kind == *kind);
        let taken = place.and_then(|place| ready.remove(place));
        match &taken {
            Some(_) => status.taken += 1,
            None => {
                status.missed += 1;
                if let Ok(now) = Kind::of(&self.wish.files, &self.wish.jail) {
                    ready.retain(|blank| blank.kind == now);
                    self.missing.notify_one();
                }
            }
        }
        taken
    }
}

/// Whether something was said on a connection, and not its end.
fn has_word(connection: &UnixStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(connection, &mut [0_u8], flags).is_ok_and(|(count, _)| count > 0)
}
