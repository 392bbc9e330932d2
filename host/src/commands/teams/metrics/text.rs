//! The figures in the text form of OpenMetrics, which Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::snapshot::{Agent, Snapshot, Team};
use crate::state::rows::{AgentStatus, TeamStatus};

/// The figures, as text.
pub(super) fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing to a text can't fail.
    encode(&mut text, &registry).ok();
    text
}

/// A figure of each team or agent: its name, what it is, and its value if there is one.
struct Figure<T, V> {
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<V>,
}

const TEAMS: [Figure<Team, u64>; 2] = [
    Figure {
        name: "cloister_team_up",
        help: "Whether the team runs",
        value: |team| Some(u64::from(team.status == TeamStatus::Running)),
    },
    Figure {
        name: "cloister_team_answered",
        help: "Whether the team said all that it was asked",
        value: |team| Some(u64::from(team.answered)),
    },
];

const GAUGES: [Figure<Agent, u64>; 5] = [
    Figure {
        name: "cloister_agent_up",
        help: "Whether the agent runs",
        value: |agent| Some(u64::from(agent.status == AgentStatus::Running)),
    },
    Figure {
        name: "cloister_agent_memory_bytes",
        help: "Memory that the agent uses",
        value: |agent| agent.usage.as_ref().map(|usage| usage.memory_bytes),
    },
    Figure {
        name: "cloister_agent_memory_peak_bytes",
        help: "Most memory that the agent has used",
        value: |agent| agent.usage.as_ref().map(|usage| usage.memory_peak_bytes),
    },
    Figure {
        name: "cloister_agent_processes",
        help: "Processes of the agent",
        value: |agent| agent.usage.as_ref().map(|usage| usage.pids),
    },
    Figure {
        name: "cloister_egress_streams",
        help: "Open streams of the agent to the outside",
        value: |agent| agent.egress.as_ref().map(|egress| egress.open),
    },
];

const COUNTERS: [Figure<Agent, u64>; 5] = [
    Figure {
        name: "cloister_agent_restarts",
        help: "How often the agent was started again",
        value: |agent| Some(agent.restarts.into()),
    },
    Figure {
        name: "cloister_agent_oom_kills",
        help: "Processes of the agent that were killed for its memory limit",
        value: |agent| agent.usage.as_ref().map(|usage| usage.oom_kills),
    },
    Figure {
        name: "cloister_egress_sent_bytes",
        help: "Bytes to the outside, of streams that have ended",
        value: |agent| agent.egress.as_ref().map(|egress| egress.sent),
    },
    Figure {
        name: "cloister_egress_received_bytes",
        help: "Bytes from the outside, of streams that have ended",
        value: |agent| agent.egress.as_ref().map(|egress| egress.received),
    },
    Figure {
        name: "cloister_egress_connects",
        help: "Connections to the outside that were made",
        value: |agent| agent.egress.as_ref().map(|egress| egress.connects),
    },
];

const SECONDS: [Figure<Agent, f64>; 3] = [
    Figure {
        name: "cloister_agent_cpu_seconds",
        help: "Processor time that the agent has used",
        value: |agent| agent.usage.as_ref().map(|usage| seconds(usage.cpu_us)),
    },
    Figure {
        name: "cloister_agent_throttled_seconds",
        help: "Time in which the agent waited for its processor limit",
        value: |agent| agent.usage.as_ref().map(|usage| seconds(usage.throttled_us)),
    },
    Figure {
        name: "cloister_egress_connect_seconds",
        help: "Time that making connections took in all, names' addresses included",
        value: |agent| agent.egress.as_ref().map(|egress| seconds(egress.connect_us)),
    },
];

/// Microseconds of half a million years have an exact value.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

const STATES: [TeamStatus; 7] = [
    TeamStatus::Starting,
    TeamStatus::Running,
    TeamStatus::Paused,
    TeamStatus::Suspended,
    TeamStatus::Ended,
    TeamStatus::Failed,
    TeamStatus::Crashed,
];

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (name, help) = ("cloister_build_info", "The version of Cloister that tells");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        ConstGauge::new(1_u64).encode(family.encode_family(&labels)?)?;

        let (name, help) = ("cloister_teams", "Teams, by how they stand");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for state in STATES {
            let count = self.teams.iter().filter(|team| team.status == state).count();
            let labels = [("status", state.word())];
            ConstGauge::new(count as u64).encode(family.encode_family(&labels)?)?;
        }
        for figure in &TEAMS {
            let (name, help) = (figure.name, figure.help);
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for team in &self.teams {
                let Some(value) = (figure.value)(team) else { continue };
                let labels = [("team", &*team.name)];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        for figure in &GAUGES {
            self.each(&mut encoder, figure, MetricType::Gauge)?;
        }
        for figure in &COUNTERS {
            self.each(&mut encoder, figure, MetricType::Counter)?;
        }
        for figure in &SECONDS {
            let (name, help) = (figure.name, figure.help);
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, value) in self.values(figure) {
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let (name, help) = ("cloister_egress_events", "What happened to streams and requests");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, agent) in self.agents() {
            for (kind, count) in agent.egress.iter().flat_map(|egress| &egress.events) {
                let [team, agent] = labels;
                let labels = [team, agent, ("kind", kind)];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

type Labels<'a> = [(&'static str, &'a str); 2];

impl Snapshot {
    fn agents(&self) -> impl Iterator<Item = (Labels<'_>, &Agent)> {
        self.teams.iter().flat_map(|team| {
            team.agents
                .iter()
                .map(|agent| ([("team", &*team.name), ("agent", &*agent.name)], agent))
        })
    }

    fn values<V>(&self, figure: &Figure<Agent, V>) -> impl Iterator<Item = (Labels<'_>, V)> {
        let value = figure.value;
        self.agents().filter_map(move |(labels, agent)| Some((labels, value(agent)?)))
    }

    fn each(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        figure: &Figure<Agent, u64>,
        kind: MetricType,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(figure.name, figure.help, None, kind)?;
        for (labels, value) in self.values(figure) {
            let place = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(place)?,
                _ => ConstGauge::new(value).encode(place)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "text_test.rs"]
mod tests;
