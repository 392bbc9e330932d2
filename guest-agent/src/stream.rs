//! The pumps between a command's pipes or terminal and its connections to the host.
//!
//! A pump holds at most one read's worth of bytes that its other side does not take yet, and then
//! reads no more: a command that writes faster than the host reads is slowed down by its full
//! pipe, and a host that sends faster than the command reads by vsock's credit.
//!
//! An output can be detached: its connection ends after what was sent on it, and what it holds and what the command
//! writes wait for the next connection. The host has read all of the first when it closes its end.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::{Errno, Result};
use rustix::net::{SendFlags, Shutdown};

use crate::terminal;

/// Most bytes read at once, and so held by a pump. As much as a pipe has.
pub(crate) const CHUNK: usize = 64 << 10;

/// Reads and writes in one turn; others have their turn in between.
const STEPS_A_TURN: usize = 16;

/// Most that is taken from a terminal after its command has ended: more than the kernel buffers.
/// (What a pipe has then is known exactly.)
const LAST_OF_TERMINAL: usize = 256 << 10;

/// What a pump says after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It waits for one of its sides.
    Blocked,
    /// It could go on at once.
    Unfinished,
    /// It has nothing to do any more.
    Done,
}

/// What a single step came to.
enum Step {
    Moved,
    Wait,
    Done,
}

/// Which kind of file the command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pipe,
    Terminal,
}

/// One direction of a command's streams.
#[derive(Debug)]
pub(crate) enum Stream {
    /// From the host to the command.
    Input(Input),
    /// From the command to the host.
    Output(Output),
}

impl Stream {
    pub(crate) const fn input(kind: Kind, socket: Rc<OwnedFd>, file: Rc<OwnedFd>) -> Self {
        Self::Input(Input { kind, socket, file, held: Held::new(), ended: false, line_open: false })
    }

    pub(crate) const fn output(kind: Kind, socket: Rc<OwnedFd>, file: Rc<OwnedFd>) -> Self {
        let way = Way::Open(socket);
        Self::Output(Output { kind, way, file: Some(file), held: Held::new(), last: None })
    }

    /// An output of which nothing is left but to tell the host its end, on a connection that is being made.
    pub(crate) fn ended(socket: OwnedFd) -> Self {
        let way = Way::Connecting(Rc::new(socket));
        let (kind, held) = (Kind::Pipe, Held::new());
        Self::Output(Output { kind, way, file: None, held, last: None })
    }

    /// Moves bytes until a side blocks or the turn is over. `scratch` has [`CHUNK`] bytes.
    pub(crate) fn run(&mut self, scratch: &mut [u8]) -> Turn {
        for step in 0..STEPS_A_TURN {
            let result = match self {
                Self::Input(input) => input.step(scratch),
                Self::Output(output) => output.step(scratch, step == 0),
            };
            match result {
                Step::Moved => {}
                Step::Wait => return Turn::Blocked,
                Step::Done => return Turn::Done,
            }
        }
        Turn::Unfinished
    }
}

/// From the host to the command.
#[derive(Debug)]
pub(crate) struct Input {
    kind: Kind,
    socket: Rc<OwnedFd>,
    file: Rc<OwnedFd>,
    held: Held,
    /// The host sends no more.
    ended: bool,
    /// The last byte was not a line's end (terminals).
    line_open: bool,
}

impl Input {
    /// When this is done, the pump is dropped, and with it the command's pipe is closed: the end
    /// of its input. The connection goes too, so that a host which sends to a command that has
    /// closed its input learns it.
    fn step(&mut self, scratch: &mut [u8]) -> Step {
        if !self.held.is_empty() {
            return match self.held.flush(|bytes| rustix::io::write(&self.file, bytes)) {
                Ok(true) => Step::Moved,
                Ok(false) => Step::Wait,
                Err(_broken) => Step::Done,
            };
        }
        if self.ended {
            return Step::Done;
        }
        match rustix::io::read(&self.socket, &mut *scratch) {
            Err(Errno::AGAIN) => Step::Wait,
            Err(Errno::INTR) => Step::Moved,
            Ok(0) | Err(_) => {
                self.end();
                Step::Moved
            }
            Ok(count) => {
                let bytes = scratch.get(..count).unwrap_or_default();
                self.line_open = bytes.last().is_some_and(|byte| *byte != b'\n');
                match self.held.pass(bytes, |bytes| rustix::io::write(&self.file, bytes)) {
                    Ok(()) => Step::Moved,
                    Err(_broken) => Step::Done,
                }
            }
        }
    }

    /// A terminal stays open, for its output; its input ends by the character for that.
    fn end(&mut self) {
        self.ended = true;
        if self.kind == Kind::Terminal {
            self.held.keep(&terminal::end_of_input(&self.file, self.line_open));
        }
    }
}

/// An output's connection to the host.
#[derive(Debug)]
enum Way {
    /// It is being made.
    Connecting(Rc<OwnedFd>),
    Open(Rc<OwnedFd>),
    /// Nothing more is sent; the host has not closed it yet.
    Leaving(Rc<OwnedFd>),
    /// There is none, and nothing is read.
    Gone,
}

/// From the command to the host.
#[derive(Debug)]
pub(crate) struct Output {
    kind: Kind,
    way: Way,
    /// The command's pipe or terminal. `None`: it has ended, and all of it was sent. The pump then
    /// waits for the host to close: if this side did first, the kernel would cut the connection
    /// off after some seconds (its timeout for the other side's answer), and with it what a slow
    /// reader has not read.
    file: Option<Rc<OwnedFd>>,
    held: Held,
    /// The command has ended; so many bytes are still to be read.
    last: Option<usize>,
}

impl Output {
    /// The command has ended: what is in the pipe now is all that it wrote. Somebody else may
    /// still have the pipe open, so its end is not waited for.
    pub(crate) fn command_ended(&mut self) {
        let Some(file) = &self.file else { return };
        let last = match self.kind {
            Kind::Pipe => rustix::io::ioctl_fionread(file)
                .ok()
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(CHUNK),
            Kind::Terminal => LAST_OF_TERMINAL,
        };
        self.last = Some(last);
    }

    /// Sends no more on its connection, and tells the host so. What is not sent yet waits for the next one.
    pub(crate) fn detach(&mut self) {
        let way = std::mem::replace(&mut self.way, Way::Gone);
        if let Way::Open(socket) | Way::Connecting(socket) | Way::Leaving(socket) = way {
            // Fails when the host is gone: then the next step finds that too.
            let _gone = rustix::net::shutdown(&socket, Shutdown::Write);
            self.way = Way::Leaving(socket);
        }
    }

    /// Whether it is detached, and the host has closed its end.
    pub(crate) const fn is_detached(&self) -> bool {
        matches!(self.way, Way::Gone)
    }

    /// Goes on with another connection, which is being made.
    pub(crate) fn attach(&mut self, socket: OwnedFd) {
        self.way = Way::Connecting(Rc::new(socket));
    }

    /// Whether its connection is being made.
    pub(crate) const fn is_connecting(&self) -> bool {
        matches!(self.way, Way::Connecting(_))
    }

    /// `first`: the turn's first step, where nothing to read may mean that the other side woke
    /// the pump up.
    fn step(&mut self, scratch: &mut [u8], first: bool) -> Step {
        let socket = match &self.way {
            Way::Open(socket) => socket,
            Way::Connecting(_) => return self.connect(),
            Way::Leaving(socket) => {
                let step = linger(socket, scratch);
                if matches!(step, Step::Done) {
                    self.way = Way::Gone;
                }
                return if self.is_detached() { Step::Wait } else { step };
            }
            Way::Gone => return Step::Wait,
        };
        if !self.held.is_empty() {
            return match self.held.flush(|bytes| send(socket, bytes)) {
                Ok(true) => Step::Moved,
                Ok(false) => Step::Wait,
                Err(_broken) => Step::Done,
            };
        }
        let Some(file) = &self.file else { return linger(socket, scratch) };
        let wanted = self.last.unwrap_or(CHUNK).min(scratch.len());
        let result = match scratch.get_mut(..wanted) {
            Some(room) if wanted > 0 => rustix::io::read(file, room),
            _ => Ok(0),
        };
        match result {
            Err(Errno::INTR) => Step::Moved,
            // A terminal is in this state while no process has it open; one may open it again.
            Err(Errno::AGAIN | Errno::IO) if self.last.is_none() => {
                // An empty message passes nothing and tells whether anybody would read it.
                if first && send(socket, &[]).is_err_and(|error| error != Errno::AGAIN) {
                    return Step::Done;
                }
                Step::Wait
            }
            Ok(0) | Err(_) => {
                self.file = None;
                // Fails when the host is gone: then the next step finds that too.
                let _gone = rustix::net::shutdown(socket, Shutdown::Write);
                Step::Moved
            }
            Ok(count) => {
                self.last = self.last.map(|last| last.saturating_sub(count));
                let bytes = scratch.get(..count).unwrap_or_default();
                match self.held.pass(bytes, |bytes| send(socket, bytes)) {
                    Ok(()) => Step::Moved,
                    Err(_broken) => Step::Done,
                }
            }
        }
    }

    /// Looks whether the connection is made. An empty message passes nothing and tells.
    fn connect(&mut self) -> Step {
        let Way::Connecting(socket) = &self.way else { return Step::Moved };
        match send(socket, &[]) {
            Err(Errno::NOTCONN) => {
                let failed = rustix::net::sockopt::socket_error(socket);
                if matches!(failed, Ok(Ok(()))) { Step::Wait } else { Step::Done }
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {
                if self.file.is_none() && self.held.is_empty() {
                    // Its end is all that there is to tell.
                    let _gone = rustix::net::shutdown(socket, Shutdown::Write);
                }
                self.way = Way::Open(Rc::clone(socket));
                Step::Moved
            }
            Err(_broken) => Step::Done,
        }
    }
}

/// Waits for the host to close its end.
fn linger(socket: &OwnedFd, scratch: &mut [u8]) -> Step {
    match rustix::io::read(socket, scratch) {
        Err(Errno::AGAIN) => Step::Wait,
        Ok(0) => Step::Done,
        Ok(_) | Err(Errno::INTR) => Step::Moved,
        Err(_) => Step::Done,
    }
}

/// Bytes that were read and that the other side has not taken yet.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    /// How many of them it has taken.
    taken: usize,
}

impl Held {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), taken: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes `bytes` at once as far as that goes and keeps the rest. Nothing is held before.
    pub(crate) fn pass(
        &mut self,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> Result<usize>,
    ) -> Result<()> {
        let count = match write(bytes) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error),
        };
        self.keep(bytes.get(count..).unwrap_or_default());
        Ok(())
    }

    /// Writes what is held; whether all of it was taken.
    pub(crate) fn flush(&mut self, write: impl FnOnce(&[u8]) -> Result<usize>) -> Result<bool> {
        match write(self.bytes.get(self.taken..).unwrap_or_default()) {
            Ok(count) => self.taken = self.taken.saturating_add(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error),
        }
        let all = self.taken >= self.bytes.len();
        if all {
            // The memory goes back: most streams are idle most of the time.
            *self = Self::new();
        }
        Ok(all)
    }
}

pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> Result<usize> {
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)
}
