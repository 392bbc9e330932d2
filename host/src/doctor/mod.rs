//! Whether this host can run machines: one check after the other, each with what to do.
//!
//! Nothing is concluded from a name or a flag where it can be tried: `/dev/kvm` is opened, a probe guest
//! is run, namespaces are made in a child.

mod kernel;
mod machine;

pub use kernel::landlock_abi;

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::launch::files::Files;
use crate::launch::jail::JailSpec;

/// The probe guest takes milliseconds; on an emulated host, a second.
pub const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Machines run without it, and something is worse.
    Warn,
    /// Machines can't run.
    Fail,
}

impl Status {
    /// In one word, for a table.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// A stable name, for programs.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found, for a person.
    pub found: String,
    /// What to do, when there is something to be done.
    pub remedy: Option<String>,
    /// What was found, for programs; the keys are stable.
    pub facts: Map<String, Value>,
}

impl Check {
    fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self { name, status, found: found.into(), remedy: None, facts: Map::new() }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn fact(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(key.to_owned(), value.into());
        self
    }
}

/// The version of the JSON object's layout; a key that goes or changes its meaning raises it.
pub const SCHEMA: u32 = 1;

/// All checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether machines can run here.
    pub ok: bool,
    /// This program's version.
    pub version: &'static str,
    /// In the order in which they depend on each other.
    pub checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let ok = checks.iter().all(|check| check.status != Status::Fail);
        Self { schema: SCHEMA, ok, version: env!("CARGO_PKG_VERSION"), checks }
    }
}

/// Looks at everything. Starts the probe guest with `files.vmm`, in a jail like any other machine's.
pub async fn examine(files: &Files, jail: &JailSpec) -> Report {
    let mut checks = machine::kvm(files);
    checks.extend(machine::programs(files));
    checks.push(machine::prober(files));
    checks.push(kernel::seccomp());
    checks.push(kernel::cgroup(jail));
    checks.push(kernel::namespaces());
    checks.push(kernel::landlock());
    checks.push(machine::guest(files, jail, &checks).await);
    checks.push(machine::kernel(files));
    checks.push(machine::root(files));
    checks.push(machine::memory());
    Report::new(checks)
}

#[cfg(test)]
#[path = "doctor_test.rs"]
mod tests;
