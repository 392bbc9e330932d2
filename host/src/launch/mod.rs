//! Everything before a machine runs: what it needs is found, opened and checked, and only then the
//! vmm is started and told.
//!
//! The recipe is [`LaunchSpec::prepare`] (nothing has started yet, every mistake is an error here)
//! and [`Prepared::start`] (memory, pipes, sockets, process, start message). No path is made or left
//! anywhere: memory is a memfd, everything else a pipe or a socket pair, and all of it closes on exec. The machine's control group is
//! the one thing with a name; it goes with the machine.

pub mod files;

pub mod image;

pub mod memory;

pub mod group;

pub mod jail;

pub mod place;

pub mod process;

pub mod shares;

mod share_error;

mod share_state;

pub mod fingerprint;

pub mod origin;

mod source;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_vmm::control::Command;
use cloister_vmm::spec::{SpecError, VmSpec};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;

use crate::control::{ControlError, ControlSocket, Packet};
use crate::pool::take::Blank;
use crate::pool::{self, PoolError};
use crate::tail::Tail;
use files::{FileError, Files, Role};
use group::GroupError;
use image::ImageError;
use jail::{Cell, JailSpec};
use memory::MemoryError;
use origin::First;
use process::{ProcessError, VmmProcess};
use shares::{FileServer, Share, ShareError, Started};
use source::Source;

pub use origin::{Carried, Greeting, Origin, Saved};

/// Most that is kept of the guest's serial log: a kernel panic with its backtrace fits ten times.
pub const MAX_CONSOLE: usize = 64 << 10;

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// Program and images.
    pub files: Files,
    /// The machine's shape.
    pub vm: VmSpec,
    /// How it is jailed.
    pub jail: JailSpec,
    /// The pool that its vmm is taken from, if there is one with a blank that fits.
    pub pool: Option<pool::Place>,
    /// What is shared with the guest; nothing: it has no device for it. More can be added while it runs.
    pub shares: Vec<Share>,
    /// From the start of the vmm's process to the supervisor's hello.
    pub start_limit: Duration,
    /// Where the serial log is kept.
    pub console: Tail,
    /// How it comes to run.
    pub origin: Origin,
    /// Whether it can be saved with its memory, so that a machine goes on from it ([`Origin::Carried`]): its vmm's threads may
    /// then read KVM's state of it. What boots or goes on can be; a template's machines and carried ones always can.
    pub savable: bool,
}

impl LaunchSpec {
    /// A start of `vm` with the ordinary limits.
    #[must_use]
    pub fn new(files: Files, vm: VmSpec) -> Self {
        Self {
            files,
            vm,
            jail: JailSpec::default(),
            pool: None,
            shares: Vec::new(),
            start_limit: Duration::from_secs(60),
            console: Tail::new(MAX_CONSOLE),
            origin: Origin::Boot,
            savable: false,
        }
    }

    /// Checks everything that can be checked while nothing runs, but for the vmm if it is a blank.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn prepare(self, blank: Option<Blank>) -> Result<Prepared, LaunchError> {
        self.vm.validate()?;
        memory::HostMemory::read()?.check(self.vm.memory_bytes())?;
        files::check_program(Role::Vmm, &self.files.vmm)?;
        files::check_program(Role::Jailer, &self.files.jailer)?;
        let images = match self.origin {
            Origin::Boot | Origin::Savable { .. } => self.images()?,
            // What they had loaded is in the saved memory.
            Origin::Fork(_) | Origin::Carried(_) | Origin::Rehearsal { .. } => Vec::new(),
        };
        let kvm = self.files.open_kvm()?;
        shares::check(&self.shares)?;
        let files_cell = match self.shares.as_slice() {
            [] => None,
            _ => {
                files::check_program(Role::FileServer, &self.files.file_server())?;
                Some(self.jail.file_server_cell(shares::owner(&self.shares)?)?)
            }
        };
        let source = match blank {
            Some(blank) => Source::Blank(Box::new(blank)),
            None => Source::Cell(self.jail.cell(jail::limits_of(&self.vm))?),
        };
        Ok(Prepared { spec: self, source, files_cell, kvm, images })
    }

    /// Kernel and root, checked.
    fn images(&self) -> Result<Vec<OwnedFd>, LaunchError> {
        let kernel = self.files.open_kernel()?;
        image::check_kernel(&kernel)
            .map_err(|source| LaunchError::image(&self.files.kernel, source))?;
        let root = self.files.open_root()?;
        image::check_root(&root).map_err(|source| LaunchError::image(&self.files.root, source))?;
        Ok(vec![kernel.into(), root.into()])
    }
}

/// A machine whose files are open and checked and whose control group is made; nothing of it runs.
#[derive(Debug)]
pub struct Prepared {
    spec: LaunchSpec,
    source: Source,
    files_cell: Option<Cell>,
    kvm: File,
    /// Kernel and root of a machine that boots; else nothing.
    images: Vec<OwnedFd>,
}

/// A vmm that runs and has been told what to build.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub process: VmmProcess,
    /// The host's end of its control socket.
    pub control: ControlSocket,
    /// The file server's process, if there are shares.
    pub files: Option<VmmProcess>,
    /// Takes further shares.
    pub file_server: Option<FileServer>,
    /// What the supervisor is greeted with.
    pub greeting: Greeting,
    /// The other end of a socket that nobody serves: closed, it would end the machine.
    pub unserved: Option<OwnedFd>,
    /// Reads the serial log into [`LaunchSpec::console`] until the vmm closes it.
    pub console: tokio::task::JoinHandle<()>,
}

impl Prepared {
    /// The limit on the start.
    #[must_use]
    pub const fn start_limit(&self) -> Duration {
        self.spec.start_limit
    }

    /// Where the serial log is kept.
    #[must_use]
    pub const fn console(&self) -> &Tail {
        &self.spec.console
    }

    /// Starts the vmm and sends it the first message with its descriptors.
    ///
    /// The process is bound to the calling thread: when that ends, the kernel kills the vmm.
    ///
    /// # Errors
    /// The system refuses something; nothing runs then.
    pub async fn start(self) -> Result<Launched, LaunchError> {
        let Self { spec, source, files_cell, kvm, images } = self;
        let mut started = None;
        if let Some(cell) = files_cell {
            let program = spec.files.file_server();
            let new = FileServer::start(&program, &spec.files.jailer, cell, &spec.shares).await?;
            // Before the vmm is told anything: nobody asks for a file as yet.
            if let Origin::Carried(carried) = &spec.origin
                && let Some(files) = &carried.files
            {
                new.server.restore(files).await?;
            }
            started = Some(new);
        }
        let (console_read, console_write) = console_pipe().map_err(LaunchError::Console)?;
        let First { command, mut descriptors, greeting } = First::of(
            spec.origin,
            (spec.vm, spec.savable),
            started.is_some(),
            images,
            console_write,
        )?;
        descriptors.insert(0, OwnedFd::from(kvm));
        let (process, control) = source.vmm(&spec.files)?;
        let console = tokio::spawn(spec.console.collect(console_read));
        let (mut files, mut file_server, mut unserved) = (None, None, None);
        if let Some(Started { process, server, for_vmm }) = started {
            descriptors.extend(for_vmm);
            (files, file_server) = (Some(process), Some(server));
        } else if matches!(
            &command,
            Command::StartSavable(saved) | Command::Rehearse(saved) if saved.shared
        ) {
            let (for_vmm, other) = shares::unserved()?;
            descriptors.extend(for_vmm);
            unserved = Some(other);
        }
        // A vmm that is already gone is found and explained by whoever receives from it.
        match control.send(&Packet::new(&command, descriptors)?).await {
            Ok(()) | Err(ControlError::Send(_)) => {
                Ok(Launched { process, control, files, file_server, greeting, unserved, console })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The serial log's pipe; the vmm must never wait for us, so its end does not block.
fn console_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

/// Why a machine can't be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The machine's shape is out of bounds.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The host lacks the memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file is missing or can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not the image that it should be.
    #[error("{} can't be used", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// The serial log's pipe can't be made.
    #[error("can't make the pipe for the guest's console")]
    Console(#[source] io::Error),
    /// The control socket can't be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The jail has no control group.
    #[error("can't make the jail's control group")]
    Group(#[from] GroupError),
    /// The vmm can't be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A descriptor of a saved machine can't be had once more.
    #[error("can't hand a saved machine over")]
    Saved(#[source] io::Error),
    /// This host can't say what it is.
    #[error("can't find out which processor and kernel this host has")]
    Host(#[source] io::Error),
    /// A share can't be served.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The pool that was named is none.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl LaunchError {
    fn image(path: &Path, source: ImageError) -> Self {
        Self::Image { path: path.to_owned(), source }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Spec(SpecError::Vcpus { .. }) => Some("choose another number with --cpus"),
            Self::Spec(SpecError::Memory { .. }) => Some("choose another size with --memory"),
            Self::Spec(SpecError::Cmdline | SpecError::WorkingSet)
            | Self::Console(_)
            | Self::Control(_)
            | Self::Host(_)
            | Self::Saved(_) => None,
            Self::Memory(error) => error.remedy(),
            Self::File(error) => error.remedy(),
            Self::Image { source, .. } => Some(source.remedy()),
            Self::Group(error) => Some(error.remedy()),
            Self::Process(error) => Some(error.remedy()),
            Self::Share(error) => error.remedy(),
            Self::Pool(error) => error.remedy(),
        }
    }
}
