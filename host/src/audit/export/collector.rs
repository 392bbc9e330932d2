//! A collector, and standard output as one: messages are sent to it, and at times it is asked whether it has them.

use std::io::{self, IoSlice, Write as _};
use std::mem::{MaybeUninit, take};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};

use super::journal;
use super::message::Message;
use super::place::{CollectorPlace, Target};
use super::syslog::{self, Facility};
use super::tcp::Tcp;
use crate::egress::operator::Operator;
use crate::egress::resolve::Resolver;

/// Longest message by UDP, in bytes: what a datagram takes over either version of IP.
const MAX_DATAGRAM: usize = 65_000;
/// Longest message for a syslog that says nothing about it, in bytes: rsyslog takes 8,096, and splits what comes by TCP.
pub const USUAL_MESSAGE: u64 = 8000;
/// What a message without its JSON fits into.
pub const LEAST_MESSAGE: u64 = 2048;
/// More than any record takes as escapes.
pub const LARGEST_MESSAGE: u64 = 256 << 10;
/// So much is collected before it is written to standard output, in bytes.
const MAX_HELD: usize = 64 << 10;

/// How much of a message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it.
    Whole,
    /// It is too long for this way: the JSON was replaced by its length and its digest.
    Cut,
}

/// Somebody who gets messages.
#[derive(Debug)]
pub struct Collector {
    facility: Facility,
    /// Longest message of syslog, in bytes.
    most: usize,
    /// This host's name.
    host: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Output {
        held: Vec<u8>,
        /// What is being written may come out in part.
        writing: bool,
    },
    Local {
        path: PathBuf,
        socket: Option<UnixDatagram>,
    },
    Udp {
        target: Target,
        socket: Option<UdpSocket>,
    },
    Tcp {
        target: Target,
        connection: Tcp,
    },
    Journal {
        path: PathBuf,
        socket: Option<UnixDatagram>,
    },
}

impl Collector {
    /// The one at `place`, or standard output. Nothing is connected yet. A syslog gets messages of at most `most` bytes,
    /// which are [`LEAST_MESSAGE`] or more: one that takes less may split them, and the rest of a message, which an
    /// agent can choose, would be one of its own.
    #[must_use]
    pub fn new(place: Option<&CollectorPlace>, facility: Facility, most: usize) -> Self {
        let way = match place.cloned() {
            None => Way::Output { held: Vec::new(), writing: false },
            Some(CollectorPlace::Local(path)) => Way::Local { path, socket: None },
            Some(CollectorPlace::Udp(target)) => Way::Udp { target, socket: None },
            Some(CollectorPlace::Tcp(target)) => Way::Tcp { target, connection: Tcp::default() },
            Some(CollectorPlace::Journal(path)) => Way::Journal { path, socket: None },
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { facility, most, host, way }
    }

    /// Sends a message; waits as long as the collector is full.
    ///
    /// # Errors
    /// The collector is gone. What was sent since it was last settled may be lost.
    pub async fn send(&mut self, message: &Message) -> io::Result<Sent> {
        let bytes = self.encode(message);
        let fits = bytes.len() <= self.most();
        let sent = if fits { self.send_bytes(bytes).await } else { Err(Errno::MSGSIZE.into()) };
        match sent {
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                let bytes = self.encode(&message.cut());
                self.send_bytes(bytes).await.map(|()| Sent::Cut)
            }
            sent => sent.map(|()| Sent::Whole),
        }
    }

    /// Passes on what was only collected yet.
    ///
    /// # Errors
    /// The same.
    pub async fn flush(&mut self) -> io::Result<()> {
        match &mut self.way {
            Way::Output { held, writing } if !held.is_empty() => write(take(held), writing).await,
            _ => Ok(()),
        }
    }

    /// Waits until the collector has what was sent, as far as its protocol lets that be known.
    ///
    /// # Errors
    /// It may not have all of it.
    pub async fn settle(&mut self) -> io::Result<()> {
        self.flush().await?;
        match &mut self.way {
            Way::Output { writing: true, .. } => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "its reader does not read"))
            }
            Way::Tcp { connection, .. } => connection.settle().await,
            // What nobody listens for is told by the next error of the socket.
            Way::Udp { socket: Some(socket), .. } => socket.take_error()?.map_or(Ok(()), Err),
            // It is in the collector's queue.
            _ => Ok(()),
        }
    }

    /// Forgets a connection that has failed.
    pub fn disconnect(&mut self) {
        match &mut self.way {
            Way::Output { .. } => {}
            Way::Local { socket, .. } | Way::Journal { socket, .. } => *socket = None,
            Way::Udp { socket, .. } => *socket = None,
            Way::Tcp { connection, .. } => *connection = Tcp::default(),
        }
    }

    fn most(&self) -> usize {
        match self.way {
            // A line can have any length, and a file for the journal as well.
            Way::Output { .. } | Way::Journal { .. } => usize::MAX,
            Way::Local { .. } | Way::Tcp { .. } => self.most,
            Way::Udp { .. } => self.most.min(MAX_DATAGRAM),
        }
    }

    fn encode(&self, message: &Message) -> Vec<u8> {
        match self.way {
            Way::Output { .. } => format!("{}\n", message.json).into_bytes(),
            Way::Local { .. } => syslog::local(message, self.facility),
            Way::Udp { .. } => syslog::network(message, self.facility, &self.host),
            Way::Tcp { .. } => {
                syslog::counted(&syslog::network(message, self.facility, &self.host))
            }
            Way::Journal { .. } => journal::entry(message, self.facility),
        }
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match &mut self.way {
            Way::Output { held, writing } => {
                held.extend(bytes);
                if held.len() >= MAX_HELD { write(take(held), writing).await } else { Ok(()) }
            }
            Way::Local { path, socket } => whole(local(path, socket)?.send(&bytes).await?, &bytes),
            Way::Journal { path, socket } => to_journal(local(path, socket)?, &bytes).await,
            Way::Udp { target, socket } => {
                let socket = match socket {
                    Some(socket) => socket,
                    none => none.insert(connect(target).await?),
                };
                whole(socket.send(&bytes).await?, &bytes)
            }
            Way::Tcp { target, connection } => connection.send(target, &bytes).await,
        }
    }
}

/// Writes on a thread of its own, so that a reader who does not read keeps nobody from ending this.
async fn write(bytes: Vec<u8>, writing: &mut bool) -> io::Result<()> {
    *writing = true;
    let written = tokio::task::spawn_blocking(move || {
        let mut output = io::stdout().lock();
        output.write_all(&bytes).and_then(|()| output.flush())
    });
    written.await.map_err(io::Error::other)??;
    *writing = false;
    Ok(())
}

/// A datagram goes as a whole; were it not so, nobody would know where the next one begins.
fn whole(sent: usize, bytes: &[u8]) -> io::Result<()> {
    if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE.into()) }
}

/// Connected, so that who is full is waited for.
fn local<'a>(path: &Path, socket: &'a mut Option<UnixDatagram>) -> io::Result<&'a UnixDatagram> {
    Ok(match socket {
        Some(socket) => socket,
        none => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            none.insert(socket)
        }
    })
}

async fn connect(target: &Target) -> io::Result<UdpSocket> {
    let addresses = addresses(target).await?;
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    let address = addresses.first().ok_or_else(unknown)?;
    let own: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// The addresses of a target, by this system's name servers and its `/etc/hosts`.
pub(super) async fn addresses(target: &Target) -> io::Result<Vec<SocketAddr>> {
    match target {
        Target::Address(address) => Ok(vec![*address]),
        Target::Name(name, port) => {
            let resolver = Resolver::new(&Operator::default()).map_err(io::Error::other)?;
            let found = resolver.addresses(name).await.map_err(io::Error::other)?;
            Ok(found.into_iter().map(|address| (address, *port).into()).collect())
        }
    }
}

/// The journal takes what is too long for a datagram as a sealed file.
async fn to_journal(socket: &UnixDatagram, bytes: &[u8]) -> io::Result<()> {
    let too_long = [Errno::MSGSIZE, Errno::NOBUFS].map(|errno| Some(errno.raw_os_error()));
    match socket.send(bytes).await {
        Err(error) if too_long.contains(&error.raw_os_error()) => {}
        sent => return whole(sent?, bytes),
    }
    let file = sealed(bytes)?;
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(socket, &[IoSlice::new(&[])], &mut ancillary, flags)?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, send).await
}

fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("cloister-audit", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
#[path = "collector_test.rs"]
mod tests;
