//! Keeping a running team: on the disk and no longer in memory (suspend), or as another team's beginning while it runs on
//! (checkpoint).
//!
//! The order, of which each step stands on the one before: nothing is begun or ended in the machine from here on; the
//! supervisor lets go of the agents' output and tells nothing any more; the machine is paused; its memory and state, what
//! its file server knows and its volumes are copied. Then it ends, or goes on and takes up its output again.

use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedRwLockWriteGuard;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::events::Event;
use super::output::Pump;
use super::pause;
use super::team::Team;
use crate::commands::teams::keep::refuse_shared;
use crate::machine::MachineError;
use crate::report::{chain, describe};
use crate::saved::{self, Digests, Record, SavedError, Work};
use crate::state::db::now_ms;
use crate::team::volumes;

/// How long agents may take with what they have begun: to start, or to end and have their outputs copied.
const CALM_LIMIT: Duration = Duration::from_secs(30);
/// A command may end just when the supervisor is to let go of its output; then it is seen to its end, and all begins
/// anew. So often at most.
const ATTEMPTS: u32 = 5;

/// What a machine left behind.
struct Stored {
    memory: File,
    state: Vec<u8>,
    files: Option<Vec<u8>>,
}

/// Nothing is begun or ended in the machine, and nothing is told by it.
struct Still {
    calm: OwnedRwLockWriteGuard<()>,
    /// Agents with the commands that run.
    running: Vec<(usize, u32)>,
}

/// Puts the team on the disk. The warden ends then, with the machine.
///
/// # Errors
/// Why not, for people; the team goes on then, or is paused as it was.
pub(super) async fn suspend(team: &Rc<Team>, end_commands: bool) -> Result<(), String> {
    let _held = match pause::hold(team).await {
        // Another has had it done meanwhile.
        Err(_) if team.is_kept() => return Ok(()),
        held => held?,
    };
    let was_paused = team.machine.paused().is();
    refuse_visitors(team, end_commands)?;
    pause::go_on(team).await.map_err(|error| chain(&error))?;
    let kept = put_on_disk(team, end_commands).await;
    if kept.is_err() && was_paused {
        be_paused_again(team, &kept).await?;
    }
    kept
}

/// Pauses a team that was paused before. Why it could not be kept is more to know than why that fails.
async fn be_paused_again(team: &Rc<Team>, kept: &Result<(), String>) -> Result<(), String> {
    let paused = pause::again(team).await;
    paused.map_err(|words| kept.clone().err().unwrap_or(words))
}

async fn put_on_disk(team: &Team, end_commands: bool) -> Result<(), String> {
    let work = Work::begin(&team.folder).map_err(|error| told(&error))?;
    let still = be_still(team).await?;
    // Some may have come while agents were waited for.
    let stored = match refuse_visitors(team, end_commands) {
        Ok(()) => store(team, &work).await,
        Err(words) => Err(words),
    };
    let kept = match stored {
        Ok(stored) => write(team, work, stored)
            .await
            .and_then(|work| work.publish().map_err(|error| told(&error))),
        Err(words) => {
            // Before the machine goes on: it may have filled the disk, on which everything is recorded.
            drop(work);
            Err(words)
        }
    };
    if let Err(words) = kept {
        go_on(team, still).await?;
        return Err(words);
    }
    // For good: what of it is in memory is not the team any more.
    team.stilled.replace(Some(still.calm));
    team.kept.send_replace(true);
    team.note(&Event::now("suspended", ""));
    Ok(())
}

/// Keeps the team as the beginning of others, whose directories are there and whose locks the caller holds.
///
/// # Errors
/// Why not, for people. The team goes on or is paused as before, if its machine does.
pub(super) async fn checkpoint(team: &Rc<Team>, into: &[String]) -> Result<(), String> {
    refuse_shared(&team.plan.borrow())?;
    let _held = pause::hold(team).await?;
    let was_paused = team.machine.paused().is();
    pause::go_on(team).await.map_err(|error| chain(&error))?;
    let kept = keep_for(team, into).await;
    if was_paused {
        be_paused_again(team, &kept).await?;
    }
    kept?;
    team.note(&Event::now("checkpointed", into.join(", ")));
    Ok(())
}

async fn keep_for(team: &Team, into: &[String]) -> Result<(), String> {
    let folders = into.iter().map(|name| team.state.team(name));
    let works = folders.map(|folder| Work::begin(&folder)).collect::<Result<Vec<_>, _>>();
    let works = works.map_err(|error| told(&error))?;
    let still = be_still(team).await?;
    let stored = match works.first() {
        Some(work) => store(team, work).await,
        None => Err("no team is named that could go on from it".to_owned()),
    };
    // They are of the same moment as the memory.
    let stored = match stored {
        Ok(stored) => copy_volumes(team, into).await.map(|()| stored),
        Err(words) => Err(words),
    };
    let stored = match stored {
        Ok(stored) => Ok((works, stored)),
        Err(words) => {
            // As in a suspension.
            drop(works);
            Err(words)
        }
    };
    go_on(team, still).await?;
    let (works, stored) = stored?;
    publish(team, works, stored).await
}

/// Writes what was stored for the first, and shares it with the others.
async fn publish(team: &Team, works: Vec<Work>, stored: Stored) -> Result<(), String> {
    let mut works = works.into_iter();
    let Some(first) = works.next() else { return Ok(()) };
    let first = write(team, first, stored).await?;
    for other in works {
        other
            .take_over(first.folder())
            .and_then(|()| other.publish())
            .map_err(|error| told(&error))?;
    }
    first.publish().map_err(|error| told(&error))
}

/// Writes the states and the record beside the memory.
async fn write(team: &Team, work: Work, stored: Stored) -> Result<Work, String> {
    let record = record(team)?;
    // Everything is read once for its digest: that takes time in which the others go on.
    let written = spawn_blocking(move || {
        let Stored { memory, state, files } = stored;
        work.finish(&memory, &state, files.as_deref(), record).map(|()| work)
    });
    written.await.map_err(|error| error.to_string())?.map_err(|error| told(&error))
}

fn record(team: &Team) -> Result<Record, String> {
    let used = team.gate.get().map(|gate| gate.used()).unwrap_or_default();
    let authority = team.gate.get().and_then(|gate| gate.kept_authority());
    let sealed = authority.map(|kept| {
        let bytes = serde_json::to_vec(&kept).map(zeroize::Zeroizing::new);
        let bytes = bytes.map_err(|error| error.to_string())?;
        let sealed = team.secrets.seal(saved::AUTHORITY, &bytes);
        sealed.map_err(|error| describe(&error, Some(error.remedy())))
    });
    Ok(Record {
        version: saved::VERSION,
        at_ms: now_ms(),
        plan: team.plan.borrow().clone(),
        agents: team.lives.kept((&team.rows.borrow(), &team.recipes), &used),
        authority: sealed.transpose()?,
        digests: Digests::default(),
    })
}

/// Commands of `exec` and copies have somebody who waits for them, and can't be kept.
fn refuse_visitors(team: &Team, end_commands: bool) -> Result<(), String> {
    match team.visitors.get() {
        0 => Ok(()),
        _ if end_commands => Ok(()),
        count => Err(format!(
            "{count} commands of `cloister exec` or `cloister cp` run in team {}, which would be ended\n\
             wait for them, or end them: cloister suspend --end-commands {0}",
            team.name
        )),
    }
}

/// Brings the machine to where it can be kept.
async fn be_still(team: &Team) -> Result<Still, String> {
    for _ in 0..ATTEMPTS {
        let calm = timeout(CALM_LIMIT, Arc::clone(&team.calm).write_owned()).await;
        let calm = calm.map_err(|_| {
            format!(
                "agents of team {} have been starting or ending for {} s\n\
                 try again, or see what they do: cloister ps {0}",
                team.name,
                CALM_LIMIT.as_secs()
            )
        })?;
        let running = team.lives.running();
        if detach(team, &running).await? {
            return Ok(Still { calm, running });
        }
        // Whoever waits for a command that has ended sees to that now.
        drop(calm);
        tokio::task::yield_now().await;
    }
    Err(format!(
        "the agents of team {} don't come to rest: commands end all the time, or one waits for a file that does not come\n\
         try again",
        team.name
    ))
}

/// Has the supervisor let go of the commands' output, all of which is read; `false`: one has ended, and nothing has
/// changed.
async fn detach(team: &Team, running: &[(usize, u32)]) -> Result<bool, String> {
    let taken = running.iter().map(|(agent, _)| (*agent, team.lives.take_pumps(*agent)));
    let mut pumps: Vec<(usize, Vec<Pump>)> = taken.collect();
    let commands = running.iter().map(|(_, command)| *command).collect();
    let detached = {
        let all = async {
            for pump in pumps.iter_mut().flat_map(|(_, pumps)| pumps) {
                // Closed then: the supervisor waits for that.
                pump.read_and_closed().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            detached = team.machine.detach(commands) => detached,
            () = all => return Err("the output of its agents ended".to_owned()),
        }
    };
    if let Err(error @ MachineError::NoAnswer { .. }) = &detached {
        // What it has let go of nobody knows, and nothing more is asked of it: it would never come back.
        team.machine.kill().await;
        return Err(format!("{}; it was ended", chain(error)));
    }
    if !matches!(detached, Ok(true)) {
        for (agent, pumps) in pumps {
            pumps.into_iter().for_each(|pump| team.lives.put_pump(agent, pump));
        }
    }
    detached.map_err(|error| chain(&error))
}

/// Pauses the machine and copies everything of it.
async fn store(team: &Team, work: &Work) -> Result<Stored, String> {
    team.machine.pause().await.map_err(|error| chain(&error))?;
    let memory = work.memory().map_err(|error| told(&error))?;
    let state = team.machine.save_whole(&memory).await.map_err(|error| chain(&error))?;
    let files = team.machine.save_files().await;
    let files = files.map_err(|error| describe(&error, error.remedy()))?;
    Ok(Stored { memory, state, files })
}

/// Lets the machine go on where it is, and takes its agents' output up again. Without that nobody would hear of them: then
/// it ends.
async fn go_on(team: &Team, still: Still) -> Result<(), String> {
    let result = take_up(team, &still.running).await;
    if let Err(words) = &result {
        team.machine.kill().await;
        return Err(format!("team {} does not go on: {words}", team.name));
    }
    Ok(())
}

async fn take_up(team: &Team, running: &[(usize, u32)]) -> Result<(), String> {
    if team.machine.paused().is() {
        team.machine.resume().await.map_err(|error| chain(&error))?;
    }
    let commands = running.iter().map(|(_, command)| *command).collect();
    let streams = team.machine.attach(commands).await.map_err(|error| chain(&error))?;
    for ((agent, _), streams) in running.iter().zip(streams) {
        team.read_output(*agent, streams).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Copies the team's volumes for others.
async fn copy_volumes(team: &Team, into: &[String]) -> Result<(), String> {
    let names = team.plan.borrow().volumes_in_use();
    if names.is_empty() {
        return Ok(());
    }
    let place: Option<PathBuf> = team.volumes.clone().or_else(volumes::usual_place);
    let place = place.ok_or("it is not known where volumes are")?;
    let (from, into) = (team.name.clone(), into.to_vec());
    let copied = spawn_blocking(move || {
        into.iter().try_for_each(|to| volumes::copy(&place, &from, to, &names))
    });
    let copied = copied.await.map_err(|error| error.to_string())?;
    copied.map_err(|error| format!("can't copy the team's volumes: {error}"))
}

fn told(error: &SavedError) -> String {
    describe(error, Some(error.remedy()))
}
