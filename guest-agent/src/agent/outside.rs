//! An agent's ways outside: opened when its container is there, and changed while it is.

use cloister_protocol::egress::Egress as Rules;

use cloister_protocol::message::Event;
use rustix::process::Pid;

use super::{Agent, Around, State};

impl Agent {
    /// Its container is there: opens its ways outside, so that commands may be started.
    pub(super) fn made(&mut self, init: Pid, egress: Option<&Rules>, around: &mut Around<'_>) {
        let opened = egress.map_or(Ok(()), |rules| {
            around.egress.open(self.number, rules, &self.entrance.init, around.poller)
        });
        if let Err(error) = opened {
            let last = self.failed(&format!("can't open its ways outside: {error}"));
            return self.end(last, around);
        }
        self.state = State::Running { init };
        around.events.push(Event::AgentCreated { agent: self.number });
    }

    /// Other rules about the outside; whether they hold. Without a name server in its container there are none.
    pub(crate) fn set_egress(&mut self, rules: &Rules, around: &mut Around<'_>) -> bool {
        match &mut self.state {
            State::Making { spec, .. } if spec.egress.is_some() => {
                spec.egress = Some(rules.clone());
                true
            }
            State::Running { .. } => {
                around.egress.change(self.number, rules, around.poller).is_ok()
            }
            // Nothing of it reaches anything any more.
            State::Ending { .. } | State::Over => true,
            State::Making { .. } => false,
        }
    }
}
