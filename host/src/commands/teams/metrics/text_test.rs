use cloister_protocol::agent::Usage;

use super::*;
use crate::egress::totals::Totals;

fn agent(name: &str, status: AgentStatus) -> Agent {
    Agent { name: name.to_owned(), status, restarts: 0, usage: None, egress: None }
}

fn snapshot() -> Snapshot {
    let usage = Usage {
        memory_bytes: 5 << 20,
        memory_peak_bytes: 6 << 20,
        cpu_us: 1_500_000,
        pids: 3,
        oom_kills: 2,
        ..Usage::default()
    };
    let egress = Totals {
        events: [("egress-allowed".to_owned(), 7), ("egress-denied".to_owned(), 1)].into(),
        open: 2,
        sent: 100,
        received: 200,
        connects: 7,
        connect_us: 250_000,
    };
    let busy = Agent {
        restarts: 4,
        usage: Some(usage),
        egress: Some(egress),
        ..agent("scout", AgentStatus::Running)
    };
    let runs = Team {
        name: "research".to_owned(),
        status: TeamStatus::Running,
        answered: true,
        agents: vec![busy, agent("idle", AgentStatus::Waiting)],
    };
    let ended = Team {
        name: "old".to_owned(),
        status: TeamStatus::Ended,
        answered: true,
        agents: Vec::new(),
    };
    Snapshot { teams: vec![runs, ended] }
}

#[test]
fn every_figure_has_its_line() {
    let text = text(snapshot());
    for line in [
        "# TYPE cloister_teams gauge",
        "cloister_teams{status=\"running\"} 1",
        "cloister_teams{status=\"ended\"} 1",
        "cloister_teams{status=\"crashed\"} 0",
        "cloister_team_up{team=\"research\"} 1",
        "cloister_team_up{team=\"old\"} 0",
        "cloister_agent_up{team=\"research\",agent=\"scout\"} 1",
        "cloister_agent_up{team=\"research\",agent=\"idle\"} 0",
        "cloister_agent_memory_bytes{team=\"research\",agent=\"scout\"} 5242880",
        "# TYPE cloister_agent_restarts counter",
        "cloister_agent_restarts_total{team=\"research\",agent=\"scout\"} 4",
        "cloister_agent_oom_kills_total{team=\"research\",agent=\"scout\"} 2",
        "cloister_agent_cpu_seconds_total{team=\"research\",agent=\"scout\"} 1.5",
        "cloister_egress_streams{team=\"research\",agent=\"scout\"} 2",
        "cloister_egress_received_bytes_total{team=\"research\",agent=\"scout\"} 200",
        "cloister_egress_connect_seconds_total{team=\"research\",agent=\"scout\"} 0.25",
        "cloister_egress_events_total{team=\"research\",agent=\"scout\",kind=\"egress-denied\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    // What is not known is left out, and is no zero.
    assert!(!text.contains("memory_bytes{team=\"research\",agent=\"idle\"}"), "{text}");
}

#[test]
fn a_host_without_teams_has_figures_too() {
    let text = text(Snapshot::default());
    assert!(text.contains("cloister_build_info{version=") && text.ends_with("# EOF\n"), "{text}");
}
