//! The steps that make a container, in their order, and what tells of the one that failed.

use cloister_protocol::agent::AgentSpec;
use rustix::io::Errno;

/// A step, by the name that the host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    /// By the supervisor: the file system with all shares, mounted with the first agent.
    Shares,
    /// Its control group with its limits.
    Group,
    /// The instance of `devpts` that its terminals are in.
    Terminals,
    /// The program that its init executes.
    InitProgram,
    /// The init's process, in new namespaces.
    Process,
    /// By the process itself: descriptors of others are closed.
    Descriptors,
    /// Its mounts are nobody else's.
    PrivateMounts,
    /// A share that it will see is opened.
    OpenShare,
    /// Its root file system.
    Root,
    /// The old root, and all mounts in it, are gone.
    LeaveOldRoot,
    /// `/proc`, with what is hidden and what is read-only there.
    Processes,
    /// `/dev`.
    Devices,
    /// `/tmp`.
    Temporary,
    /// The file that names its name server.
    NameServer,
    /// A share is mounted.
    MountShare,
    /// What must not be written is read-only.
    ReadOnly,
    /// Its host name.
    HostName,
    /// Its loopback interface.
    Loopback,
    /// What may be executed and written.
    Rules,
    /// Its own group is the root of what it sees of control groups.
    GroupNamespace,
    /// Its user namespace, with its ids.
    UserNamespace,
    /// In it, no further namespace is made.
    NoMoreNamespaces,
    /// It gives up every right.
    Rights,
    /// It ends with the supervisor.
    ParentDeath,
    /// The supervisor is told, and the init's program executed.
    Execute,
}

/// All of them, in their order.
pub(crate) const STEPS: [Step; 25] = [
    Step::Shares,
    Step::Group,
    Step::Terminals,
    Step::InitProgram,
    Step::Process,
    Step::Descriptors,
    Step::PrivateMounts,
    Step::OpenShare,
    Step::Root,
    Step::LeaveOldRoot,
    Step::Processes,
    Step::Devices,
    Step::Temporary,
    Step::NameServer,
    Step::MountShare,
    Step::ReadOnly,
    Step::HostName,
    Step::Loopback,
    Step::Rules,
    Step::GroupNamespace,
    Step::UserNamespace,
    Step::NoMoreNamespaces,
    Step::Rights,
    Step::ParentDeath,
    Step::Execute,
];

impl Step {
    const fn words(self) -> &'static str {
        match self {
            Self::Shares => "mount the file system of shares",
            Self::Group => "make its control group",
            Self::Terminals => "make the file system of its terminals",
            Self::InitProgram => "make its init's program",
            Self::Process => "make its init's process",
            Self::Descriptors => "close others' descriptors",
            Self::PrivateMounts => "make its mounts private",
            Self::OpenShare => "open a share",
            Self::Root => "make its root file system",
            Self::LeaveOldRoot => "leave the old root",
            Self::Processes => "make /proc",
            Self::Devices => "make /dev",
            Self::Temporary => "make /tmp",
            Self::NameServer => "write /etc/resolv.conf",
            Self::MountShare => "mount a share",
            Self::ReadOnly => "make its file systems read-only",
            Self::HostName => "set its host name",
            Self::Loopback => "bring its loopback interface up",
            Self::Rules => "make the rules of what it may execute and write",
            Self::GroupNamespace => "make its control group namespace",
            Self::UserNamespace => "make its user namespace",
            Self::NoMoreNamespaces => "forbid further namespaces",
            Self::Rights => "give up rights",
            Self::ParentDeath => "bind its init to the supervisor",
            Self::Execute => "execute its init",
        }
    }
}

/// A step that failed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) step: Step,
    /// Which of several: a mount's index, or that of a rule; [`Failed::NO_ITEM`].
    pub(crate) item: u16,
    pub(crate) error: Errno,
}

impl Failed {
    /// The step is for no one item (or, with shares, it is the root).
    pub(crate) const NO_ITEM: u16 = u16::MAX;
    /// From here on an item is a writable directory, below an executable.
    pub(crate) const WRITABLE: u16 = 0x8000;
    pub(crate) const LENGTH: usize = 7;

    pub(crate) const fn to_bytes(self) -> [u8; Self::LENGTH] {
        let [a, b] = self.item.to_le_bytes();
        let [c, d, e, f] = self.error.raw_os_error().to_le_bytes();
        [self.step as u8, a, b, c, d, e, f]
    }

    pub(crate) fn from_bytes([step, a, b, c, d, e, f]: [u8; Self::LENGTH]) -> Option<Self> {
        let step = STEPS.into_iter().find(|one| *one as u8 == step)?;
        let number = i32::from_le_bytes([c, d, e, f]);
        // What the kernel uses; the type takes no others.
        let error = (1..4096).contains(&number).then(|| Errno::from_raw_os_error(number))?;
        Some(Self { step, item: u16::from_le_bytes([a, b]), error })
    }

    /// For the host.
    pub(crate) fn detail(self, spec: &AgentSpec) -> String {
        let Self { step, item, error } = self;
        let words = step.words();
        let mount = spec.mounts.get(usize::from(item));
        match (step, mount) {
            (Step::OpenShare, None) => {
                format!("can't open the share {} of its root: {error}", spec.root.share)
            }
            (Step::OpenShare, Some(mount)) => {
                format!("can't open the share {}: {error}", mount.share)
            }
            (Step::MountShare, Some(mount)) => {
                let (share, target) = (&mount.share, String::from_utf8_lossy(&mount.target));
                let why = match error {
                    // What `root::find_or_make` answers with.
                    Errno::ROFS => ": the place is missing, and lies in another share".to_owned(),
                    Errno::XDEV => ": the place lies in what the supervisor makes".to_owned(),
                    other => format!(": {other}"),
                };
                format!("can't mount the share {share} at {target}{why}")
            }
            (Step::Rules, _) if item != Self::NO_ITEM => {
                let (list, index) = if item < Self::WRITABLE {
                    (&spec.executables, item)
                } else {
                    (&spec.writable, item - Self::WRITABLE)
                };
                let path = list.as_ref().and_then(|list| list.get(usize::from(index)));
                let path =
                    path.map_or_else(String::new, |path| String::from_utf8_lossy(path).into());
                let kind = if item < Self::WRITABLE { "execute" } else { "write in" };
                format!("can't make the rule that it may {kind} {path}: {error}")
            }
            _ => format!("can't {words}: {error}"),
        }
    }
}

/// Names a step of an error.
pub(crate) fn of(step: Step) -> impl Fn(Errno) -> Failed {
    move |error| Failed { step, item: Failed::NO_ITEM, error }
}

/// The same for one of several.
pub(crate) fn of_item(step: Step, index: usize) -> impl Fn(Errno) -> Failed {
    let item = u16::try_from(index).unwrap_or(Failed::NO_ITEM);
    move |error| Failed { step, item, error }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Failed, STEPS};

    #[test]
    fn reports_come_back() {
        for (item, step) in (0..).zip(STEPS) {
            let failed = Failed { step, item, error: Errno::NOENT };
            assert_eq!(Failed::from_bytes(failed.to_bytes()), Some(failed));
        }
        for bytes in [[99, 0, 0, 1, 0, 0, 0], [0; 7], [0, 0, 0, 0, 16, 0, 0]] {
            assert_eq!(Failed::from_bytes(bytes), None);
        }
    }
}
