//! `cloister-vmm`, started as `cloister` starts it: a control socket as descriptor 3, the start
//! message with five descriptors already in it, an empty environment.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use ::cloister::commands::bench::footprint::{GUEST_MEMORY, GuestMemory};
use ::cloister::launch::memory::guest_memory;
use anyhow::{Context, bail};
use cloister_vmm::control::{CONTROL_FD, Command, Event, MAX_DESCRIPTORS, MAX_MESSAGE, StartTimes};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};

use super::{Job, Prepared, null, readable, serial_pipe};
use crate::spawn::Program;

/// The host's end of a vmm's control socket.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    pub(super) fn send(
        &self,
        command: &Command,
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        let message = postcard::to_allocvec(command)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            bail!("no room for the descriptors");
        }
        sendmsg(&self.0, &[IoSlice::new(&message)], &mut ancillary, SendFlags::empty())?;
        Ok(())
    }

    pub(super) fn receive(&self) -> anyhow::Result<Event> {
        let mut buffer = vec![0; MAX_MESSAGE];
        readable(&self.0)?;
        let (_, bytes) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
        postcard::from_bytes(buffer.get(..bytes).unwrap_or_default())
            .with_context(|| format!("its message of {bytes} bytes can't be read"))
    }

    /// The stages that the vmm reports when its machine runs.
    pub(super) fn stages(&self) -> anyhow::Result<StartTimes> {
        match self.receive()? {
            Event::Running(times) => Ok(times),
            other => bail!("it said {other:?} where its stages were due"),
        }
    }
}

pub(super) fn prepare(vmm: &Path, job: &Job) -> anyhow::Result<Prepared> {
    let spec = job.spec();
    spec.validate()?;
    let kernel = File::open(&job.kernel)?;
    let root = root(job)?;
    let memory = guest_memory(spec.memory_bytes())?;
    let (output, serial) = serial_pipe(false)?;
    let descriptors = [memory.as_fd(), kernel.as_fd(), root.as_fd(), serial.as_fd()];
    prepared(vmm, &Command::Start(spec), &descriptors, output)
}

/// A vmm that will find this command, with `/dev/kvm` and these descriptors.
pub(super) fn prepared(
    vmm: &Path,
    command: &Command,
    descriptors: &[BorrowedFd<'_>],
    output: File,
) -> anyhow::Result<Prepared> {
    let (program, descriptors, control) = started(vmm, command, descriptors)?;
    Ok(new(program, descriptors, output, control))
}

fn new(program: Program, descriptors: Places, output: File, control: Control) -> Prepared {
    let memory = GuestMemory::Memfd(GUEST_MEMORY);
    let control = Some(control);
    Prepared { program, descriptors, output, memory, control, jail: None, held: None }
}

/// The same, of a vmm that waits for its command when the clock starts, and has made its VM, as those of a pool have.
pub(super) fn blank(
    vmm: &Path,
    command: Command,
    descriptors: Vec<OwnedFd>,
    output: File,
) -> anyhow::Result<Prepared> {
    let (control, theirs) = control_pair()?;
    control.send(&Command::Prepare, &[kvm()?.as_fd()])?;
    let places = vec![(null()?, 0), (null()?, 1), (theirs, CONTROL_FD)];
    let mut prepared = new(Program::new(vmm, &[])?, places, output, control);
    let mut all = vec![kvm()?.into()];
    all.extend(descriptors);
    prepared.held = Some(Held { command, descriptors: all });
    Ok(prepared)
}

/// A command that is still to be sent, with its descriptors.
#[derive(Debug)]
pub(super) struct Held {
    command: Command,
    descriptors: Vec<OwnedFd>,
}

impl Held {
    /// Sends it. The descriptors are closed here then, so that the vmm alone has them.
    pub(super) fn send(self, control: &Control) -> anyhow::Result<()> {
        let all: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        control.send(&self.command, &all)
    }
}

/// What a program gets as which descriptor.
type Places = Vec<(OwnedFd, RawFd)>;

/// The program, its descriptors, and our end of its control socket, with the command in it.
pub(super) fn started(
    vmm: &Path,
    command: &Command,
    descriptors: &[BorrowedFd<'_>],
) -> anyhow::Result<(Program, Places, Control)> {
    let kvm = kvm()?;
    let (control, theirs) = control_pair()?;
    let all: Vec<_> = std::iter::once(kvm.as_fd()).chain(descriptors.iter().copied()).collect();
    control.send(command, &all)?;
    let places = vec![(null()?, 0), (null()?, 1), (theirs, CONTROL_FD)];
    Ok((Program::new(vmm, &[])?, places, control))
}

fn kvm() -> anyhow::Result<File> {
    File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")
}

fn control_pair() -> anyhow::Result<(Control, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Control(ours), theirs))
}

/// The root image; a guest that needs none gets a page of zeros.
pub(super) fn root(job: &Job) -> io::Result<File> {
    match &job.root {
        Some(path) => File::open(path),
        None => {
            let mut page = File::from(memfd_create("bench-root", MemfdFlags::CLOEXEC)?);
            page.write_all(&[0; 4096])?;
            Ok(page)
        }
    }
}
