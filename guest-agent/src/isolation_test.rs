//! What an agent can do to another, to the supervisor and to the machine: nothing of a long list.
//!
//! The test program itself is the hostile program: it is copied into the image and run there. Each
//! row is a try by its name; one that does not fail fails the test.
#![expect(unsafe_code, reason = "the tries are raw system calls, most of which no library offers")]

use std::ffi::CString;
use std::io::Error;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use cloister_protocol::agent::{User, first_id};
use libc::{c_int, c_long};

use crate::agent_test::{Agents, mode};

/// The variable with the process number of the other agent, which also says that this is a probe.
const VICTIM: &str = "CLOISTER_VICTIM";
const NAME: &str = "cloister-victim";
const KEY: c_int = 0x0c10_1573;

type Try = Result<(), Error>;

fn call(result: c_long) -> Try {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

macro_rules! system_call {
    ($number:expr $(, $argument:expr)*) => {{
        // SAFETY: the pointers are to strings and arrays that live long enough, or null.
        call(unsafe { libc::syscall($number $(, $argument as c_long)*) })
    }};
}

fn text(text: &str) -> *const libc::c_char {
    CString::new(text).unwrap().into_raw()
}

fn open(path: &str, flags: c_int) -> Try {
    system_call!(libc::SYS_openat, libc::AT_FDCWD, text(path), flags, 0o600)
}

fn read_some(path: &str) -> Try {
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Err(Error::other("empty")),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn exists(path: &str) -> Try {
    std::fs::symlink_metadata(path).map(drop)
}

fn write_text(path: &str, text: &str) -> Try {
    use std::io::Write;
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> Try {
    system_call!(libc::SYS_socket, family, kind, protocol)
}

const NULL: c_long = 0;
const BIND: c_long = libc::MS_BIND.cast_signed();
const REMOUNT: c_long = libc::MS_REMOUNT.cast_signed();

/// Every try, by its name.
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn tries(victim: i32, as_root: bool) -> Vec<(String, Box<dyn Fn() -> Try>)> {
    let mut rows: Vec<(String, Box<dyn Fn() -> Try>)> = Vec::new();
    macro_rules! row {
        ($name:expr, $try:expr) => {
            rows.push((String::from($name), Box::new(move || $try)))
        };
    }
    // Processes.
    row!("signal the other agent", system_call!(libc::SYS_kill, victim, 0));
    row!("open a process of the other agent", system_call!(libc::SYS_pidfd_open, victim, 0));
    row!("see the other agent in /proc", exists(&format!("/proc/{victim}")));
    row!("trace the init", system_call!(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, NULL, NULL));
    row!(
        "trace the other agent",
        system_call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, victim, NULL, NULL)
    );
    row!("read the init's memory by call", {
        let mut byte = [0_u8];
        let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let remote =
            libc::iovec { iov_base: std::ptr::without_provenance_mut(0x40_0000), iov_len: 1 };
        system_call!(libc::SYS_process_vm_readv, 1, &raw const local, 1, &raw const remote, 1, 0)
    });
    row!(
        "write the init's memory by call",
        system_call!(libc::SYS_process_vm_writev, 1, NULL, 0, NULL, 0, 0)
    );
    for file in ["mem", "environ", "maps", "auxv", "syscall", "stack"] {
        row!(format!("read /proc/1/{file}"), read_some(&format!("/proc/1/{file}")));
    }
    for link in ["exe", "root", "cwd", "ns/mnt", "ns/user"] {
        row!(
            format!("follow /proc/1/{link}"),
            std::fs::read_link(format!("/proc/1/{link}")).map(drop)
        );
    }
    row!("list the init's descriptors", std::fs::read_dir("/proc/1/fd").map(drop));
    if !as_root {
        row!("see the init", exists("/proc/1/status"));
        row!("kill the init", system_call!(libc::SYS_kill, 1, 9));
    }
    row!("take the init's descriptor", {
        // SAFETY: no memory is passed.
        let init = unsafe { libc::syscall(libc::SYS_pidfd_open, 1, 0) };
        system_call!(libc::SYS_pidfd_getfd, init, 0, 0)
    });
    row!("enter the init's namespaces", {
        // SAFETY: no memory is passed.
        let init = unsafe { libc::syscall(libc::SYS_pidfd_open, 1, 0) };
        system_call!(libc::SYS_setns, init, libc::CLONE_NEWNS | libc::CLONE_NEWPID)
    });
    row!("compare kernel objects", system_call!(libc::SYS_kcmp, 1, 1, 0, 0, 0));
    row!("advise another's memory", system_call!(libc::SYS_process_madvise, 0, NULL, 0, 4, 0));
    // Namespaces and mounts.
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
        row!(format!("make a {name} namespace"), system_call!(libc::SYS_unshare, flag));
        if flag != 0x80 {
            row!(
                format!("make a process in a {name} namespace"),
                system_call!(libc::SYS_clone, flag | libc::SIGCHLD, NULL, NULL, NULL, NULL)
            );
        }
    }
    row!("clone3", system_call!(libc::SYS_clone3, NULL, 0));
    row!("enter an own namespace again", {
        let file = std::fs::File::open("/proc/self/ns/net")?;
        use std::os::fd::AsRawFd;
        system_call!(libc::SYS_setns, file.as_raw_fd(), 0)
    });
    row!("find the outer process namespace", {
        let file = std::fs::File::open("/proc/self/ns/pid")?;
        use std::os::fd::AsRawFd;
        system_call!(libc::SYS_ioctl, file.as_raw_fd(), 0xb702, 0)
    });
    row!(
        "mount a tmpfs",
        system_call!(libc::SYS_mount, text("t"), text("/tmp"), text("tmpfs"), 0, NULL)
    );
    row!(
        "mount proc again",
        system_call!(libc::SYS_mount, text("p"), text("/tmp"), text("proc"), 0, NULL)
    );
    row!(
        "mount the shares",
        system_call!(libc::SYS_mount, text("cloister"), text("/tmp"), text("virtiofs"), 0, NULL)
    );
    row!(
        "mount an overlay",
        system_call!(
            libc::SYS_mount,
            text("o"),
            text("/tmp"),
            text("overlay"),
            0,
            text("lowerdir=/:/etc")
        )
    );
    row!(
        "mount control groups",
        system_call!(libc::SYS_mount, text("c"), text("/tmp"), text("cgroup2"), 0, NULL)
    );
    row!(
        "bind a directory",
        system_call!(libc::SYS_mount, text("/"), text("/tmp"), NULL, BIND, NULL)
    );
    row!(
        "make the root writable",
        system_call!(libc::SYS_mount, NULL, text("/"), NULL, REMOUNT | BIND, NULL)
    );
    row!("uncover /proc/sys", system_call!(libc::SYS_umount2, text("/proc/sys"), 0));
    row!("uncover /proc", system_call!(libc::SYS_umount2, text("/proc"), libc::MNT_DETACH));
    row!("copy a mount", system_call!(libc::SYS_open_tree, libc::AT_FDCWD, text("/"), 1));
    row!(
        "change a mount",
        system_call!(libc::SYS_mount_setattr, libc::AT_FDCWD, text("/"), 0, NULL, 32)
    );
    row!(
        "move a mount",
        system_call!(
            libc::SYS_move_mount,
            libc::AT_FDCWD,
            text("/tmp"),
            libc::AT_FDCWD,
            text("/dev"),
            0
        )
    );
    row!("open a file system", system_call!(libc::SYS_fsopen, text("tmpfs"), 0));
    row!("pivot the root", system_call!(libc::SYS_pivot_root, text("/tmp"), text("/tmp")));
    row!("change the root", system_call!(libc::SYS_chroot, text("/tmp")));
    row!("climb out of the root", exists("/../../../../../run/cloister"));
    row!("climb out by a descriptor", {
        use std::os::fd::AsRawFd;
        let root = std::fs::File::open("/")?;
        system_call!(libc::SYS_openat, root.as_raw_fd(), text("../../lower"), 0, 0)
    });
    row!(
        "open a file by its handle",
        system_call!(libc::SYS_open_by_handle_at, libc::AT_FDCWD, NULL, 0)
    );
    row!("see the overlay's layers", exists("/tmp/lower"));
    row!("see the shares", exists("/run/cloister/shares"));
    // Devices.
    row!(
        "make a device",
        system_call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            text("/tmp/mem"),
            libc::S_IFCHR | 0o600,
            0x101
        )
    );
    row!(
        "make a disk",
        system_call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            text("/tmp/disk"),
            libc::S_IFBLK | 0o600,
            0x800
        )
    );
    row!("make a file in /dev", open("/dev/new", libc::O_CREAT | libc::O_WRONLY));
    for device in [
        "mem", "kmem", "port", "kmsg", "vsock", "fuse", "kvm", "console", "ptp0", "loop0",
        "vport0p1",
    ] {
        row!(format!("open /dev/{device}"), open(&format!("/dev/{device}"), libc::O_RDONLY));
    }
    // Files.
    row!("write the root", open("/new", libc::O_CREAT | libc::O_WRONLY));
    row!("write a file of the image", open("/etc/passwd", libc::O_WRONLY));
    row!("read the other's /tmp", exists(&format!("/tmp/{NAME}")));
    if !as_root {
        row!("read a file of the container's root", open("/etc/secret", libc::O_RDONLY));
        row!("become the container's root", system_call!(libc::SYS_setuid, 0));
        row!("take a group", system_call!(libc::SYS_setgid, 0));
    }
    row!("take more groups", system_call!(libc::SYS_setgroups, 1, [0_u32].as_ptr()));
    row!("become another user", system_call!(libc::SYS_setuid, 7));
    row!("give a file away", {
        std::fs::write("/tmp/mine", "x")?;
        system_call!(libc::SYS_chown, text("/tmp/mine"), 7, 7)
    });
    row!("take a capability", {
        let header = [0x2008_0522_u32, 0];
        let sets = [1_u32 << 21, 1 << 21, 0, 0, 0, 0];
        system_call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr())
    });
    row!(
        "raise an ambient capability",
        system_call!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0)
    );
    row!(
        "unlock the secure bits",
        system_call!(libc::SYS_prctl, libc::PR_SET_SECUREBITS, 0, 0, 0, 0)
    );
    row!(
        "allow new privileges",
        system_call!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)
    );
    row!("raise a limit", {
        let more = [1_u64 << 19; 2];
        system_call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, more.as_ptr(), NULL)
    });
    row!("be spared when memory ends", write_text("/proc/self/oom_score_adj", "-1000"));
    // The kernel's switches.
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/file-max",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory.max",
    ] {
        row!(format!("write {path}"), write_text(path, "1"));
    }
    for path in [
        "kcore",
        "kmsg",
        "keys",
        "key-users",
        "kallsyms",
        "timer_list",
        "latency_stats",
        "sched_debug",
        "interrupts",
        "iomem",
        "ioports",
        "modules",
        "slabinfo",
        "zoneinfo",
        "config.gz",
        "vmallocinfo",
        "kpagecount",
        "bus",
        "fs",
        "irq",
        "acpi",
        "scsi",
        "driver",
    ] {
        row!(format!("read /proc/{path}"), {
            let path = format!("/proc/{path}");
            match std::fs::read_dir(&path) {
                Ok(mut entries) => entries.next().map(drop).ok_or(Error::other("empty")),
                Err(_) => read_some(&path),
            }
        });
    }
    // Sockets.
    row!("talk to the host by vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0));
    row!(
        "a pair of vsock sockets",
        system_call!(libc::SYS_socketpair, libc::AF_VSOCK, 1, 0, [0_i32; 2].as_mut_ptr())
    );
    row!("packet socket", socket(libc::AF_PACKET, libc::SOCK_RAW, 0));
    row!("raw socket", socket(libc::AF_INET, libc::SOCK_RAW, 1));
    row!("kernel's events", socket(libc::AF_NETLINK, libc::SOCK_RAW, 15));
    row!("audit", socket(libc::AF_NETLINK, libc::SOCK_RAW, 9));
    row!("packet filter", socket(libc::AF_NETLINK, libc::SOCK_RAW, 12));
    row!("kernel's ciphers", socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0));
    row!("the other's port", TcpStream::connect("127.0.0.1:4747").map(drop));
    row!("the other's abstract socket", {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(NAME)?).map(drop)
    });
    // Shared memory and messages.
    row!("the other's shared memory", system_call!(libc::SYS_shmget, KEY, 0, 0));
    row!("the other's semaphores", system_call!(libc::SYS_semget, KEY, 0, 0));
    row!("the other's messages", system_call!(libc::SYS_msgget, KEY, 0));
    row!(
        "the other's message queue",
        system_call!(libc::SYS_mq_open, text(NAME), libc::O_RDONLY, 0, NULL)
    );
    row!("the other's /dev/shm", exists(&format!("/dev/shm/{NAME}")));
    // What no agent needs.
    for (name, number) in [
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("reboot", libc::SYS_reboot),
        ("syslog", libc::SYS_syslog),
        ("iopl", libc::SYS_iopl),
        ("ioperm", libc::SYS_ioperm),
        ("swapon", libc::SYS_swapon),
        ("acct", libc::SYS_acct),
        ("quotactl", libc::SYS_quotactl),
        ("sethostname", libc::SYS_sethostname),
        ("settimeofday", libc::SYS_settimeofday),
        ("clock_settime", libc::SYS_clock_settime),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("move_pages", libc::SYS_move_pages),
        ("vhangup", libc::SYS_vhangup),
        ("modify_ldt", libc::SYS_modify_ldt),
        ("personality without randomness", libc::SYS_personality),
    ] {
        let first = if number == libc::SYS_personality { 0x004_0000 } else { 0 };
        row!(name, system_call!(number, first, NULL, NULL, NULL, NULL));
    }
    rows
}

/// Runs in a container; elsewhere there is nothing to do.
#[test]
fn probe() {
    let Ok(victim) = std::env::var(VICTIM) else { return };
    // SAFETY: no memory is passed.
    let as_root = unsafe { libc::getuid() } == 0;
    for (name, attempt) in tries(victim.parse().unwrap(), as_root) {
        match attempt() {
            Ok(()) => println!("row: SUCCEEDED {name}"),
            Err(error) => println!("row: failed {name} ({error})"),
        }
    }
    println!("rows end");
}

/// Has all that the probe looks for. Runs in a container.
#[test]
fn victim() {
    if std::env::var_os("CLOISTER_IS_VICTIM").is_none() {
        return;
    }
    std::fs::write(format!("/tmp/{NAME}"), "secret").unwrap();
    std::fs::write(format!("/dev/shm/{NAME}"), "secret").unwrap();
    let _port = TcpListener::bind("127.0.0.1:4747").unwrap();
    let address = SocketAddr::from_abstract_name(NAME).unwrap();
    let _socket = UnixListener::bind_addr(&address).unwrap();
    let make = libc::IPC_CREAT | 0o666;
    system_call!(libc::SYS_shmget, KEY, 4096, make).unwrap();
    system_call!(libc::SYS_semget, KEY, 1, make).unwrap();
    system_call!(libc::SYS_msgget, KEY, make).unwrap();
    system_call!(libc::SYS_mq_open, text(NAME), libc::O_CREAT | libc::O_RDWR, 0o666, NULL).unwrap();
    println!("victim is ready");
    loop {
        std::thread::park();
    }
}

fn add_probe(agents: &Agents) {
    let place = agents.bed.directory().join("shares/image/bin/probe");
    std::fs::copy("/proc/self/exe", &place).unwrap();
    mode(&place, 0o755);
}

#[test]
fn an_agent_gets_at_nothing_that_is_not_its_own() {
    let mut agents = Agents::new();
    add_probe(&agents);
    let spec = agents.spec(1);
    agents.create(spec);
    let user = User { uid: 1000, gid: 1000 };
    let program = "exec /bin/probe --test-threads 1 --nocapture --exact isolation_test::";
    let (_, mut streams) = agents.start(1, user, &format!("CLOISTER_IS_VICTIM=1 {program}victim"));
    streams.read_until("victim is ready");
    let victim =
        agents.process("/bin/probe --test-threads 1 --nocapture --exact isolation_test::victim");
    // The same image, whose owner is the other's: nothing of it is this agent's own.
    let spec = agents.spec(2);
    agents.bed.send(&cloister_protocol::message::Request::CreateAgent(spec));
    let created = cloister_protocol::message::Event::AgentCreated { agent: 2 };
    assert_eq!(agents.bed.event(), created);
    assert_ne!(first_id(1), first_id(2));
    for user in [user, User { uid: 0, gid: 0 }] {
        let (output, _) = agents.run_as(2, user, &format!("{VICTIM}={victim} {program}probe"));
        let rows: Vec<&str> = output
            .lines()
            .filter_map(|line| line.split_once("row: "))
            .map(|(_, row)| row)
            .collect();
        for row in &rows {
            println!("user {}: {row}", user.uid);
        }
        assert!(output.contains("rows end"), "{output}");
        assert!(rows.len() > 150, "only {} rows: {output}", rows.len());
        let succeeded: Vec<_> = rows.iter().filter(|row| row.starts_with("SUCCEEDED")).collect();
        assert_eq!(succeeded, Vec::<&&str>::new());
    }
    assert!(std::path::Path::new(&format!("/proc/{victim}")).exists(), "the victim lives");
    agents.remove(2);
}

/// The second lock: what if the filter had a hole and a process got every capability of its user
/// namespace? Its other namespaces are the machine's, and it can make none.
#[test]
fn all_capabilities_of_an_agent_are_worth_nothing() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    let group = agents.bed.group().join("agents/1/init/cgroup.procs");
    let init = std::fs::read_to_string(group).unwrap();
    let script = "grep CapEff /proc/self/status; \
        for try in 'mount -t tmpfs t /tmp' 'mount -t proc p /tmp' 'mount -o bind /etc /tmp' \
            'mount -o remount,bind,rw /' 'umount /proc/sys' 'umount /tmp' 'hostname other' \
            'unshare -m true' 'unshare -n true' 'unshare -U true' 'unshare -u true' 'unshare -i true' \
            'ip link set lo down' 'mknod /tmp/null c 1 3' \
            'sysctl -w kernel.core_pattern=x' 'sysctl -w user.max_user_namespaces=9'; do \
            if $try > /dev/null 2>&1; then echo \"SUCCEEDED $try\"; else echo \"failed $try\"; fi; done";
    let entered = std::process::Command::new("nsenter")
        .args(["-t", init.trim(), "-U", "-m", "-n", "-u", "-i", "-p", "/bin/sh", "-c", script])
        .env("PATH", "/bin")
        .output();
    let Ok(entered) = entered else {
        println!("skipped: no nsenter here");
        return;
    };
    let output = String::from_utf8(entered.stdout).unwrap();
    println!("{output}");
    let first = output.lines().next().unwrap_or_default();
    assert!(first.ends_with("ffffff"), "it has them: {output} {:?}", entered.stderr);
    assert_eq!(output.lines().filter(|line| line.starts_with("failed ")).count(), 16, "{output}");
}
