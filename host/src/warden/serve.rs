//! The warden's socket: each connection is served by a task of its own.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use cloister_protocol::agent::Direction;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;

use super::api::{Call, Order, Reply, VERSION};
use super::channel::{Channel, ChannelError};
use super::team::Team;
use super::{keep, pause, policy, visit};
use crate::audit::record::{By, Entry};
use crate::cli::keep::MAX_FORKS;
use crate::cli::teams::is_name;
use crate::egress::ask::Question;
use crate::egress::totals::Totals;
use crate::report::{chain, tell_line};

/// Most connections at once: more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// Serves connections until the team ends.
pub(super) async fn serve(team: Rc<Team>, listener: UnixListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let team = Rc::clone(&team);
                    connections.spawn_local(async move {
                        // A command that went away, or broke the protocol, ends its connection only.
                        connection(team, stream).await.ok();
                    });
                }
                Err(error) => {
                    // Too many open files, say: the next end of a connection may help.
                    tell_line(format_args!("cloister: can't accept a connection: {error}"));
                    if connections.join_next().await.is_none() {
                        return;
                    }
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(team: Rc<Team>, stream: UnixStream) -> Result<(), ChannelError> {
    // The socket's directory is this user's own; this is for one that root has opened to others.
    let peer = stream.peer_cred().map_err(ChannelError::Broken)?;
    if ![0, rustix::process::geteuid().as_raw()].contains(&peer.uid()) {
        return Ok(());
    }
    let by = By { uid: peer.uid(), pid: peer.pid().unwrap_or_default() };
    let mut channel = Channel::new(stream);
    match channel.receive().await? {
        Some(Call::Hello { version: VERSION }) => {}
        Some(_) => {
            let words = format!("the team's warden speaks version {VERSION}: restart the team");
            return channel.send(&Reply::Refused { words }, &[]).await;
        }
        None => return Ok(()),
    }
    let call = channel.receive().await?;
    if let Some(entry) = call.as_ref().and_then(asked) {
        team.audit.note(Entry { by: Some(by), ..entry });
    }
    // What the machine would have to do is not even begun.
    if team.machine.paused().is() && call.as_ref().is_some_and(needs_the_machine) {
        let words = format!("team {0} is paused: `cloister resume {0}`", team.name);
        return channel.send(&Reply::Refused { words }, &[]).await;
    }
    match call {
        Some(Call::Exec(call)) => visit::exec(&team, call, channel).await,
        Some(Call::Copy { agent, direction }) => {
            visit::copy(&team, &agent, direction, channel).await
        }
        Some(Call::Attach { agents }) => attach(&team, &agents, channel).await,
        Some(Call::Order { agent, order }) => obey(&team, agent.as_deref(), order, channel).await,
        Some(Call::Pause) => reply(pause::pause(&team).await, channel).await,
        Some(Call::Resume) => reply(pause::resume(&team).await, channel).await,
        Some(Call::Suspend { end_commands }) => {
            reply(keep::suspend(&team, end_commands).await, channel).await
        }
        Some(Call::Checkpoint { into }) => {
            let locks = take_locks(&into, &mut channel).await?;
            let done = keep::checkpoint(&team, &into).await;
            // Before the caller knows, who may be about to take them again.
            drop(locks);
            reply(done, channel).await
        }
        Some(Call::Usage) => usage(&team, channel).await,
        Some(Call::Processes) => channel.send(&Reply::Processes(team.processes()), &[]).await,
        Some(Call::Totals) => channel.send(&Reply::Totals(totals(&team)), &[]).await,
        Some(Call::Questions) => channel.send(&Reply::Questions(questions(&team)), &[]).await,
        Some(Call::Answer { number, yes, keep }) => {
            channel.send(&answer(&team, by, number, yes, keep), &[]).await
        }
        Some(Call::ApplyPolicy { bytes }) => policy::apply(&team, by, bytes, channel).await,
        Some(
            Call::Hello { .. } | Call::Signal(_) | Call::Resize(_) | Call::Plan(_) | Call::Locks(_),
        )
        | None => Ok(()),
    }
}

/// Takes the locks of teams that are to be made, whose names become parts of paths.
async fn take_locks(into: &[String], channel: &mut Channel) -> Result<Vec<OwnedFd>, ChannelError> {
    if into.len() > usize::from(MAX_FORKS) || !into.iter().all(|name| is_name(name)) {
        return Err(ChannelError::Gone);
    }
    let mut locks = Vec::new();
    while locks.len() < into.len() {
        match channel.receive().await? {
            Some(Call::Locks(count)) if count > 0 => {
                locks.extend(channel.take_descriptors(usize::from(count))?);
            }
            _ => return Err(ChannelError::Gone),
        }
    }
    Ok(locks)
}

/// Whether a call is one that a paused machine can't carry out.
const fn needs_the_machine(call: &Call) -> bool {
    match call {
        Call::Exec(_) | Call::Copy { .. } | Call::Usage | Call::ApplyPolicy { .. } => true,
        // A team that is to end goes on for that.
        Call::Order { agent: None, order: Order::Stop } => false,
        Call::Order { .. } => true,
        Call::Hello { .. } | Call::Signal(_) | Call::Resize(_) | Call::Attach { .. } => false,
        Call::Pause | Call::Resume | Call::Plan(_) | Call::Locks(_) => false,
        // It goes on for that.
        Call::Suspend { .. } | Call::Checkpoint { .. } => false,
        Call::Processes | Call::Totals | Call::Questions | Call::Answer { .. } => false,
    }
}

/// Tells what became of a call.
async fn reply(done: Result<(), String>, mut channel: Channel) -> Result<(), ChannelError> {
    let reply = match done {
        Ok(()) => Reply::Done,
        Err(words) => Reply::Refused { words },
    };
    channel.send(&reply, &[]).await
}

/// What the audit log says of a call, whatever becomes of it; nothing of one that only looks.
fn asked(call: &Call) -> Option<Entry> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match call {
        Call::Exec(call) => {
            let arguments: Vec<_> = call.arguments.iter().map(|word| text(word)).collect();
            let names: Vec<_> = call.environment.iter().map(|(name, _)| text(name)).collect();
            // Values of the environment can be secrets; arguments are in every list of processes.
            let program = arguments.first().cloned().unwrap_or_default();
            let entry = Entry::new("exec", program).of(&call.agent);
            entry.with("arguments", arguments).with("environment", names)
        }
        Call::Copy { agent, direction } => match direction {
            Direction::In(path) => Entry::new("copy", format!("to {}", text(path))).of(agent),
            Direction::Out(path) => Entry::new("copy", format!("from {}", text(path))).of(agent),
        },
        Call::Attach { agents } => Entry::new("attach", agents.join(", ")),
        Call::Order { agent, order } => {
            let word = match order {
                Order::Stop => "stop",
                Order::Start => "start",
                Order::Restart => "restart",
            };
            Entry::new("order", word).of(agent.as_deref().unwrap_or_default())
        }
        Call::Pause => Entry::new("order", "pause"),
        Call::Resume => Entry::new("order", "resume"),
        Call::Suspend { .. } => Entry::new("order", "suspend"),
        Call::Checkpoint { into } => {
            Entry::new("order", format!("checkpoint into {}", into.join(", ")))
        }
        // Recorded when it is known what became of it.
        Call::ApplyPolicy { .. } | Call::Plan(_) | Call::Answer { .. } => return None,
        Call::Hello { .. } | Call::Signal(_) | Call::Resize(_) | Call::Locks(_) => return None,
        Call::Usage | Call::Processes | Call::Totals | Call::Questions => return None,
    })
}

/// The number of the agent, or the refusal.
pub(super) async fn find(
    team: &Team,
    agent: &str,
    channel: &mut Channel,
) -> Result<Option<usize>, ChannelError> {
    let found = team.find(agent);
    if found.is_none() {
        let words = format!("team {} has no agent {agent:?}", team.name);
        channel.send(&Reply::Refused { words }, &[]).await?;
    }
    Ok(found)
}

async fn attach(team: &Team, agents: &[String], mut channel: Channel) -> Result<(), ChannelError> {
    for agent in agents {
        if find(team, agent, &mut channel).await?.is_none() {
            return Ok(());
        }
    }
    let mut pieces = team.followers.subscribe();
    let mut ending = team.ending.subscribe();
    channel.send(&Reply::Done, &[]).await?;
    loop {
        let piece = tokio::select! {
            // What was written before the end comes first.
            biased;
            piece = pieces.recv() => piece,
            _ = ending.wait_for(|ending| *ending) => {
                return channel.send(&Reply::Ended, &[]).await;
            }
            gone = channel.receive::<Call>() => match gone {
                Ok(Some(_)) => continue,
                _ => return Ok(()),
            },
        };
        let reply = match piece {
            Ok(piece) => {
                let Some(recipe) = team.recipes.get(piece.agent) else { continue };
                if !agents.is_empty() && !agents.contains(&recipe.name) {
                    continue;
                }
                let agent = recipe.name.clone();
                Reply::Output { agent, source: piece.source, bytes: piece.bytes.to_vec() }
            }
            Err(RecvError::Lagged(count)) => Reply::Lost { count },
            Err(RecvError::Closed) => Reply::Ended,
        };
        channel.send(&reply, &[]).await?;
    }
}

async fn obey(
    team: &Rc<Team>,
    agent: Option<&str>,
    order: Order,
    mut channel: Channel,
) -> Result<(), ChannelError> {
    match (agent, order) {
        (Some(agent), order) => {
            let Some(index) = find(team, agent, &mut channel).await? else { return Ok(()) };
            team.order(index, order).await;
        }
        // The machine goes with its agents; the answer is the end of the connection, and the lock.
        (None, Order::Stop) => {
            if pause::end(team).await {
                team.stop_all().await;
            }
            team.ending.send_replace(true);
        }
        (None, order) => {
            for index in 0..team.recipes.len() {
                team.order(index, order).await;
            }
        }
    }
    channel.send(&Reply::Done, &[]).await
}

/// What the egress of each agent came to.
fn totals(team: &Team) -> Vec<(String, Totals)> {
    let totals = team.gate.get().map(|gate| gate.totals()).unwrap_or_default();
    team.recipes.iter().map(|recipe| recipe.name.clone()).zip(totals).collect()
}

/// What the operator is asked, by agent.
fn questions(team: &Team) -> Vec<(String, Question)> {
    let questions = team.gate.get().map(|gate| gate.questions()).unwrap_or_default();
    let named = |question: Question| {
        let name = team.recipes.get(question.agent).map(|recipe| recipe.name.clone());
        (name.unwrap_or_default(), question)
    };
    questions.into_iter().map(named).collect()
}

/// Answers a question, and records who did.
fn answer(team: &Team, by: By, number: u64, yes: bool, keep: bool) -> Reply {
    let answered = match team.gate.get() {
        Some(gate) => gate.answer(number, yes, keep).map_err(|error| error.to_string()),
        None => Err("no agent of the team has a way outside".to_owned()),
    };
    let question = match answered {
        Ok(question) => question,
        Err(words) => return Reply::Refused { words },
    };
    let agent = team.recipes.get(question.agent).map_or("", |recipe| recipe.name.as_str());
    let words = format!("{} {}", if yes { "allow" } else { "deny" }, question.to);
    let entry = Entry::new("answer", words).of(agent).with("question", number).with("kept", keep);
    team.audit.note(Entry { by: Some(by), ..entry });
    Reply::Answered(agent.to_owned(), question)
}

async fn usage(team: &Team, mut channel: Channel) -> Result<(), ChannelError> {
    let mut all = Vec::new();
    let calm = team.calm.read().await;
    for recipe in &team.recipes {
        match team.machine.agent_usage(recipe.spec.agent).await {
            Ok(Some(usage)) => all.push((recipe.name.clone(), usage)),
            Ok(None) => {}
            Err(error) => {
                return channel.send(&Reply::Refused { words: chain(&error) }, &[]).await;
            }
        }
    }
    drop(calm);
    channel.send(&Reply::Usage(all), &[]).await
}
