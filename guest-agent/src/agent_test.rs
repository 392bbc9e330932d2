//! Agents' containers, with a whole supervisor: what is made, and what its commands can do.
//!
//! They need root. Where control groups have no controllers, nothing is bounded and the tests of
//! bounds are skipped with a word.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cloister_protocol::agent::{
    AgentLimits, AgentSpec, Copy, Direction, Notice, Place, Root, ShareMount, User, first_id,
};
use cloister_protocol::egress::Egress;
use cloister_protocol::message::{Event, Exec, ExecFailure, ExitStatus, Request, Stdio};

use crate::test_bed::{Bed, Streams, eventually};

pub(crate) const USER: User = User { uid: 1000, gid: 1000 };

/// A supervisor with images to make agents from.
pub(crate) struct Agents {
    pub(crate) bed: Bed,
    next_id: u32,
}

impl Agents {
    /// With an image that has busybox and little else.
    pub(crate) fn new() -> Self {
        let bed = Bed::start();
        let agents = Self { bed, next_id: 1 };
        let image = agents.share("image");
        for name in ["bin", "etc", "proc", "dev", "tmp", "home"] {
            std::fs::create_dir(image.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            let _itself = symlink("busybox", image.join("bin").join(applet));
        }
        std::fs::write(
            image.join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\nagent:x:1000:1000::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(image.join("etc/secret"), "for root alone\n").unwrap();
        mode(&image.join("etc/secret"), 0o600);
        agents
    }

    /// A new share.
    pub(crate) fn share(&self, name: &str) -> PathBuf {
        let share = self.bed.directory().join("shares").join(name);
        std::fs::create_dir(&share).unwrap();
        share
    }

    pub(crate) fn spec(&self, agent: u32) -> AgentSpec {
        AgentSpec {
            agent,
            name: format!("agent-{agent}"),
            root: Root { share: "image".into(), writable_bytes: None },
            mounts: vec![],
            limits: AgentLimits {
                memory_bytes: 64 << 20,
                cpu_millis: 1000,
                pids: 64,
                tmp_bytes: 1 << 20,
                open_files: 256,
                file_bytes: None,
                files: 200,
            },
            executables: None,
            writable: None,
            egress: None,
        }
    }

    /// Makes the agent, whose image belongs to it from then on.
    pub(crate) fn create(&mut self, spec: AgentSpec) {
        let agent = spec.agent;
        give(&self.bed.directory().join("shares").join(&spec.root.share), first_id(agent));
        self.bed.send(&Request::CreateAgent(spec));
        assert_eq!(self.bed.event(), Event::AgentCreated { agent });
    }

    /// Asks for one that can't be made: what is told.
    pub(crate) fn refused(&mut self, spec: AgentSpec) -> String {
        let number = spec.agent;
        self.bed.send(&Request::CreateAgent(spec));
        match self.bed.event() {
            Event::AgentFailed { agent, detail } if agent == number => detail,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn set_egress(&mut self, agent: u32, egress: &Egress) {
        self.bed.send(&Request::SetEgress { agent, egress: egress.clone() });
        assert_eq!(self.bed.event(), Event::EgressSet { agent, holds: true });
    }

    pub(crate) fn remove(&mut self, agent: u32) {
        self.bed.send(&Request::RemoveAgent { agent });
        assert_eq!(self.bed.event(), Event::AgentRemoved { agent });
    }

    pub(crate) fn exec(&mut self, agent: u32, user: User, shell: &str) -> Exec {
        let id = self.next_id;
        self.next_id += 1;
        Exec { place: Place::Agent { agent, user }, ..self.bed.shell(id, shell) }
    }

    /// Runs a shell script in the agent as an ordinary user: its output and its errors in one.
    pub(crate) fn run(&mut self, agent: u32, shell: &str) -> (String, ExitStatus) {
        self.run_as(agent, USER, shell)
    }

    pub(crate) fn run_as(&mut self, agent: u32, user: User, shell: &str) -> (String, ExitStatus) {
        let exec = self.exec(agent, user, &format!("exec 2>&1; {shell}"));
        let (output, errors, status) = self.bed.output_of(exec);
        assert_eq!(errors, "");
        (output, status)
    }

    /// Starts a script that says `up`, and goes on.
    pub(crate) fn start(&mut self, agent: u32, user: User, shell: &str) -> (u32, Streams) {
        let exec = self.exec(agent, user, &format!("echo up; {shell}"));
        let id = exec.id;
        let mut streams = self.bed.exec(exec);
        self.bed.started(id);
        streams.read_until("up\n");
        (id, streams)
    }

    /// The process with this command line.
    pub(crate) fn process(&self, needle: &str) -> u32 {
        let mut found = None;
        eventually("a process", || {
            found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                let is_it = String::from_utf8_lossy(&line).replace('\0', " ").trim() == needle;
                let group = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
                let name = self.bed.group().file_name()?.to_str()?;
                (is_it && group.contains(name)).then_some(pid)
            });
            found.is_some()
        });
        found.unwrap()
    }
}

pub(crate) fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives everything below to a user and group.
pub(crate) fn give(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), id);
        }
    }
}

pub(crate) fn mount(share: &str, target: &str, read_only: bool) -> ShareMount {
    ShareMount { share: share.into(), target: target.into(), read_only }
}

/// What `/proc/PID/status` says.
fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
    line.trim().to_owned()
}

#[test]
fn a_command_runs_in_a_container_and_all_of_it_goes() {
    let mut agents = Agents::new();
    let before = agents.bed.descriptors();
    let spec = agents.spec(3);
    give(&agents.bed.directory().join("shares/image"), first_id(3));
    let begin = std::time::Instant::now();
    agents.bed.send(&Request::CreateAgent(spec));
    assert_eq!(agents.bed.event(), Event::AgentCreated { agent: 3 });
    println!("a container was made in {:?}", begin.elapsed());
    let (output, status) =
        agents.run(3, "id -u; id -g; hostname; pwd; cat /proc/1/comm; echo $$; exit 5");
    assert_eq!(status, ExitStatus::Code(5));
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..4], ["1000", "1000", "agent-3", "/"], "{output}");
    agents.remove(3);
    assert!(!agents.bed.group().join("agents/3").exists());
    // The program of inits stays for the next one.
    eventually("descriptors closed", || agents.bed.descriptors() <= before + 1);
    assert_eq!(agents.bed.log(), "");
}

/// The processes in a group of an agent.
fn processes_in(agents: &Agents, agent: u32, group: &str) -> Vec<u32> {
    let file = agents.bed.group().join(format!("agents/{agent}/{group}/cgroup.procs"));
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn link(pid: u32, name: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn the_init_has_nothing_of_the_supervisor() {
    let mut agents = Agents::new();
    let spec = agents.spec(0);
    agents.create(spec);
    let [init] = processes_in(&agents, 0, "init")[..] else { panic!("not one process") };
    assert_eq!(std::fs::read(format!("/proc/{init}/cmdline")).unwrap(), b"init\0");
    assert_eq!(std::fs::read(format!("/proc/{init}/environ")).unwrap(), b"");
    assert_eq!(std::fs::read_dir(format!("/proc/{init}/fd")).unwrap().count(), 0);
    assert!(link(init, "exe").starts_with("/memfd:cloister-init"), "{}", link(init, "exe"));
    let maps = std::fs::read_to_string(format!("/proc/{init}/maps")).unwrap();
    assert!(maps.lines().count() <= 7, "{maps}");
    // The files of a process that is not dumpable are the machine's root's.
    let owner = std::fs::metadata(format!("/proc/{init}/fd")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    assert_eq!(status(init, "Uid"), ["65536"; 4].join("\t"));
    assert_eq!(status(init, "NSpid").split_whitespace().last(), Some("1"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(init, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(init, "NoNewPrivs"), "1");
}

#[test]
fn a_command_has_no_right_and_nothing_from_outside() {
    let mut agents = Agents::new();
    let spec = agents.spec(5);
    agents.create(spec);
    let (id, streams) = agents.start(5, USER, "exec sleep 1000");
    let [process] = processes_in(&agents, 5, &format!("command-{id}"))[..] else {
        panic!("not one process")
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(process, set), "0000000000000000", "{set}");
    }
    let uid = first_id(5) + 1000;
    assert_eq!(status(process, "Uid"), vec![uid.to_string(); 4].join("\t"));
    assert_eq!(status(process, "Gid"), vec![uid.to_string(); 4].join("\t"));
    assert_eq!(status(process, "Groups"), "");
    assert_eq!(
        (status(process, "NoNewPrivs"), status(process, "Seccomp")),
        ("1".into(), "2".into())
    );
    assert_eq!(status(process, "SigBlk"), "0000000000000000");
    let supervisor = u32::try_from(agents.bed.supervisor().as_raw_nonzero().get()).unwrap();
    let [init] = processes_in(&agents, 5, "init")[..] else { panic!("not one process") };
    for name in ["user", "pid", "mnt", "ipc", "uts", "net"] {
        let name = format!("ns/{name}");
        assert_ne!(link(process, &name), link(supervisor, &name));
        assert_eq!(link(process, &name), link(init, &name));
    }
    assert_ne!(link(process, "ns/cgroup"), link(supervisor, "ns/cgroup"));
    let fds: Vec<String> = ["0", "1", "2"].map(|fd| link(process, &format!("fd/{fd}"))).to_vec();
    assert!(fds.iter().all(|fd| fd.starts_with("pipe:")), "{fds:?}");
    assert_eq!(std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(), 3);
    let map = std::fs::read_to_string(format!("/proc/{process}/uid_map")).unwrap();
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, ["0", &first_id(5).to_string(), "65536"]);
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    for (name, value) in [
        ("Max core file size", "0"),
        ("Max open files", "256"),
        ("Max locked memory", "65536"),
        ("Max msgqueue size", "819200"),
        ("Max nice priority", "0"),
        ("Max realtime priority", "0"),
        ("Max pending signals", "4096"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let values: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [value, value], "{line}");
    }
    let score = std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "500");
    drop(streams);
}

#[test]
fn nothing_is_mounted_but_what_is_meant() {
    let mut agents = Agents::new();
    let docs = agents.share("docs");
    std::fs::write(docs.join("file"), "text\n").unwrap();
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("docs", "/data/docs", true), mount("docs", "/out", false)];
    agents.create(spec);
    let (output, _) = agents.run(1, "cat /proc/self/mountinfo");
    let mut places = Vec::new();
    for line in output.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        places.push(place.to_owned());
        assert!(options.contains("nosuid"), "{line}");
        let devices = ["/dev", "/dev/pts"].contains(&place);
        assert_eq!(!options.contains("nodev"), devices, "{line}");
        if place == "/proc" && fields.last().unwrap().starts_with("rw,size=4k,nr_inodes=4") {
            // What covers, and is itself covered.
            assert!(options.starts_with("ro"), "{line}");
            places.pop();
            continue;
        }
        let writable = ["/proc", "/dev/pts", "/dev/shm", "/tmp", "/out"].contains(&place);
        assert_eq!(options.starts_with("rw"), writable, "{line}");
    }
    for place in
        ["/", "/proc", "/proc/sys", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/data/docs", "/out"]
    {
        assert_eq!(places.iter().filter(|one| *one == place).count(), 1, "{place}: {output}");
    }
    // All others cover something in /proc.
    let others = places.iter().filter(|place| place.starts_with("/proc/")).count();
    assert_eq!(places.len(), others + 8, "{output}");
    let (listed, _) = agents.run(1, "ls -A /dev | tr '\\n' ' '; ls -A /sys; cat /data/docs/file");
    assert_eq!(
        listed,
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ls: /sys: No such file or directory\ntext\n"
    );
    let (written, _) = agents.run(1, "echo x > /data/docs/new; echo x > /new; echo x > /proc/sys/kernel/hostname; echo ok > /dev/null; head -c 3 /dev/zero | wc -c");
    let expected = "sh: can't create /data/docs/new: Read-only file system\n\
        sh: can't create /new: Read-only file system\n\
        sh: can't create /proc/sys/kernel/hostname: Read-only file system\n3\n";
    assert_eq!(written.replace("Permission denied", "Read-only file system"), expected);
}

#[test]
fn a_writable_share_is_written_and_a_nested_one_stays_protected() {
    let mut agents = Agents::new();
    let work = agents.share("work");
    std::fs::create_dir(work.join("kept")).unwrap();
    let kept = agents.share("kept");
    let one = agents.bed.directory().join("shares/one-file");
    std::fs::write(&one, "one\n").unwrap();
    let first = first_id(2);
    give(&work, first + 1000);
    give(&kept, first + 1000);
    let mut spec = agents.spec(2);
    spec.mounts = vec![
        mount("work", "/job", false),
        mount("kept", "/job/kept", true),
        mount("one-file", "/etc/one", true),
        mount("work", "/tmp/again", true),
    ];
    agents.create(spec);
    let (output, _) = agents.run(2, "echo hello > /job/new; echo x > /job/kept/new; cat /etc/one /tmp/again/new; rmdir /job/kept; stat -c %u /job/new");
    assert_eq!(std::fs::read_to_string(work.join("new")).unwrap(), "hello\n");
    assert!(!kept.join("new").exists());
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].contains("Read-only"), "{output}");
    assert_eq!(lines[1..3], ["one", "hello"]);
    assert!(lines[3].contains("busy"), "{output}");
    assert_eq!(lines[4], "1000");
}

#[test]
fn links_lead_nothing_out() {
    let mut agents = Agents::new();
    let outside = agents.bed.directory().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let image = agents.bed.directory().join("shares/image");
    let docs = agents.share("docs");
    std::fs::create_dir(docs.join("real")).unwrap();
    symlink(&outside, image.join("absolute")).unwrap();
    symlink("../../../../../../../../proc", image.join("to-proc")).unwrap();
    symlink("/bin", docs.join("to-bin")).unwrap();
    symlink("/home", image.join("var")).unwrap();
    let refuse = |agents: &mut Agents, target: &str| {
        let mut spec = agents.spec(1);
        spec.mounts = vec![mount("docs", "/data", false), mount("docs", target, false)];
        agents.refused(spec)
    };
    // A link that leads nowhere inside is no directory to make something in.
    let told = refuse(&mut agents, "/absolute/x");
    assert!(told.starts_with("can't mount the share docs at /absolute/x"), "{told}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let told = refuse(&mut agents, "/to-proc/x");
    assert!(told.contains("/to-proc/x"), "{told}");
    let told = refuse(&mut agents, "/to-proc/sys");
    assert!(told.contains("lies in what the supervisor makes"), "{told}");
    let told = refuse(&mut agents, "/data/to-bin");
    assert!(told.contains("lies in what the supervisor makes"), "{told}");
    let told = refuse(&mut agents, "/data/missing");
    assert!(told.contains("lies in another share"), "{told}");
    assert!(!docs.join("missing").exists());
    // One within the image is followed, as images have them.
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("docs", "/var/docs", true)];
    agents.create(spec);
    let (output, _) = agents.run(1, "ls /home/docs");
    assert_eq!(output, "real\nto-bin\n");
    agents.remove(1);
    for name in ["proc", "dev", "tmp"] {
        std::fs::remove_dir(image.join(name)).unwrap();
        symlink("/home", image.join(name)).unwrap();
        let spec = agents.spec(1);
        let told = agents.refused(spec);
        assert!(told.starts_with(&format!("can't make /{name}: ")), "{told}");
        std::fs::remove_file(image.join(name)).unwrap();
    }
    // Missing ones are made.
    let spec = agents.spec(1);
    agents.create(spec);
    assert_eq!(agents.bed.log(), "");
}

#[test]
fn a_failed_agent_names_its_step_and_leaves_nothing() {
    let mut agents = Agents::new();
    let before = agents.bed.descriptors();
    let mut spec = agents.spec(1);
    spec.root.share = "missing".into();
    let told = agents.refused(spec);
    assert_eq!(
        told,
        "can't open the share missing of its root: No such file or directory (os error 2)"
    );
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("missing", "/data", true)];
    let told = agents.refused(spec);
    assert_eq!(told, "can't open the share missing: No such file or directory (os error 2)");
    let mut spec = agents.spec(1);
    spec.executables = Some(vec![b"/bin/busybox".to_vec(), b"/bin/none".to_vec()]);
    let told = agents.refused(spec);
    assert_eq!(
        told,
        "can't make the rule that it may execute /bin/none: No such file or directory (os error 2)"
    );
    let mut spec = agents.spec(1);
    spec.writable = Some(vec![b"/none".to_vec()]);
    let told = agents.refused(spec);
    assert_eq!(
        told,
        "can't make the rule that it may write in /none: No such file or directory (os error 2)"
    );
    let mut spec = agents.spec(1);
    spec.limits.pids = 1;
    let told = agents.refused(spec);
    assert_eq!(told, "a limit on processes of 1 is not within 3 and 4194304");
    assert!(!agents.bed.group().join("agents/1").exists());
    let spec = agents.spec(1);
    agents.create(spec.clone());
    assert_eq!(agents.refused(spec), "the number is in use");
    agents.remove(1);
    eventually("descriptors closed", || agents.bed.descriptors() <= before + 1);
}

#[test]
fn an_agent_ends_with_its_init_and_its_commands_are_told_first() {
    let mut agents = Agents::new();
    for by_request in [false, true] {
        let spec = agents.spec(9);
        agents.create(spec);
        let (first, _first) =
            agents.start(9, USER, "trap '' TERM; (setsid sleep 1000 &); sleep 1000");
        let (second, _second) = agents.start(9, USER, "exec sleep 1000");
        if by_request {
            agents.bed.send(&Request::RemoveAgent { agent: 9 });
        } else {
            let [init] = processes_in(&agents, 9, "init")[..] else { panic!("not one process") };
            let init = rustix::process::Pid::from_raw(init.try_into().unwrap()).unwrap();
            rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
        }
        let mut ended = Vec::new();
        loop {
            match agents.bed.event() {
                Event::Exited { id, status: ExitStatus::Signal(9) } => ended.push(id),
                Event::AgentRemoved { agent: 9 } => break,
                other => panic!("{other:?}"),
            }
        }
        ended.sort_unstable();
        assert_eq!(ended, [first, second]);
        assert!(!agents.bed.group().join("agents/9").exists());
        let exec = agents.exec(9, USER, "true");
        let _streams = agents.bed.exec(exec);
        let Event::Failed { reason, detail, .. } = agents.bed.event() else { panic!("started") };
        assert_eq!((reason, detail.as_str()), (ExecFailure::BadRequest, "agent 9 is not running"));
    }
    assert_eq!(agents.bed.log(), "");
}

#[test]
fn agents_end_with_the_supervisor() {
    let mut agents = Agents::new();
    let spec = agents.spec(4);
    agents.create(spec);
    let (_, _streams) = agents.start(4, USER, "exec sleep 1000");
    let group = agents.bed.group().join("agents/4");
    let supervisor = agents.bed.supervisor();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    eventually("the agent's group is empty", || {
        std::fs::read_to_string(group.join("cgroup.events")).unwrap().contains("populated 0")
    });
}

#[test]
fn a_terminal_is_the_containers_own() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    let exec = agents.bed.shell_in_terminal(77, "tty; test -w $(tty) && echo mine; stty size; ls -1 /dev/pts; : > /dev/tty && echo controlling");
    let exec = Exec { place: Place::Agent { agent: 1, user: USER }, ..exec };
    let streams = agents.bed.exec(exec);
    agents.bed.started(77);
    assert_eq!(streams.read_all().0, "/dev/pts/0\r\nmine\r\n24 80\r\n0\r\nptmx\r\ncontrolling\r\n");
    assert_eq!(agents.bed.exited(77), ExitStatus::Code(0));
}

#[test]
fn streams_can_be_opened_again_by_name_and_the_directory_is_entered() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    let (output, _) =
        agents.run(1, "echo again > /dev/stdout; cd /home; pwd; umask; cat /proc/self/cgroup");
    assert_eq!(output.lines().take(3).collect::<Vec<_>>(), ["again", "/home", "0022"]);
    assert!(output.lines().last().unwrap().ends_with(":/"), "{output}");
    let mut exec = agents.exec(1, USER, "pwd");
    exec.directory = b"/home".to_vec();
    assert_eq!(agents.bed.output_of(exec).0, "/home\n");
    let mut exec = agents.exec(1, USER, "pwd");
    exec.directory = b"/proc/self/fd/9".to_vec();
    let _streams = agents.bed.exec(exec);
    let Event::Failed { reason, .. } = agents.bed.event() else { panic!("entered") };
    assert_eq!(reason, ExecFailure::Directory);
    let mut exec = agents.exec(1, USER, "");
    exec.arguments = vec![b"/bin/none".to_vec()];
    let _streams = agents.bed.exec(exec);
    let Event::Failed { reason, .. } = agents.bed.event() else { panic!("executed") };
    assert_eq!(reason, ExecFailure::NotFound);
    let mut exec = agents.exec(1, USER, "cat; readlink /proc/self/fd/0");
    if let Stdio::Streams { stdin, .. } = &mut exec.stdio {
        *stdin = None;
    }
    assert_eq!(agents.bed.output_of(exec).0, "/dev/null\n");
}

#[test]
fn a_writable_root_is_written_within_its_bound() {
    let mut agents = Agents::new();
    let mut spec = agents.spec(1);
    spec.root.writable_bytes = Some(1 << 20);
    agents.create(spec);
    let root = User { uid: 0, gid: 0 };
    let (output, _) = agents.run_as(1, root, "echo new > /etc/new; rm /etc/passwd; cat /etc/new; ls /etc; dd if=/dev/zero of=/home/big bs=64k count=64 2>&1 | head -1");
    assert_eq!(
        output,
        "new\nnew\nsecret\ndd: error writing '/home/big': No space left on device\n"
    );
    assert!(agents.bed.directory().join("shares/image/etc/passwd").exists());
    let (output, _) = agents.run(1, "dd if=/dev/zero of=/tmp/big bs=64k count=64 2>&1 | head -1; rm /tmp/big; i=0; while [ $i -lt 500 ] && touch /tmp/$i; do i=$((i+1)); done; echo $i");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "dd: error writing '/tmp/big': No space left on device");
    let files: u32 = lines.last().unwrap().parse().unwrap();
    assert!((190..200).contains(&files), "{output}");
}

#[test]
fn only_listed_programs_are_executed_and_others_are_told() {
    let mut agents = Agents::new();
    let image = agents.bed.directory().join("shares/image");
    std::fs::copy("/bin/busybox", image.join("bin/other")).unwrap();
    mode(&image.join("bin/other"), 0o755);
    std::fs::create_dir(image.join("tools")).unwrap();
    std::fs::copy("/bin/busybox", image.join("tools/busybox")).unwrap();
    let mut spec = agents.spec(1);
    spec.executables = Some(vec![b"/bin/busybox".to_vec(), b"/tools".to_vec()]);
    agents.create(spec);
    let mut exec = agents.exec(1, USER, "sh -c 'echo listed'; /tools/busybox echo in-directory; /bin/other true; echo $?; \
        cp /bin/busybox /tmp/own; /tmp/own true; echo $?; cd bin; ./other true; echo $?; echo x > /tmp/moved; mkdir /tmp/d; mv /tmp/moved /tmp/d/ && echo moved");
    exec.arguments[0] = b"/bin/sh".to_vec();
    let mut streams = agents.bed.exec(exec.clone());
    streams.stdin = None;
    agents.bed.started(exec.id);
    let (output, _) = streams.read_all();
    assert_eq!(output, "listed\nin-directory\n126\n126\n126\nmoved\n");
    let mut denied = Vec::new();
    loop {
        match agents.bed.event() {
            Event::AgentNotice { agent: 1, notice: Notice::ExecDenied { path } } => {
                denied.push(String::from_utf8(path).unwrap());
            }
            Event::Exited { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(denied, ["/bin/other", "/tmp/own", "./other"]);
    // The first program is denied in the same way.
    let mut exec = agents.exec(1, USER, "");
    exec.arguments = vec![b"/bin/other".to_vec()];
    let _streams = agents.bed.exec(exec);
    let path = b"/bin/other".to_vec();
    let told = Event::AgentNotice { agent: 1, notice: Notice::ExecDenied { path } };
    assert_eq!(agents.bed.event(), told);
    let Event::Failed { reason, detail, .. } = agents.bed.event() else { panic!("executed") };
    assert_eq!(reason, ExecFailure::NotExecutable);
    assert!(detail.contains("Permission denied"), "{detail}");
}

#[test]
fn only_listed_directories_are_written() {
    let mut agents = Agents::new();
    let work = agents.share("work");
    std::fs::create_dir(work.join("out")).unwrap();
    give(&work, first_id(1) + 1000);
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("work", "/job", false)];
    spec.writable = Some(vec![b"/job/out".to_vec()]);
    agents.create(spec);
    let (output, _) = agents.run(1, "echo a > /job/out/a && echo made; echo b > /job/b; echo c > /tmp/c; mkdir /job/d; rm -r /job/out/a && echo removed; echo x > /dev/null && echo null; mv /job/out /job/elsewhere; ln -s / /job/out/link && echo link");
    let denied = output.lines().filter(|line| line.contains("Permission denied")).count();
    assert_eq!(denied, 4, "{output}");
    for word in ["made", "removed", "null", "link"] {
        assert!(output.lines().any(|line| line == word), "{word}: {output}");
    }
    assert!(!work.join("b").exists() && work.join("out").exists());
}

/// What a copy sent, or how it ended.
fn copy(agents: &mut Agents, direction: Direction, bytes: &[u8]) -> (Vec<u8>, Event) {
    let (id, port) = (500, agents.bed.new_port());
    let path = agents.bed.directory().join(port.to_string());
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    agents.bed.send(&Request::Copy(Copy { id, agent: 1, user: USER, direction, port }));
    let (mut stream, _) = listener.accept().unwrap();
    let _closed = stream.write_all(bytes);
    let _closed = stream.shutdown(std::net::Shutdown::Write);
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    let mut event = agents.bed.event();
    if event == (Event::Started { id }) {
        event = agents.bed.event();
    }
    (output, event)
}

#[test]
fn files_are_copied_out_and_in() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    let script = "mkdir -p /tmp/out/deep; echo text > /tmp/out/deep/file; chmod 4751 /tmp/out/deep/file; ln -s /etc/passwd /tmp/out/link; mkfifo /tmp/out/pipe; mkdir /tmp/in; echo old > /tmp/in/keep; n=$(printf %0150d 7); echo long > /tmp/out/$n";
    assert_eq!(agents.run(1, script), (String::new(), ExitStatus::Code(0)));
    let (archive, event) = copy(&mut agents, Direction::Out(b"/tmp/out".to_vec()), b"");
    assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(0) });
    let mut names = Vec::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        names.push((
            entry.path().unwrap().to_str().unwrap().to_owned(),
            text,
            entry.header().mode().unwrap(),
        ));
    }
    names.sort();
    let long = format!("out/{:0150}", 7);
    let wanted = [
        ("out", "", 0o755),
        (long.as_str(), "long\n", 0o644),
        ("out/deep", "", 0o755),
        ("out/deep/file", "text\n", 0o751),
        ("out/link", "", 0o777),
    ];
    assert_eq!(names, wanted.map(|(name, text, mode)| (name.to_owned(), text.to_owned(), mode)));
    let (_, event) = copy(&mut agents, Direction::In(b"/tmp/in".to_vec()), &archive);
    assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(0) });
    let (output, _) = agents.run(1, "cd /tmp/in; cat keep out/deep/file; readlink out/link; stat -c '%a %U' out/deep/file; ls out | wc -l");
    assert_eq!(output, "old\ntext\n/etc/passwd\n751 agent\n3\n");
    let (_, event) = copy(&mut agents, Direction::Out(b"/tmp/none".to_vec()), b"");
    let Event::Failed { reason, detail, .. } = event else { panic!("{event:?}") };
    assert_eq!(
        (reason, detail.as_str()),
        (ExecFailure::NotFound, "can't find /tmp/none: No such file or directory (os error 2)")
    );
    let (sent, event) = copy(&mut agents, Direction::Out(b"/etc/secret".to_vec()), b"");
    assert_eq!((sent.len(), event), (0, Event::Exited { id: 500, status: ExitStatus::Code(1) }));
}

#[test]
fn hostile_archives_stay_in_their_directory() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    agents.run(
        1,
        "mkdir /tmp/in; mkdir /tmp/other; echo safe > /tmp/other/file; ln -s ../other /tmp/in/link",
    );
    use tar::EntryType::{Block, Char, Link, Regular, Symlink};
    let entry = |name: &str, kind: tar::EntryType, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_size(if kind == Regular { 4 } else { 0 });
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        if kind == Regular {
            bytes.extend(b"evil");
            bytes.resize(1024, 0);
        }
        bytes
    };
    let failing = [
        entry("../other/file", Regular, ""),
        entry("/tmp/other/file", Regular, ""),
        entry("link/file", Regular, ""),
        entry("a/../../other/file", Regular, ""),
        entry("hard", Link, "../other/file"),
        entry("hard", Link, "link/file"),
        b"no archive at all, but some bytes".repeat(40),
    ];
    for archive in failing {
        let (_, event) = copy(&mut agents, Direction::In(b"/tmp/in".to_vec()), &archive);
        assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(1) });
    }
    let mut skipped = entry("device", Char, "");
    skipped.extend(entry("disk", Block, ""));
    skipped.extend(entry("away", Symlink, "/tmp/other"));
    skipped.extend(entry("set-id", Regular, ""));
    // Replaces the link, and does not follow it.
    skipped.extend(entry("away", Regular, ""));
    let (_, event) = copy(&mut agents, Direction::In(b"/tmp/in".to_vec()), &skipped);
    assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(0) });
    let (output, _) =
        agents.run(1, "cat /tmp/other/file; ls -A /tmp/other /tmp/in; stat -c %a /tmp/in/set-id");
    assert_eq!(output, "safe\n/tmp/in:\naway\nlink\nset-id\n\n/tmp/other:\nfile\n755\n");
}
