//! Tries on other processes, on namespaces, and on identity.

use super::{Rows, Tried, exists, list_some, made, read_some};
use crate::calls::call;
use crate::wire::End;

use super::neighbour::{KEY, NAME, PORT};

/// Numbers that a process of the guest could have.
const NUMBERS: i32 = 1024;

/// Something with each process that is neither this nor its parents; ends at the first that succeeds.
fn each(victim: Option<i32>, what: impl Fn(i32) -> Tried) -> Tried {
    if let Some(victim) = victim {
        return what(victim);
    }
    let mine = |number| i32::try_from(call!(number).unwrap_or(0)).unwrap_or(0);
    let own = [1, mine(libc::SYS_getpid), mine(libc::SYS_getppid)];
    // The agent's own command, as `cloister prove` starts it.
    let stays = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"stay".as_slice())
    };
    let mut last = Err(End::Nothing);
    for pid in (2..NUMBERS).filter(|pid| !own.contains(pid) && !stays(pid)) {
        last = what(pid);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Something with a descriptor of the first process, or with none.
fn with_init(what: impl Fn(i64) -> Tried) -> Tried {
    let init = call!(libc::SYS_pidfd_open, 1, 0).unwrap_or(-1);
    let result = what(init);
    call!(libc::SYS_close, init).ok();
    result
}

pub(super) fn add(rows: &mut Rows, victim: Option<i32>) {
    others(rows, victim);
    namespaces(rows);
    neighbours(rows);
    identity(rows);
}

fn others(rows: &mut Rows, victim: Option<i32>) {
    rows.why = "a process namespace for each agent";
    rows.row("signal another agent", move || each(victim, |pid| made!(libc::SYS_kill, pid, 0)));
    rows.row("open a process of another agent", move || {
        each(victim, |pid| made!(libc::SYS_pidfd_open, pid, 0))
    });
    rows.row("see another agent in /proc", move || {
        each(victim, |pid| exists(&format!("/proc/{pid}")))
    });
    rows.row("trace another agent", move || {
        each(victim, |pid| made!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0))
    });
    rows.why = "the container's first process is another user's, and not dumpable";
    rows.row("trace the init", || made!(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0));
    rows.row("read the init's memory by call", || {
        let mut byte = [0_u8; 1];
        let local = [byte.as_mut_ptr() as u64, 1];
        let remote = [0x40_0000_u64, 1];
        made!(libc::SYS_process_vm_readv, 1, local.as_ptr(), 1, remote.as_ptr(), 1, 0)
    });
    rows.row("write the init's memory by call", || {
        made!(libc::SYS_process_vm_writev, 1, 0, 0, 0, 0, 0)
    });
    for file in ["mem", "environ", "maps", "auxv", "syscall", "stack"] {
        rows.row(&format!("read /proc/1/{file}"), move || read_some(&format!("/proc/1/{file}")));
    }
    for link in ["exe", "root", "cwd", "ns/mnt", "ns/user"] {
        rows.row(&format!("follow /proc/1/{link}"), move || {
            let target = std::fs::read_link(format!("/proc/1/{link}"));
            target.map(|to| to.display().to_string()).map_err(|error| super::end(&error))
        });
    }
    rows.row("list the init's descriptors", || list_some("/proc/1/fd"));
    rows.row("see the init", || exists("/proc/1/status")).as_root = false;
    rows.row("kill the init", || made!(libc::SYS_kill, 1, 9)).as_root = false;
    rows.row("take the init's descriptor", || {
        with_init(|init| made!(libc::SYS_pidfd_getfd, init, 0, 0))
    });
    rows.row("enter the init's namespaces", || {
        with_init(|init| made!(libc::SYS_setns, init, libc::CLONE_NEWNS | libc::CLONE_NEWPID))
    });
    rows.row("compare kernel objects", || made!(libc::SYS_kcmp, 1, 1, 0, 0, 0));
    rows.row("advise another's memory", || made!(libc::SYS_process_madvise, 0, 0, 0, 4, 0));
}

fn namespaces(rows: &mut Rows) {
    rows.why = "the list of system calls lets no agent make a namespace, so no faulty code of the kernel behind it \
                is reached either";
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("process", libc::CLONE_NEWPID),
        ("network", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("host name", libc::CLONE_NEWUTS),
        ("control group", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
    ] {
        rows.row(&format!("make a {name} namespace"), move || made!(libc::SYS_unshare, flag));
        if flag != 0x80 {
            rows.row(&format!("make a process in a {name} namespace"), move || {
                made!(libc::SYS_clone, flag | libc::SIGCHLD, 0, 0, 0, 0)
            });
        }
    }
    rows.row("clone3", || made!(libc::SYS_clone3, 0, 0));
    rows.row("enter an own namespace again", || {
        use std::os::fd::AsRawFd as _;
        let file = std::fs::File::open("/proc/self/ns/net").map_err(|error| super::end(&error))?;
        made!(libc::SYS_setns, file.as_raw_fd(), 0)
    });
    rows.row("find the outer process namespace", || {
        use std::os::fd::AsRawFd as _;
        let file = std::fs::File::open("/proc/self/ns/pid").map_err(|error| super::end(&error))?;
        made!(libc::SYS_ioctl, file.as_raw_fd(), 0xb702, 0)
    });
}

fn neighbours(rows: &mut Rows) {
    rows.why = "each agent has its own namespaces of network, messages and mounts (a second agent has all of these \
                open)";
    rows.row("the other's port", || {
        let connected = std::net::TcpStream::connect(("127.0.0.1", PORT));
        connected.map(|_| "connected".into()).map_err(|error| super::end(&error))
    });
    rows.row("the other's abstract socket", || {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixStream};
        let connected = SocketAddr::from_abstract_name(NAME)
            .and_then(|address| UnixStream::connect_addr(&address));
        connected.map(|_| "connected".into()).map_err(|error| super::end(&error))
    });
    rows.row("the other's shared memory", || made!(libc::SYS_shmget, KEY, 0, 0));
    rows.row("the other's semaphores", || made!(libc::SYS_semget, KEY, 0, 0));
    rows.row("the other's messages", || made!(libc::SYS_msgget, KEY, 0));
    rows.row("the other's message queue", || {
        made!(libc::SYS_mq_open, c"cloister-victim", libc::O_RDONLY, 0, 0)
    });
    rows.row("the other's /dev/shm", || exists(&format!("/dev/shm/{NAME}")));
    rows.row("the other's /tmp", || exists(&format!("/tmp/{NAME}")));
}

fn identity(rows: &mut Rows) {
    rows.why = "no capability in any set, no new privileges, and locked secure bits";
    rows.row("become the container's root", || made!(libc::SYS_setuid, 0)).as_root = false;
    rows.row("take a group", || made!(libc::SYS_setgid, 0)).as_root = false;
    rows.row("take more groups", || made!(libc::SYS_setgroups, 1, [0_u32].as_ptr()));
    rows.row("become another user", || made!(libc::SYS_setuid, 7));
    rows.row("take a capability", || {
        let header = [0x2008_0522_u32, 0];
        let sets = [1_u32 << 21, 1 << 21, 0, 0, 0, 0];
        made!(libc::SYS_capset, header.as_ptr(), sets.as_ptr())
    });
    rows.row("raise an ambient capability", || {
        made!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0)
    });
    rows.row("unlock the secure bits", || {
        made!(libc::SYS_prctl, libc::PR_SET_SECUREBITS, 0, 0, 0, 0)
    });
    rows.row("allow new privileges", || {
        made!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)
    });
    rows.row("raise a limit", || {
        let more = [1_u64 << 19; 2];
        made!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, more.as_ptr(), 0)
    });
    rows.row("be spared when memory ends", || {
        super::write_text("/proc/self/oom_score_adj", "-1000")
    });
}
