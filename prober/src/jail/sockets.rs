//! Attacks by sockets: the network, other processes' sockets, and what the host handed over.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::attack::{Attack, attack};
use crate::calls::call;
use crate::wire::Group::{FileServer, Vmm};
use crate::wire::{End, Stage};

use libc::{EACCES, EAFNOSUPPORT, ECONNREFUSED, EISCONN, ENETDOWN, ENETUNREACH, ENOENT, EPERM};

const EMPTY: &str = "the filters know no sockets; beneath them, a network namespace with nothing in it, and Landlock";

fn got(what: &str) -> impl Fn(i64) -> String {
    move |result| format!("{what} ({result})")
}

/// An address of IPv4: family, port, address.
fn local(port: u16) -> [u8; 16] {
    let [high, low] = port.to_be_bytes();
    [2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn socket(family: i32, kind: i32) -> Result<i64, End> {
    call!(libc::SYS_socket, family, kind, 0)
}

fn closing<T>(fd: i64, result: Result<T, End>) -> Result<T, End> {
    call!(libc::SYS_close, fd).ok();
    result
}

/// Landlock knows ports from its version 4 on (Linux 6.7). Before that the port can be bound, where nobody reaches it,
/// and there is nothing to be shown.
fn ports_denied() -> &'static [End] {
    // LANDLOCK_CREATE_RULESET_VERSION. Where a filter refuses even to ask, nothing is expected of what is beneath it.
    match call!(libc::SYS_landlock_create_ruleset, 0, 0, 1) {
        Ok(4..) => &[End::Errno(EACCES)],
        _ => &[],
    }
}

/// The rows.
pub(super) fn rows() -> Vec<Attack> {
    vec![
        attack("any-socket", "opens a socket of any family there is", "the filters know no sockets", |_| {
            let mut last = Err(End::Nothing);
            for family in 0..64 {
                for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
                    last = socket(family, kind);
                    if last != Err(End::Trapped) {
                        return last.map(got("opened"));
                    }
                }
            }
            last.map(got("opened"))
        }),
        attack("connect-tcp", "connects to a port of the host", EMPTY, |_| {
            let fd = socket(libc::AF_INET, libc::SOCK_STREAM)?;
            let address = local(22);
            closing(fd, call!(libc::SYS_connect, fd, address.as_ptr(), address.len())).map(got("connected"))
        })
        .bare(&[EACCES, ENETUNREACH]),
        attack("listen-tcp", "waits for connections on a port", EMPTY, |_| {
            let fd = socket(libc::AF_INET, libc::SOCK_STREAM)?;
            let address = [2_u8, 0, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let bound = call!(libc::SYS_bind, fd, address.as_ptr(), address.len());
            closing(fd, bound).map(got("bound"))
        })
        .ends(Vmm, Stage::Bare, ports_denied())
        .ends(FileServer, Stage::Bare, ports_denied()),
        attack("send-udp", "sends a packet to the host", EMPTY, |_| {
            let fd = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
            let address = local(53);
            let sent = call!(libc::SYS_sendto, fd, c"x", 1, 0, address.as_ptr(), address.len());
            closing(fd, sent).map(got("sent"))
        })
        .bare(&[ENETUNREACH, ENETDOWN]),
        attack("send-udp6", "sends a packet to the host by IPv6", EMPTY, |_| {
            let fd = socket(libc::AF_INET6, libc::SOCK_DGRAM)?;
            let mut address = [0_u8; 28];
            (address[0], address[3], address[23]) = (10, 53, 1);
            let sent = call!(libc::SYS_sendto, fd, c"x", 1, 0, address.as_ptr(), address.len());
            closing(fd, sent).map(got("sent"))
        })
        .bare(&[ENETUNREACH, ENETDOWN, EAFNOSUPPORT, libc::EADDRNOTAVAIL]),
        attack("configure-network", "brings the network device up, by netlink", EMPTY, |_| {
            let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW)?;
            // RTM_NEWLINK, asking for an answer: device 1, up.
            let mut message = [0_u32; 8];
            (message[0], message[1], message[5], message[6], message[7]) = (32, 16 | 5 << 16, 1, 1, 1);
            let mut answer = [0_i32; 64];
            let sent = call!(libc::SYS_sendto, fd, message.as_ptr(), 32, 0, 0, 0);
            let told = sent.and_then(|_| call!(libc::SYS_recvfrom, fd, answer.as_mut_ptr(), 256, 0, 0, 0));
            closing(fd, told)?;
            match answer[4] {
                0 => Ok("it is up".into()),
                errno => Err(End::Errno(-errno)),
            }
        })
        .bare(&[EPERM]),
        attack(
            "abstract-socket",
            "connects to a socket of the host that has a name and no file (`cloister prove` opens one)",
            "the filters know no sockets; beneath them, its own network namespace, and Landlock's scope",
            |world| {
                let fd = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
                let address = world.neighbour();
                closing(fd, call!(libc::SYS_connect, fd, address.as_ptr(), address.len())).map(got("connected"))
            },
        )
        .bare(&[ECONNREFUSED, EPERM]),
        attack("socket-file", "connects to a socket of the host by its path", EMPTY, |_| {
            let fd = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
            let mut address = [0_u8; 32];
            address[0] = 1;
            for (place, byte) in address.iter_mut().skip(2).zip(b"/run/systemd/private") {
                *place = *byte;
            }
            closing(fd, call!(libc::SYS_connect, fd, address.as_ptr(), address.len())).map(got("connected"))
        })
        .bare(&[ENOENT]),
        attack(
            "redirect-control-socket",
            "connects its control socket to somebody else",
            "the filters know no such call; a pair of sockets stays one",
            |world| {
                let address = world.neighbour();
                call!(libc::SYS_connect, 3, address.as_ptr(), address.len()).map(got("connected"))
            },
        )
        .bare(&[EISCONN, EPERM, libc::EPROTOTYPE, ECONNREFUSED, libc::EINVAL]),
        attack("pair-of-sockets", "makes a pair of sockets", "the filters know no sockets", |_| {
            call!(libc::SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, [0_i32; 2].as_mut_ptr()).map(got("made"))
        }),
        attack("accept", "takes a connection", "the filters know no such call", |_| {
            call!(libc::SYS_accept4, 3, 0, 0, 0).map(got("taken"))
        })
        .bare(&[libc::EINVAL, libc::EOPNOTSUPP]),
    ]
}
