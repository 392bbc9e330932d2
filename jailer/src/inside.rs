//! The jailed process's part: from its first instruction, in its namespaces, to the execution of
//! the program. Each step takes something away, and none can be undone.

use std::ffi::CStr;

use crate::filter;
use crate::landlock;
use crate::mount_calls;
use crate::outside::{kill, made, of};
use crate::policy;
use crate::root;
use crate::spec::{PROCESSES_FD, PROGRAM_FD, REPORT_FD, Role, Spec};
use crate::step::{Failure, Report, Step};
use crate::sys::{self, Errno};
use crate::{times, weak};

/// Of the mount of process lists: read-only, nosuid, nodev, noexec (`MOUNT_ATTR_*` of linux/mount.h).
const PROCESSES: u64 = 1 | 2 | 4 | 8;
/// What the jail says its host is called.
const HOST_NAME: &[u8] = b"cloister";
/// Exit status when a step failed; the report says which.
const FAILED: i32 = 1;
/// Securebits, all with their locks: user 0 means nothing, ids change no capability, none is kept
/// and none raised (linux/securebits.h).
const SECUREBITS: u64 = 0b1110_1111;
/// Fewer capabilities than this have never been known to a kernel with user namespaces.
const LEAST_CAPABILITIES: u64 = 30;

/// What the process has of the jailer, beside the descriptors of the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// A byte comes when the ids are mapped.
    pub(crate) go: i32,
    /// The host's process.
    pub(crate) host: i32,
}

/// Whether the last step before the execution is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// It is: what `cloister-jailer` always does.
    Made,
    /// It is not: for `cloister prove`, which shows that the other steps hold alone.
    LeftOut,
}

/// Goes through the steps and executes the program.
pub(crate) fn run(spec: &Spec, ends: Ends, filter: Filter) -> ! {
    let failure = match confine(spec, ends, filter) {
        Ok(()) => of(Step::Execute)(sys::execute(PROGRAM_FD, name(spec.role))),
        Err(failure) => failure,
    };
    // If the host is gone, nobody needs to know.
    sys::write(REPORT_FD, &Report::Failed(failure).encode()).ok();
    sys::leave(FAILED)
}

/// The program's name, as it finds it.
const fn name(role: Role) -> &'static CStr {
    match role {
        Role::Vmm => c"cloister-vmm",
        Role::FileServer => c"cloister-file-server",
    }
}

/// The recipe.
fn confine(spec: &Spec, ends: Ends, filter: Filter) -> Result<(), Failure> {
    match sys::wait_for_byte(ends.go) {
        Ok(true) => times::mark(Step::Mapping),
        // The jailer has reported why, or was killed with the host.
        Ok(false) => sys::leave(FAILED),
        Err(errno) => return Err(of(Step::Mapping)(errno)),
    }
    made(Step::Identity, || take_ids(spec))?;
    made(Step::Session, || {
        sys::new_session()?;
        sys::default_signals()
    })?;
    // After the ids: the kernel forgets the signal when they change.
    made(Step::ParentDeath, || die_with_host(ends.host))?;
    made(Step::GroupNamespace, || sys::unshare(libc::CLONE_NEWCGROUP))?;
    made(Step::HostName, || sys::set_names(HOST_NAME, b""))?;
    let processes = match spec.role {
        Role::Vmm => None,
        // Before the root: the kernel wants to see the proc file system that was there.
        Role::FileServer => Some(open_processes().map_err(of(Step::Processes))?),
    };
    made(Step::Root, root::empty)?;
    sys::close(ends.go);
    sys::close(ends.host);
    if let Some(processes) = processes {
        // Now that nothing else can lie at its number.
        let placed = mount_calls::place(processes, PROCESSES_FD);
        placed.map_err(|errno| of(Step::Processes)(errno))?;
    }
    made(Step::ResourceLimits, || limit_resources(spec))?;
    made(Step::NoNewPrivileges, || sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0))?;
    made(Step::Landlock, || match spec.role {
        Role::Vmm => landlock::deny_all(),
        Role::FileServer => landlock::deny_all_but_files(),
    })?;
    made(Step::Capabilities, drop_capabilities)?;
    // Execution would undo it, were the program readable: the host makes it executable alone.
    made(Step::NotDumpable, || sys::prctl(libc::PR_SET_DUMPABLE, 0, 0))?;
    if filter == Filter::LeftOut {
        return Ok(());
    }
    made(Step::SystemCalls, || {
        let program = filter::compile(&policy::of(spec.role)).ok_or(libc::E2BIG)?;
        sys::filter(&program)
    })
}

fn take_ids(spec: &Spec) -> Result<(), Errno> {
    if spec.ids.own {
        sys::clear_groups()?;
    }
    sys::set_ids(0, 0)
}

fn die_with_host(host: i32) -> Result<(), Errno> {
    sys::prctl(libc::PR_SET_PDEATHSIG, kill(), 0)?;
    // Had it died before the line above, nobody would send the signal any more. Its id says nothing
    // in this process namespace, the descriptor does.
    if sys::has_ended(host)? { Err(libc::ESRCH) } else { Ok(()) }
}

/// The process's own descriptors as a directory. The list shows processes and nothing else of the
/// kernel's; it is mounted nowhere and can't be written.
fn open_processes() -> Result<i32, Errno> {
    let (options, attributes) = match weak::leaves_out(Step::Processes) {
        false => (&[(c"subset", Some(c"pid"))][..], PROCESSES),
        true => (&[][..], 0),
    };
    let mount = sys::new_file_system(c"proc", options, attributes)?;
    let opened = mount_calls::open_directory(mount, c"self/fd")?;
    sys::close(mount);
    Ok(opened)
}

fn limit_resources(spec: &Spec) -> Result<(), Errno> {
    if spec.role == Role::Vmm {
        // No file written.
        sys::limit(libc::RLIMIT_FSIZE, 0, false)?;
    }
    // No core, no memory locked, no message queue, no priority.
    for resource in [
        libc::RLIMIT_CORE,
        libc::RLIMIT_MEMLOCK,
        libc::RLIMIT_MSGQUEUE,
        libc::RLIMIT_NICE,
        libc::RLIMIT_RTPRIO,
    ] {
        sys::limit(resource, 0, false)?;
    }
    sys::limit(libc::RLIMIT_NOFILE, spec.descriptors.into(), true)
}

fn drop_capabilities() -> Result<(), Errno> {
    let clear = u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    sys::prctl(libc::PR_CAP_AMBIENT, clear, 0)?;
    sys::prctl(libc::PR_SET_SECUREBITS, SECUREBITS, 0)?;
    for capability in 0.. {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(()) => {}
            // The first that this kernel does not know.
            Err(libc::EINVAL) if capability >= LEAST_CAPABILITIES => break,
            Err(errno) => return Err(errno),
        }
    }
    sys::drop_capabilities()
}
