//! One connection of an agent to the outside: to the host and back.
//!
//! The kernel has taken the agent's connection before anybody was asked, so one that is refused is
//! reset at once. Nothing of the agent is read before the host has said that it is connected.

use std::os::fd::OwnedFd;

use cloister_protocol::egress::{CONNECTED, Head};
use rustix::io::{Errno, Result};
use rustix::net::{RecvFlags, Shutdown};

use crate::stream::{Held, Turn, send};

/// Reads and writes in one turn; others have their turn in between.
const STEPS_A_TURN: usize = 16;

/// A connection of an agent and its stream to the host.
#[derive(Debug)]
pub(super) struct Relay {
    agent_number: u32,
    agent: OwnedFd,
    host: OwnedFd,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The head is on its way; then the host's answer is waited for.
    Asking(Held),
    /// Bytes flow.
    Open { out: Way, back: Way },
}

/// One direction.
#[derive(Debug)]
struct Way {
    held: Held,
    /// Nothing more comes.
    ended: bool,
    /// The other side was told so.
    done: bool,
}

/// What a single step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Moved,
    Wait,
    Done,
}

impl Relay {
    /// Takes an agent's connection and one to the host that is being made.
    pub(super) fn new(head: &Head, agent: OwnedFd, host: OwnedFd) -> Result<Self> {
        let mut held = Held::new();
        held.keep(&head.encode().map_err(|_| Errno::INVAL)?);
        Ok(Self { agent_number: head.agent, agent, host, state: State::Asking(held) })
    }

    pub(super) const fn agent_number(&self) -> u32 {
        self.agent_number
    }

    pub(super) const fn agent(&self) -> &OwnedFd {
        &self.agent
    }

    pub(super) const fn host(&self) -> &OwnedFd {
        &self.host
    }

    /// Moves bytes until both sides block or the turn is over. `scratch` has a chunk's bytes.
    pub(super) fn run(&mut self, scratch: &mut [u8]) -> Turn {
        for _ in 0..STEPS_A_TURN {
            match self.step(scratch) {
                Ok(Step::Moved) => {}
                Ok(Step::Wait) => return Turn::Blocked,
                Ok(Step::Done) => return Turn::Done,
                Err(_broken) => {
                    reset(&self.agent);
                    return Turn::Done;
                }
            }
        }
        Turn::Unfinished
    }

    fn step(&mut self, scratch: &mut [u8]) -> Result<Step> {
        match &mut self.state {
            State::Asking(head) => {
                let step = ask(head, &self.host)?;
                if step == Step::Done {
                    self.state = State::Open { out: Way::new(), back: Way::new() };
                    return Ok(Step::Moved);
                }
                Ok(step)
            }
            State::Open { out, back } => {
                let first = out.step(&self.agent, &self.host, scratch)?;
                let second = back.step(&self.host, &self.agent, scratch)?;
                // The host closes both directions at once only when something went wrong: the agent
                // must not take what it has for all.
                if back.ended && !out.ended && is_gone(&self.host) {
                    return Err(Errno::CONNRESET);
                }
                Ok(match (first, second) {
                    (Step::Moved, _) | (_, Step::Moved) => Step::Moved,
                    (Step::Done, Step::Done) => Step::Done,
                    _ => Step::Wait,
                })
            }
        }
    }
}

/// Sends the head and takes the answer.
fn ask(head: &mut Held, host: &OwnedFd) -> Result<Step> {
    if !head.is_empty() {
        return match head.flush(|bytes| send(host, bytes)) {
            Ok(true) => Ok(Step::Moved),
            Ok(false) => Ok(Step::Wait),
            // Not connected yet, unless it has failed.
            Err(Errno::NOTCONN) => {
                rustix::net::sockopt::socket_error(host)??;
                Ok(Step::Wait)
            }
            Err(error) => Err(error),
        };
    }
    let mut answer = [0];
    match rustix::net::recv(host, &mut answer, RecvFlags::empty()) {
        Ok((1, _)) if answer == [CONNECTED] => Ok(Step::Done),
        Err(Errno::AGAIN) => Ok(Step::Wait),
        Err(Errno::INTR) => Ok(Step::Moved),
        Ok(_) => Err(Errno::CONNREFUSED),
        Err(error) => Err(error),
    }
}

impl Way {
    const fn new() -> Self {
        Self { held: Held::new(), ended: false, done: false }
    }

    fn step(&mut self, from: &OwnedFd, to: &OwnedFd, scratch: &mut [u8]) -> Result<Step> {
        if self.done {
            return Ok(Step::Done);
        }
        if !self.held.is_empty() {
            let all = self.held.flush(|bytes| send(to, bytes))?;
            return Ok(if all { Step::Moved } else { Step::Wait });
        }
        if self.ended {
            self.done = true;
            // The other side may be gone already; then its own direction finds that.
            let _gone = rustix::net::shutdown(to, Shutdown::Write);
            return Ok(Step::Moved);
        }
        match rustix::net::recv(from, &mut *scratch, RecvFlags::empty()) {
            Err(Errno::AGAIN) => Ok(Step::Wait),
            Err(Errno::INTR) => Ok(Step::Moved),
            Ok((0, _)) => {
                self.ended = true;
                Ok(Step::Moved)
            }
            Ok((count, _)) => {
                let bytes = scratch.get(..count).unwrap_or_default();
                self.held.pass(bytes, |bytes| send(to, bytes))?;
                Ok(Step::Moved)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the host takes nothing any more. An empty message passes nothing and tells.
fn is_gone(host: &OwnedFd) -> bool {
    send(host, &[]).is_err_and(|error| error != Errno::AGAIN)
}

/// Makes closing a connection a reset, at once.
pub(super) fn reset(agent: &OwnedFd) {
    // Without it the agent would see an end: worse than a reset, and nothing else to be done.
    let _end = rustix::net::sockopt::set_socket_linger(agent, Some(std::time::Duration::ZERO));
}
