//! Files in which the operator of the host bounds what its users may do: root's alone, in `/etc/cloister`.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::images::files::{open_regular, read_bounded};

/// Largest file, in bytes: more than any list that a person keeps.
const MAX_FILE: u64 = 64 << 10;
/// Write permission of the group and of others.
const OTHERS_WRITE: u32 = 0o022;

/// Why a file of the operator's is not used. What it bounds does not happen then.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("can't read the operator's file {}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It makes no sense.
    #[error("the operator's file {}", path.display())]
    Parse {
        /// Where it is.
        path: PathBuf,
        /// Where in it, and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Others can write it.
    #[error("the operator's file {} can be written by others than root", .0.display())]
    Writable(PathBuf),
}

impl FileError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Parse { .. } => {
                "nothing that it is about happens until root has put it in order or removed it"
            }
            Self::Writable(_) => "sudo chown root: FILE; sudo chmod go-w FILE",
        }
    }
}

/// Reads a file of the operator's, if there is one.
///
/// # Errors
/// It can't be read or trusted, or makes no sense.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let read = |source| FileError::Read { path: path.to_owned(), source };
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let metadata = file.metadata().map_err(read)?;
    if metadata.uid() != 0 || metadata.mode() & OTHERS_WRITE != 0 {
        return Err(FileError::Writable(path.to_owned()));
    }
    parse(path, &read_bounded(file, MAX_FILE).map_err(read)?).map(Some)
}

/// Reads what stands in such a file.
///
/// # Errors
/// It makes no sense.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, FileError> {
    toml::from_slice(bytes)
        .map_err(|source| FileError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_what_root_alone_writes_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it.toml");
        let load = || load::<toml::Table>(&path);
        let set = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(matches!(load(), Ok(None)));
        set("a = 1", 0o664);
        assert!(matches!(load(), Err(FileError::Writable(_))));
        set("a = 1", 0o606);
        assert!(matches!(load(), Err(FileError::Writable(_))));
        if !rustix::process::geteuid().is_root() {
            // Any file of this user is one that others than root can write.
            return;
        }
        set("a = 1", 0o644);
        assert_eq!(load().unwrap().unwrap().len(), 1);
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert!(matches!(load(), Err(FileError::Writable(_))));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        set("a = ", 0o644);
        assert!(matches!(load(), Err(FileError::Parse { .. })));
        set(&"#".repeat(usize::try_from(MAX_FILE).unwrap() + 1), 0o644);
        assert!(matches!(load(), Err(FileError::Read { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(load(), Err(FileError::Read { .. })));
    }
}
