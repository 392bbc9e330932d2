//! Where all shares of the machine are: the file system that the host's file server serves.

use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::io::{Errno, Result};
use rustix::mount::MountFlags;

/// The name of the device.
const TAG: &str = "cloister";
/// Where it is mounted: in a directory that root alone can enter.
const DIRECTORY: &str = "/run/cloister";
const PLACE: &str = "/run/cloister/shares";

/// The directory with all shares.
#[derive(Clone, Debug)]
pub(crate) enum Shares {
    /// The machine's file system of shares; not mounted before somebody asks.
    Device,
    /// It is there.
    Mounted(PathBuf),
}

impl Shares {
    /// Where the directory is; the first time mounts the file system.
    pub(super) fn path(&mut self) -> Result<PathBuf> {
        if matches!(self, Self::Device) {
            for path in [DIRECTORY, PLACE] {
                match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount(TAG, PLACE, "virtiofs", flags, None)?;
            *self = Self::Mounted(PLACE.into());
        }
        let Self::Mounted(path) = &*self else { return Err(Errno::NODEV) };
        Ok(path.clone())
    }
}
