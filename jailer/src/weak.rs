//! A jailer that leaves one step out, for the tests which show that `cloister prove` notices: only in builds with
//! the feature `weaken`, which nothing that is shipped has. Such a test writes a step's name over the
//! dots of `MARK` in a copy of the program.

#[cfg(not(feature = "weaken"))]
use crate::step::Step;

#[cfg(feature = "weaken")]
mod marked {
    use crate::spec::PROGRAM_FD;
    use crate::step::Step;

    #[used]
    static MARK: [u8; 48] = *b"cloister-weaken:................................";

    fn name() -> &'static str {
        // The compiler must not know what is in it.
        let mark: &'static [u8; 48] = std::hint::black_box(&MARK);
        let text = std::str::from_utf8(mark).unwrap_or_default();
        text.split_once(':').map_or("", |(_, name)| name).trim_end_matches('.')
    }

    pub(crate) fn leaves_out(step: Step) -> bool {
        name() == format!("{step:?}")
    }

    pub(crate) fn namespaces(all: i32) -> i32 {
        let left_out = match name() {
            "Clone" | "CloneNet" => libc::CLONE_NEWNET,
            "CloneIpc" => libc::CLONE_NEWIPC,
            "CloneUts" => libc::CLONE_NEWUTS,
            "ClonePid" => libc::CLONE_NEWPID,
            _ => 0,
        };
        all & !left_out
    }

    pub(crate) fn prepare() {
        if leaves_out(Step::NotDumpable) {
            // The host made the program unreadable, which alone keeps its process from being dumpable.
            use std::os::unix::fs::PermissionsExt as _;
            let path = format!("/proc/self/fd/{PROGRAM_FD}");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).ok();
        }
    }
}

/// Whether a step is left out: never.
#[cfg(not(feature = "weaken"))]
pub(crate) const fn leaves_out(_: Step) -> bool {
    false
}

/// The namespaces that are made: all of these.
#[cfg(not(feature = "weaken"))]
pub(crate) const fn namespaces(all: i32) -> i32 {
    all
}

/// Nothing to be prepared.
#[cfg(not(feature = "weaken"))]
pub(crate) const fn prepare() {}

#[cfg(feature = "weaken")]
pub(crate) use marked::{leaves_out, namespaces, prepare};
