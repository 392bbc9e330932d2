//! The library, with the fake vmm: commands that are detached and attached, adopted from another machine, and guests
//! that lie about it.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cloister::machine::{
    Adopted, Command, ExecSpec, GuestError, Machine, MachineEnd, MachineError, StdioSpec, Streams,
};
use cloister_protocol::agent::{AgentLimits, AgentSpec, Root};
use cloister_protocol::message::ExitStatus;

use super::harness::Installation;
use super::machine::{shell, start};

/// What the fake's guest has that goes on from a saved one.
const CARRIED: [u32; 2] = [7, 900];
const CARRIED_AGENT: u32 = 1;
const CARRIED_SCRIPT: &str = "ordinary carried:1 carried:1.7 carried:1.900";
const KILL: u8 = 9;

fn sleeping() -> ExecSpec {
    let stdio = StdioSpec::Pipes { stdin: false };
    ExecSpec { stdio, ..shell("trap '' PIPE; echo first; exec sleep 1000") }
}

async fn sleeper(machine: &Machine) -> Command {
    machine.exec(sleeping()).await.expect("a command")
}

fn outputs(streams: Option<Streams>) -> [UnixStream; 2] {
    let outputs = match streams {
        Some(Streams::Pipes { stdin: None, stdout, stderr }) => Some([stdout, stderr]),
        _ => None,
    };
    outputs.expect("two outputs and no input")
}

fn line(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    while bytes.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a byte");
        bytes.extend(byte);
    }
    String::from_utf8(bytes).expect("text")
}

/// Detaches these, whose streams are read to their ends meanwhile.
async fn detach(
    machine: &Machine,
    ids: &[u32],
    streams: Vec<[UnixStream; 2]>,
) -> Result<bool, MachineError> {
    let reader = tokio::task::spawn_blocking(move || {
        for mut stream in streams.into_iter().flatten() {
            stream.read_to_end(&mut Vec::new()).expect("an end");
        }
    });
    let answer = machine.detach(ids.to_vec()).await;
    if matches!(answer, Ok(true)) {
        reader.await.expect("all was read");
    }
    answer
}

fn agent(agent: u32) -> AgentSpec {
    AgentSpec {
        agent,
        name: "a".into(),
        root: Root { share: "root-0".into(), writable_bytes: None },
        mounts: Vec::new(),
        limits: AgentLimits {
            memory_bytes: 64 << 20,
            cpu_millis: 500,
            pids: 16,
            tmp_bytes: 1 << 20,
            open_files: 64,
            file_bytes: None,
            files: 1000,
        },
        executables: None,
        writable: None,
        egress: None,
    }
}

#[tokio::test(flavor = "current_thread")]
async fn commands_are_detached_and_attached_in_the_same_machine() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let (mut one, mut other) = (sleeper(&machine).await, sleeper(&machine).await);
    let ids = [one.id(), other.id()];
    let mut streams = vec![outputs(one.take_streams()), outputs(other.take_streams())];
    for [output, _] in &mut streams {
        assert_eq!(line(output), "first\n");
    }
    for _ in 0..5 {
        assert!(detach(&machine, &ids, streams).await.expect("an answer"));
        machine.pause().await.expect("a pause");
        machine.resume().await.expect("a resume");
        let back = machine.attach(vec![ids[1], ids[0]]).await.expect("streams");
        streams = back.into_iter().map(|one| outputs(Some(one))).collect();
        streams.reverse();
        for ([output, _], id) in streams.iter_mut().zip(ids) {
            assert_eq!(line(output), format!("again {id}\n"));
        }
    }
    one.signal(KILL).await.expect("a signal");
    assert_eq!(one.wait().await.expect("an end"), ExitStatus::Signal(KILL));
    let [output, _] = &mut streams[0];
    assert_eq!(output.read(&mut [0]).expect("the end"), 0);
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_asked_meanwhile_waits_and_what_happens_is_told_afterwards() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut command = sleeper(&machine).await;
    let streams = vec![outputs(command.take_streams())];
    let id = command.id();
    // Ends by itself when it is told to, without the supervisor.
    let folder = installation.path("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; exit 4", folder.display());
    let mut ends = machine.exec(shell(&script)).await.expect("a command");
    assert!(detach(&machine, &[id], streams).await.expect("an answer"));
    std::fs::write(&folder, "").expect("a file");
    let mut asked = std::pin::pin!(async {
        // The fake would not stand it if these came now.
        machine.ping().await.expect("a pong");
        command.signal(KILL).await.expect("a signal");
        command.wait().await.expect("an end")
    });
    let wait = Duration::from_millis(200);
    assert!(tokio::time::timeout(wait, &mut asked).await.is_err(), "answered while detached");
    assert!(tokio::time::timeout(wait, ends.wait()).await.is_err(), "told while detached");
    machine.stats().await.expect("the vmm answers");
    let _streams = machine.attach(vec![id]).await.expect("streams");
    assert_eq!(asked.await, ExitStatus::Signal(KILL));
    assert_eq!(ends.wait().await.expect("an end"), ExitStatus::Code(4));
    machine.kill().await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_does_not_fit_is_refused_without_the_guest() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut command = sleeper(&machine).await;
    let id = command.id();
    assert!(!machine.detach(vec![id, 99]).await.expect("an answer"), "there is no 99");
    let twice = machine.detach(vec![id, id]).await.expect_err("named twice");
    assert!(matches!(twice, MachineError::Unknown), "{twice:?}");
    let early = machine.attach(vec![id]).await.expect_err("not detached");
    assert!(matches!(early, MachineError::Presence), "{early:?}");
    let adopted = Adopted { agents: Vec::new(), commands: vec![5] };
    let late = machine.adopt(adopted.clone()).await.expect_err("it has a command");
    assert!(matches!(late, MachineError::Presence), "{late:?}");
    let streams = vec![outputs(command.take_streams())];
    assert!(detach(&machine, &[id], streams).await.expect("an answer"));
    let again = machine.detach(Vec::new()).await.expect_err("detached already");
    assert!(matches!(again, MachineError::Presence), "{again:?}");
    for wrong in [vec![], vec![id, 99], vec![99], vec![id, id]] {
        let wrong = machine.attach(wrong).await.expect_err("others");
        assert!(matches!(wrong, MachineError::Unknown), "{wrong:?}");
    }
    let late = machine.adopt(adopted).await.expect_err("it is detached");
    assert!(matches!(late, MachineError::Presence), "{late:?}");
    assert_eq!(machine.attach(vec![id]).await.expect("streams").len(), 1);
    machine.ping().await.expect("it still works");
    machine.power_off().await.expect("a request");
    machine.ended().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_refuses_goes_on_as_before() {
    let installation = Installation::new("holds-not");
    let machine = start(&installation).await;
    let mut command = sleeper(&machine).await;
    assert!(!machine.detach(vec![command.id()]).await.expect("an answer"));
    machine.ping().await.expect("a pong");
    let [mut output, _] = outputs(command.take_streams());
    assert_eq!(line(&mut output), "first\n");
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_detached_machine_can_be_powered_off() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    assert!(machine.detach(Vec::new()).await.expect("an answer"));
    machine.power_off().await.expect("a request");
    assert!(machine.ended().await.is_orderly());
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_that_goes_on_is_adopted() {
    let installation = Installation::new(CARRIED_SCRIPT);
    let machine = start(&installation).await;
    let adopted = Adopted { agents: vec![agent(CARRIED_AGENT)], commands: CARRIED.to_vec() };
    let mut commands = machine.adopt(adopted).await.expect("commands");
    for (command, id) in commands.iter_mut().zip(CARRIED) {
        assert_eq!(command.id(), id);
        let [mut output, _] = outputs(command.take_streams());
        assert_eq!(line(&mut output), format!("again {id}\n"));
    }
    // New ones have numbers of their own.
    let mut new = sleeper(&machine).await;
    assert!(!CARRIED.contains(&new.id()));
    machine.agent_usage(CARRIED_AGENT).await.expect("an answer").expect("an agent");
    for command in &mut commands {
        command.signal(KILL).await.expect("a signal");
        assert_eq!(command.wait().await.expect("an end"), ExitStatus::Signal(KILL));
    }
    machine.remove_agent(CARRIED_AGENT).await.expect("it is gone");
    // It can be left again.
    let streams = vec![outputs(new.take_streams())];
    assert!(detach(&machine, &[new.id()], streams).await.expect("an answer"));
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn lists_that_no_machine_can_have_are_not_adopted() {
    let bad = [
        Adopted { agents: Vec::new(), commands: vec![7, 7] },
        Adopted { agents: vec![agent(1), agent(1)], commands: Vec::new() },
        Adopted { agents: vec![agent(5000)], commands: Vec::new() },
        Adopted { agents: Vec::new(), commands: (0..1000).collect() },
    ];
    for adopted in bad {
        let installation = Installation::new(CARRIED_SCRIPT);
        let machine = start(&installation).await;
        let refused = machine.adopt(adopted).await.expect_err("refused");
        assert!(matches!(refused, MachineError::Unknown), "{refused:?}");
        machine.stop().await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn guests_that_lie_are_killed() {
    for script in [
        "detached-unasked",
        "attached-unasked",
        "exits-first",
        "detached-twice",
        "speaks-away",
        "attached-away",
        "speaks-returning",
        "strangers",
    ] {
        let installation = Installation::new(script);
        let machine = start(&installation).await;
        let told = async {
            let Ok(mut command) = machine.exec(sleeping()).await else { return };
            let id = command.id();
            detach(&machine, &[id], vec![outputs(command.take_streams())]).await.ok();
            machine.attach(vec![id]).await.ok();
        };
        // The machine may end at each step.
        tokio::select! {
            _ = machine.ended() => {}
            () = told => {}
        }
        let end = machine.ended().await;
        let fits = matches!(
            (&*end, script),
            (MachineEnd::Guest(GuestError::UnexpectedEvent { id: 99 }), "strangers")
                | (MachineEnd::Guest(GuestError::UnexpectedEvent { .. }), "exits-first")
                | (MachineEnd::Guest(GuestError::Presence), _)
        );
        assert!(fits, "{script}: {end:?}");
    }
}
