//! `cloister-vmm`, started as `cloister` starts it: a control socket as descriptor 3, the start
//! message with five descriptors already in it, an empty environment.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ::cloister::commands::bench::footprint::{GUEST_MEMORY, GuestMemory};
use ::cloister::launch::memory::guest_memory;
use anyhow::{Context, bail};
use cloister_vmm::control::{CONTROL_FD, Command, Event, MAX_DESCRIPTORS, MAX_MESSAGE, StartTimes};
use cloister_vmm::spec::VmSpec;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};

use super::{Job, Prepared, null, readable, serial_pipe};
use crate::spawn::Program;

/// The host's end of a running vmm's control socket.
#[derive(Debug)]
pub(super) struct Stamps(OwnedFd);

impl Stamps {
    /// The stages that the vmm reports when its machine runs.
    pub(super) fn receive(&self) -> anyhow::Result<StartTimes> {
        let mut buffer = vec![0; MAX_MESSAGE];
        readable(&self.0)?;
        let (_, bytes) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
        match postcard::from_bytes(buffer.get(..bytes).unwrap_or_default()) {
            Ok(Event::Running(times)) => Ok(times),
            Ok(other) => bail!("it said {other:?} where its stages were due"),
            Err(error) => bail!("its message of {bytes} bytes can't be read: {error}"),
        }
    }
}

pub(super) fn prepare(vmm: &Path, job: &Job) -> anyhow::Result<Prepared> {
    let spec = VmSpec {
        vcpus: job.vcpus,
        memory_mib: job.memory_mib,
        extra_cmdline: job.extra_cmdline.clone(),
    };
    spec.validate()?;
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let kernel = File::open(&job.kernel)?;
    let root = root(job)?;
    let memory = guest_memory(spec.memory_bytes())?;
    let (output, serial) = serial_pipe(false)?;

    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let descriptors = [kvm.as_fd(), memory.as_fd(), kernel.as_fd(), root.as_fd(), serial.as_fd()];
    let message = postcard::to_allocvec(&Command::Start(spec))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        bail!("no room for the descriptors");
    }
    sendmsg(&ours, &[IoSlice::new(&message)], &mut ancillary, SendFlags::empty())?;

    Ok(Prepared {
        program: Program::new(vmm, &[])?,
        descriptors: vec![(null()?, 0), (null()?, 1), (theirs, CONTROL_FD)],
        output,
        memory: GuestMemory::Memfd(GUEST_MEMORY),
        stamps: Some(Stamps(ours)),
    })
}

/// The root image; a guest that needs none gets a page of zeros.
fn root(job: &Job) -> io::Result<File> {
    match &job.root {
        Some(path) => File::open(path),
        None => {
            let mut page = File::from(memfd_create("bench-root", MemfdFlags::CLOEXEC)?);
            page.write_all(&[0; 4096])?;
            Ok(page)
        }
    }
}
