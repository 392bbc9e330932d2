//! A command that is asked for and has no process yet: its connections, then its files.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use cloister_protocol::message::{Exec, Stdio};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Failure;
use super::process::Files;
use super::program::Program;
use crate::host::Host;
use crate::poller::{Owner, Part, Poller};
use crate::stream::{Kind, Stream};
use crate::terminal;

/// Places of a command's streams. A terminal has one connection, watched as its output's.
const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;

/// A command's streams, by their places.
pub(super) type Streams = [Option<Stream>; 3];

/// Everything to be known before the process is made.
pub(super) struct Plan {
    pub(super) program: Program,
    pub(super) timeout: Option<Duration>,
    stdio: Stdio,
    connections: Vec<Connection>,
}

/// A connection on its way.
struct Connection {
    place: u8,
    socket: OwnedFd,
    made: bool,
}

/// A command's ends of its streams, and the supervisor's.
pub(super) struct Ends {
    pub(super) files: Files,
    pub(super) streams: Streams,
    /// The master of the terminal, if it is one.
    pub(super) terminal: Option<Rc<OwnedFd>>,
}

impl Plan {
    /// Checks the command and begins to connect its streams.
    pub(super) fn new(
        exec: Exec,
        serial: u64,
        host: &dyn Host,
        poller: &Poller,
    ) -> std::result::Result<Self, Failure> {
        exec.validate()?;
        let stdio = exec.stdio;
        let timeout = exec.timeout_ms.map(Duration::from_millis);
        // Can't fail after the check.
        let program = Program::new(exec).ok_or(Failure::Prepare(Errno::INVAL))?;
        let connect = |(place, port): (u8, u32)| -> Result<Connection> {
            let socket = host.connect(port)?;
            poller.watch(&socket, Owner::Command(serial, Part::Stream(place)))?;
            Ok(Connection { place, socket, made: false })
        };
        let connections = match stdio {
            Stdio::Terminal { port, .. } => [None, Some((OUTPUT, port)), None],
            Stdio::Streams { stdin, stdout, stderr } => {
                [stdin.map(|port| (INPUT, port)), Some((OUTPUT, stdout)), Some((ERRORS, stderr))]
            }
        }
        .into_iter()
        .flatten()
        .map(connect)
        .collect::<Result<_>>()
        .map_err(Failure::Connect)?;
        Ok(Self { program, timeout, stdio, connections })
    }

    /// Something has happened to the connection at `place`. Whether all are made now.
    pub(super) fn connected(&mut self, place: u8) -> Result<bool> {
        for one in self.connections.iter_mut().filter(|one| one.place == place) {
            rustix::net::sockopt::socket_error(&one.socket)??;
            one.made = true;
        }
        Ok(self.connections.iter().all(|one| one.made))
    }

    /// Makes the files that the command gets, and the pumps from them to the connections, which
    /// all are made.
    pub(super) fn make_ends(&mut self, serial: u64, poller: &Poller) -> Result<Ends> {
        let watch =
            |file: &OwnedFd, place| poller.watch(file, Owner::Command(serial, Part::Stream(place)));
        let mut streams = [None, None, None];
        if let Stdio::Terminal { size, .. } = self.stdio {
            let (master, terminal) = terminal::open(size)?;
            watch(&master, OUTPUT)?;
            let master = Rc::new(master);
            if let Some(socket) = self.take(OUTPUT) {
                let (kind, file) = (Kind::Terminal, Rc::clone(&master));
                let [input, output, _] = &mut streams;
                *input = Some(Stream::input(kind, Rc::clone(&socket), Rc::clone(&file)));
                *output = Some(Stream::output(kind, socket, file));
            }
            return Ok(Ends { files: Files::Terminal(terminal), streams, terminal: Some(master) });
        }
        let [input, output, errors] = &mut streams;
        let stdin = if let Some(socket) = self.take(INPUT) {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            watch(&ours, INPUT)?;
            *input = Some(Stream::input(Kind::Pipe, socket, Rc::new(ours)));
            theirs
        } else {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        };
        let mut written = |place, stream: &mut Option<Stream>| -> Result<OwnedFd> {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            watch(&ours, place)?;
            *stream =
                self.take(place).map(|socket| Stream::output(Kind::Pipe, socket, Rc::new(ours)));
            Ok(theirs)
        };
        let stdout = written(OUTPUT, output)?;
        let stderr = written(ERRORS, errors)?;
        Ok(Ends { files: Files::Pipes { stdin, stdout, stderr }, streams, terminal: None })
    }

    fn take(&mut self, place: u8) -> Option<Rc<OwnedFd>> {
        let index = self.connections.iter().position(|one| one.place == place)?;
        Some(Rc::new(self.connections.swap_remove(index).socket))
    }
}
