//! How many streams there are and came lately, and what is told of them: so that no agent drowns out the others.

use std::time::Instant;

use super::limits::{
    MAX_EVENTS, MAX_NEW_AGENT, MAX_NEW_TEAM, MAX_REQUEST_RECORDS, MAX_STREAMS_AGENT,
    MAX_STREAMS_TEAM, WINDOW,
};

/// Of all agents, and of the team.
#[derive(Debug)]
pub(super) struct Counts {
    agents: Vec<Count>,
    team: Count,
}

#[derive(Clone, Debug)]
struct Count {
    open: usize,
    since: Instant,
    new: u32,
    events: u32,
    requests: u32,
    left_out: u64,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { open: 0, since: now, new: 0, events: 0, requests: 0, left_out: 0 }
    }

    /// Begins a new window when the last is over: how many events the last left out.
    fn turn(&mut self, now: Instant) -> u64 {
        if now.duration_since(self.since) < WINDOW {
            return 0;
        }
        let left_out = self.left_out;
        *self = Self { open: self.open, ..Self::new(now) };
        left_out
    }
}

impl Counts {
    pub(super) fn new(agents: usize) -> Self {
        let count = Count::new(Instant::now());
        Self { agents: vec![count.clone(); agents], team: count }
    }

    /// Streams of each agent that are open.
    pub(super) fn open(&self) -> impl Iterator<Item = u64> {
        self.agents.iter().map(|count| count.open as u64)
    }

    /// One more stream of an agent; [`Self::leave`] takes it back.
    pub(super) fn enter(&mut self, agent: usize) -> Result<(), &'static str> {
        let now = Instant::now();
        let Self { agents, team } = self;
        let Some(own) = agents.get_mut(agent) else { return Err("there is no such agent") };
        let own_left_out = own.turn(now);
        // Events that were left out are told with the next one.
        own.left_out = own.left_out.saturating_add(own_left_out);
        team.turn(now);
        if own.open >= MAX_STREAMS_AGENT || team.open >= MAX_STREAMS_TEAM {
            return Err("too many streams at once");
        }
        if own.new >= MAX_NEW_AGENT || team.new >= MAX_NEW_TEAM {
            return Err("too many new streams in a short time");
        }
        for count in [own, team] {
            count.open += 1;
            count.new += 1;
        }
        Ok(())
    }

    /// One less.
    pub(super) fn leave(&mut self, agent: usize) {
        self.team.open = self.team.open.saturating_sub(1);
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.open = agent.open.saturating_sub(1);
        }
    }

    /// Counts something to be told of an agent, `frequent` or not: how many are to be told as left out before it;
    /// `None`: it is left out itself.
    pub(super) fn event(&mut self, agent: usize, frequent: bool) -> Option<u64> {
        let own = self.agents.get_mut(agent)?;
        let before = own.turn(Instant::now());
        let (count, most) = if frequent {
            (&mut own.requests, MAX_REQUEST_RECORDS)
        } else {
            (&mut own.events, MAX_EVENTS)
        };
        *count = count.saturating_add(1);
        if *count > most {
            own.left_out = own.left_out.saturating_add(1);
            return None;
        }
        let first = own.events.saturating_add(own.requests) == 1;
        Some(before.saturating_add(if first { std::mem::take(&mut own.left_out) } else { 0 }))
    }
}
