//! A machine as the product starts it: jailed, with the file server in its own jail.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cloister::launch::LaunchSpec;
use cloister::launch::files::Files;
use cloister::launch::shares::Share;
use cloister::machine::{ExecSpec, Machine, StdioSpec, Streams};
use cloister_file_server::spec::Owner;
use cloister_protocol::message::ExitStatus;
use cloister_vmm::spec::VmSpec;
use rustix::fs::{Mode, OFlags};

use super::Job;
use super::work::{FOLDER, PROGRAM};

/// The start is not measured, and in the lab on a busy machine it takes more than the ordinary minute.
const START_LIMIT: Duration = Duration::from_secs(600);

/// Does the work in a machine of ours whose programs are in `programs`.
///
/// # Errors
/// The machine did not start, or the work failed.
pub(super) fn run(programs: &Path, job: &Job) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(programs, job))
}

async fn work(programs: &Path, job: &Job) -> anyhow::Result<()> {
    let files = Files {
        vmm: programs.join("cloister-vmm"),
        jailer: programs.join("cloister-jailer"),
        kernel: job.kernel.clone(),
        root: job.root.clone(),
        kvm: "/dev/kvm".into(),
    };
    let vm = VmSpec { vcpus: 1, memory_mib: job.memory_mib, extra_cmdline: String::new() };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source: OwnedFd = rustix::fs::open(job.place.join(FOLDER), flags, Mode::empty())?;
    let share = Share {
        name: FOLDER.to_owned(),
        source: Arc::new(source),
        writable: true,
        owner: Owner::All { uid: 0, gid: 0 },
    };
    let spec =
        LaunchSpec { shares: vec![share], start_limit: START_LIMIT, ..LaunchSpec::new(files, vm) };
    let machine = Machine::start(spec).await.context("starting the machine")?;
    let mut words = vec![format!("/{PROGRAM}")];
    words.extend(job.size.words());
    let stdio = StdioSpec::Pipes { stdin: false };
    let mut command = machine.exec(ExecSpec { stdio, ..ExecSpec::new(words) }).await?;
    let complaint = match command.take_streams() {
        Some(Streams::Pipes { stderr, .. }) => stderr,
        _ => bail!("the command has no pipes"),
    };
    let status = command.wait().await?;
    machine.stop().await;
    if status != ExitStatus::Code(0) {
        let mut text = String::new();
        File::from(OwnedFd::from(complaint)).read_to_string(&mut text)?;
        bail!("the work ended with {status:?}: {text}");
    }
    Ok(())
}
