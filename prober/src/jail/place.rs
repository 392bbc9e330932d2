//! The two places: how a prober gets its order there, and how it is confined as the program whose place it has.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::process::ExitCode;

use cloister_file_server::control as files;
use cloister_vmm::control::{self, Command, Event, ProbeReport, ProbeVerdict};
use cloister_vmm::control_socket::ControlSocket;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{Place, World, obey};
use crate::calls::{self, call};
use crate::wire::{Group, Order, Said, Stage};

/// Exit status of a prober that nobody gave an order.
const NO_ORDER: u8 = 2;

/// In a vmm's place; descriptors and order come with the start message.
#[must_use]
pub fn vmm() -> ExitCode {
    let Ok(control) = ControlSocket::inherit(control::CONTROL_FD) else {
        return ExitCode::from(NO_ORDER);
    };
    let Ok((Command::Start(spec), descriptors)) = control.receive() else {
        return ExitCode::from(NO_ORDER);
    };
    let Some((order, host)) = order(&spec.extra_cmdline) else { return ExitCode::from(NO_ORDER) };
    // They stay open to the end.
    let mut numbers = descriptors.into_iter().map(OwnedFd::into_raw_fd);
    let mut next = || numbers.next().unwrap_or(-1);
    let (kvm, memory, file, root, log) = (next(), next(), next(), next(), next());
    // The kernel of a guest is a program in its form, and `cloister prove` makes the file executable.
    let world = World { kvm, memory, file, program: file, root, log, ..nothing(Group::Vmm, host) };
    obey(&Vmm { _control: control }, &world, &order)
}

fn nothing(group: Group, host: u32) -> World {
    World {
        group,
        kvm: -1,
        memory: -1,
        file: -1,
        program: -1,
        root: -1,
        log: -1,
        area: -1,
        socket: -1,
        share_read: -1,
        share_write: -1,
        own_descriptors: -1,
        host,
    }
}

/// The host's process id stands before the order.
fn order(text: &str) -> Option<(Order, u32)> {
    let (host, order) = text.split_once(' ')?;
    Some((serde_json::from_str(order).ok()?, host.parse().ok()?))
}

struct Vmm {
    /// Kept open.
    _control: ControlSocket,
}

impl Place for Vmm {
    fn confine(&self, stage: Stage) -> io::Result<()> {
        match stage {
            Stage::Loop => cloister_vmm::seccomp::confine_loop(),
            Stage::Vcpu => cloister_vmm::seccomp::confine_vcpu(),
            _ => Ok(()),
        }
    }

    fn say(&self, said: &Said) {
        let detail = serde_json::to_string(said).unwrap_or_default();
        let report = ProbeReport { verdict: ProbeVerdict::Broken, duration_us: 0, detail };
        let bytes = postcard::to_allocvec(&Event::Probed(report)).unwrap_or_default();
        // By the one call that a vCPU thread may make as well. A host that has gone needs no word.
        call!(libc::SYS_write, control::CONTROL_FD, bytes.as_ptr(), bytes.len()).ok();
    }
}

/// In a file server's place; two shares come first, the order comes by the vmm's socket.
#[must_use]
pub fn file_server() -> ExitCode {
    match serve() {
        Some(code) => code,
        None => ExitCode::from(NO_ORDER),
    }
}

fn serve() -> Option<ExitCode> {
    let control = calls::own(files::CONTROL_FD);
    let (files::Command::Start, start) = receive(&control)? else { return None };
    let [area, vmm]: [OwnedFd; 2] = start.try_into().ok()?;
    answer(&files::Event::Ready);
    let mut shares = Vec::new();
    for _ in 0..2 {
        let (files::Command::Add(_), added) = receive(&control)? else { return None };
        let [mount]: [OwnedFd; 1] = added.try_into().ok()?;
        shares.push(mount);
        answer(&files::Event::Added);
    }
    let mut bytes = [0; 1024];
    let (length, _) = rustix::net::recv(&vmm, &mut bytes, RecvFlags::empty()).ok()?;
    let (order, host) = order(std::str::from_utf8(bytes.get(..length)?).ok()?)?;
    let [share_read, share_write]: [OwnedFd; 2] = shares.try_into().ok()?;
    let open = |name: &str| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(&share_write, name, flags, rustix::fs::Mode::empty()).map(File::from)
    };
    let (program, file) = (open("program").ok()?, open("file").ok()?);
    let world = World {
        area: area.as_raw_fd(),
        socket: vmm.as_raw_fd(),
        program: program.as_raw_fd(),
        file: file.as_raw_fd(),
        share_read: share_read.as_raw_fd(),
        share_write: share_write.as_raw_fd(),
        own_descriptors: files::PROC_FD,
        ..nothing(Group::FileServer, host)
    };
    let place = FileServer { socket: vmm.as_raw_fd() };
    let code = obey(&place, &world, &order);
    // Until here all of them are open.
    drop((control, area, vmm, share_read, share_write, program, file));
    Some(code)
}

/// The host's next message to a file server.
fn receive(control: &OwnedFd) -> Option<(files::Command, Vec<OwnedFd>)> {
    let mut buffer = [0; files::MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(files::MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(control.as_fd(), &mut parts, &mut ancillary, flags).ok()?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let command = postcard::from_bytes(buffer.get(..received.bytes)?).ok()?;
    Some((command, descriptors))
}

fn answer(event: &files::Event) {
    let bytes = postcard::to_allocvec(event).unwrap_or_default();
    call!(libc::SYS_write, files::CONTROL_FD, bytes.as_ptr(), bytes.len()).ok();
}

struct FileServer {
    socket: i32,
}

impl Place for FileServer {
    fn confine(&self, stage: Stage) -> io::Result<()> {
        match stage {
            Stage::Serving => cloister_file_server::seccomp::confine(),
            _ => Ok(()),
        }
    }

    fn say(&self, said: &Said) {
        let bytes = serde_json::to_vec(said).unwrap_or_default();
        call!(libc::SYS_write, self.socket, bytes.as_ptr(), bytes.len()).ok();
    }
}
