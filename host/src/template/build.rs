//! Builds a template: boots a machine up to its supervisor's hello, stops it there and keeps it. Then a first machine goes
//! on from it, so that it is known which pages they write.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use cloister_vmm::spec::WorkingSet;

use super::about::Places;
use super::key::Key;
use super::store::{Content, Store};
use super::{TemplateError, content, huge, rehearse};
use crate::launch::{LaunchSpec, Origin, memory};
use crate::machine::{Machine, MachineError, StartError};

/// Builds the template of a machine like `spec`, with nothing of what it shall do: no share, no command. Returns why its
/// first machine did not run: others go on from it, only slower.
pub(super) async fn build(
    spec: &LaunchSpec,
    store: &Store,
    key: &Key,
) -> Result<Option<TemplateError>, TemplateError> {
    let start = |error: StartError| TemplateError::Start(Box::new(error));
    let memory = memory::guest_memory(spec.vm.memory_bytes())
        .map_err(|error| start(StartError::Launch(error.into())))?;
    let memory = Arc::new(memory);
    let origin = Origin::Savable {
        fingerprint: key.fingerprint(),
        memory: Arc::clone(&memory),
        shared: key.shares,
    };
    let savable = LaunchSpec { origin, pool: None, shares: Vec::new(), ..spec.clone() };
    let machine = Machine::start(savable).await.map_err(start)?;
    let state = save(&machine).await;
    machine.stop().await;
    let state = state.map_err(TemplateError::Save)?;
    let memory = memory.as_fd().try_clone_to_owned();
    let memory = File::from(memory.map_err(TemplateError::io("keep memory of", store.path()))?);
    let work = store.begin()?;
    let (kept, stored_bytes) = work.file("memory", |file| content::copy(&memory, file))?;
    let (kept_state, ()) = work.file("state", |mut file| file.write_all(&state))?;
    let rehearsed = rehearse::rehearse(spec, key, work.reader("memory")?, &state).await;
    let (written, failure) = match rehearsed {
        Ok(written) => (written, None),
        Err(error) => (WorkingSet::default(), Some(error)),
    };
    if failure.is_none() {
        huge::gather(&kept, &written).map_err(work.error("map a file in"))?;
    }
    let digest = |file: &File| content::digest(file).map_err(work.error("read"));
    let content =
        Content { memory: digest(&kept)?, stored_bytes, state: digest(&kept_state)?, written };
    work.publish(key, Places::of(&spec.files), &content)?;
    Ok(failure)
}

/// Stops the machine where its supervisor waits for a host, and reads its state.
pub(super) async fn save(machine: &Machine) -> Result<Vec<u8>, MachineError> {
    machine.pause().await?;
    machine.save().await
}
