//! `cloister bench`: measures starts, commands, streams, shared files and the cost of machines like any other.

pub mod arguments;
mod boot;
mod density;
mod exec;
mod files;
pub mod footprint;
mod page;
mod peer;
pub mod plot;
pub mod report;
mod starts;
pub mod statistics;
mod vsock;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use cloister_protocol::message::ExitStatus;
use cloister_vmm::spec::VmSpec;

use crate::commands::clean_up;
use crate::commands::template::tell as tell_notice;
use crate::exit_codes;
use crate::launch::LaunchSpec;
use crate::launch::files::{FileError, Files};
use crate::launch::jail::LimitsWish;
use crate::machine::{
    AgentError, Command, ExecError, ExecSpec, Machine, MachineError, StartError, StdioSpec, Streams,
};
use crate::report::{describe, tell_line};
use crate::template::{self, Choice, Key, Store, TemplateError, Wish};
use arguments::{Bench, BenchArgs, CommonArgs, StartsArgs};
use peer::Peer;
use report::Report;
use starts::Way;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// This program can't find its files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The runtime can't be made.
    #[error("can't set up the runtime")]
    Runtime(#[source] io::Error),
    /// A machine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A command did not start.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The machine ended or did not answer.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The vmm can't be looked at.
    #[error("can't read what the vmm uses from /proc")]
    Footprint(#[source] io::Error),
    /// A stream failed.
    #[error("can't use a command's streams")]
    Stream(#[source] io::Error),
    /// A command did something else than it should.
    #[error("the measured command ended with {0:?}")]
    Command(ExitStatus),
    /// A stream ended early.
    #[error("a stream of {expected} bytes came to its end after {got}")]
    Short {
        /// Its length.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The result can't be written.
    #[error("can't write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The template can't be had.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The machine booted though it was to go on from a template.
    #[error("the machine booted, though it was to go on from its template")]
    NotFork,
    /// A command to compare with can't be measured.
    #[error("can't measure `{line}`")]
    Peer {
        /// The command line.
        line: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container for the measured work can't be made.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The program that does the work is not there.
    #[error("can't copy {}", path.display())]
    Program {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The work failed.
    #[error("the measured work ended with {status:?}: {said}")]
    Work {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
    /// The work's times are not those of its calls.
    #[error("the measured work did not tell the time of each of its calls")]
    NoTimes,
    /// Random reads would come to a page twice.
    #[error("{reads} random reads of a file that has {pages} pages")]
    TooManyReads {
        /// How many.
        reads: u32,
        /// Pages of the file.
        pages: u64,
    },
    /// A signal asked to end.
    #[error("ended by signal {0}")]
    Signal(u8),
    /// Not even one machine was started.
    #[error("this host has not got the memory for a single machine")]
    NoRoom,
    /// There is nothing to report; never with a count of at least one.
    #[error("nothing was measured")]
    Nothing,
}

impl BenchError {
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Files(error) => error.remedy(),
            Self::Start(error) => error.remedy(),
            Self::Template(error) => error.remedy(),
            Self::NotFork => Some("`cloister bench boot` measures boots"),
            Self::Peer { .. } => Some(
                "try the command by hand; it must write to its standard output and exit with 0",
            ),
            Self::Program { .. } => {
                Some("`make build` makes programs that belong together, among them cloister-prober")
            }
            Self::TooManyReads { .. } => {
                Some("read less with --reads, or a longer file with --mib")
            }
            Self::NoRoom => Some("leave less with --keep, or ask for less with --memory"),
            _ => None,
        }
    }
}

/// Measures and tells; the exit code.
#[must_use]
pub fn bench(arguments: &BenchArgs, limits: LimitsWish) -> u8 {
    match measure(&arguments.bench, limits) {
        Ok(()) => exit_codes::OK,
        // Who sent it knows.
        Err(BenchError::Signal(signal)) => exit_codes::of_signal(signal),
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn measure(bench: &Bench, limits: LimitsWish) -> Result<(), BenchError> {
    let common = match bench {
        Bench::Boot(arguments) => &arguments.common,
        Bench::Fork(arguments) => &arguments.common,
        Bench::Density(arguments) => &arguments.common,
        Bench::Exec(arguments) => &arguments.common,
        Bench::Files(arguments) => &arguments.common,
        Bench::Vsock(arguments) => &arguments.common,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::Runtime)?;
    let launch = launch_spec(common, limits)?;
    let report = runtime.block_on(async {
        match bench {
            Bench::Boot(arguments) => {
                starts(&arguments.starts, common, &[Way::Boot], &launch).await
            }
            Bench::Fork(arguments) => {
                let fork = fork(Some(arguments.place.path()?), &launch).await?;
                starts(&arguments.starts, common, &[fork, Way::ColdBoot], &launch).await
            }
            Bench::Density(arguments) => {
                let way = match arguments.origin.choice() {
                    Some(Choice::None) => Way::Boot,
                    _ => fork(arguments.origin.place(), &launch).await?,
                };
                density::measure(arguments, &way, &launch).await
            }
            Bench::Exec(arguments) => exec::measure(arguments, launch).await,
            Bench::Files(arguments) => files::measure(arguments, launch).await,
            Bench::Vsock(arguments) => vsock::measure(arguments, launch).await,
        }
    })?;
    tell(&report, common)
}

/// Starts from the template of these machines, which is built if it is not there.
async fn fork(place: Option<PathBuf>, launch: &LaunchSpec) -> Result<Way, BenchError> {
    let path = place.clone().ok_or(TemplateError::Nowhere)?;
    let store = Store::open(&path)?;
    let key = Key::of(launch, &store)?;
    template::make(launch, &store, &key, &mut tell_notice).await?;
    Ok(Way::Fork(Wish { choice: Choice::Build, place }))
}

/// Measures starts, with whatever else is to be compared.
async fn starts(
    arguments: &StartsArgs,
    common: &CommonArgs,
    ways: &[Way],
    launch: &LaunchSpec,
) -> Result<Report, BenchError> {
    let mut peers = Vec::new();
    if !arguments.peer.is_empty() {
        let ourselves = ways.iter().map(|way| Peer::ourselves(common, way));
        peers.extend(ourselves.collect::<Result<Vec<_>, _>>()?);
    }
    for line in &arguments.peer {
        peers.push(Peer::of_line(line)?);
    }
    boot::measure(arguments, ways, &peers, launch).await
}

fn launch_spec(common: &CommonArgs, limits: LimitsWish) -> Result<LaunchSpec, BenchError> {
    let files = Files::find(common.guest.kernel.clone(), common.guest.rootfs.clone())?;
    let vm = VmSpec { vcpus: common.cpus, memory_mib: common.memory, extra_cmdline: String::new() };
    let jail = common.jail.clone().spec(limits);
    clean_up(&jail);
    let pool = common.pool.place();
    Ok(LaunchSpec { jail, pool, ..LaunchSpec::new(files, vm) })
}

fn tell(report: &Report, common: &CommonArgs) -> Result<(), BenchError> {
    if let Some(path) = &common.html {
        fs::write(path, page::page(report)).map_err(wrap_write(path))?;
    }
    if let Some(path) = &common.svg {
        fs::write(path, report.plot().svg()).map_err(wrap_write(path))?;
    }
    if let Some(folder) = &common.save {
        let path = |extension| folder.join(report.bench).with_extension(extension);
        for (path, text) in [(path("json"), report.json()), (path("svg"), report.plot().svg())] {
            fs::write(&path, text).map_err(wrap_write(&path))?;
        }
    }
    let text = if common.json { report.json() } else { report.table() };
    io::stdout().write_all(text.as_bytes()).map_err(wrap_write(Path::new("standard output")))
}

fn wrap_write(path: &Path) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Write { path: path.to_owned(), source }
}

/// A command with pipes, and the host's ends of them.
async fn start_command(
    machine: &Machine,
    arguments: &[&str],
    stdin: bool,
) -> Result<(Command, Option<UnixStream>, UnixStream), BenchError> {
    let mut spec = ExecSpec::new(arguments.iter().copied());
    spec.stdio = StdioSpec::Pipes { stdin };
    let mut command = machine.exec(spec).await?;
    match command.take_streams() {
        Some(Streams::Pipes { stdin, stdout, .. }) => Ok((command, stdin, stdout)),
        _ => Err(BenchError::Stream(io::ErrorKind::NotConnected.into())),
    }
}

/// Waits for a command that is to end well.
async fn expect_success(command: &mut Command) -> Result<(), BenchError> {
    match command.wait().await? {
        ExitStatus::Code(0) => Ok(()),
        other => Err(BenchError::Command(other)),
    }
}

/// Runs blocking input or output beside the runtime, which drives the machine meanwhile.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BenchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(BenchError::Stream),
        Err(error) => Err(BenchError::Stream(io::Error::other(error))),
    }
}

/// Reads to the end; how much there was.
fn drain(mut stream: UnixStream) -> io::Result<u64> {
    let mut buffer = vec![0; STREAM_CHUNK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// Bytes per second; whatever was measured took at least a nanosecond.
fn rate(bytes: u64, nanoseconds: u64) -> u64 {
    let exact = u128::from(bytes) * 1_000_000_000 / u128::from(nanoseconds.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// Bytes of one read or write of a measured stream: what `cat` uses in the guest.
const STREAM_CHUNK: usize = 128 << 10;
