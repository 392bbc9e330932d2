//! The server's life: the host's first message, threads, confinement, then shares as they come.

use std::fs::File;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use rustix::process::{Resource, getrlimit};
use virtiofsd::server::Server;

use crate::control::{CONTROL_FD, Command, Event, MAX_DESCRIPTORS, MAX_MESSAGE, PROC_FD};
use crate::limits::{MIN_DESCRIPTORS, OWN_DESCRIPTORS, SEARCH_SECONDS, WORKERS};
use crate::memory::Bounce;
use crate::router::Router;
use crate::worker::{Surroundings, Worker, WorkerEnd};
use crate::{seccomp, sys};

/// Why the server ends or does not start.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Not started by the host.
    #[error("no descriptor {fd}: cloister-file-server is started by cloister, not by hand")]
    NotThere {
        /// Which.
        fd: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Too few files can be open.
    #[error(
        "at most {got} files can be open, and {MIN_DESCRIPTORS} are needed: raise the limit (ulimit -n)"
    )]
    Descriptors {
        /// How many.
        got: u64,
    },
    /// A message of the host is none, or not one for now.
    #[error("the host sent something that is not the message that is due")]
    Message,
    /// The control socket.
    #[error("the control socket")]
    Control(#[source] io::Error),
    /// The kernel can't do what the server relies on.
    #[error("{step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// A worker can't go on.
    #[error("a worker ended")]
    Worker(#[from] WorkerEnd),
}

fn system(step: &'static str) -> impl Fn(io::Error) -> ProcessError {
    move |source| ProcessError::System { step, source }
}

/// Serves until the host closes the control socket. When the vmm goes, the process ends at once.
///
/// # Errors
/// It can't start, or the host breaks the protocol.
pub fn run() -> Result<(), ProcessError> {
    sys::share_one_heap();
    sys::install_trap_handler().map_err(system("a handler of signals"))?;
    let inherit = |fd| sys::inherited(fd).map_err(|source| ProcessError::NotThere { fd, source });
    let control = inherit(CONTROL_FD)?;
    let processes = File::from(inherit(PROC_FD)?);
    let descriptors = check_system()?;
    let Some((Command::Start, start)) = receive(&control)? else {
        return Err(ProcessError::Message);
    };
    let [area, vmm]: [OwnedFd; 2] = start.try_into().map_err(|_| ProcessError::Message)?;
    let bounce = Bounce::new(area.into()).map_err(system("mapping the bounce area"))?;
    let router = Router::new(processes, descriptors - OWN_DESCRIPTORS);
    let server = Arc::new(Server::new(router.clone()));
    let surroundings = Surroundings { vmm: Arc::new(vmm), bounce, server, router: router.clone() };

    let (ready, readiness) = channel();
    for _ in 0..WORKERS {
        let (ready, mut worker) = (ready.clone(), Worker::new(surroundings.clone())?);
        let body = move || {
            if ready.send(sys::own_working_directory()).is_ok() {
                finish(&worker.run());
            }
        };
        Builder::new()
            .name("worker".to_owned())
            .spawn(body)
            .map_err(system("starting a worker"))?;
    }
    drop(surroundings);
    let (searches, begun) = channel();
    let kept = searches.clone();
    let body = move || {
        if ready.send(Ok(())).is_ok() {
            watch(&begun);
        }
        drop(kept);
    };
    Builder::new().name("watch".to_owned()).spawn(body).map_err(system("starting a thread"))?;
    // A thread's start needs calls that no thread may make later.
    for _ in 0..=WORKERS {
        let own = readiness.recv().map_err(io::Error::other).and_then(|own| own);
        own.map_err(system("a worker's own working directory"))?;
    }
    sys::own_working_directory().map_err(system("an own working directory"))?;
    // No job can have come: the host starts the vmm after this word.
    seccomp::confine().map_err(system("confining the threads"))?;
    answer(&control, &Event::Ready)?;
    serve(&control, &router, &searches)
}

/// Ends searches for files that take too long; there is one at a time. By sleeping, and without a look at a clock: not every
/// host has one that a process can read without a system call. The thread has a sender of its own, so it lasts as long as the
/// process: its end would need calls that no thread may make.
fn watch(begun: &Receiver<Arc<AtomicBool>>) {
    while let Ok(mut search) = begun.recv() {
        let mut seconds = 0;
        while seconds < SEARCH_SECONDS {
            std::thread::sleep(Duration::from_secs(1));
            seconds += 1;
            if let Some(latest) = begun.try_iter().last() {
                (search, seconds) = (latest, 0);
            }
            // The other holder is who searches.
            if Arc::strong_count(&search) == 1 {
                break;
            }
        }
        search.store(true, Ordering::Relaxed);
    }
}

/// A worker's end is the server's: half of it would be a machine that hangs.
fn finish(end: &WorkerEnd) -> ! {
    let orderly = matches!(end, WorkerEnd::VmmGone);
    if !orderly {
        complain(end);
    }
    // Every worker comes here when the vmm goes, and of several that leave by the library all but one would wait
    // in it for the end (`pause`), which the filter takes for an attack.
    sys::leave(i32::from(!orderly))
}

/// An error with its causes, on standard error.
pub fn complain(error: &dyn std::error::Error) {
    let mut text = format!("cloister-file-server: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.push('\n');
    // A closed stream is no reason to fail: the exit status says the same.
    io::stderr().write_all(text.as_bytes()).ok();
}

/// What the library falls back from silently is a condition here; how many files can be open.
fn check_system() -> Result<u64, ProcessError> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(rustix::fs::CWD, c".", flags, Mode::empty(), resolve)
        .map_err(io::Error::from)
        .map_err(system("the system call openat2"))?;
    let got = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(MAX_DESCRIPTORS_USED);
    if got < MIN_DESCRIPTORS { Err(ProcessError::Descriptors { got }) } else { Ok(got) }
}

/// A million known files take a gigabyte of the host's kernel: the control group ends it before.
const MAX_DESCRIPTORS_USED: u64 = 1 << 20;

fn serve(
    control: &OwnedFd,
    router: &Router,
    searches: &Sender<Arc<AtomicBool>>,
) -> Result<(), ProcessError> {
    while let Some((command, descriptors)) = receive(control)? {
        let [descriptor]: [OwnedFd; 1] =
            descriptors.try_into().map_err(|_| ProcessError::Message)?;
        let event = match command {
            Command::Start => return Err(ProcessError::Message),
            Command::Add(spec) => match router.add(spec, descriptor) {
                Ok(()) => Event::Added,
                Err(refusal) => Event::Refused(refusal),
            },
            Command::Save => {
                let cancel = Arc::new(AtomicBool::new(false));
                searches.send(Arc::clone(&cancel)).map_err(|_| ProcessError::Message)?;
                match router.save(&descriptor.into(), &cancel) {
                    Ok(bytes) => Event::Saved { bytes },
                    Err(unsaved) => Event::NotSaved(unsaved),
                }
            }
            Command::Restore => match router.restore(&descriptor.into()) {
                Ok(()) => Event::Restored,
                Err(unrestored) => Event::NotRestored(unrestored),
            },
        };
        answer(control, &event)?;
    }
    Ok(())
}

fn answer(control: &OwnedFd, event: &Event) -> Result<(), ProcessError> {
    let bytes = postcard::to_allocvec(event).map_err(|_| ProcessError::Message)?;
    match send(control, &bytes, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(errno) => Err(ProcessError::Control(errno.into())),
    }
}

/// The next message; `None`: the host has closed its end.
fn receive(control: &OwnedFd) -> Result<Option<(Command, Vec<OwnedFd>)>, ProcessError> {
    let mut buffer = [0; MAX_MESSAGE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match recvmsg(control.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            received => break received.map_err(|errno| ProcessError::Control(errno.into()))?,
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    let packet = buffer.get(..received.bytes).filter(|packet| whole && packet.len() <= MAX_MESSAGE);
    match packet.and_then(|packet| postcard::take_from_bytes(packet).ok()) {
        Some((command, [])) => Ok(Some((command, descriptors))),
        _ => Err(ProcessError::Message),
    }
}
