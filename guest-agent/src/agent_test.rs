//! Agents' containers, with a whole supervisor: what is made, and what its commands can do.
//!
//! They need root. Where control groups have no controllers, nothing is bounded and the tests of
//! bounds are skipped with a word.

use cloister_protocol::agent::{Notice, Place, first_id};
use cloister_protocol::message::{Event, Exec, ExecFailure, ExitStatus, Request, Stdio};

use crate::agent_bed::{Agents, USER, give, mode, mount};
use crate::test_bed::eventually;

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
fn an_agent_that_ends_while_the_host_is_away_is_told_to_the_next() {
    let mut agents = Agents::new();
    let spec = agents.spec(2);
    agents.create(spec);
    let mut exec = agents.exec(2, USER, "echo up; sleep 1000");
    if let Stdio::Streams { stdin, .. } = &mut exec.stdio {
        *stdin = None;
    }
    let id = exec.id;
    let mut streams = agents.bed.exec(exec);
    agents.bed.started(id);
    streams.read_until("up\n");
    agents.bed.send(&Request::Detach { commands: vec![id] });
    streams.read_all();
    assert_eq!(agents.bed.event(), Event::Detached { holds: true });
    let [init] = processes_in(&agents, 2, "init")[..] else { panic!("not one process") };
    let init = rustix::process::Pid::from_raw(init.try_into().unwrap()).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", agents.bed.supervisor().as_raw_nonzero());
    eventually("all of it has ended", || std::fs::read_to_string(&children).unwrap().is_empty());
    assert!(agents.bed.is_silent());
    agents.bed.leave();
    agents.bed.greet_anew(1);
    let streams = agents.bed.attach(&[id]).remove(0);
    assert_eq!(agents.bed.exited(id), ExitStatus::Signal(9));
    assert_eq!(agents.bed.event(), Event::AgentRemoved { agent: 2 });
    assert_eq!(streams.read_all(), (String::new(), String::new()));
}
