//! What an agent's operator wants to know: bounds that were reached, programs that were denied.
//! The kernel counts, and tells when a count changes; nothing is asked for in between.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cloister_protocol::agent::Notice;
use cloister_protocol::message::Event;
use rustix::io::Result;

use super::group::{AgentGroup, count};
use crate::poller::AgentPart;

/// Most notices of an agent in one [`WINDOW`]; what is over is counted. Bounds what a hostile agent
/// can make the host read.
const MAX_IN_WINDOW: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// What is watched for an agent, and how much of it was told.
#[derive(Debug)]
pub(super) struct Notices {
    memory: Option<Counter>,
    processes: Option<Counter>,
    window: Option<Instant>,
    in_window: u32,
    dropped: u64,
}

/// A count of the kernel's.
#[derive(Debug)]
struct Counter {
    file: OwnedFd,
    name: &'static str,
    last: u64,
}

impl Counter {
    fn new(file: OwnedFd, name: &'static str) -> Self {
        let last = count(&file, name);
        Self { file, name, last }
    }

    /// By how much it grew since it was asked last.
    fn grown(&mut self) -> u64 {
        let now = count(&self.file, self.name);
        now.saturating_sub(std::mem::replace(&mut self.last, now))
    }
}

impl Notices {
    pub(super) fn open(group: &AgentGroup) -> Result<Self> {
        let memory = group.memory_events()?.map(|file| Counter::new(file, "oom_kill"));
        let processes = group.pids_events()?.map(|file| Counter::new(file, "max"));
        Ok(Self { memory, processes, window: None, in_window: 0, dropped: 0 })
    }

    /// What has an event when a count changes.
    pub(super) fn files(&self) -> impl Iterator<Item = (&OwnedFd, AgentPart)> {
        let memory = self.memory.iter().map(|one| (&one.file, AgentPart::Memory));
        memory.chain(self.processes.iter().map(|one| (&one.file, AgentPart::Processes)))
    }

    pub(super) fn memory(&mut self, agent: u32, events: &mut Vec<Event>) {
        let kills = self.memory.as_mut().map_or(0, Counter::grown);
        if kills > 0 {
            self.tell(agent, Notice::OutOfMemory { kills }, Instant::now(), events);
        }
    }

    pub(super) fn processes(&mut self, agent: u32, events: &mut Vec<Event>) {
        let refused = self.processes.as_mut().map_or(0, Counter::grown);
        if refused > 0 {
            self.tell(agent, Notice::TooManyProcesses { refused }, Instant::now(), events);
        }
    }

    pub(super) fn note(&mut self, agent: u32, notice: Notice, events: &mut Vec<Event>) {
        self.tell(agent, notice, Instant::now(), events);
    }

    /// What the counts came to at the end.
    pub(super) fn last(&mut self, agent: u32, events: &mut Vec<Event>) {
        self.memory(agent, events);
        self.processes(agent, events);
        self.tell_dropped(agent, events);
    }

    fn tell(&mut self, agent: u32, notice: Notice, now: Instant, events: &mut Vec<Event>) {
        let begin = *self.window.get_or_insert(now);
        if now.duration_since(begin) >= WINDOW {
            self.window = Some(now);
            self.in_window = 0;
            self.tell_dropped(agent, events);
        }
        if self.in_window >= MAX_IN_WINDOW {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.in_window += 1;
        events.push(Event::AgentNotice { agent, notice });
    }

    fn tell_dropped(&mut self, agent: u32, events: &mut Vec<Event>) {
        let count = std::mem::take(&mut self.dropped);
        if count > 0 {
            events.push(Event::AgentNotice { agent, notice: Notice::Dropped { count } });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cloister_protocol::agent::Notice;
    use cloister_protocol::message::Event;

    use super::{MAX_IN_WINDOW, Notices, WINDOW};

    #[test]
    fn a_flood_is_counted_and_not_told() {
        let mut notices =
            Notices { memory: None, processes: None, window: None, in_window: 0, dropped: 0 };
        let denied = || Notice::ExecDenied { path: b"/bin/x".to_vec() };
        let (mut events, begin) = (Vec::new(), Instant::now());
        for _ in 0..1000 {
            notices.tell(7, denied(), begin, &mut events);
        }
        assert_eq!(events.len(), usize::try_from(MAX_IN_WINDOW).unwrap());
        events.clear();
        notices.tell(7, denied(), begin + WINDOW, &mut events);
        let count = 1000 - u64::from(MAX_IN_WINDOW);
        assert_eq!(
            events,
            [Notice::Dropped { count }, denied()]
                .map(|notice| Event::AgentNotice { agent: 7, notice })
        );
        events.clear();
        notices.last(7, &mut events);
        assert_eq!(events, []);
    }
}
