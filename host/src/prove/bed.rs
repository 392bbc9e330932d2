//! What the attacks find: files, shares, a socket, and a descriptor that was left open. All of it goes with the value.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cloister_file_server::spec::Owner;
use rustix::fs::{Mode, OFlags};
use tokio::process::Command;
use tokio::time::timeout;

use super::folder::{self, OTHER_PLACES};
use super::{ProveError, Wish};
use crate::launch::files::Files;
use crate::launch::shares::Share;
use crate::temporary::Folder;

/// How long a prober may take that is no attack: to list its cases, to write a kernel.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest such answer. Kernels are of some kilobytes.
const MAX_ANSWER: u64 = 4 << 20;
/// Where the descriptor lies that is left open: above all that are in use.
const LEAKED: i32 = 200;

/// A directory of the run's, or one in another place.
enum Ground {
    Inside(PathBuf),
    Other(Folder),
}

/// The files and sockets.
pub(super) struct Bed<'a> {
    pub(super) wish: &'a Wish,
    folder: Folder,
    /// Where images can be kept and directories shared: owners of an image's files are in attributes, which some file
    /// systems in memory lack, and nothing of the host's own directories is shared with a team.
    ground: Ground,
    _socket: Option<UnixListener>,
}

impl<'a> Bed<'a> {
    pub(super) async fn new(wish: &'a Wish) -> Result<Self, ProveError> {
        // From here on it is removed, whatever comes.
        let folder = folder::make(&std::env::temp_dir()).map_err(ProveError::Bed)?;
        let ground = folder.path().join("ground");
        DirBuilder::new().mode(0o700).create(&ground).map_err(ProveError::Bed)?;
        let mut bed = Self { wish, folder, ground: Ground::Inside(ground), _socket: None };
        for other in OTHER_PLACES {
            if keeps_attributes(bed.ground()) && !bed.ground().starts_with("/run") {
                break;
            }
            bed.ground = Ground::Other(folder::make(Path::new(other)).map_err(ProveError::Bed)?);
        }
        let prober = wish.prober();
        let kernel = bed
            .kernel("idle")
            .await
            .map_err(|source| ProveError::Prober { path: prober, source })?;
        bed.fill(&kernel).map_err(ProveError::Bed)?;
        Ok(bed)
    }

    fn fill(&mut self, kernel: &Path) -> io::Result<()> {
        for name in ["team/in", "team/out"] {
            let share = self.ground().join(name);
            fs::create_dir_all(&share)?;
            fs::write(share.join("file"), "of the host\n")?;
            // A kernel of a guest is a program by its form.
            fs::copy(kernel, share.join("program"))?;
            fs::set_permissions(share.join("program"), Permissions::from_mode(0o755))?;
            std::os::unix::fs::symlink("/etc", share.join("out"))?;
        }
        // What the probers look for by this process's number.
        let name = format!("cloister-prove-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name)?;
        self._socket = Some(UnixListener::bind_addr(&address)?);
        Ok(())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where images are kept, and the team's directories.
    pub(super) fn ground(&self) -> &Path {
        match &self.ground {
            Ground::Inside(path) => path,
            Ground::Other(folder) => folder.path(),
        }
    }

    /// The kernel of a hostile guest, as an executable file.
    pub(super) async fn kernel(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path(&format!("kernel-{name}"));
        if !path.exists() {
            fs::write(&path, run_prober(&self.wish.prober(), &["guest", name]).await?)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        Ok(path)
    }

    /// The programs and images, with this kernel.
    pub(super) fn files(&self, kernel: PathBuf) -> Files {
        Files { kernel, ..self.wish.files.clone() }
    }

    /// A read-only share, then a writable one.
    pub(super) fn shares(&self) -> io::Result<Vec<Share>> {
        let share = |name: &str, writable| -> io::Result<Share> {
            let source = rustix::fs::open(
                self.ground().join("team").join(name),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let owner = Owner::All { uid: 1000, gid: 1000 };
            Ok(Share { name: name.to_owned(), source: Arc::new(source), writable, owner })
        };
        Ok(vec![share("in", false)?, share("out", true)?])
    }
}

/// Whether files in this directory can have attributes.
fn keeps_attributes(folder: &Path) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(folder, c"user.cloister", b"1", flags).is_ok()
}

/// A descriptor of the host's root that every program which is started from now on inherits, as one does that was left
/// open by mistake; until it is dropped.
pub(super) fn leak() -> io::Result<OwnedFd> {
    let root = File::open("/")?;
    let high = rustix::io::fcntl_dupfd_cloexec(&root, LEAKED)?;
    // Not to be closed by an execution: that is the mistake.
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty())?;
    Ok(high)
}

/// What the prober writes as a plain program.
pub(super) async fn run_prober(prober: &Path, words: &[&str]) -> io::Result<Vec<u8>> {
    let mut command = Command::new(prober);
    command.args(words).env_clear().stdin(Stdio::null());
    let output = run(command, ANSWER_LIMIT).await?;
    if output.status.success() && output.stdout.len() as u64 <= MAX_ANSWER {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(format!("it ended with {}", output.status)))
    }
}

/// Runs a program to its end; killed if it takes longer, or if this is dropped.
pub(super) async fn run(mut command: Command, limit: Duration) -> io::Result<Output> {
    command.kill_on_drop(true);
    match timeout(limit, command.output()).await {
        Ok(output) => output,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
