//! The steps of a jail, in their order, and what is said when one of them fails.

/// A step. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Step {
    /// Every descriptor that is not the jail's is closed; the jail's are what they should be.
    Descriptors = 1,
    /// The spec is read and checked.
    Spec = 2,
    /// The jailer itself dies with its host.
    Host = 3,
    /// The limits are written to the control group.
    Limits = 4,
    /// One call makes the process in its control group and its user, process, mount, message, name
    /// and network namespaces.
    Clone = 5,
    /// The ids of the user namespace are mapped.
    Mapping = 6,
    /// The process takes its ids and gives up all other groups.
    Identity = 7,
    /// A session of its own; no signal is ignored or held back.
    Session = 8,
    /// The process dies with its host.
    ParentDeath = 9,
    /// A control group namespace, whose root is the process's own group.
    GroupNamespace = 10,
    /// The host's name is not seen.
    HostName = 11,
    /// A file server's only: the process's own descriptors as a directory, of a mount that is nowhere.
    Processes = 12,
    /// The root is an empty file system, and the only mount.
    Root = 13,
    /// Resource limits.
    ResourceLimits = 14,
    /// Nothing that is executed can bring privileges.
    NoNewPrivileges = 15,
    /// Landlock: nothing of what it knows is allowed.
    Landlock = 16,
    /// Every capability is gone, for ever.
    Capabilities = 17,
    /// The process's memory is nobody's to read.
    NotDumpable = 18,
    /// System calls that the program's set-up does not need.
    SystemCalls = 19,
    /// The program is executed.
    Execute = 20,
}

/// Every step, in order.
pub const STEPS: [Step; 20] = [
    Step::Descriptors,
    Step::Spec,
    Step::Host,
    Step::Limits,
    Step::Clone,
    Step::Mapping,
    Step::Identity,
    Step::Session,
    Step::ParentDeath,
    Step::GroupNamespace,
    Step::HostName,
    Step::Processes,
    Step::Root,
    Step::ResourceLimits,
    Step::NoNewPrivileges,
    Step::Landlock,
    Step::Capabilities,
    Step::NotDumpable,
    Step::SystemCalls,
    Step::Execute,
];

/// The files of [`Step::Limits`]; [`Failure::detail`] counts in them.
pub const LIMIT_FILES: [&str; 6] =
    ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "io.weight"];

impl Step {
    /// What was tried, after "the jail's step".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Spec => "spec",
            Self::Host => "host",
            Self::Limits => "limits of the control group",
            Self::Clone => "namespaces and control group",
            Self::Mapping => "mapping of user and group",
            Self::Identity => "user and group",
            Self::Session => "session and signals",
            Self::ParentDeath => "parent-death signal",
            Self::GroupNamespace => "control group namespace",
            Self::HostName => "host name",
            Self::Processes => "own descriptors",
            Self::Root => "empty root",
            Self::ResourceLimits => "resource limits",
            Self::NoNewPrivileges => "no new privileges",
            Self::Landlock => "Landlock",
            Self::Capabilities => "capabilities",
            Self::NotDumpable => "not dumpable",
            Self::SystemCalls => "system calls",
            Self::Execute => "execution",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Limits => {
                "the host needs control groups version 2 with the controllers memory, pids and cpu; \
                 `cloister doctor` tells what is there"
            }
            Self::Clone => {
                "the kernel must let this user make namespaces and use the control group: see the \
                 checks user-namespaces and cgroup of `cloister doctor`"
            }
            Self::Mapping | Self::Identity => {
                "as root, keep CAP_SETUID and CAP_SETGID and map the range of CLOISTER_UIDS into \
                 this user namespace; as a user, see the check user-namespaces of `cloister doctor`"
            }
            Self::Landlock => {
                "use a host kernel with CONFIG_SECURITY_LANDLOCK=y and `landlock` among its lsm= \
                 names"
            }
            Self::SystemCalls => "use a host kernel with CONFIG_SECCOMP_FILTER=y",
            Self::Root => {
                "the kernel must allow a tmpfs in a user namespace, and this process's root must be \
                 a mount, not the kernel's first root file system"
            }
            Self::Processes => {
                "the kernel must allow a proc file system in a user namespace: in a container, /proc must \
                 not be covered in part"
            }
            Self::Host => "the process that started the jailer ended meanwhile: start it again",
            Self::Execute => "the program must be a static one, built for this processor",
            Self::Descriptors | Self::Spec => {
                "programs of one build belong together: `make build` makes them all"
            }
            _ => "use a Linux kernel of version 6.1 or later; `cloister doctor` tells more",
        }
    }

    /// The step with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        STEPS.into_iter().find(|step| *step as u8 == number)
    }
}

/// Length of an encoded [`Report`], in bytes: less than a pipe takes at once, so they stay whole.
pub const REPORT_LEN: usize = 8;
/// Most reports of one start: its process, and one failure on each side.
pub const MAX_REPORTS: usize = 3;

/// What the jailer tells the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The jailed process is there; a child of the host.
    Started {
        /// Its id, as the host sees it.
        pid: i32,
    },
    /// A step failed, and with it the start.
    Failed(Failure),
}

/// A step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub step: Step,
    /// What of it; see [`LIMIT_FILES`]. Else 0.
    pub detail: u8,
    /// The system's error.
    pub errno: i32,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the jail's step \"{}\" failed", self.step.name())?;
        match LIMIT_FILES.get(usize::from(self.detail)) {
            Some(file) if self.step == Step::Limits => write!(f, " ({file})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl Report {
    /// As it goes over the pipe.
    #[must_use]
    pub const fn encode(&self) -> [u8; REPORT_LEN] {
        let (step, detail, number) = match self {
            Self::Started { pid } => (0, 0, *pid),
            Self::Failed(failure) => (failure.step as u8, failure.detail, failure.errno),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [step, detail, 0, 0, a, b, c, d]
    }

    /// `None`: nothing that [`Self::encode`] makes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [step, detail, 0, 0, a, b, c, d] = *bytes else { return None };
        let number = i32::from_le_bytes([a, b, c, d]);
        match (step, detail) {
            (0, 0) if number > 0 => Some(Self::Started { pid: number }),
            (0, _) => None,
            _ => {
                let step = Step::from_number(step)?;
                Some(Self::Failed(Failure { step, detail, errno: number }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        let mut reports = vec![Report::Started { pid: 1 }, Report::Started { pid: i32::MAX }];
        for step in STEPS {
            reports.push(Report::Failed(Failure { step, detail: 3, errno: libc::EPERM }));
            assert!(!step.name().is_empty() && !step.remedy().is_empty());
        }
        for report in reports {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        for bad in [&[][..], &[0; 8], &[21, 0, 0, 0, 1, 0, 0, 0], &[1, 0, 1, 0, 0, 0, 0, 0]] {
            assert_eq!(Report::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn steps_are_numbered_in_their_order() {
        assert!(STEPS.is_sorted());
        assert_eq!(STEPS.map(|step| step as usize), core::array::from_fn(|index| index + 1));
    }

    #[test]
    fn a_failure_names_its_file() {
        let failure = Failure { step: Step::Limits, detail: 3, errno: libc::ENOENT };
        let text = failure.to_string();
        assert_eq!(text, "the jail's step \"limits of the control group\" failed (pids.max)");
    }
}
