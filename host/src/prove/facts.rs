//! What a report says of the host, and as whom it was made.

use std::fs;

use serde::Serialize;

use super::Wish;
use crate::doctor;
use crate::text::printable_line;

/// Of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// When it was begun, UTC.
    pub date: String,
    /// Cloister's version.
    pub version: String,
    /// The host's name.
    pub host_name: String,
    /// The host's kernel.
    pub kernel: String,
    /// The processor.
    pub processor: String,
    /// What is known to be wrong with the processor, and what the kernel does about it.
    pub weaknesses: Vec<String>,
    /// As whom it was run.
    pub user: String,
    /// The kernel's Landlock version; 0: none.
    pub landlock_abi: i64,
    /// What `cloister doctor` says of the host that is not in order.
    pub doctor: Vec<String>,
    /// The programs that were attacked.
    pub programs: Vec<String>,
}

pub(super) fn of(wish: &Wish, host: &doctor::Report) -> Facts {
    let text = |path: &str| printable_line(&fs::read_to_string(path).unwrap_or_default());
    let names = rustix::system::uname();
    let word = |text: &std::ffi::CStr| printable_line(&text.to_string_lossy());
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(String::new, |(_, name)| printable_line(name.trim()));
    let folder = "/sys/devices/system/cpu/vulnerabilities";
    let mut weaknesses: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            format!("{name}: {}", text(&format!("{folder}/{name}")))
        })
        .collect();
    weaknesses.sort();
    let uid = rustix::process::geteuid().as_raw();
    let files = &wish.files;
    let programs =
        [&files.vmm, &files.jailer, &files.file_server(), &files.prober(), &files.kernel];
    let doctor = host.checks.iter().filter(|check| check.status != doctor::Status::Ok);
    Facts {
        date: chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
            .format("%Y-%m-%d %H:%M:%S UTC")
            .to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host_name: word(names.nodename()),
        kernel: format!(
            "{} {} {} {}",
            word(names.sysname()),
            word(names.release()),
            word(names.version()),
            word(names.machine())
        ),
        processor,
        weaknesses,
        user: if uid == 0 { "root (user id 0)".to_owned() } else { format!("user id {uid}") },
        landlock_abi: doctor::landlock_abi(),
        doctor: doctor.map(|check| format!("{}: {}", check.name, check.found)).collect(),
        programs: programs.iter().map(|path| path.display().to_string()).collect(),
    }
}
