//! The probe guest: can this host's KVM run a Linux guest? Answers in milliseconds.
//!
//! It is a few instructions in 32-bit protected mode. On a processor they simply run. A KVM without
//! hardware support (one that runs guests in user mode and interprets their ring 0) stops at
//! instructions that every kernel uses and its interpreter lacks.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::control::{ProbeReport, ProbeVerdict};
use crate::kvm::{Host, KvmError};
use crate::x86_64::registers;

/// Memory of the probe guest.
const MEMORY_BYTES: usize = 1 << 20;
/// Where its code lies.
const ENTRY: u64 = 0x1000;
/// Where it reports: no device is there.
const REPORT_PORT: u16 = 0x10;
/// What it reports: the number of bits in [`PATTERN`].
const EXPECTED: u8 = 16;
/// Rounds of its loop, two instructions each: tells the speed.
const ROUNDS: u32 = 5_000;
/// Exits after which the guest is taken to be lost.
const MAX_EXITS: usize = 16;

/// ```text
///   mov ecx, ROUNDS
/// 1: dec ecx
///   jnz 1b
///   mov eax, 0x55555555
///   popcnt eax, eax
///   lea edx, [esp - 4096]      ; a few forms that a partial decoder trips over
///   bswap edx
///   out REPORT_PORT, al
///   hlt
/// ```
fn code() -> Vec<u8> {
    let [a, b, c, d] = ROUNDS.to_le_bytes();
    let mut code = vec![0xb9, a, b, c, d, 0x49, 0x75, 0xfd];
    code.extend([0xb8, 0x55, 0x55, 0x55, 0x55, 0xf3, 0x0f, 0xb8, 0xc0]);
    code.extend([0x8d, 0x94, 0x24, 0x00, 0xf0, 0xff, 0xff, 0x0f, 0xca]);
    code.extend([0xe6, 0x10, 0xf4]);
    code
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("guest memory")]
    Memory,
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("setting registers")]
    Registers(#[source] kvm_ioctls::Error),
}

/// Runs the probe guest on the KVM behind this descriptor.
#[must_use]
pub fn run(kvm: OwnedFd) -> ProbeReport {
    let start = Instant::now();
    let (verdict, detail) = match prepare(kvm) {
        Ok((mut vcpu, _vm)) => judge(&mut vcpu),
        Err(error) => (ProbeVerdict::Broken, describe(&error)),
    };
    let duration_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    ProbeReport { verdict, duration_us, detail }
}

fn describe(error: &ProbeError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn prepare(kvm: OwnedFd) -> Result<(VcpuFd, kvm_ioctls::VmFd), ProbeError> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .map_err(|_| ProbeError::Memory)?;
    memory.write_slice(&code(), GuestAddress(ENTRY)).map_err(|_| ProbeError::Memory)?;
    let host = Host::new(kvm)?;
    let vm = host.create_vm(&memory)?;
    let vcpu = host.create_bare_vcpu(&vm)?;
    registers::set_pvh_entry(&vcpu, ENTRY).map_err(ProbeError::Registers)?;
    // The process ends after the probe; until then KVM uses this memory.
    std::mem::forget(memory);
    Ok((vcpu, vm))
}

fn judge(vcpu: &mut VcpuFd) -> (ProbeVerdict, String) {
    let start = Instant::now();
    let mut reported = None;
    for _ in 0..MAX_EXITS {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(REPORT_PORT, [value])) => reported = Some(*value),
            Ok(VcpuExit::Hlt) => return verdict(reported, start),
            Ok(VcpuExit::InternalError) => {
                let detail = "KVM interprets guest ring 0 and lacks instructions that Linux uses";
                return (ProbeVerdict::Interpreted, detail.to_owned());
            }
            Ok(other) => return (ProbeVerdict::Broken, format!("unexpected exit: {other:?}")),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => {
                return (ProbeVerdict::Broken, format!("KVM_RUN: {}", io::Error::from(error)));
            }
        }
    }
    (ProbeVerdict::Broken, format!("no end after {MAX_EXITS} exits"))
}

fn verdict(reported: Option<u8>, start: Instant) -> (ProbeVerdict, String) {
    match reported {
        Some(EXPECTED) => {
            let micros = start.elapsed().as_micros();
            let detail = format!("{} guest instructions in {micros} µs", 2 * ROUNDS);
            (ProbeVerdict::Hardware, detail)
        }
        Some(other) => {
            (ProbeVerdict::Broken, format!("the guest counted {other} bits, not {EXPECTED}"))
        }
        None => (ProbeVerdict::Broken, "the guest halted without a report".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_descriptor_that_is_not_kvm_is_told_apart() {
        let report = run(File::open("/dev/null").unwrap().into());
        assert_eq!(report.verdict, ProbeVerdict::Broken);
        assert!(report.detail.contains("/dev/kvm"), "{}", report.detail);
    }

    #[test]
    fn this_hosts_kvm_gets_a_verdict() {
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        let report = run(kvm.into());
        assert_ne!(report.verdict, ProbeVerdict::Broken, "{}", report.detail);
    }
}
