//! The machine monitors that are compared: how each is prepared, started, timed and weighed.

mod cloister;
mod fork;
mod jailed;
pub mod qemu;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use ::cloister::commands::bench::footprint::{Footprint, GuestMemory};
use ::cloister::launch::jail::LimitsWish;
use ::cloister::machine::now_ns;
use anyhow::{Context, bail};
use cloister_vmm::control::StartTimes;
use cloister_vmm::spec::VmSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;

use crate::spawn::{Program, Running};

/// A monitor that says nothing for this long is broken. In deterministic mode these are seconds of
/// the lab's own clock.
const PATIENCE: Timespec = Timespec { tv_sec: 300, tv_nsec: 0 };
/// How long a blank has waited when it is told its command: its program begins in a millisecond or two.
const BLANK_WAITS: Duration = Duration::from_millis(20);
/// Most that a guest may print before its marker.
const MAX_OUTPUT: usize = 1 << 20;

/// A machine monitor.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Ours: the path of `cloister-vmm`.
    Cloister(PathBuf),
    /// The same in its jail: the paths of `cloister-vmm` and of `cloister-jailer`.
    Jailed(PathBuf, PathBuf),
    /// Forks of a saved machine: the path of `cloister-vmm`.
    Fork(PathBuf),
    /// The same in its jail: the paths of `cloister-vmm` and of `cloister-jailer`.
    JailedFork(PathBuf, PathBuf),
    /// The same of a vmm that waits in its jail, as one of a pool: the clock starts with its command.
    BlankFork(PathBuf, PathBuf),
    /// QEMU's `microvm` machine: the path of `qemu-system-x86_64`, and where its guest memory is from.
    Qemu(PathBuf, qemu::Memory),
}

/// What every subject is to boot.
#[derive(Clone, Debug)]
pub struct Job {
    /// The kernel, an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// The root image.
    pub root: Option<PathBuf>,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// The kernel command line that `cloister-vmm` has built in; other monitors are given it.
    pub base_cmdline: String,
    /// What is added to it.
    pub extra_cmdline: String,
    /// The clock stops when this has been read from the guest's serial port.
    pub marker: Vec<u8>,
    /// Whether jails have the limits of their control groups, as `cloister` always wants them.
    pub limits: LimitsWish,
}

impl Job {
    /// The machine's shape.
    #[must_use]
    pub fn spec(&self) -> VmSpec {
        VmSpec {
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            extra_cmdline: self.extra_cmdline.clone(),
        }
    }
}

/// A subject with everything opened and made that is not measured.
#[derive(Debug)]
pub struct Prepared {
    program: Program,
    /// What the process gets, and as which descriptor.
    descriptors: Vec<(OwnedFd, RawFd)>,
    /// The guest's serial port.
    output: File,
    /// The guest's memory.
    memory: GuestMemory,
    /// Tells the monitor's own time stamps once the marker has come.
    control: Option<cloister::Control>,
    /// The program is the jailer, and this its jail.
    jail: Option<jailed::Jail>,
    /// What the monitor is told once it waits, as the clock starts.
    held: Option<cloister::Held>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// From just before the process was made to the marker, in nanoseconds.
    pub total_ns: u64,
    /// The same to the stages that the monitor itself reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    /// The process when the marker had come.
    pub footprint: Footprint,
}

/// From just before the process was made to each stage, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stages {
    /// `main`.
    pub process_ns: u64,
    /// The start message was read.
    pub command_ns: u64,
    /// VM, memory, interrupt controller and vCPUs exist.
    pub kvm_ns: u64,
    /// Kernel, root and boot tables lie in guest memory.
    pub loaded_ns: u64,
    /// The first entry into the guest was about to be made.
    pub entry_ns: u64,
}

impl Stages {
    fn since(begin_ns: u64, times: &StartTimes) -> Self {
        Self {
            process_ns: times.process_ns.saturating_sub(begin_ns),
            command_ns: times.command_ns.saturating_sub(begin_ns),
            kvm_ns: times.kvm_ns.saturating_sub(begin_ns),
            loaded_ns: times.loaded_ns.saturating_sub(begin_ns),
            entry_ns: times.run_ns.saturating_sub(begin_ns),
        }
    }

    /// Name and time of each, in order.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 5] {
        [
            ("process start", self.process_ns),
            ("start message read", self.command_ns),
            ("KVM ready", self.kvm_ns),
            ("kernel loaded", self.loaded_ns),
            ("first entry", self.entry_ns),
        ]
    }
}

impl Subject {
    /// Its name in every report.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cloister(_) => "cloister",
            Self::Jailed(..) => "cloister-jailed",
            Self::Fork(..) => "fork",
            Self::JailedFork(..) => "fork-jailed",
            Self::BlankFork(..) => "fork-pooled",
            Self::Qemu(_, qemu::Memory::Own) => "qemu-microvm",
            Self::Qemu(_, qemu::Memory::Memfd) => "qemu-microvm-memfd",
        }
    }

    /// Its command line, for the report.
    #[must_use]
    pub fn command(&self, job: &Job) -> String {
        match self {
            Self::Cloister(vmm) | Self::Fork(vmm) => vmm.display().to_string(),
            Self::Jailed(vmm, jailer)
            | Self::JailedFork(vmm, jailer)
            | Self::BlankFork(vmm, jailer) => {
                format!("{} {}", jailer.display(), vmm.display())
            }
            Self::Qemu(program, memory) => {
                format!("{} {}", program.display(), qemu::arguments(*memory, job).join(" "))
            }
        }
    }

    /// The first line of what it says about its version; empty if it says nothing.
    #[must_use]
    pub fn version(&self) -> String {
        let (Self::Cloister(program)
        | Self::Jailed(program, _)
        | Self::Fork(program)
        | Self::JailedFork(program, _)
        | Self::BlankFork(program, _)
        | Self::Qemu(program, _)) = self;
        let output = std::process::Command::new(program).arg("--version").output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }

    /// Opens and makes everything that is not measured.
    ///
    /// # Errors
    /// A file is missing, or the system refuses.
    pub fn prepare(&self, job: &Job) -> anyhow::Result<Prepared> {
        match self {
            Self::Cloister(vmm) => cloister::prepare(vmm, job),
            Self::Jailed(vmm, jailer) => cloister::prepare(vmm, job)
                .and_then(|prepared| jailed::enter(vmm, jailer, job, prepared)),
            Self::Fork(vmm) => fork::prepare(vmm, job),
            Self::JailedFork(vmm, jailer) => fork::prepare(vmm, job)
                .and_then(|prepared| jailed::enter(vmm, jailer, job, prepared)),
            Self::BlankFork(vmm, jailer) => fork::prepare_for_blank(vmm, job)
                .and_then(|prepared| jailed::enter(vmm, jailer, job, prepared)),
            Self::Qemu(program, memory) => qemu::prepare(program, *memory, job),
        }
        .with_context(|| format!("can't prepare {}", self.name()))
    }
}

impl Prepared {
    /// Starts the process, waits for the marker, looks at the process, ends it.
    ///
    /// # Errors
    /// It can't be started, ends early, or says nothing in time.
    pub fn run(mut self, marker: &[u8]) -> anyhow::Result<Run> {
        let places: Vec<_> = self.descriptors.iter().map(|(fd, to)| (fd.as_fd(), *to)).collect();
        let mut begin_ns = now_ns();
        let mut running = self.program.spawn(&places)?;
        // Only the process may hold the pipe's other end, so that its end ends our reading.
        drop(places);
        self.descriptors.clear();
        let held = self.held.take();
        let is_blank = held.is_some();
        if let (Some(held), Some(jail), Some(control)) = (held, &mut self.jail, &self.control) {
            running = jail.process(running)?;
            // Its program begins; one of a pool has long begun.
            sleep(BLANK_WAITS);
            begin_ns = now_ns();
            held.send(control)?;
        }
        let marked = wait_for_marker(&mut self.output, marker);
        if let Some(jail) = self.jail.as_mut().filter(|_| !is_blank) {
            running = jail.process(running)?;
        }
        let marked_ns = marked.map_err(|error| self.told(error))?;
        let footprint = Footprint::of(running.id(), self.memory)?;
        let stages = match self.control {
            Some(control) => Some(Stages::since(begin_ns, &control.stages()?)),
            None => None,
        };
        end(running, &mut self.output)?;
        Ok(Run { total_ns: marked_ns.saturating_sub(begin_ns), stages, footprint })
    }
}

impl Prepared {
    /// An error with what the monitor itself says of it.
    fn told(&self, error: anyhow::Error) -> anyhow::Error {
        match self.control.as_ref().map(cloister::Control::receive) {
            Some(Ok(event)) => error.context(format!("the monitor said: {event:?}")),
            Some(Err(silent)) => error.context(format!("the monitor said nothing: {silent:#}")),
            None => error,
        }
    }
}

/// Reads up to the marker; the time just after it was read.
fn wait_for_marker(output: &mut File, marker: &[u8]) -> anyhow::Result<u64> {
    let mut seen = Vec::with_capacity(MAX_OUTPUT);
    let mut chunk = [0; 4096];
    loop {
        readable(output)?;
        let count = output.read(&mut chunk)?;
        let now = now_ns();
        seen.extend(chunk.iter().take(count));
        if seen.windows(marker.len()).any(|window| window == marker) {
            return Ok(now);
        }
        if count == 0 || seen.len() > MAX_OUTPUT {
            bail!("it ended without the marker; it printed: {}", String::from_utf8_lossy(&seen));
        }
    }
}

/// Waits until there is something to read, at most [`PATIENCE`].
fn readable(descriptor: &impl AsFd) -> anyhow::Result<()> {
    let mut wanted = [PollFd::new(descriptor, PollFlags::IN)];
    match poll(&mut wanted, Some(&PATIENCE))? {
        0 => bail!("nothing came in {} s", PATIENCE.tv_sec),
        _ => Ok(()),
    }
}

/// Kills the process and waits until its output is closed, so that nothing of it runs on into the
/// next measurement.
fn end(running: Running, output: &mut File) -> io::Result<()> {
    drop(running);
    io::copy(output, &mut io::sink())?;
    Ok(())
}

/// The pipe of a guest's serial port; `writes_wait`: the process's end is an ordinary one.
fn serial_pipe(writes_wait: bool) -> io::Result<(File, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    if !writes_wait {
        rustix::io::ioctl_fionbio(&write, true)?;
    }
    Ok((read.into(), write))
}

/// `/dev/null` for reading and writing.
fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
