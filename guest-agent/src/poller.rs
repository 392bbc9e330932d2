//! What the event loop waits for: descriptors, and who each belongs to.
//!
//! Everything is edge-triggered and registered once: a source is worked on until it would block,
//! so a stream costs no system call beside its reads and writes. What stops earlier, to let others
//! have their turn, must put itself on the loop's list of unfinished work.

use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Result;

/// Most events taken at once; the rest comes with the next turn.
const BATCH: usize = 64;

/// Whose descriptor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The control connection.
    Control,
    /// The signal descriptor: a child changed its state.
    Children,
    /// The time within which all must stand still.
    Freezing,
    /// A part of the command with this serial number.
    Command(u64, Part),
    /// A part of the agent with this serial number.
    Agent(u64, AgentPart),
    /// A side of the way outside with this serial number.
    Egress(u64, EgressPart),
}

/// A side of a way outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EgressPart {
    /// A socket in the agent's network namespace.
    Agent,
    /// The stream to the host.
    Host,
}

/// A part of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentPart {
    /// Where its init tells how the making of its container goes.
    Report,
    /// Its control group's events.
    Group,
    /// The count of processes that were killed for want of memory.
    Memory,
    /// The count of processes that were refused.
    Processes,
}

/// A part of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The pipe that tells whether the program was executed.
    Report,
    /// The time limit.
    Timer,
    /// Its control group's events.
    Group,
    /// Programs that it is about to execute, and that the supervisor is asked about.
    Asked,
    /// An end of the stream with this number.
    Stream(u8),
}

/// An `epoll` instance.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(BATCH) })
    }

    /// Tells of everything that happens to `fd` until it is closed.
    pub(crate) fn watch(&self, fd: impl AsFd, owner: Owner) -> Result<()> {
        let flags =
            EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, fd, EventData::new_u64(owner.token()), flags)
    }

    /// Waits until something has happened, or only looks when there is work left.
    pub(crate) fn wait(&mut self, work_left: bool) -> Result<Vec<Owner>> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), work_left.then_some(&now))
        {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(self.events.iter().filter_map(|event| Owner::from_token(event.data.u64())).collect())
    }
}

impl Owner {
    const CONTROL: u64 = 0;
    const CHILDREN: u64 = 1;
    const FREEZING: u64 = 2;
    const REPORT: u8 = 0xff;
    const TIMER: u8 = 0xfe;
    const GROUP: u8 = 0xfd;
    const ASKED: u8 = 0xfc;
    const AGENT_REPORT: u8 = 0xef;
    const AGENT_GROUP: u8 = 0xee;
    const AGENT_MEMORY: u8 = 0xed;
    const AGENT_PROCESSES: u8 = 0xec;
    const EGRESS_AGENT: u8 = 0xdf;
    const EGRESS_HOST: u8 = 0xde;

    /// Serial number and part in one word; serial numbers begin with 1.
    const fn token(self) -> u64 {
        match self {
            Self::Control => Self::CONTROL,
            Self::Children => Self::CHILDREN,
            Self::Freezing => Self::FREEZING,
            Self::Command(serial, part) => {
                let part = match part {
                    Part::Report => Self::REPORT,
                    Part::Timer => Self::TIMER,
                    Part::Group => Self::GROUP,
                    Part::Asked => Self::ASKED,
                    Part::Stream(index) => index,
                };
                (serial << 8) | part as u64
            }
            Self::Agent(serial, part) => {
                let part = match part {
                    AgentPart::Report => Self::AGENT_REPORT,
                    AgentPart::Group => Self::AGENT_GROUP,
                    AgentPart::Memory => Self::AGENT_MEMORY,
                    AgentPart::Processes => Self::AGENT_PROCESSES,
                };
                (serial << 8) | part as u64
            }
            Self::Egress(serial, part) => {
                let part = match part {
                    EgressPart::Agent => Self::EGRESS_AGENT,
                    EgressPart::Host => Self::EGRESS_HOST,
                };
                (serial << 8) | part as u64
            }
        }
    }

    fn from_token(token: u64) -> Option<Self> {
        let [part, ..] = token.to_le_bytes();
        let agent = |part| Some(Self::Agent(token >> 8, part));
        let part = match (token >> 8, part) {
            (0, 0) => return Some(Self::Control),
            (0, 1) => return Some(Self::Children),
            (0, 2) => return Some(Self::Freezing),
            (0, _) => return None,
            (_, Self::REPORT) => Part::Report,
            (_, Self::TIMER) => Part::Timer,
            (_, Self::GROUP) => Part::Group,
            (_, Self::ASKED) => Part::Asked,
            (_, Self::AGENT_REPORT) => return agent(AgentPart::Report),
            (_, Self::AGENT_GROUP) => return agent(AgentPart::Group),
            (_, Self::AGENT_MEMORY) => return agent(AgentPart::Memory),
            (_, Self::AGENT_PROCESSES) => return agent(AgentPart::Processes),
            (_, Self::EGRESS_AGENT) => return Some(Self::Egress(token >> 8, EgressPart::Agent)),
            (_, Self::EGRESS_HOST) => return Some(Self::Egress(token >> 8, EgressPart::Host)),
            (_, index) => Part::Stream(index),
        };
        Some(Self::Command(token >> 8, part))
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentPart, EgressPart, Owner, Part};

    #[test]
    fn tokens_come_back() {
        for owner in [
            Owner::Control,
            Owner::Children,
            Owner::Freezing,
            Owner::Command(1, Part::Report),
            Owner::Command(2, Part::Timer),
            Owner::Command(300, Part::Group),
            Owner::Command(u64::MAX >> 8, Part::Stream(2)),
            Owner::Command(3, Part::Asked),
            Owner::Agent(3, AgentPart::Report),
            Owner::Agent(3, AgentPart::Group),
            Owner::Agent(3, AgentPart::Memory),
            Owner::Agent(3, AgentPart::Processes),
            Owner::Egress(4, EgressPart::Agent),
            Owner::Egress(4, EgressPart::Host),
        ] {
            assert_eq!(Owner::from_token(owner.token()), Some(owner));
        }
    }
}
