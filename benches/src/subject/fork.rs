//! Forks of a saved machine: what `cloister` hands over to a vmm that goes on from a template, with the same descriptors.
//!
//! Each fork has a machine that was saved just before, by a `cloister-vmm` without a jail, and not one that was saved
//! once for all: there are KVMs that let nobody set a guest's time-stamp counter (kvm-pvm), and on those a saved machine
//! can go on only within a second.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use ::cloister::launch::memory::guest_memory;
use anyhow::{Context, bail};
use cloister_vmm::control::{Command, Event};
use cloister_vmm::spec::{FINGERPRINT_BYTES, SavedSpec, WorkingSet};
use rustix::fs::{MemfdFlags, memfd_create};

use super::cloister::{self, Control};
use super::{Job, Prepared, serial_pipe, wait_for_marker};

/// What this host says of itself here: all forks are made where the machine was saved.
const FINGERPRINT: [u8; FINGERPRINT_BYTES] = [0; FINGERPRINT_BYTES];

/// A machine that is saved now, and everything for one that goes on from it.
pub(super) fn prepare(vmm: &Path, job: &Job) -> anyhow::Result<Prepared> {
    let saved = Saved::new(vmm, job).context("can't save the toy guest")?;
    let (output, serial) = serial_pipe(false)?;
    let descriptors = [saved.memory.as_fd(), saved.state.as_fd(), serial.as_fd()];
    cloister::prepared(vmm, &Command::Fork(saved.spec, WorkingSet::default()), &descriptors, output)
}

/// The same, for a vmm that waits for it.
pub(super) fn prepare_for_blank(vmm: &Path, job: &Job) -> anyhow::Result<Prepared> {
    let Saved { spec, memory, state } = Saved::new(vmm, job).context("can't save the toy guest")?;
    let (output, serial) = serial_pipe(false)?;
    let descriptors = vec![memory.into(), state.into(), serial];
    cloister::blank(vmm, Command::Fork(spec, WorkingSet::default()), descriptors, output)
}

/// A saved machine.
struct Saved {
    spec: SavedSpec,
    /// Only for reading.
    memory: File,
    state: File,
}

impl Saved {
    /// Boots the job's machine, waits for its marker, saves it and ends it.
    fn new(vmm: &Path, job: &Job) -> anyhow::Result<Self> {
        let spec = SavedSpec { vm: job.spec(), fingerprint: FINGERPRINT, shared: false };
        let memory = guest_memory(spec.vm.memory_bytes())?;
        let (kernel, root) = (File::open(&job.kernel)?, cloister::root(job)?);
        let (mut output, serial) = serial_pipe(false)?;
        let descriptors = [memory.as_fd(), kernel.as_fd(), root.as_fd(), serial.as_fd()];
        let command = Command::StartSavable(spec.clone());
        let (program, places, control) = cloister::started(vmm, &command, &descriptors)?;
        drop(serial);
        let running = {
            let places: Vec<_> = places.iter().map(|(fd, to)| (fd.as_fd(), *to)).collect();
            program.spawn(&places)?
        };
        drop(places);
        wait_for_marker(&mut output, &job.marker)?;
        control.stages()?;
        control.send(&Command::Pause, &[])?;
        expect(&control, &Event::Paused)?;
        let state = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
        control.send(&Command::Save, &[state.as_fd()])?;
        match control.receive()? {
            Event::Saved { .. } => {}
            other => bail!("it said {other:?} where it was to be saved"),
        }
        drop(running);
        let memory = read_only(&memory).context("can't open the saved memory for reading")?;
        Ok(Self { spec, memory, state })
    }
}

/// The same file by a descriptor that can't write.
fn read_only(file: &OwnedFd) -> std::io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn expect(control: &Control, wanted: &Event) -> anyhow::Result<()> {
    let got = control.receive()?;
    if got == *wanted { Ok(()) } else { bail!("it said {got:?}, not {wanted:?}") }
}
