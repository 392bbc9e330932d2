//! A command that is asked for and has no process yet: its connections, then its files.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use cloister_protocol::agent::{Copy, Direction, Place, User};
use cloister_protocol::message::{Exec, Stdio, WindowSize};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Failure;
use super::process::Files;
use super::program::Program;
use crate::agent::Entrance;
use crate::host::Host;
use crate::poller::{Owner, Part, Poller};
use crate::stream::{Kind, Stream};
use crate::terminal;

/// Places of a command's streams. A terminal has one connection, watched as its output's.
const INPUT: u8 = 0;
pub(super) const OUTPUT: u8 = 1;
pub(super) const ERRORS: u8 = 2;

/// A command's streams, by their places.
pub(super) type Streams = [Option<Stream>; 3];

/// Everything to be known before the process is made.
pub(super) struct Plan {
    pub(super) work: Work,
    pub(super) place: Place,
    pub(super) timeout: Option<Duration>,
    /// The size of its terminal, if it has one.
    terminal: Option<WindowSize>,
    connections: Vec<Connection>,
}

/// What the process does.
pub(crate) enum Work {
    /// It becomes a program.
    Program(Program),
    /// It copies files between its one stream and its container.
    Copy(Direction),
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
        let (stdio, place) = (exec.stdio, exec.place);
        let timeout = exec.timeout_ms.map(Duration::from_millis);
        // Can't fail after the check.
        let program = Program::new(exec).ok_or(Failure::Prepare(Errno::INVAL))?;
        let (terminal, ports) = match stdio {
            Stdio::Terminal { port, size } => (Some(size), [None, Some((OUTPUT, port)), None]),
            Stdio::Streams { stdin, stdout, stderr } => (
                None,
                [stdin.map(|port| (INPUT, port)), Some((OUTPUT, stdout)), Some((ERRORS, stderr))],
            ),
        };
        let connections = connect(&ports, serial, host, poller).map_err(Failure::Connect)?;
        Ok(Self { work: Work::Program(program), place, timeout, terminal, connections })
    }

    /// The same for a copy.
    pub(super) fn of_copy(
        copy: Copy,
        serial: u64,
        host: &dyn Host,
        poller: &Poller,
    ) -> std::result::Result<Self, Failure> {
        copy.validate()?;
        let Copy { agent, user, direction, port, .. } = copy;
        let place = match direction {
            Direction::Out(_) => OUTPUT,
            Direction::In(_) => INPUT,
        };
        let ports = [Some((place, port)), None, None];
        let connections = connect(&ports, serial, host, poller).map_err(Failure::Connect)?;
        let place = Place::Agent { agent, user };
        Ok(Self { work: Work::Copy(direction), place, timeout: None, terminal: None, connections })
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
    /// all are made. `inside`: the container that it runs in, and as whom.
    pub(super) fn make_ends(
        &mut self,
        serial: u64,
        poller: &Poller,
        inside: Option<(&Entrance, User)>,
    ) -> Result<Ends> {
        let watch =
            |file: &OwnedFd, place| poller.watch(file, Owner::Command(serial, Part::Stream(place)));
        let mut streams = [None, None, None];
        if let Some(size) = self.terminal {
            let (master, terminal) = match inside {
                None => terminal::open()?,
                Some((entrance, user)) => entrance.open_terminal(user)?,
            };
            terminal::prepare(&master, size)?;
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
        let give = |theirs: &OwnedFd| {
            inside.map_or(Ok(()), |(entrance, user)| entrance.give(theirs, user))
        };
        let [input, output, errors] = &mut streams;
        let mut stdin = None;
        if let Some(socket) = self.take(INPUT) {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            give(&theirs)?;
            rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            watch(&ours, INPUT)?;
            *input = Some(Stream::input(Kind::Pipe, socket, Rc::new(ours)));
            stdin = Some(theirs);
        }
        let mut written = |place, stream: &mut Option<Stream>| -> Result<Option<OwnedFd>> {
            let Some(socket) = self.take(place) else { return Ok(None) };
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            give(&theirs)?;
            rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            watch(&ours, place)?;
            *stream = Some(Stream::output(Kind::Pipe, socket, Rc::new(ours)));
            Ok(Some(theirs))
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

/// Begins the connections to these ports of the host.
fn connect(
    ports: &[Option<(u8, u32)>],
    serial: u64,
    host: &dyn Host,
    poller: &Poller,
) -> Result<Vec<Connection>> {
    let connect = |(place, port): (u8, u32)| -> Result<Connection> {
        let socket = host.connect(port)?;
        poller.watch(&socket, Owner::Command(serial, Part::Stream(place)))?;
        Ok(Connection { place, socket, made: false })
    };
    ports.iter().copied().flatten().map(connect).collect()
}
