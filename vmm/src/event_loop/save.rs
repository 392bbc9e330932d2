//! Saving a paused machine: every vCPU thread tells its state, then the rest is read and all of it written. Of a rehearsal
//! the list of the pages that were written is all that is asked for.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use event_manager::EventOps;
use kvm_ioctls::VmFd;

use super::{Loop, Phase};
use crate::control::{Command, Event};
use crate::control_socket::{self, ControlError};
use crate::exit::ExitCode;
use crate::kvm::saved::VcpuState;
use crate::kvm::{self, KvmError};
use crate::snapshot::SnapshotError;
use crate::snapshot::take::SaveError;
use crate::spec::WorkingSet;
use crate::vcpu::Wanted;

/// A machine's state on its way into a file.
pub(super) struct Saving {
    file: File,
    /// Where the memory goes, if that is saved too.
    memory: Option<File>,
    vcpus: Vec<Option<Box<VcpuState>>>,
    left: usize,
}

/// Writes which pages were written; how many bytes that takes.
fn noted(vm: &VmFd, slots: &[u64], mut file: File) -> Result<u64, SaveError> {
    let pages = WorkingSet::of(kvm::noted_pages(vm, slots)?);
    let bytes = postcard::to_allocvec(&pages).map_err(|_| SnapshotError::Body)?;
    // A pipe has room for the longest list: nobody waits.
    file.write_all(&bytes).map_err(SaveError::Write)?;
    Ok(bytes.len() as u64)
}

impl Loop {
    /// Asks the vCPUs for their states. One descriptor: for those; two: the second for the memory.
    pub(super) fn save(&mut self, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let (file, memory) = (descriptors.next(), descriptors.next());
        if self.phase == Phase::Paused
            && let Some(slots) = &self.machine.noted
            && memory.is_none()
            && let Some(file) = file
        {
            return match noted(&self.machine.vm, slots, file.into()) {
                Ok(bytes) => self.send(&Event::Saved { bytes }),
                Err(error) => self.save_failed(&error),
            };
        }
        let possible =
            self.phase == Phase::Paused && self.machine.savable.is_some() && self.saving.is_none();
        let Some(file) = file.filter(|_| possible) else {
            let message = control_socket::name(&Command::Save);
            return self.control_failed(&ControlError::Unexpected { message });
        };
        let count = self.machine.vcpus.count();
        let vcpus = (0..count).map(|_| None).collect();
        let memory = memory.map(File::from);
        self.saving = Some(Saving { file: file.into(), memory, vcpus, left: count });
        self.machine.vcpus.save();
    }

    /// Notes a vCPU's state; after the last one the file is written.
    pub(super) fn on_saved(
        &mut self,
        index: usize,
        state: Result<Box<VcpuState>, KvmError>,
        ops: &mut EventOps,
    ) {
        let Some(saving) = &mut self.saving else { return };
        match state {
            Ok(state) => {
                if let Some(place) = saving.vcpus.get_mut(index) {
                    *place = Some(state);
                }
            }
            Err(error) => return self.save_failed(&error.into()),
        }
        saving.left = saving.left.saturating_sub(1);
        if saving.left > 0 {
            return;
        }
        let Some(saving) = self.saving.take() else { return };
        match self.write(saving) {
            Ok(bytes) => self.send(&Event::Saved { bytes }),
            Err(error) => return self.save_failed(&error),
        }
        if self.next.take() == Some(Wanted::Run) {
            self.resume(ops);
        }
    }

    /// Writes all of it; the state's length. Reading a vCPU's state can change its guest's memory, so that comes last.
    fn write(&mut self, saving: Saving) -> Result<u64, SaveError> {
        let Saving { file, memory, vcpus, .. } = saving;
        let Some(savable) = &self.machine.savable else { return Ok(0) };
        let bytes = savable.write(&self.machine, vcpus, file)?;
        if let (Some(memory), Some(savable)) = (memory, &mut self.machine.savable) {
            savable.write_memory(memory)?;
        }
        Ok(bytes)
    }

    /// A machine that can't be saved has no use.
    fn save_failed(&mut self, error: &SaveError) {
        let mut text = format!("saving the machine: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.end(ExitCode::Host, text);
    }
}
