//! Makes a container, in the process that becomes its init. The recipe is in [`steps`]; every
//! step can be found in [`Step`] by its name.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cloister_protocol::agent::{AgentSpec, ShareMount, first_id};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Signal, Uid};

use super::mount::{attach, below, find_or_make, is_directory, mount_id, second};
use super::step::{Failed, Step, of, of_item};
use super::{identity, mount, places, root, rules};
use crate::kernel::{self, Attributes, make_mount_private, restrict_one_mount};
use crate::{message, sys};

/// What the init is called in its container.
const NAME: &std::ffi::CStr = c"init";

/// Namespaces that the process is born in. Those of its user and of its control group come later.
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET;

/// What the process needs of the supervisor.
pub(super) struct Order<'a> {
    pub(super) spec: &'a AgentSpec,
    /// The directory with all shares: by its path, since a descriptor would mean the mount of the
    /// supervisor's namespace, of which no second one can be made here.
    pub(super) shares: &'a Path,
    /// Its instance of `devpts`.
    pub(super) terminals: BorrowedFd<'a>,
    /// Its init's program.
    pub(super) init: BorrowedFd<'a>,
    /// Takes a [`Failed`], or [`READY`] with the rules, if there are any.
    pub(super) report: BorrowedFd<'a>,
}

/// The message that everything is made.
pub(super) const READY: u8 = 0xff;

/// The new process's part. Comes back only when it failed.
pub(super) fn make(order: &Order<'_>) -> u8 {
    let Err(failed) = steps(order);
    // The supervisor may be gone; there is nobody else to tell.
    let _unread = message::send(order.report, &failed.to_bytes(), None);
    1
}

fn steps(order: &Order<'_>) -> std::result::Result<Infallible, Failed> {
    let spec = order.spec;
    let first = first_id(spec.agent);
    // Modes are given in full.
    rustix::process::umask(rustix::fs::Mode::empty());
    let kept = [order.terminals, order.init, order.report];
    kernel::close_all_but(0, &kept).map_err(of(Step::Descriptors))?;
    mount::root().and_then(make_mount_private).map_err(of(Step::PrivateMounts))?;

    // All that comes from outside is opened now; afterwards no path leads there any more.
    let shares = mount::directory(order.shares).map_err(of(Step::Shares))?;
    let image = open_share(&shares, &spec.root.share, Attributes::READ_ONLY)
        .map_err(of_item(Step::OpenShare, usize::from(u16::MAX)))?;
    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        let attributes = Attributes(0)
            .with_if(mount.read_only, Attributes::READ_ONLY)
            .with_if(!rules::runs_in(spec, &mount.target), Attributes::NO_EXECUTION);
        let share = open_share(&shares, &mount.share, attributes);
        mounts.push((mount, share.map_err(of_item(Step::OpenShare, index))?));
    }
    let files = spec.limits.files;
    let writable = spec.root.writable_bytes.map(|bytes| (bytes, files));
    let overlay = root::overlay(&image, writable).map_err(of(Step::Root))?;
    drop((image, shares));
    root::take_place(&overlay).map_err(of(Step::LeaveOldRoot))?;

    let processes = places::processes(&overlay).map_err(of(Step::Processes))?;
    let devices =
        places::devices(&overlay, order.terminals, first, files).map_err(of(Step::Devices))?;
    let run = rules::runs_in(spec, b"/tmp");
    let temporary = places::temporary(&overlay, spec.limits.tmp_bytes, files, run)
        .map_err(of(Step::Temporary))?;
    if spec.egress.is_some() {
        places::name_server(&overlay).map_err(of(Step::NameServer))?;
    }
    mount_shares(&overlay, &temporary, &mounts)?;
    drop(mounts);
    restrict_alone(&overlay, &devices, writable.is_some()).map_err(of(Step::ReadOnly))?;

    rustix::system::sethostname(spec.name.as_bytes()).map_err(of(Step::HostName))?;
    rustix::system::setdomainname(b"").map_err(of(Step::HostName))?;
    loopback().map_err(of(Step::Loopback))?;
    let rules = rules::make(&overlay, spec)?;
    kernel::unshare(libc::CLONE_NEWCGROUP).map_err(of(Step::GroupNamespace))?;
    identity::new_user_namespace(&processes, first).map_err(of(Step::UserNamespace))?;
    identity::forbid_namespaces(&processes).map_err(of(Step::NoMoreNamespaces))?;
    identity::give_up_rights(Uid::ROOT, Gid::ROOT).map_err(of(Step::Rights))?;

    kernel::ignore_children().map_err(of(Step::Execute))?;
    // After the change of ids, which undoes it; before the report, which fails if the supervisor
    // is gone by then.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(of(Step::ParentDeath))?;
    message::send(order.report, &[READY], rules.as_ref().map(AsFd::as_fd))
        .map_err(of(Step::Execute))?;
    Err(of(Step::Execute)(kernel::execute_descriptor(order.init, NAME)))
}

/// A mount of a share, mounted nowhere yet.
fn open_share(shares: &OwnedFd, name: &str, attributes: Attributes) -> Result<OwnedFd> {
    let place = below(shares, name)?;
    is_directory(&place)?;
    let plain = Attributes::NO_SUID.with(Attributes::NO_DEVICES);
    second(place, plain.with(attributes))
}

fn mount_shares(
    overlay: &OwnedFd,
    temporary: &OwnedFd,
    mounts: &[(&ShareMount, OwnedFd)],
) -> std::result::Result<(), Failed> {
    let failed = |index| of_item(Step::MountShare, index);
    let root_id = mount_id(overlay).map_err(of(Step::MountShare))?;
    // Where what is missing may be made.
    let made_in = [root_id, mount_id(temporary).map_err(of(Step::MountShare))?];
    let mut allowed = made_in.to_vec();
    let mut earlier: Vec<(&[u8], u64)> = Vec::new();
    for (index, (mount, share)) in mounts.iter().enumerate() {
        let target = mount.target.as_slice();
        // What is to lie in a share must lie there, also if a link in it leads elsewhere.
        let above = earlier.iter().rev().find(|(outer, _)| {
            target
                .strip_prefix(*outer)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        });
        let only = above.map(|(_, id)| [*id]);
        let inside = only.as_ref().map_or(allowed.as_slice(), |one| one.as_slice());
        let result = is_directory(share)
            .and_then(|kind| find_or_make(overlay.as_fd(), target, kind, inside, &made_in))
            .and_then(|place| attach(share, place))
            .and_then(|()| mount_id(share));
        let id = result.map_err(failed(index))?;
        earlier.push((target, id));
        allowed.push(id);
    }
    Ok(())
}

/// The root, unless it is to be written, and `/dev`: the mounts themselves, not what is mounted in
/// them.
fn restrict_alone(overlay: &OwnedFd, devices: &OwnedFd, writable: bool) -> Result<()> {
    if !writable {
        restrict_one_mount(overlay, Attributes::READ_ONLY)?;
    }
    restrict_one_mount(devices, Attributes::READ_ONLY)
}

fn loopback() -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sys::bring_loopback_up(socket.as_fd())
}
