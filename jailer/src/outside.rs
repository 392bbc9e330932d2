//! The jailer's own part, outside of the jail: checks, limits, the one call that makes the jailed
//! process, and its ids. Then it is gone: the jailed process is the host's child.

use crate::inside::{self, Ends, Filter};
use crate::spec::{
    CONTROL_FD, ENCODED_LEN, GROUP_FD, Limits, PROGRAM_FD, REPORT_FD, SPEC_FD, Spec,
};
use crate::step::{Failure, Report, Step};
use crate::sys::{self, Errno};
use crate::{times, weak};

/// Namespaces that the jailed process is born in. Its control group namespace comes later, because
/// the root of one is the group of the process that makes it.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET;
/// What the program must be sealed against: growing, shrinking, writing, and other seals.
const SEALS: i32 =
    libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;

/// Names a step of an error. Called when the step has been tried, whatever came of it.
pub(crate) fn of(step: Step) -> impl Fn(Errno) -> Failure {
    times::mark(step);
    move |errno| Failure { step, detail: 0, errno }
}

/// Makes a step; names it in its error.
pub(crate) fn made(step: Step, make: impl FnOnce() -> Result<(), Errno>) -> Result<(), Failure> {
    if weak::leaves_out(step) { Ok(()) } else { make().map_err(of(step)) }
}

/// Makes the jailed process. It goes on by itself; its reports follow ours.
///
/// # Errors
/// The first step that failed. It has been reported.
pub fn start() -> Result<(), Failure> {
    start_with(Filter::Made)
}

/// The same without the last step, [`Step::SystemCalls`]: for `cloister-prober`, which is nobody's vmm and shows
/// that all other steps hold alone. `cloister-jailer` has no way to here.
///
/// # Errors
/// As [`start`].
pub fn start_without_filter() -> Result<(), Failure> {
    start_with(Filter::LeftOut)
}

fn start_with(filter: Filter) -> Result<(), Failure> {
    times::begin();
    make(filter).inspect_err(|failure| {
        // Whoever called this by hand has no such descriptor, and reads our standard error.
        sys::write(REPORT_FD, &Report::Failed(*failure).encode()).ok();
    })
}

/// The recipe.
fn make(filter: Filter) -> Result<(), Failure> {
    check_descriptors().map_err(of(Step::Descriptors))?;
    let spec = read_spec().map_err(of(Step::Spec))?;
    let host = bind_to_host(&spec).map_err(of(Step::Host))?;
    if let Some(limits) = spec.limits.as_ref().filter(|_| !weak::leaves_out(Step::Limits)) {
        write_limits(limits)?;
    }
    let (go_read, go_write) = sys::pipe().map_err(of(Step::Clone))?;
    let pid = sys::clone_into(GROUP_FD, weak::namespaces(NAMESPACES)).map_err(of(Step::Clone))?;
    if pid == 0 {
        sys::close(go_write);
        sys::close(GROUP_FD);
        inside::run(&spec, Ends { go: go_read, host }, filter);
    }
    // First of all, so that the host can end it whatever comes.
    sys::write(REPORT_FD, &Report::Started { pid }.encode()).map_err(of(Step::Clone))?;
    made(Step::Mapping, || map_ids(pid, &spec))?;
    sys::write(go_write, &[1]).map_err(of(Step::Mapping))
}

/// Closes what is not ours, and checks that ours are what they should be.
fn check_descriptors() -> Result<(), Errno> {
    if !weak::leaves_out(Step::Descriptors) {
        sys::close_from(GROUP_FD + 1)?;
    }
    weak::prepare();
    for fd in [SPEC_FD, REPORT_FD, PROGRAM_FD, GROUP_FD] {
        sys::set_close_on_exec(fd, true)?;
    }
    sys::set_close_on_exec(CONTROL_FD, false)?;
    let fits = sys::kind(CONTROL_FD)? == libc::S_IFSOCK
        && sys::kind(REPORT_FD)? == libc::S_IFIFO
        && sys::seals(SPEC_FD)? & libc::F_SEAL_FUTURE_WRITE != 0
        && sys::seals(PROGRAM_FD)? & SEALS == SEALS
        && sys::kind(GROUP_FD)? == libc::S_IFDIR
        && sys::is_cgroup(GROUP_FD)?;
    if fits { Ok(()) } else { Err(libc::EBADF) }
}

fn read_spec() -> Result<Spec, Errno> {
    // One byte more, so that a longer one can't pass.
    let mut bytes = [0; ENCODED_LEN + 1];
    let length = sys::read_start(SPEC_FD, &mut bytes)?;
    sys::close(SPEC_FD);
    let bytes = bytes.get(..length).ok_or(libc::EINVAL)?;
    Spec::decode(bytes).map_err(|_| libc::EINVAL)
}

/// The jailer dies with its host; a descriptor tells the jailed process whether the host lives.
fn bind_to_host(spec: &Spec) -> Result<i32, Errno> {
    sys::prctl(libc::PR_SET_PDEATHSIG, kill(), 0)?;
    if weak::leaves_out(Step::Host) {
        return sys::open_process(sys::parent());
    }
    let host = sys::open_process(spec.host_pid)?;
    // Our parent is the one of that descriptor, if it still is: ids are not reused while it lives.
    if sys::parent() == spec.host_pid { Ok(host) } else { Err(libc::ESRCH) }
}

pub(crate) fn kill() -> u64 {
    u64::from(libc::SIGKILL.unsigned_abs())
}

fn write_limits(limits: &Limits) -> Result<(), Failure> {
    for (detail, (name, value, is_optional)) in (0..).zip(limits.files()) {
        match sys::write_beneath(GROUP_FD, name, value.as_bytes()) {
            Err(libc::ENOENT) if is_optional => {}
            result => result.map_err(|errno| Failure { step: Step::Limits, detail, errno })?,
        }
    }
    Ok(())
}

/// Inside, user and group 0 are the ones of the spec, and there are no others.
fn map_ids(pid: i32, spec: &Spec) -> Result<(), Errno> {
    let file = |name: &str, text: &str| {
        let path = std::ffi::CString::new(format!("/proc/{pid}/{name}"));
        let path = path.map_err(|_| libc::EINVAL)?;
        sys::write_beneath(libc::AT_FDCWD, &path, text.as_bytes())
    };
    if !spec.ids.own {
        // The kernel's condition for letting a user map the own group.
        file("setgroups", "deny")?;
    }
    file("uid_map", &format!("0 {} 1", spec.ids.uid))?;
    file("gid_map", &format!("0 {} 1", spec.ids.gid))
}
