//! Hostile guest kernels against the real vmm, in its jail.

use std::time::{Duration, Instant};

use cloister_prober::wire::Case;
use cloister_vmm::control::{Command, Event};
use tokio::time::timeout;

use super::bed::Bed;
use super::place::machine;
use super::report::Seen;
use super::{Progress, START_LIMIT};
use crate::control::{ControlError, Packet};
use crate::launch::{LaunchSpec, Launched};
use crate::report::chain;
use crate::text::printable_line;

/// How long a guest that does not end by itself attacks before its vmm is asked whether it still answers.
const ATTACK_TIME: Duration = Duration::from_millis(200);
/// How often it is asked.
const QUESTIONS: usize = 3;
/// How long an answer may take, under an attack without end and on an emulated host.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How long the process may take to end that has said goodbye.
const END_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(bed: &Bed<'_>, cases: &[Case], progress: &mut Progress<'_>) {
    for case in cases {
        let seen = match attack(bed, case).await {
            Ok(seen) => seen,
            Err(why) => Seen::not_run(&why),
        };
        progress.add(case, vec![seen]);
    }
}

async fn attack(bed: &Bed<'_>, case: &Case) -> Result<Seen, String> {
    let kernel = bed.kernel(&case.name).await.map_err(|error| error.to_string())?;
    let mut spec = LaunchSpec::new(bed.files(kernel), machine(String::new()));
    spec.jail = bed.wish.jail.clone();
    if case.shares {
        spec.shares = bed.shares().map_err(|error| error.to_string())?;
    }
    let prepared = spec.prepare(None).map_err(|error| chain(&error))?;
    let mut guest = Guest {
        launched: prepared.start().await.map_err(|error| chain(&error))?,
        begun: Instant::now(),
        refused: 0,
        answered: false,
        ended: None,
    };
    let watched = timeout(START_LIMIT, guest.watch(case.goes_on)).await;
    Ok(match watched {
        Err(_) => {
            guest.launched.process.end(Duration::ZERO).await;
            Seen::new(false, format!("the vmm did not end within {} s", START_LIMIT.as_secs()))
        }
        Ok(Err(why)) => {
            let status = guest.launched.process.end(END_LIMIT).await;
            let words = printable_line(&String::from_utf8_lossy(&guest.launched.process.stderr()));
            let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
            Seen::new(false, format!("{why}; the vmm ended with {status} {words}"))
        }
        Ok(Ok(())) => guest.judge(case).await,
    })
}

struct Guest {
    launched: Launched,
    begun: Instant,
    refused: u64,
    answered: bool,
    ended: Option<cloister_vmm::exit::Exit>,
}

impl Guest {
    /// Until the vmm has told its end.
    async fn watch(&mut self, goes_on: bool) -> Result<(), String> {
        match self.next().await? {
            Event::Running(_) => {}
            Event::Exited(exit) => {
                self.ended = Some(exit);
                return Ok(());
            }
            other => return Err(format!("the vmm said {other:?}")),
        }
        if goes_on {
            // What is attacked meanwhile is not idle: connections are refused as they come.
            match timeout(ATTACK_TIME, self.until_event()).await {
                Err(_) => {}
                // Its case says whether it may.
                Ok(Ok(Event::Exited(exit))) => {
                    self.ended = Some(exit);
                    return Ok(());
                }
                Ok(event) => return Err(format!("the vmm said {:?}", event?)),
            }
            for _ in 0..QUESTIONS {
                self.send(&Command::Stats).await?;
                let answer = timeout(ANSWER_LIMIT, self.until_event()).await;
                match answer.map_err(|_| "the vmm did not answer".to_owned())?? {
                    Event::Stats(_) => {}
                    other => return Err(format!("the vmm said {other:?}")),
                }
            }
            self.answered = true;
            self.send(&Command::Stop).await?;
        }
        match self.until_event().await? {
            Event::Exited(exit) => self.ended = Some(exit),
            other => return Err(format!("the vmm said {other:?}")),
        }
        Ok(())
    }

    /// The next event that is no connection; those are refused.
    async fn until_event(&mut self) -> Result<Event, String> {
        loop {
            match self.next().await? {
                Event::Incoming { id, .. } => {
                    self.refused += 1;
                    self.send(&Command::Refuse { id }).await?;
                }
                event => return Ok(event),
            }
        }
    }

    async fn next(&self) -> Result<Event, String> {
        match self.launched.control.receive().await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err("the vmm closed its control socket".to_owned()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn send(&self, command: &Command) -> Result<(), String> {
        let packet = Packet::new(command, Vec::new()).map_err(|error| chain(&error))?;
        match self.launched.control.send(&packet).await {
            // It has just ended; what it said last is still to be read.
            Ok(()) | Err(ControlError::Send(_)) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn judge(&mut self, case: &Case) -> Seen {
        let status = self.launched.process.end(END_LIMIT).await;
        let time = self.begun.elapsed().as_millis();
        let Some(exit) = &self.ended else { return Seen::unexpected("it told no end") };
        let code = exit.code as u8;
        let same = status.and_then(|status| status.code()) == Some(i32::from(code));
        let mut words =
            format!("{:?} ({}) after {time} ms", exit.code, printable_line(&exit.detail));
        if self.refused > 0 {
            words.push_str(&format!(", {} connections refused", self.refused));
        }
        if self.answered {
            words.push_str(", and the vmm answered meanwhile");
        }
        if !same {
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            return Seen::new(false, format!("{words}; the process ended otherwise: {status}"));
        }
        if case.exits.contains(&code) { Seen::new(true, words) } else { Seen::unexpected(words) }
    }
}
