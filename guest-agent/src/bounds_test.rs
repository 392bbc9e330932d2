//! What an agent can use up: no more than its bounds, while another lives on. Needs control groups
//! with controllers, which the lab and a machine have; elsewhere it is skipped with a word.

use std::time::{Duration, Instant};

use cloister_protocol::agent::{AgentSpec, Notice, Usage};
use cloister_protocol::message::{Event, ExitStatus, Request};

use crate::agent_bed::Agents;

const USER: cloister_protocol::agent::User =
    cloister_protocol::agent::User { uid: 1000, gid: 1000 };

/// With a neighbour, agent 1, and agent 2 with these bounds.
fn bounded(change: impl FnOnce(&mut AgentSpec)) -> Option<Agents> {
    let mut agents = Agents::new();
    if !agents.bed.is_bounded() {
        println!("skipped: no controllers in this machine's control groups");
        return None;
    }
    let neighbour = agents.spec(1);
    agents.create(neighbour);
    let mut spec = agents.spec(2);
    change(&mut spec);
    // The image is the neighbour's, which is the same to this one.
    agents.bed.send(&Request::CreateAgent(spec));
    assert_eq!(agents.bed.event(), Event::AgentCreated { agent: 2 });
    Some(agents)
}

fn usage(agents: &mut Agents, agent: u32) -> Usage {
    agents.bed.send(&Request::AgentUsage { agent });
    loop {
        match agents.bed.event() {
            Event::AgentUsage { agent: told, usage } if told == agent => return usage,
            Event::AgentNotice { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The neighbour still works, and in time.
fn neighbour_lives(agents: &mut Agents) {
    let begin = Instant::now();
    let exec = agents.exec(1, USER, "echo alive");
    let id = exec.id;
    let mut streams = agents.bed.exec(exec);
    streams.read_until("alive\n");
    let mut told = Vec::new();
    while told.last() != Some(&(Event::Exited { id, status: ExitStatus::Code(0) })) {
        told.push(agents.bed.event());
    }
    // Nothing but notices of the hog comes in between.
    told.retain(|event| !matches!(event, Event::AgentNotice { agent: 2, .. }));
    assert_eq!(told.first(), Some(&Event::Started { id }));
    assert_eq!(told.len(), 2);
    println!("the neighbour's command took {:?}", begin.elapsed());
}

#[test]
fn a_memory_hog_is_killed_and_told_and_its_agent_lives() {
    let Some(mut agents) = bounded(|spec| spec.limits.memory_bytes = 32 << 20) else { return };
    // What fills /dev/shm is memory of the agent, too.
    let (id, _streams) = agents.start(
        2,
        USER,
        "sleep 1000 & dd if=/dev/zero of=/dev/shm/a bs=1M count=63; sleep 1000",
    );
    let (mut notices, mut ended) = (0, None);
    // The count changes when the kernel gets to it.
    while ended.is_none() || notices == 0 {
        match agents.bed.event() {
            Event::AgentNotice { agent: 2, notice: Notice::OutOfMemory { kills } } => {
                notices += kills;
            }
            Event::Exited { id: told, status } if told == id => ended = Some(status),
            other => panic!("{other:?}"),
        }
    }
    // As a whole: the sleeper too.
    assert_eq!(ended, Some(ExitStatus::Signal(9)));
    neighbour_lives(&mut agents);
    let used = usage(&mut agents, 2);
    println!("{notices} kills told; {used:?}");
    assert!(used.oom_kills >= 1 && used.memory_peak_bytes <= 33 << 20, "{used:?}");
    let exec = agents.exec(2, USER, "rm /dev/shm/a; echo again");
    agents.bed.exec(exec).read_until("again\n");
}

#[test]
fn a_fork_bomb_is_bounded_and_told() {
    let Some(mut agents) = bounded(|spec| spec.limits.pids = 20) else { return };
    // The one that makes them ends at the first refusal; what it made stays.
    let script = "(while :; do sleep 1000 & done) & read line";
    let exec = agents.exec(2, USER, script);
    let (id, mut streams) = (exec.id, agents.bed.exec(exec));
    agents.bed.started(id);
    let Event::AgentNotice { agent: 2, notice: Notice::TooManyProcesses { refused } } =
        agents.bed.event()
    else {
        panic!("not told")
    };
    assert!(refused >= 1);
    neighbour_lives(&mut agents);
    let used = usage(&mut agents, 2);
    assert!((18..=20).contains(&used.pids), "{used:?}");
    println!("{used:?}");
    agents.bed.send(&Request::Signal { id, signal: 9 });
    streams.stdin = None;
    loop {
        match agents.bed.event() {
            Event::Exited { .. } => break,
            Event::AgentNotice { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_processor_hog_gets_its_half() {
    let Some(mut agents) = bounded(|spec| spec.limits.cpu_millis = 500) else { return };
    let (id, _streams) = agents.start(2, USER, "while :; do :; done & while :; do :; done");
    let before = usage(&mut agents, 2);
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(5));
    let after = usage(&mut agents, 2);
    let share = (after.cpu_us - before.cpu_us) as f64 / begin.elapsed().as_micros() as f64;
    println!(
        "{share:.3} of a processor; held back for {} us",
        after.throttled_us - before.throttled_us
    );
    assert!((0.45..=0.55).contains(&share), "{share}");
    neighbour_lives(&mut agents);
    agents.bed.send(&Request::Signal { id, signal: 9 });
}

#[test]
fn open_files_are_bounded() {
    let mut agents = Agents::new();
    let mut spec = agents.spec(2);
    spec.limits.open_files = 40;
    spec.limits.file_bytes = Some(10_000);
    agents.create(spec);
    let script = "ulimit -n; ulimit -Hn; head -c 20000 /dev/zero > /tmp/big 2> /dev/null; echo $?; stat -c %s /tmp/big; \
        i=10; while eval \"exec $i< /etc/passwd\"; do i=$((i+1)); done 2>/dev/null; echo never";
    let (output, status) = agents.run(2, script);
    let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("File size")).collect();
    // 153: the signal for a file that grows too big.
    assert_eq!(lines[..4], ["40", "40", "153", "10000"], "{output}");
    assert_ne!((lines.last(), status), (Some(&"never"), ExitStatus::Code(0)));
}
