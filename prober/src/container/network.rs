//! Tries on the network, from an agent that may reach nothing: addresses as they are, and other name servers.

use super::{End, Rows, Tried};
use crate::calls::call;

pub(super) fn add(rows: &mut Rows) {
    rows.why = "its network namespace has its own loopback and no route to anything else";
    for (name, address, port, kind) in [
        ("a public address", [93, 184, 215, 14], 443, libc::SOCK_STREAM),
        ("a private address", [10, 0, 0, 1], 22, libc::SOCK_STREAM),
        ("the metadata service", [169, 254, 169, 254], 80, libc::SOCK_STREAM),
        ("another cloud's metadata service", [100, 100, 100, 200], 80, libc::SOCK_STREAM),
        ("the addresses that stand for names", [198, 18, 1, 0], 443, libc::SOCK_STREAM),
        ("a name server outside", [8, 8, 8, 8], 53, libc::SOCK_DGRAM),
        ("a name server outside by TCP", [1, 1, 1, 1], 53, libc::SOCK_STREAM),
    ] {
        rows.row(&format!("connect to {name}"), move || connect(&four(address, port), kind));
        rows.row(&format!("connect to {name} mapped into IPv6"), move || {
            connect(&mapped(address, port), kind)
        });
    }
}

/// A `sockaddr_in`.
fn four(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = vec![2, 0];
    bytes.extend(port.to_be_bytes());
    bytes.extend(address);
    bytes.resize(16, 0);
    bytes
}

/// A `sockaddr_in6` of `::ffff:a.b.c.d`.
fn mapped(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = vec![10, 0];
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 4 + 10]);
    bytes.extend([0xff, 0xff]);
    bytes.extend(address);
    bytes.resize(28, 0);
    bytes
}

/// Makes a connection, and waits for none that is on its way: that is a success.
fn connect(address: &[u8], kind: i32) -> Tried {
    let family = address.first().copied().map_or(0, i32::from);
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = call!(libc::SYS_socket, family, kind, 0)?;
    let connected = call!(libc::SYS_connect, socket, address.as_ptr(), address.len());
    let closed = call!(libc::SYS_close, socket);
    match connected {
        Ok(_) => Ok("connected".to_owned()),
        Err(End::Errno(libc::EINPROGRESS)) => Ok("it is on its way".to_owned()),
        Err(end) => closed.and(Err(end)),
    }
}
