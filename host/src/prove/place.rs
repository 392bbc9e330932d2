//! One prober in a jail: started as the program is whose place it takes, by the same code.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use cloister_prober::wire::{Act, End, Group, MAX_WORDS, Order, Said, Stage};
use cloister_vmm::control::Event;
use cloister_vmm::spec::VmSpec;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::START_LIMIT;
use super::bed::Bed;
use crate::control::ControlError;
use crate::launch::jail::JailSpec;
use crate::launch::process::VmmProcess;
use crate::launch::shares::{FileServer, Started, owner};
use crate::launch::{LaunchSpec, Launched, place};
use crate::report::chain;

/// Guest memory of a machine here; it is little, so that its jail's limit is.
pub(super) const MEMORY_MIB: u32 = 64;
/// Longest message of a prober.
const MAX_SAID: usize = 4096;
/// How long a process may take to end that is about to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A machine of one processor.
pub(super) fn machine(words: String) -> VmSpec {
    VmSpec { vcpus: 1, memory_mib: MEMORY_MIB, extra_cmdline: words }
}

/// What came from a prober.
#[derive(Debug)]
pub(super) enum Heard {
    /// It said something.
    Said(Said),
    /// It has ended, or was ended, so.
    Ended { end: Option<End>, stderr: String },
    /// What came was no message, and the host stops listening.
    Refused(ControlError),
}

enum Line {
    Vmm(Box<Launched>),
    FileServer {
        process: Box<VmmProcess>,
        _server: FileServer,
        socket: AsyncFd<OwnedFd>,
        _area: OwnedFd,
    },
}

/// A prober in a jail. Dropped, it is killed.
pub(super) struct Prober {
    line: Line,
}

fn order(stage: Stage, only: Option<&str>, act: Act) -> String {
    let order = Order { stage, only: only.map(str::to_owned), act };
    // Names and numbers: it can't fail.
    format!("{} {}", std::process::id(), serde_json::to_string(&order).unwrap_or_default())
}

/// Where a jail is made without its last step, the prober is its own jailer.
fn jailer(bed: &Bed<'_>, stage: Stage) -> std::path::PathBuf {
    match stage {
        Stage::Bare => bed.wish.prober(),
        _ => bed.wish.files.jailer.clone(),
    }
}

impl Prober {
    /// Starts one with its order; what kept it from it.
    pub(super) async fn start(
        bed: &Bed<'_>,
        group: Group,
        stage: Stage,
        only: Option<&str>,
        act: Act,
    ) -> Result<Self, String> {
        let words = order(stage, only, act);
        let line = match group {
            Group::FileServer => Self::file_server(bed, stage, &words).await,
            _ => Self::vmm(bed, stage, words).await,
        };
        Ok(Self { line: line? })
    }

    async fn vmm(bed: &Bed<'_>, stage: Stage, words: String) -> Result<Line, String> {
        let kernel = bed.kernel("idle").await.map_err(|error| error.to_string())?;
        let mut files = bed.files(kernel);
        files.vmm = bed.wish.prober();
        files.jailer = jailer(bed, stage);
        let mut spec = LaunchSpec::new(files, machine(words));
        spec.jail = JailSpec::clone(&bed.wish.jail);
        let prepared = spec.prepare(None).map_err(|error| chain(&error))?;
        let launched = prepared.start().await.map_err(|error| chain(&error))?;
        Ok(Line::Vmm(Box::new(launched)))
    }

    async fn file_server(bed: &Bed<'_>, stage: Stage, words: &str) -> Result<Line, String> {
        let shares = bed.shares().map_err(|error| error.to_string())?;
        let owner = owner(&shares).map_err(|error| chain(&error))?;
        let cell = bed.wish.jail.file_server_cell(owner).map_err(|error| chain(&error))?;
        let (program, jailer) = (bed.wish.prober(), jailer(bed, stage));
        let started = FileServer::start(&program, &jailer, cell, &shares).await;
        let Started { process, server, for_vmm } = started.map_err(|error| chain(&error))?;
        let [area, socket] = for_vmm;
        let ready = || -> io::Result<AsyncFd<OwnedFd>> {
            rustix::io::ioctl_fionbio(&socket, true)?;
            send(&socket, words.as_bytes(), SendFlags::NOSIGNAL)?;
            place::watch(socket)
        };
        let socket = ready().map_err(|error| error.to_string())?;
        Ok(Line::FileServer { process: Box::new(process), _server: server, socket, _area: area })
    }

    fn process(&mut self) -> &mut VmmProcess {
        match &mut self.line {
            Line::Vmm(launched) => &mut launched.process,
            Line::FileServer { process, .. } => process,
        }
    }

    /// Its number on the host, while it lives.
    pub(super) fn id(&mut self) -> Option<u32> {
        self.process().id()
    }

    /// The next that comes of it. It has a minute.
    pub(super) async fn hear(&mut self) -> Heard {
        let next = match &self.line {
            Line::Vmm(launched) => timeout(START_LIMIT, hear_vmm(launched)).await,
            Line::FileServer { socket, .. } => timeout(START_LIMIT, hear_files(socket)).await,
        };
        match next {
            Ok(Ok(Some(said))) => Heard::Said(said),
            Ok(Err(error)) => Heard::Refused(error),
            Ok(Ok(None)) => self.ended(END_LIMIT).await,
            Err(_) => {
                let Heard::Ended { stderr, .. } = self.ended(Duration::ZERO).await else {
                    return Heard::Ended { end: None, stderr: String::new() };
                };
                let limit = START_LIMIT.as_secs();
                let stderr = format!("it said nothing for {limit} s and was ended {stderr}");
                Heard::Ended { end: None, stderr }
            }
        }
    }

    async fn ended(&mut self, grace: Duration) -> Heard {
        use std::os::unix::process::ExitStatusExt as _;
        let process = self.process();
        let status = process.end(grace).await;
        let end = status.and_then(|status| status.signal()).map(End::Killed);
        let words = String::from_utf8_lossy(&process.stderr()).into_owned();
        Heard::Ended { end, stderr: crate::text::printable_line(&words) }
    }
}

/// Answers come in messages of the vmm's own protocol, and are judged by the same reader.
async fn hear_vmm(launched: &Launched) -> Result<Option<Said>, ControlError> {
    match launched.control.receive().await? {
        Some(Event::Probed(report)) => Ok(serde_json::from_str(&report.detail).ok()),
        _ => Ok(None),
    }
}

async fn hear_files(socket: &AsyncFd<OwnedFd>) -> Result<Option<Said>, ControlError> {
    let mut buffer = [0; MAX_SAID];
    let read =
        socket.async_io(Interest::READABLE, |fd| Ok(recv(fd, &mut buffer, RecvFlags::empty())?.0));
    let length = match read.await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        read => read.map_err(ControlError::Receive)?,
    };
    let bytes = buffer.get(..length).unwrap_or_default();
    Ok(serde_json::from_slice(bytes).ok().filter(fits))
}

/// A prober is hostile by definition: its words are short, or it is not heard.
fn fits(said: &Said) -> bool {
    match said {
        Said::Saw { words, name, .. } | Said::Unable { words, name } => {
            words.len() <= MAX_WORDS && name.len() <= MAX_WORDS
        }
        Said::Begins(name) => name.len() <= MAX_WORDS,
        Said::Done => true,
    }
}
