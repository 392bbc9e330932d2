//! QEMU's `microvm` machine with KVM, set up as lean as its options allow. `README.md` gives the
//! reason of each option.

use std::path::Path;

use super::{Job, Prepared, null, serial_pipe};
use crate::spawn::Program;

/// Name that QEMU gives the memfd of `memory-backend-memfd`.
const MEMORY: &str = "memory-backend-memfd";

pub(super) fn prepare(program: &Path, job: &Job) -> anyhow::Result<Prepared> {
    let (output, serial) = serial_pipe(true)?;
    Ok(Prepared {
        program: Program::new(program, &arguments(job))?,
        descriptors: vec![(null()?, 0), (serial, 1)],
        output,
        memory: MEMORY,
        stamps: None,
    })
}

pub(super) fn arguments(job: &Job) -> Vec<String> {
    let machine = "microvm,accel=kvm,kernel-irqchip=on,pic=off,pit=off,rtc=off,ioapic2=off,pcie=off,\
                   usb=off,x-option-roms=off,isa-serial=on,auto-kernel-cmdline=off,memory-backend=ram";
    let ram = format!("memory-backend-memfd,id=ram,size={}M,share=on", job.memory_mib);
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
        "-object",
        &ram,
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
    if let Some(root) = &job.root {
        let cmdline = format!("{} {}", job.base_cmdline, job.extra_cmdline);
        arguments.extend(["-initrd".into(), root.display().to_string()]);
        arguments.extend(["-append".into(), cmdline.trim().to_owned()]);
    }
    arguments
}
