//! Finds out which pages a machine writes that goes on from a template, up to the end of a first command: one of them runs
//! while KVM notes them, also those in which nothing changes. Nothing of it stays but the pages' numbers.

use std::fs::File;
use std::sync::Arc;

use cloister_vmm::spec::WorkingSet;
use tokio::time::timeout;

use super::key::Key;
use super::{TemplateError, build};
use crate::launch::place::sealed;
use crate::launch::{LaunchSpec, Origin, Saved};
use crate::machine::{ANSWER_LIMIT, ExecError, ExecSpec, Machine, MachineError, StdioSpec};

/// The least that writes something.
const COMMAND: [&str; 2] = ["echo", "x"];

/// Runs a machine like `spec` that goes on from this memory, which is only for reading, and this state.
///
/// # Errors
/// It does not start, or ends by itself.
pub(super) async fn rehearse(
    spec: &LaunchSpec,
    key: &Key,
    memory: File,
    state: &[u8],
) -> Result<WorkingSet, TemplateError> {
    let state = sealed("template", state).map_err(TemplateError::Rehearsal)?;
    let saved = Saved {
        fingerprint: key.fingerprint(),
        memory: memory.into(),
        state,
        written: WorkingSet::default(),
    };
    let origin = Origin::Rehearsal { saved: Arc::new(saved), shared: key.shares };
    // Nobody waits for it who would need a process out of the pool.
    let rehearsed = LaunchSpec { origin, pool: None, shares: Vec::new(), ..spec.clone() };
    let machine =
        Machine::start(rehearsed).await.map_err(|error| TemplateError::Start(Box::new(error)))?;
    let acted = act(&machine).await;
    machine.stop().await;
    let written = acted.map_err(TemplateError::Save)?;
    list(&written, spec.vm.memory_bytes())
        .ok_or(TemplateError::Damaged("no list of its pages came"))
}

/// The vmm's list. It ran a guest meanwhile, so its word is a stranger's.
fn list(bytes: &[u8], memory_bytes: u64) -> Option<WorkingSet> {
    let (list, []) = postcard::take_from_bytes::<WorkingSet>(bytes).ok()? else { return None };
    list.validate(memory_bytes).ok().map(|()| list)
}

/// What nearly every machine does first: it runs a command. Then the vmm's list of pages.
async fn act(machine: &Machine) -> Result<Vec<u8>, MachineError> {
    let mut spec = ExecSpec::new(COMMAND);
    spec.stdio = StdioSpec::Pipes { stdin: false };
    match machine.exec(spec).await {
        Ok(mut command) => {
            let ended = timeout(ANSWER_LIMIT, command.wait()).await;
            ended.unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))?;
        }
        Err(ExecError::Machine(error)) => return Err(error),
        // A root of somebody's own need not have the program. What the machine wrote until then counts all the same.
        Err(_) => {}
    }
    build::save(machine).await
}
