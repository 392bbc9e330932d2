//! What this host says of itself, its processor and its kernel: a saved machine goes on only where the same is said.
//!
//! Programs and images are no part of it. A machine that goes on has kernel and root in its memory, and its state is of a
//! format that has a version of its own.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};

use cloister_vmm::spec::FINGERPRINT_BYTES;

use crate::images::digest::Digest;

/// Most of `/proc/cpuinfo` that is read: the first processor's part, without asking the others for their speed.
const CPUINFO_BYTES: u64 = 4096;
/// What of it tells one processor from another. Microcode too: it can take features away.
const CPU_FIELDS: [&str; 7] =
    ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"];

/// This host's, as the vmm compares it.
///
/// # Errors
/// The host does not say what it is.
pub fn here() -> io::Result<[u8; FINGERPRINT_BYTES]> {
    Ok(of(&host()?.hex()))
}

/// That of a host by its digest ([`host`]) in hexadecimal digits.
#[must_use]
pub fn of(host: &str) -> [u8; FINGERPRINT_BYTES] {
    Digest::of(host.as_bytes()).bytes()
}

/// The digest of what this host is.
///
/// # Errors
/// As [`here`].
pub fn host() -> io::Result<Digest> {
    Ok(Digest::of(words()?.as_bytes()))
}

/// What this host is, in words.
fn words() -> io::Result<String> {
    let mut cpuinfo = Vec::new();
    File::open("/proc/cpuinfo")?.take(CPUINFO_BYTES).read_to_end(&mut cpuinfo)?;
    let mut text = cpu(&String::from_utf8_lossy(&cpuinfo));
    let system = rustix::system::uname();
    for part in [system.release(), system.version(), system.machine()] {
        // Writing to a string can't fail.
        writeln!(text, "{}", part.to_string_lossy()).ok();
    }
    Ok(text)
}

/// The lines of the first processor that tell what it is.
fn cpu(cpuinfo: &str) -> String {
    let first = cpuinfo.lines().take_while(|line| !line.is_empty());
    first
        .filter(|line| {
            let name = line.split(':').next().unwrap_or_default().trim_end();
            CPU_FIELDS.contains(&name)
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processors_speed_is_not_what_it_is() {
        let one = "processor\t: 0\nvendor_id\t: X\ncpu MHz\t\t: 1.0\nflags\t\t: a b\n\nprocessor\t: 1\nflags\t\t: c\n";
        assert_eq!(cpu(one), "vendor_id\t: X\nflags\t\t: a b\n");
        assert!(words().unwrap().lines().count() > 3);
    }

    #[test]
    fn a_host_says_the_same_each_time() {
        assert_eq!(here().unwrap(), here().unwrap());
        assert_ne!(of("a"), of("b"));
    }
}
