//! What the event loop does for agents.

use cloister_protocol::agent::{AgentSpec, Notice};
use cloister_protocol::check::printable_detail;
use cloister_protocol::message::Event;

use super::Server;
use crate::agent::{Agent, Around};
use crate::command::Surroundings;
use crate::egress::Tools;

impl Server<'_> {
    /// Passes bytes to the outside and back, answers questions for names, and tells of those that were
    /// refused.
    pub(super) fn work_outside(&mut self) {
        let Surroundings { host, egress, poller, scratch, agents, events, .. } = &mut self.around;
        let mut refused = Vec::new();
        egress.turn(&mut Tools { host: *host, poller, scratch, refused: &mut refused });
        for (number, name) in refused {
            if let Some(agent) = agents.get_mut(&number) {
                agent.tell(Notice::NameRefused { name }, events);
            }
        }
    }

    /// Does something with the agent that is meant, if there is one.
    pub(super) fn with_agent(
        &mut self,
        is_meant: impl Fn(&Agent) -> bool,
        act: impl FnOnce(&mut Agent, &mut Around<'_>),
    ) {
        let Surroundings { groups, agents, egress, log, poller, events, .. } = &mut self.around;
        let mut around = Around { groups, poller, egress, log, events };
        if let Some(agent) = agents.values_mut().find(|agent| is_meant(agent)) {
            act(agent, &mut around);
        }
    }

    /// Takes agents away of which nothing is left, after their commands.
    pub(super) fn end_agents(&mut self) {
        let ending = self.around.agents.values().filter(|agent| agent.is_ending());
        let ending: Vec<u32> = ending.map(Agent::number).collect();
        for number in ending {
            let commands = self.commands.values_mut().filter(|one| one.is_of(number));
            let mut has_commands = false;
            for command in commands {
                command.agent_ends(&mut self.around);
                has_commands |= !command.has_ended();
            }
            self.with_agent(
                |agent| agent.number() == number,
                |agent, around| {
                    agent.end_when_empty(has_commands, around);
                },
            );
        }
        self.around.agents.retain(|_, agent| !agent.is_over());
    }

    pub(super) fn create_agent(&mut self, spec: &AgentSpec) -> Result<(), Event> {
        let agent = spec.agent;
        let failed = |detail: String| Event::AgentFailed { agent, detail };
        spec.validate().map_err(|broken| failed(printable_detail(&broken.to_string())))?;
        if self.around.agents.contains_key(&agent) {
            return Err(failed("the number is in use".to_owned()));
        }
        self.serial = self.serial.saturating_add(1);
        let Surroundings { groups, agents, egress, log, poller, events, .. } = &mut self.around;
        let around = Around { groups, poller, egress, log, events };
        let made = Agent::new(spec, self.serial, &mut self.common, &around)?;
        agents.insert(agent, made);
        Ok(())
    }
}
