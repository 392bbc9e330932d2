//! An agent's network namespace from inside: routes, and sockets that are made there and stay there
//! wherever they are used.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::kernel;

/// Connections of an agent that wait to be taken; more wait in the agent's own queue.
const BACKLOG: i32 = 64;
/// The number that the loopback interface has in every network namespace.
const LOOPBACK: u32 = 1;

/// The supervisor's own network namespace.
pub(super) fn own() -> Result<OwnedFd> {
    rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Does something in the network namespace of the process `init`. The supervisor has one thread, so
/// nobody else is there meanwhile.
pub(super) fn within<T>(
    init: BorrowedFd<'_>,
    own: BorrowedFd<'_>,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    move_into_thread_name_spaces(init, ThreadNameSpaceType::NETWORK)?;
    let result = act();
    if move_into_link_name_space(own, Some(LinkNameSpaceType::Network)).is_err() {
        // What is made next would be made in the agent's.
        kernel::abort();
    }
    result
}

/// Listens on an address and a port.
pub(super) fn listener(address: Ipv4Addr, port: u16) -> Result<OwnedFd> {
    let socket = socket(SocketType::STREAM)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Takes datagrams on an address and a port.
pub(super) fn datagrams(address: Ipv4Addr, port: u16) -> Result<OwnedFd> {
    let socket = socket(SocketType::DGRAM)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    Ok(socket)
}

fn socket(kind: SocketType) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::INET, kind, flags, None)
}

/// Makes a network's addresses local: whatever is sent there arrives here.
pub(super) fn make_local((network, prefix): (Ipv4Addr, u8)) -> Result<()> {
    // IPv4; prefixes of destination and source; type of service; the table of what is local; static;
    // this host; local; no flags.
    let route = [2, prefix, 0, 0, 255, 4, 254, 2, 0, 0, 0, 0];
    ask(libc::RTM_NEWROUTE, &route, [(1, network.octets()), (4, LOOPBACK.to_ne_bytes())])
}

/// Gives the loopback interface an address. With no other than 127.0.0.1, the C library takes a machine
/// for one without IPv4, and finds no name when it is asked for what is of use (`AI_ADDRCONFIG`).
pub(super) fn add_address(address: Ipv4Addr) -> Result<()> {
    let [a, b, c, d] = LOOPBACK.to_ne_bytes();
    // IPv4, the address alone, no flags, of this host.
    let message = [2, 32, 0, 254, a, b, c, d];
    ask(libc::RTM_NEWADDR, &message, [(1, address.octets()), (2, address.octets())])
}

/// Asks the kernel for something that is made or replaced (rtnetlink(7)).
fn ask(kind: u16, message: &[u8], attributes: [(u16, [u8; 4]); 2]) -> Result<()> {
    /// Request, with an answer, made or replaced: `NLM_F_*`.
    const FLAGS: u16 = 0x1 | 0x4 | 0x400 | 0x100;
    let mut body = message.to_vec();
    for (kind, value) in attributes {
        body.extend_from_slice(&8_u16.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value);
    }
    let length = u32::try_from(body.len().saturating_add(16)).map_err(|_| Errno::INVAL)?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&FLAGS.to_ne_bytes());
    // Sequence and sender: the kernel knows both.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&body);
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = rustix::net::recv(socket.as_fd(), &mut answer, RecvFlags::empty())?;
    acknowledged(answer.get(..length).unwrap_or_default())
}

/// The kernel's answer: a header, then an error number or 0.
fn acknowledged(answer: &[u8]) -> Result<()> {
    let number = answer.get(16..20).and_then(|bytes| bytes.first_chunk().copied());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        // What the kernel uses; the type takes no others.
        Some(number) if (-4095..0).contains(&number) => Err(Errno::from_raw_os_error(-number)),
        _ => Err(Errno::PROTO),
    }
}
