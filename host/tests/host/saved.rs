//! Machines that are saved with their memory and go on, with the fake vmm.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::harness::Installation;
use super::machine::spec;
use cloister::launch::{Carried, LaunchSpec, Origin, Saved};
use cloister::machine::{ExecSpec, Machine, MachineError, SaveError};
use cloister_protocol::message::ExitStatus;
use cloister_vmm::spec::{ExtentError, WorkingSet};

async fn start(installation: &Installation) -> Machine {
    let spec = LaunchSpec { savable: true, ..spec(installation) };
    Machine::start(spec).await.expect("a machine")
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_goes_on_from_what_was_saved_of_another() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    machine.pause().await.expect("a pause");
    let path = installation.path("memory");
    let memory = File::create_new(&path).expect("a file");
    let state = machine.save_whole(&memory).await.expect("a saved machine");
    machine.stop().await;
    assert_eq!(memory.metadata().expect("its length").len(), 64 << 20);
    let memory = File::open(&path).expect("the file");
    let mut page = [0; 8192];
    memory.read_exact_at(&mut page, 0).expect("its begin");
    assert_eq!(page, [[1; 4096], [0; 4096]].concat()[..]);
    memory.read_exact_at(&mut page, (64 << 20) - 8192).expect("its end");
    assert_eq!(page, [[0; 4096], [2; 4096]].concat()[..]);

    let path = installation.path("state");
    std::fs::write(&path, state).expect("a file");
    let state = File::open(path).expect("the file").into();
    let written = WorkingSet::default();
    let saved = Saved { fingerprint: [0; 32], memory: memory.into(), state, written };
    let origin = Origin::Carried(Arc::new(Carried { saved, files: None }));
    let spec = LaunchSpec { origin, ..spec(&installation) };
    let machine = Machine::start(spec).await.expect("one that goes on");
    let mut command = machine.exec(ExecSpec::new(["true"])).await.expect("a command");
    assert_eq!(command.wait().await.expect("an end"), ExitStatus::Code(0));
    // And is saved once more.
    machine.pause().await.expect("a pause");
    let memory = File::create_new(installation.path("again")).expect("a file");
    machine.save_whole(&memory).await.expect("a saved machine");
    machine.stop().await;
}

async fn refusal(manner: &str) -> MachineError {
    let installation = Installation::new(manner);
    let machine = start(&installation).await;
    machine.pause().await.expect("a pause");
    let memory = tempfile::tempfile().expect("a file");
    let error = machine.save_whole(&memory).await.expect_err("nothing that was saved");
    machine.stop().await;
    error
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_vmm_writes_is_not_believed() {
    let error = refusal("ordinary saves-twice").await;
    let order = ExtentError::Order { place: 0, behind: 4096 };
    assert!(matches!(&error, MachineError::Save(SaveError::Memory(e)) if *e == order), "{error:?}");
    let error = refusal("ordinary saves-half").await;
    assert!(matches!(error, MachineError::Save(SaveError::Read(_))), "{error:?}");
    let error = refusal("ordinary saves-more-state").await;
    let state = matches!(error, MachineError::Save(SaveError::State { got: 14, said: 15 }));
    assert!(state, "{error:?}");
    let error = refusal("ordinary ends-on-save").await;
    assert!(matches!(error, MachineError::Ended(_)), "{error:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_that_does_not_come_to_rest_goes_on() {
    let installation = Installation::new("ordinary never-rests");
    let machine = start(&installation).await;
    // Nobody waits for the limit.
    tokio::time::pause();
    let error = machine.pause().await.expect_err("no pause");
    tokio::time::resume();
    assert!(matches!(error, MachineError::NoAnswer { .. }), "{error:?}");
    assert!(!machine.paused().is());
    // It was told to go on, or it would never answer.
    machine.pause().await.expect("a pause");
    machine.resume().await.expect("an end of it");
    machine.ping().await.expect("an answer");
    machine.stop().await;
}
