//! The other agent: has all open that the tries look for.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::ExitCode;

use crate::calls::call;
use crate::wire::READY_LINE;

/// Of what it has.
pub(super) const NAME: &str = "cloister-victim";
pub(super) const KEY: i32 = 0x0c10_1573;
pub(super) const PORT: u16 = 4747;

/// Opens it all, says so, and stays.
#[must_use]
pub fn be_neighbour() -> ExitCode {
    let Some(open) = open_all() else { return ExitCode::FAILURE };
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{READY_LINE}\n").as_bytes()).and_then(|()| out.flush()).ok();
    loop {
        std::thread::park();
        // They stay open as long as this runs.
        std::hint::black_box(&open);
    }
}

fn open_all() -> Option<(TcpListener, UnixListener)> {
    std::fs::write(format!("/tmp/{NAME}"), "secret").ok()?;
    std::fs::write(format!("/dev/shm/{NAME}"), "secret").ok()?;
    let port = TcpListener::bind(("127.0.0.1", PORT)).ok()?;
    let address = SocketAddr::from_abstract_name(NAME).ok()?;
    let socket = UnixListener::bind_addr(&address).ok()?;
    let make = libc::IPC_CREAT | 0o666;
    call!(libc::SYS_shmget, KEY, 4096, make).ok()?;
    call!(libc::SYS_semget, KEY, 1, make).ok()?;
    call!(libc::SYS_msgget, KEY, make).ok()?;
    let flags = libc::O_CREAT | libc::O_RDWR;
    call!(libc::SYS_mq_open, c"cloister-victim", flags, 0o666, 0).ok()?;
    Some((port, socket))
}
