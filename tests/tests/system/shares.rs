//! Directories of the host in a guest: read, written, added while it runs, and kept apart.

use std::fs;
use std::future::Future;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use cloister::launch::LaunchSpec;
use cloister::launch::files::Files;
use cloister::launch::shares::{Share, ShareError};
use cloister::machine::{ExecSpec, Machine, MachineEnd, Streams};
use cloister_file_server::spec::Owner;
use cloister_protocol::message::ExitStatus;
use cloister_tests::prefix::Prefix;
use cloister_vmm::spec::VmSpec;
use rustix::fs::{Mode, OFlags, XattrFlags, setxattr};

fn launch_spec(shares: Vec<Share>) -> LaunchSpec {
    let prefix = Prefix::built();
    let files = Files {
        vmm: prefix.vmm(),
        jailer: prefix.jailer(),
        kernel: prefix.kernel(),
        root: prefix.root(),
        kvm: "/dev/kvm".into(),
    };
    let vm = VmSpec { vcpus: 1, memory_mib: 256, extra_cmdline: String::new() };
    LaunchSpec { shares, ..LaunchSpec::new(files, vm) }
}

fn share(name: &str, path: &Path, writable: bool, owner: Owner) -> Share {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source: OwnedFd = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    Share { name: name.into(), source: Arc::new(source), writable, owner }
}

/// A directory that the server's own user may use.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Runs a script in the guest; its output and status.
async fn shell(machine: &Machine, script: &str) -> (String, ExitStatus) {
    let script = format!("exec 2>&1; {script}");
    let mut command = machine.exec(ExecSpec::new(["sh", "-c", &script])).await.unwrap();
    let Some(Streams::Pipes { mut stdout, .. }) = command.take_streams() else {
        unreachable!("pipes were asked for");
    };
    let output = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let status = command.wait().await.unwrap();
    (output.join().unwrap(), status)
}

const MOUNT: &str = "mkdir -p /mnt && mount -t virtiofs cloister /mnt";

#[test]
fn a_guest_reads_and_writes_directories_of_the_host() {
    let (desk, docs) = (folder(), folder());
    // Where attributes of users are kept, which the lab's file system in memory does not do.
    let image = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(docs.path().join("guide"), "read me\n").unwrap();
    fs::write(image.path().join("app"), "#!/bin/sh\necho runs\n").unwrap();
    let record = b"33:34:755";
    setxattr(
        image.path().join("app"),
        "user.containers.override_stat",
        record,
        XattrFlags::empty(),
    )
    .unwrap();
    let own = Owner::All { uid: 1000, gid: 1001 };
    let shares = vec![
        share("desk", desk.path(), true, own),
        share("docs", docs.path(), false, own),
        share("guide.txt", &docs.path().join("guide"), false, own),
        share("image", image.path(), false, Owner::Image { first_id: 100_000 }),
    ];
    block_on(async {
        let machine = Machine::start(launch_spec(shares)).await.unwrap();
        let said = shell(&machine, &format!("{MOUNT} && ls /mnt")).await;
        assert_eq!(said, ("desk\ndocs\nguide.txt\nimage\n".into(), ExitStatus::Code(0)));

        // Reading; writing fails, and as the kernel says it.
        assert_eq!(
            shell(&machine, "cat /mnt/docs/guide /mnt/guide.txt").await.0,
            "read me\nread me\n"
        );
        let (text, status) = shell(&machine, "echo x >/mnt/docs/new").await;
        assert!(text.contains("Read-only file system") && status != ExitStatus::Code(0), "{text}");
        assert_eq!(fs::read_dir(docs.path()).unwrap().count(), 1);

        // Writing: the bytes are on the host, and what the host writes is in the guest at once.
        let script = "cd /mnt/desk && mkdir sub && echo from the guest >sub/a && mv sub/a b && ln -s b link \
                      && dd if=/dev/zero of=big bs=1M count=8 2>/dev/null && stat -c '%u %g' b";
        assert_eq!(shell(&machine, script).await.0, "1000 1001\n");
        assert_eq!(fs::read_to_string(desk.path().join("b")).unwrap(), "from the guest\n");
        assert_eq!(fs::metadata(desk.path().join("big")).unwrap().len(), 8 << 20);
        assert_eq!(fs::read_link(desk.path().join("link")).unwrap(), Path::new("b"));
        fs::write(desk.path().join("b"), "from the host\n").unwrap();
        assert_eq!(shell(&machine, "cat /mnt/desk/link").await.0, "from the host\n");

        // An image shows the owners that are recorded, and its programs run.
        let said = shell(&machine, "stat -c '%u %g %a' /mnt/image/app && /mnt/image/app").await.0;
        assert_eq!(said, "100033 100034 755\nruns\n");

        // One more while it runs.
        let late = folder();
        fs::write(late.path().join("news"), "later\n").unwrap();
        assert_eq!(shell(&machine, "ls /mnt/late").await.1, ExitStatus::Code(1));
        machine.add_share(share("late", late.path(), false, own)).await.unwrap();
        assert_eq!(shell(&machine, "cat /mnt/late/news").await.0, "later\n");

        assert!(machine.stop().await.is_orderly());
    });
}

#[test]
fn many_files_are_made_listed_and_removed() {
    let desk = folder();
    let shares = vec![share("desk", desk.path(), true, Owner::All { uid: 0, gid: 0 })];
    block_on(async {
        let machine = Machine::start(launch_spec(shares)).await.unwrap();
        let script = format!(
            "{MOUNT} && cd /mnt/desk && for i in $(seq 1 40); do echo $i >f$i; done && ls | wc -l && cat * \
             | wc -l && rm f* && ls | wc -l"
        );
        assert_eq!(shell(&machine, &script).await.0, "40\n40\n0\n");
        machine.stop().await;
    });
    assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0);
}

#[test]
fn the_file_servers_end_is_the_machines_and_is_told_apart() {
    let desk = folder();
    let shares = vec![share("desk", desk.path(), true, Owner::All { uid: 0, gid: 0 })];
    block_on(async {
        let machine = Machine::start(launch_spec(shares)).await.unwrap();
        // The one process of this name that is a child of this one.
        let own = std::process::id().to_string();
        let servers: Vec<i32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let parent = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(2));
                parent == Some(own.as_str()) && command.starts_with(b"cloister-file-server")
            })
            .collect();
        let [server] = servers[..] else { panic!("{servers:?}") };
        let server = rustix::process::Pid::from_raw(server).unwrap();
        rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
        let end = machine.ended().await;
        assert!(matches!(*end, MachineEnd::Files { .. }), "{end}");
        let text = end.to_string();
        assert!(text.contains("the file server has ended") && text.contains("signal: 9"), "{text}");
    });
}

#[test]
fn a_machine_without_shares_takes_none() {
    let desk = folder();
    block_on(async {
        let machine = Machine::start(launch_spec(Vec::new())).await.unwrap();
        let late = share("late", desk.path(), false, Owner::All { uid: 0, gid: 0 });
        assert!(matches!(machine.add_share(late).await, Err(ShareError::None)));
        assert_ne!(shell(&machine, MOUNT).await.1, ExitStatus::Code(0));
        machine.stop().await;
    });
}
