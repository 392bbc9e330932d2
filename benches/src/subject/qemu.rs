//! QEMU's `microvm` machine with KVM, set up as lean as its options allow. `README.md` gives the
//! reason of each option.

use std::path::Path;

use cloister::commands::bench::footprint::GuestMemory;

use super::{Job, Prepared, null, serial_pipe};
use crate::spawn::Program;

/// Name that QEMU gives the memfd of `memory-backend-memfd`.
const MEMFD_NAME: &str = "memory-backend-memfd";

/// Where QEMU's guest memory is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// As QEMU makes it by itself: anonymous, so that the host's kernel can use huge pages for it.
    Own,
    /// A shared memfd, as ours is: what a monitor needs that is to hand guest memory on.
    Memfd,
}

pub(super) fn prepare(program: &Path, memory: Memory, job: &Job) -> anyhow::Result<Prepared> {
    let (output, serial) = serial_pipe(true)?;
    Ok(Prepared {
        program: Program::new(program, &arguments(memory, job))?,
        descriptors: vec![(null()?, 0), (serial, 1)],
        output,
        memory: match memory {
            Memory::Own => GuestMemory::Anonymous(u64::from(job.memory_mib) << 20),
            Memory::Memfd => GuestMemory::Memfd(MEMFD_NAME),
        },
        control: None,
        jail: None,
        held: None,
    })
}

pub(super) fn arguments(memory: Memory, job: &Job) -> Vec<String> {
    let machine = "microvm,accel=kvm,kernel-irqchip=on,pic=off,pit=off,rtc=off,ioapic2=off,pcie=off,\
                   usb=off,x-option-roms=off,isa-serial=on,auto-kernel-cmdline=off";
    let mut arguments: Vec<String> = [
        "-no-user-config",
        "-nodefaults",
        "-M",
        machine,
        "-cpu",
        "host",
        "-smp",
        &job.vcpus.to_string(),
        "-m",
        &format!("{}M", job.memory_mib),
        "-display",
        "none",
        "-monitor",
        "none",
        "-no-reboot",
        "-chardev",
        "stdio,id=serial,signal=off",
        "-serial",
        "chardev:serial",
        "-kernel",
        &job.kernel.display().to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    if memory == Memory::Memfd {
        let ram = format!("memory-backend-memfd,id=ram,size={}M,share=on", job.memory_mib);
        arguments.extend(["-object".into(), ram, "-M".into(), "memory-backend=ram".into()]);
    }
    if let Some(root) = &job.root {
        let cmdline = format!("{} {}", job.base_cmdline, job.extra_cmdline);
        arguments.extend(["-initrd".into(), root.display().to_string()]);
        arguments.extend(["-append".into(), cmdline.trim().to_owned()]);
    }
    arguments
}
