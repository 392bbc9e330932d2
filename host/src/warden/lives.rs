//! Where each agent of the team is in its life, and who reads its output: what is needed of it when the team is kept.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::agent::{Begin, Next};
use super::output::Pump;
use super::recipe::AgentRecipe;
use crate::machine::Command;
use crate::saved::{Life, Phase};
use crate::state::rows::AgentRow;

/// What an agent does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Doing {
    /// It waits for others.
    #[default]
    Waiting,
    /// It is to start.
    Starting,
    /// Its command runs.
    Running(u32),
    /// It is started again then.
    BackOff(Instant),
    /// Nothing.
    Resting,
}

#[derive(Debug, Default)]
struct One {
    doing: Doing,
    restarts: u32,
    deadline: Option<Instant>,
    pumps: Vec<Pump>,
}

/// Of all agents.
#[derive(Debug)]
pub(super) struct Lives(RefCell<Vec<One>>);

impl Lives {
    /// Of so many that have not begun.
    pub(super) fn new(count: usize) -> Self {
        Self(RefCell::new((0..count).map(|_| One::default()).collect()))
    }

    /// An agent does this from now on.
    pub(super) fn note(
        &self,
        agent: usize,
        doing: Doing,
        restarts: u32,
        deadline: Option<Instant>,
    ) {
        if let Some(one) = self.0.borrow_mut().get_mut(agent) {
            (one.doing, one.restarts, one.deadline) = (doing, restarts, deadline);
        }
    }

    /// An agent's output is read by one more.
    pub(super) fn put_pump(&self, agent: usize, pump: Pump) {
        if let Some(one) = self.0.borrow_mut().get_mut(agent) {
            one.pumps.push(pump);
        }
    }

    /// All that read an agent's output.
    pub(super) fn take_pumps(&self, agent: usize) -> Vec<Pump> {
        let mut all = self.0.borrow_mut();
        all.get_mut(agent).map(|one| std::mem::take(&mut one.pumps)).unwrap_or_default()
    }

    /// Agents whose commands run, with these.
    pub(super) fn running(&self) -> Vec<(usize, u32)> {
        let all = self.0.borrow();
        let running = all.iter().enumerate().filter_map(|(agent, one)| match one.doing {
            Doing::Running(command) => Some((agent, command)),
            _ => None,
        });
        running.collect()
    }

    /// As they are kept; `rows` and `recipes` are the agents', `used` what they have used of their quotas.
    pub(super) fn kept(
        &self,
        (rows, recipes): (&[AgentRow], &[AgentRecipe]),
        used: &[(u64, u64)],
    ) -> Vec<Life> {
        let now = Instant::now();
        let left = |end: Instant| {
            u64::try_from(end.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
        };
        let all = self.0.borrow();
        let used = used.iter().copied().chain(std::iter::repeat((0, 0)));
        let life = |(((row, recipe), one), used): (((&AgentRow, &AgentRecipe), &One), _)| Life {
            row: row.clone(),
            phase: match one.doing {
                Doing::Waiting => Phase::Waiting,
                Doing::Starting => Phase::Starting,
                Doing::Running(command) => Phase::Running { command },
                Doing::BackOff(end) => Phase::BackOff { left_ms: left(end) },
                Doing::Resting => Phase::Resting,
            },
            restarts: one.restarts,
            left_ms: one.deadline.map(left),
            used,
            has_network: recipe.spec.egress.is_some(),
            trusts: recipe.trusts,
        };
        rows.iter().zip(recipes).zip(all.iter()).zip(used).map(life).collect()
    }
}

/// Where an agent that was kept begins; `command`: what runs of it. A life whose command is not there has ended.
pub(super) fn begin(life: &Life, command: Option<Command>) -> Begin {
    let next = match (life.phase, command) {
        (Phase::Running { .. }, Some(command)) => Next::GoOn(Box::new(command)),
        (Phase::Waiting, _) => Next::Wait,
        (Phase::Starting, _) => Next::Live,
        (Phase::BackOff { left_ms }, _) => Next::BackOff(Duration::from_millis(left_ms)),
        (Phase::Resting | Phase::Running { .. }, _) => Next::Rest,
    };
    let deadline =
        life.left_ms.and_then(|left| Instant::now().checked_add(Duration::from_millis(left)));
    Begin { next, deadline, restarts: life.restarts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(phase: Phase, left_ms: Option<u64>) -> Life {
        let row = AgentRow::new("a".into(), "tools".into());
        Life { row, phase, restarts: 3, left_ms, used: (0, 0), has_network: false, trusts: false }
    }

    #[test]
    fn an_agent_begins_where_it_was() {
        let next = |phase| begin(&life(phase, None), None).next;
        assert!(matches!(next(Phase::Waiting), Next::Wait));
        assert!(matches!(next(Phase::Starting), Next::Live));
        assert!(matches!(next(Phase::Resting), Next::Rest));
        let back_off = next(Phase::BackOff { left_ms: 1500 });
        assert!(matches!(back_off, Next::BackOff(wait) if wait == Duration::from_millis(1500)));
        // Its command is not there.
        assert!(matches!(next(Phase::Running { command: 7 }), Next::Rest));
    }

    #[test]
    fn what_is_left_of_a_time_limit_goes_on() {
        let begun = begin(&life(Phase::Starting, Some(60_000)), None);
        let left = begun.deadline.unwrap().saturating_duration_since(Instant::now());
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
        assert_eq!(begun.restarts, 3);
        assert!(begin(&life(Phase::Waiting, None), None).deadline.is_none());
        // One of a record that nobody can have written ends nothing too early.
        assert!(
            begin(&life(Phase::Waiting, Some(u64::MAX)), None)
                .deadline
                .is_none_or(|end| end > Instant::now())
        );
    }
}
