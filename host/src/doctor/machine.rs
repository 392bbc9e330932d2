//! What a machine is made of: KVM, the vmm, a guest that runs, kernel, root and memory.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use cloister_vmm::control::{Command, Event, ProbeReport, ProbeVerdict};
use kvm_ioctls::{Cap, Kvm};

use super::{Check, PROBE_LIMIT, Status};
use crate::control::{ControlError, ControlSocket, Packet};
use crate::launch::files::{FileError, Files, Role, check_program};
use crate::launch::group::GroupError;
use crate::launch::image::{ImageError, check_kernel, check_root};
use crate::launch::jail::{JailSpec, limits_of_probe};
use crate::launch::memory::{HostMemory, MemoryError};
use crate::launch::process::{ProcessError, VmmProcess};
use crate::report::chain;
use crate::text::printable_line;

/// The only version that KVM has had since Linux 2.6.22; it promises not to change.
const KVM_API_VERSION: i32 = 12;
/// What the vmm builds a machine of. It checks the same again, at each start.
const CAPABILITIES: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
];
/// Less is too little for a machine of the default size.
const LITTLE_MEMORY: u64 = 512 << 20;

/// The device, its version and its capabilities.
pub(super) fn kvm(files: &Files) -> Vec<Check> {
    if let Err(error) = files.open_kvm() {
        return vec![failed_file("kvm", &error)];
    }
    let opened = CString::new(files.kvm.as_os_str().as_bytes())
        .ok()
        .and_then(|path| Kvm::new_with_path(path).ok());
    let Some(kvm) = opened else {
        return vec![Check::new("kvm", Status::Fail, "can be opened once, and not again")];
    };
    let device = files.kvm.display();
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION {
        let found = format!("{device} does not speak KVM's API version {KVM_API_VERSION}");
        let check = Check::new("kvm", Status::Fail, found).fact("api_version", version);
        return vec![check.remedy("the device must be Linux's own KVM")];
    }
    let found = format!("{device} can be used, API version {version}");
    let present = Check::new("kvm", Status::Ok, found).fact("api_version", version);
    vec![present, capabilities(&kvm)]
}

fn capabilities(kvm: &Kvm) -> Check {
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| *name)
        .collect();
    let check = if missing.is_empty() {
        Check::new("kvm-capabilities", Status::Ok, "everything that machines are built of")
    } else {
        Check::new("kvm-capabilities", Status::Fail, format!("without {}", missing.join(", ")))
            .remedy("use a newer Linux kernel on the host")
    };
    check.fact("missing", missing)
}

/// The programs beside this one.
pub(super) fn programs(files: &Files) -> [Check; 3] {
    let check = |name, role, path: &Path| match check_program(role, path) {
        Ok(()) => Check::new(name, Status::Ok, path.display().to_string()),
        Err(error) => failed_file(name, &error),
    };
    [
        check("vmm", Role::Vmm, &files.vmm),
        check("jailer", Role::Jailer, &files.jailer),
        check("file-server", Role::FileServer, &files.file_server()),
    ]
}

/// The attacks of `cloister prove`, and the work of `cloister bench files`; machines run without them.
pub(super) fn prober(files: &Files) -> Check {
    let path = files.prober();
    let check = |status| Check::new("prober", status, path.display().to_string());
    if path.is_file() {
        return check(Status::Ok);
    }
    check(Status::Warn).remedy(
        "`cloister prove` and `cloister bench files` need it; `make build` makes all programs",
    )
}

/// Runs the probe guest, unless what it needs is missing.
pub(super) async fn guest(files: &Files, jail: &JailSpec, before: &[Check]) -> Check {
    const NAME: &str = "guest";
    if before.iter().any(|check| check.status == Status::Fail) {
        return Check::new(NAME, Status::Fail, "not tried, because of the above");
    }
    match tokio::time::timeout(PROBE_LIMIT, probe(files, jail)).await {
        Ok(Ok(report)) => judge(NAME, &report),
        Ok(Err(error)) => Check::new(NAME, Status::Fail, chain(&error))
            .remedy("the programs may be of different builds: `make build` makes them all"),
        Err(_) => {
            let found = format!("the probe guest did not end within {} s", PROBE_LIMIT.as_secs());
            Check::new(NAME, Status::Fail, found).fact("verdict", "broken").remedy(BROKEN)
        }
    }
}

const BROKEN: &str = "look into the kernel's log with `dmesg`; update the host's kernel";
const INTERPRETED: &str = "switch virtualization on: in the firmware of a real machine, or as nested \
     virtualization in the settings of a virtual one (its /proc/cpuinfo then shows vmx or svm)";

fn judge(name: &'static str, report: &ProbeReport) -> Check {
    let time = Duration::from_micros(report.duration_us).as_secs_f64() * 1000.0;
    let detail = printable_line(&report.detail);
    let (status, verdict, found) = match report.verdict {
        ProbeVerdict::Hardware => (
            Status::Ok,
            "hardware",
            format!("a probe guest ran on the processor, in {time:.1} ms: {detail}"),
        ),
        ProbeVerdict::Interpreted => (
            Status::Fail,
            "interpreted",
            format!("this KVM interprets a guest's kernel, and Linux can't run so: {detail}"),
        ),
        ProbeVerdict::Broken => {
            (Status::Fail, "broken", format!("the probe guest could not be run: {detail}"))
        }
    };
    let check = Check::new(name, status, found)
        .fact("verdict", verdict)
        .fact("duration_us", report.duration_us);
    match report.verdict {
        ProbeVerdict::Hardware => check,
        ProbeVerdict::Interpreted => check.remedy(INTERPRETED),
        ProbeVerdict::Broken => check.remedy(BROKEN),
    }
}

/// Why the probe guest told nothing.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cloister-vmm gave no answer: {words}")]
    NoAnswer { words: String },
    #[error("cloister-vmm answered something else")]
    Unexpected,
}

async fn probe(files: &Files, jail: &JailSpec) -> Result<ProbeReport, ProbeError> {
    let kvm = OwnedFd::from(files.open_kvm()?);
    let (control, vmm_end) = ControlSocket::pair()?;
    let cell = jail.cell(limits_of_probe())?;
    let mut process = VmmProcess::spawn(&files.jailer, &files.vmm, cell, vmm_end)?;
    let answer = async {
        control.send(&Packet::new(&Command::Probe, vec![kvm])?).await?;
        control.receive().await
    };
    let answer = answer.await;
    // It ends by itself after its answer; the limit on the whole is around this.
    process.end(PROBE_LIMIT).await;
    match answer {
        Ok(Some(Event::Probed(report))) => Ok(report),
        Ok(Some(_)) => Err(ProbeError::Unexpected),
        Ok(None) | Err(ControlError::Send(_) | ControlError::Receive(_)) => {
            let words = printable_line(&String::from_utf8_lossy(&process.stderr()));
            Err(ProbeError::NoAnswer { words })
        }
        Err(error) => Err(error.into()),
    }
}

/// The guest's kernel.
pub(super) fn kernel(files: &Files) -> Check {
    image("kernel", &files.kernel, files.open_kernel(), check_kernel)
}

/// The guest's root.
pub(super) fn root(files: &Files) -> Check {
    image("rootfs", &files.root, files.open_root(), check_root)
}

fn image(
    name: &'static str,
    path: &Path,
    opened: Result<std::fs::File, FileError>,
    check: impl FnOnce(&std::fs::File) -> Result<(), ImageError>,
) -> Check {
    let file = match opened {
        Ok(file) => file,
        Err(error) => return failed_file(name, &error),
    };
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let checked = match check(&file) {
        Ok(()) => {
            #[expect(clippy::cast_precision_loss, reason = "a size to one decimal, for a person")]
            let mib = bytes as f64 / f64::from(1 << 20);
            Check::new(name, Status::Ok, format!("{}, {mib:.1} MiB", path.display()))
        }
        Err(error) => {
            let found = format!("{}: {}", path.display(), chain(&error));
            Check::new(name, Status::Fail, found).remedy(error.remedy())
        }
    };
    checked.fact("path", path.display().to_string()).fact("bytes", bytes)
}

/// Whether there is room for a machine.
pub(super) fn memory() -> Check {
    match HostMemory::read() {
        Ok(memory) => judge_memory(memory),
        Err(error) => Check::new("memory", Status::Fail, chain(&error)),
    }
}

fn judge_memory(memory: HostMemory) -> Check {
    let mib = |bytes: u64| bytes >> 20;
    let found = format!("{} MiB available of {} MiB", mib(memory.available), mib(memory.total));
    let check = match memory.check(LITTLE_MEMORY) {
        Ok(()) => Check::new("memory", Status::Ok, found),
        Err(MemoryError::BeyondGroup { limit_mib, .. }) => {
            let found = format!("{found}; this control group may use {limit_mib} MiB");
            Check::new("memory", Status::Warn, found)
                .remedy("raise memory.max of the control group, or run machines with less --memory")
        }
        Err(_) => Check::new("memory", Status::Warn, found)
            .remedy("too little for a machine of the default size (512 MiB): use less --memory"),
    };
    check
        .fact("total_bytes", memory.total)
        .fact("available_bytes", memory.available)
        .fact("group_limit_bytes", memory.group_limit)
}

fn failed_file(name: &'static str, error: &FileError) -> Check {
    let check = Check::new(name, Status::Fail, chain(error));
    match error.remedy() {
        Some(remedy) => check.remedy(remedy),
        None => check,
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
