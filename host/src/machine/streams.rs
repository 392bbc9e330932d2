//! Streams between the host and a guest: socket pairs, and the ports on which the guest asks for them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use cloister_protocol::message::{Stdio, WindowSize};

/// A stream's two ends: ours, which blocks, and the vmm's, which does not.
///
/// # Errors
/// The system refuses: too many open files.
pub(super) fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, vmm_end) = UnixStream::pair()?;
    // The vmm serves every stream from one thread, so it must never wait for one.
    vmm_end.set_nonblocking(true)?;
    Ok((ours, vmm_end.into()))
}

/// The host's ends of a command's streams; whoever closes one ends that stream.
#[derive(Debug)]
pub enum Streams {
    /// Three pipes.
    Pipes {
        /// Write here what the command reads; shut down writing for its end of file.
        stdin: Option<UnixStream>,
        /// Read here what it writes.
        stdout: UnixStream,
        /// Read here what it writes to its standard error.
        stderr: UnixStream,
    },
    /// A terminal, both directions.
    Terminal(UnixStream),
}

/// Which streams a command gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioSpec {
    /// Three pipes, or two and an empty standard input.
    Pipes {
        /// Whether its standard input is ours to write.
        stdin: bool,
    },
    /// A terminal of this size.
    Terminal(WindowSize),
    /// One stream for both directions, and no terminal.
    Single,
}

/// The ports on which the guest is expected, each good for one connection.
///
/// Any process of the guest could connect to a port, so the ports are numbers that can't be guessed:
/// the keyed hash of a counter, out of four billion.
#[derive(Debug, Default)]
pub(super) struct Ports {
    expected: HashMap<u32, Expected>,
    key: RandomState,
    drawn: u64,
}

#[derive(Debug)]
struct Expected {
    command: u32,
    vmm_end: OwnedFd,
}

/// Ports below are left to fixed services such as the supervisor's.
const FIRST_PORT: u32 = 1 << 16;

impl Ports {
    /// Makes a command's streams and expects the guest on their ports.
    ///
    /// # Errors
    /// The system refuses: too many open files. Nothing is expected then.
    pub(super) fn open(
        &mut self,
        command: u32,
        spec: StdioSpec,
    ) -> std::io::Result<(Stdio, Streams)> {
        let result = self.try_open(command, spec);
        if result.is_err() {
            self.close(command);
        }
        result
    }

    fn try_open(&mut self, command: u32, spec: StdioSpec) -> std::io::Result<(Stdio, Streams)> {
        Ok(match spec {
            StdioSpec::Terminal(size) => {
                let (port, stream) = self.expect(command)?;
                (Stdio::Terminal { port, size }, Streams::Terminal(stream))
            }
            StdioSpec::Single => {
                let (port, stream) = self.expect(command)?;
                let size = WindowSize { rows: 0, columns: 0 };
                (Stdio::Terminal { port, size }, Streams::Terminal(stream))
            }
            StdioSpec::Pipes { stdin } => {
                let stdin = if stdin { Some(self.expect(command)?) } else { None };
                let (stdin_port, stdin) = stdin.unzip();
                let (stdout_port, stdout) = self.expect(command)?;
                let (stderr_port, stderr) = self.expect(command)?;
                let ports =
                    Stdio::Streams { stdin: stdin_port, stdout: stdout_port, stderr: stderr_port };
                (ports, Streams::Pipes { stdin, stdout, stderr })
            }
        })
    }

    fn expect(&mut self, command: u32) -> std::io::Result<(u32, UnixStream)> {
        let (ours, vmm_end) = pair()?;
        let port = self.draw();
        self.expected.insert(port, Expected { command, vmm_end });
        Ok((port, ours))
    }

    fn draw(&mut self) -> u32 {
        loop {
            self.drawn = self.drawn.wrapping_add(1);
            let hash = self.key.hash_one(self.drawn).to_le_bytes();
            let port = hash.first_chunk().copied().map_or(0, u32::from_le_bytes);
            // u32::MAX is VMADDR_PORT_ANY.
            let usable = (FIRST_PORT..u32::MAX).contains(&port);
            if usable && !self.expected.contains_key(&port) {
                return port;
            }
        }
    }

    /// The vmm's end for a connection to `port`, if the guest is expected there.
    pub(super) fn take(&mut self, port: u32) -> Option<OwnedFd> {
        self.expected.remove(&port).map(|expected| expected.vmm_end)
    }

    /// Expects nothing any more for a command: what was not connected ends.
    pub(super) fn close(&mut self, command: u32) {
        self.expected.retain(|_, expected| expected.command != command);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const PIPES: StdioSpec = StdioSpec::Pipes { stdin: true };

    fn ports_of(stdio: Stdio) -> Vec<u32> {
        match stdio {
            Stdio::Terminal { port, .. } => vec![port],
            Stdio::Streams { stdin, stdout, stderr } => {
                stdin.into_iter().chain([stdout, stderr]).collect()
            }
        }
    }

    #[test]
    fn each_port_is_good_once() {
        let mut ports = Ports::default();
        let (stdio, _streams) = ports.open(1, PIPES).unwrap();
        for port in ports_of(stdio) {
            assert!(ports.take(port).is_some());
            assert!(ports.take(port).is_none());
        }
        assert!(ports.take(5).is_none());
    }

    #[test]
    fn ports_keep_to_their_range_and_differ() {
        let mut ports = Ports::default();
        let mut seen = std::collections::HashSet::new();
        let mut streams = Vec::new();
        for command in 0..40 {
            let (stdio, opened) = ports.open(command, PIPES).unwrap();
            streams.push(opened);
            for port in ports_of(stdio) {
                assert!((FIRST_PORT..u32::MAX).contains(&port));
                assert!(seen.insert(port));
            }
        }
    }

    #[test]
    fn another_machine_has_other_ports() {
        let (mut one, mut two) = (Ports::default(), Ports::default());
        let draw = |ports: &mut Ports| -> Vec<u32> { (0..8).map(|_| ports.draw()).collect() };
        assert_ne!(draw(&mut one), draw(&mut two));
    }

    #[test]
    fn closing_a_command_ends_its_streams_only() {
        let mut ports = Ports::default();
        let (_, streams) = ports.open(1, StdioSpec::Pipes { stdin: false }).unwrap();
        let (other, _kept) = ports.open(2, PIPES).unwrap();
        ports.close(1);
        let Streams::Pipes { stdin: None, mut stdout, .. } = streams else { panic!("{streams:?}") };
        assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
        assert!(ports_of(other).into_iter().all(|port| ports.take(port).is_some()));
    }
}
