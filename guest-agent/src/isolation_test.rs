//! What an agent can do to another, to the supervisor and to the machine: nothing of a long list.
//!
//! The list is `cloister prove`'s (`prober/src/container`). The test program itself is the hostile program: it is
//! copied into the image and run there. Each row is a try by its name; one that does not fail fails the test.
#![expect(unsafe_code, reason = "asks who it is")]

use cloister_prober::container::{VICTIM, be_neighbour, tries};
use cloister_prober::wire::READY_LINE;
use cloister_protocol::agent::{User, first_id};

use crate::agent_bed::{Agents, mode};

/// Runs in a container; elsewhere there is nothing to do.
#[test]
fn probe() {
    let Ok(victim) = std::env::var(VICTIM) else { return };
    // SAFETY: no memory is passed.
    let as_root = unsafe { libc::getuid() } == 0;
    // Bounds are `bounds_test.rs`'s, where there are controllers.
    let here = tries(Some(victim.parse().unwrap())).into_iter().filter(|one| !one.bounded);
    for one in here.filter(|one| one.as_root || !as_root) {
        match one.attempt() {
            Ok(got) => println!("row: SUCCEEDED {} ({got})", one.tries),
            Err(end) => println!("row: failed {} ({end:?})", one.tries),
        }
    }
    println!("rows end");
}

/// Has all that the probe looks for. Runs in a container.
#[test]
fn victim() {
    if std::env::var_os("CLOISTER_IS_VICTIM").is_some() {
        let _failed = be_neighbour();
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
    streams.read_until(READY_LINE);
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
