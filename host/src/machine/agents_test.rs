//! Tests of what is believed of a supervisor's words on agents.

use cloister_protocol::agent::{AgentLimits, Root};

use super::*;

fn spec(agent: u32) -> AgentSpec {
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

fn agents() -> (Agents, mpsc::Receiver<Happening>) {
    let (tell, happenings) = mpsc::channel(2);
    (Agents::new(tell), happenings)
}

#[test]
fn a_life_from_the_request_to_the_removal() {
    let (mut agents, _happenings) = agents();
    let (reply, mut created) = oneshot::channel();
    assert!(agents.asked(&spec(3), reply).is_some());
    assert!(agents.created(3).unwrap());
    assert!(matches!(created.try_recv(), Ok(Ok(()))));

    let (reply, mut second) = oneshot::channel();
    assert!(agents.asked(&spec(3), reply).is_none());
    assert!(matches!(second.try_recv(), Ok(Err(AgentError::InUse))));

    let (reply, mut used) = oneshot::channel();
    assert!(agents.usage_asked(3, reply).is_some());
    let usage = Usage { pids: 7, ..Usage::default() };
    agents.usage(3, usage).unwrap();
    assert_eq!(used.try_recv().unwrap().unwrap(), usage);

    let (reply, mut removed) = oneshot::channel();
    assert!(agents.removing(3, reply).is_some());
    let (reply, mut removed_too) = oneshot::channel();
    assert!(agents.removing(3, reply).is_none(), "asked for twice");
    agents.removed(3).unwrap();
    assert!(removed.try_recv().is_ok() && removed_too.try_recv().is_ok());
}

#[test]
fn a_guest_that_does_not_answer_is_asked_anew_and_makes_nothing_pile_up() {
    let (mut agents, _happenings) = agents();
    let (reply, _created) = oneshot::channel();
    agents.asked(&spec(0), reply);
    agents.created(0).unwrap();
    for _ in 0..100 {
        let (reply, answer) = oneshot::channel();
        assert!(agents.usage_asked(0, reply).is_some(), "asked again");
        drop(answer);
    }
    assert_eq!(agents.usages[&0].len(), 1);
}

#[test]
fn what_does_not_fit_is_a_broken_supervisor() {
    let (mut agents, _happenings) = agents();
    assert!(agents.created(1).is_err());
    assert!(agents.failed(1, "").is_err());
    assert!(agents.removed(1).is_err());
    assert!(agents.usage(1, Usage::default()).is_err());
    assert!(agents.notice(1, Notice::OutOfMemory { kills: 1 }).is_err());
    let (reply, _created) = oneshot::channel();
    agents.asked(&spec(1), reply);
    assert!(agents.notice(1, Notice::OutOfMemory { kills: 1 }).is_err(), "not there yet");
    agents.created(1).unwrap();
    assert!(agents.created(1).is_err(), "twice");
    assert!(agents.failed(1, "").is_err(), "it is there");
}

#[test]
fn a_flood_of_notices_is_counted_and_left_out() {
    let (mut agents, mut happenings) = agents();
    let (reply, _created) = oneshot::channel();
    agents.asked(&spec(0), reply);
    agents.created(0).unwrap();
    for kills in 0..10 {
        agents.notice(0, Notice::OutOfMemory { kills }).unwrap();
    }
    assert!(happenings.try_recv().is_ok() && happenings.try_recv().is_ok());
    assert!(happenings.try_recv().is_err());
    agents.notice(0, Notice::TooManyProcesses { refused: 1 }).unwrap();
    let told = happenings.try_recv().unwrap();
    assert_eq!(told, Happening::Notice { agent: 0, notice: Notice::Dropped { count: 8 } });
}

#[test]
fn an_agent_that_goes_by_itself_is_told() {
    let (mut agents, mut happenings) = agents();
    let (reply, _created) = oneshot::channel();
    agents.asked(&spec(0), reply);
    agents.created(0).unwrap();
    agents.removed(0).unwrap();
    assert_eq!(happenings.try_recv().unwrap(), Happening::Gone { agent: 0 });
}

#[test]
fn a_spec_out_of_bounds_is_not_asked_for() {
    let (mut agents, _happenings) = agents();
    let (reply, mut answer) = oneshot::channel();
    assert!(agents.asked(&spec(MAX_AGENTS), reply).is_none());
    assert!(matches!(answer.try_recv(), Ok(Err(AgentError::TooMany))));
}
