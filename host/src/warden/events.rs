//! What happened to a team's agents: one line of JSON each, bounded like their logs.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use cloister_protocol::agent::Notice;
use serde::{Deserialize, Serialize};

use super::log::ROTATED;
use super::recipe::AgentRecipe;
use super::team::words;
use crate::audit::record::Entry;
use crate::state::db::now_ms;

/// The file, beside the agents' logs; no agent's name has an underscore.
pub const FILE: &str = "_events.jsonl";
/// Largest file before it is rotated, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// To which agent; empty: to the team.
    pub agent: String,
    /// What: `started`, `exited`, `failed`, `restarting`, `stopped`, `skipped`, `out-of-memory`,
    /// `too-many-processes`, `exec-denied`, `notices-dropped`, `container-gone`, `output-copied`,
    /// `output-failed`, `machine-started`, `machine-ended`, `name-refused`, `egress-asked`, `egress-quota`, `egress-allowed`, `egress-observed`,
    /// `egress-denied`, `egress-failed`, `egress-ended`, `egress-left-out`,
    /// `secret-denied`, `secret-failed`.
    pub kind: String,
    /// In words.
    pub detail: String,
}

impl Event {
    /// Something that happens now.
    pub(super) fn now(kind: &str, detail: impl Into<String>) -> Self {
        let (kind, detail) = (kind.to_owned(), detail.into());
        Self { time_ms: now_ms(), agent: String::new(), kind, detail }
    }

    pub(super) fn of_notice(notice: &Notice) -> Self {
        let kind = match notice {
            Notice::OutOfMemory { .. } => "out-of-memory",
            Notice::TooManyProcesses { .. } => "too-many-processes",
            Notice::ExecDenied { .. } => "exec-denied",
            Notice::NameRefused { .. } => "name-refused",
            Notice::Dropped { .. } => "notices-dropped",
        };
        Self::now(kind, words(notice))
    }

    pub(super) fn gone() -> Self {
        Self::now("container-gone", "its container ended by itself")
    }

    /// As the audit log has it.
    pub(super) fn entry(&self) -> Entry {
        Entry::new(self.kind.clone(), self.detail.clone()).of(&self.agent)
    }

    /// The same, of an agent.
    pub(super) fn of(self, recipes: &[AgentRecipe], index: usize) -> Self {
        let agent = recipes.get(index).map(|agent| agent.name.clone()).unwrap_or_default();
        Self { agent, ..self }
    }
}

/// The file that events are written to.
#[derive(Debug)]
pub(super) struct EventLog {
    path: PathBuf,
    file: File,
    length: u64,
}

impl EventLog {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let file = open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    pub(super) fn write(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if self.length > MAX_FILE {
            let mut rotated = self.path.clone().into_os_string();
            rotated.push(ROTATED);
            std::fs::rename(&self.path, rotated)?;
            self.file = open(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(&line)?;
        self.length = self.length.saturating_add(line.len() as u64);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(folder.path()).unwrap();
        for number in 0..6_000 {
            let event = Event::now("exited", format!("{number} {}", "x".repeat(400)));
            log.write(&event).unwrap();
        }
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let last: Event = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(last.detail.starts_with("5999 "));
        let sizes: u64 =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes < 2 * MAX_FILE + 2048, "{sizes}");
    }
}
