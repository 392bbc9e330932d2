//! `cloister attach`: what agents write from now on, each line behind its agent's name.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};

use super::{TeamError, check_alive, finish, open, runtime};
use crate::cli::teams::TargetArgs;
use crate::exit_codes;
use crate::report::tell_line;
use crate::signals::Signals;
use crate::text::printable;
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;
use crate::warden::log::Source;

/// Longest line that is held back until it ends, in bytes.
const MAX_HELD: usize = 16 << 10;

/// Shows what agents write, until the team ends or a signal comes.
#[must_use]
pub fn attach(arguments: &TargetArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: &TargetArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let target = &arguments.target;
    check_alive(&state, &target.team, target.agent.as_deref())?;
    runtime()?.block_on(async {
        let mut signals = Signals::listen()
            .map_err(|source| TeamError::Setup { what: "the signal handlers", source })?;
        let agents: Vec<String> = target.agent.iter().cloned().collect();
        let mut shown = Shown::new(agents.is_empty());
        let call = Call::Attach { agents };
        let mut connection = Connection::call(&state, &target.team, &call).await?;
        loop {
            let reply = tokio::select! {
                reply = connection.reply() => reply,
                // The team runs on.
                signal = signals.end() => return Ok(exit_codes::of_signal(signal)),
            };
            if shown.reply(reply)? {
                return Ok(exit_codes::OK);
            }
        }
    })
}

/// Puts output on this process's streams, line by line.
pub(super) struct Shown {
    named: bool,
    held: HashMap<(String, Source), Vec<u8>>,
    /// A terminal must not be steered by what an agent writes to another's line.
    clean: bool,
}

impl Shown {
    pub(super) fn new(named: bool) -> Self {
        let clean = io::stdout().is_terminal() || io::stderr().is_terminal();
        Self { named, held: HashMap::new(), clean }
    }

    /// Takes a reply; whether it was the last.
    pub(super) fn reply(&mut self, reply: Result<Reply, ChannelError>) -> Result<bool, TeamError> {
        match reply {
            Ok(Reply::Output { agent, source, bytes }) => {
                self.output(agent, source, &bytes)?;
                Ok(false)
            }
            Ok(Reply::Lost { count }) => {
                tell_line(format_args!(
                    "cloister: {count} pieces of output left out here; `cloister logs` has them"
                ));
                Ok(false)
            }
            Ok(Reply::Refused { words }) => Err(TeamError::Refused(words)),
            Ok(Reply::Ended) | Err(ChannelError::Gone) => {
                self.finish()?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn output(&mut self, agent: String, source: Source, bytes: &[u8]) -> Result<(), TeamError> {
        let key = (agent, source);
        let mut held = self.held.remove(&key).unwrap_or_default();
        held.extend_from_slice(bytes);
        let end = match held.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if held.len() > MAX_HELD => held.len(),
            None => 0,
        };
        let rest = held.split_off(end);
        self.write(&key.0, source, &held)?;
        if !rest.is_empty() {
            self.held.insert(key, rest);
        }
        Ok(())
    }

    /// What has not ended in a line end.
    fn finish(&mut self) -> Result<(), TeamError> {
        for ((agent, source), bytes) in std::mem::take(&mut self.held) {
            self.write(&agent, source, &bytes)?;
        }
        Ok(())
    }

    fn write(&self, agent: &str, source: Source, bytes: &[u8]) -> Result<(), TeamError> {
        let mut text = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.named {
                text.extend_from_slice(format!("{agent} | ").as_bytes());
            }
            if self.clean && self.named {
                text.extend_from_slice(printable(line).as_bytes());
            } else {
                text.extend_from_slice(line);
            }
            if self.named && !line.ends_with(b"\n") {
                text.push(b'\n');
            }
        }
        let written = match source {
            Source::Stdout => {
                let mut output = io::stdout().lock();
                output.write_all(&text).and_then(|()| output.flush())
            }
            Source::Stderr => io::stderr().lock().write_all(&text),
        };
        written.map_err(TeamError::Output)
    }
}
