//! What a file server leaves to the next one, so that a machine goes on which knows files and has them open.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use cloister_file_server::control::{Command, Event, MAX_STATE_BYTES};
use rustix::fs::{MemfdFlags, memfd_create};

use super::shares::{FileServer, ShareError};

/// How long a file server may take to write its state down, or to take one up. It limits its own search to half of
/// this.
const STATE_LIMIT: Duration = Duration::from_secs(60);

impl FileServer {
    /// What the machine knows of the shares' files and has open: at most [`MAX_STATE_BYTES`], to be kept where no
    /// other user writes. The machine must be paused, with no request under way; the server serves on as before.
    ///
    /// # Errors
    /// Something that is in use can't be carried, or the server does not answer.
    pub async fn save(&self) -> Result<Vec<u8>, ShareError> {
        let file = scratch().map_err(system("make a memory file"))?;
        match self.ask(&Command::Save, &[file.as_fd()], STATE_LIMIT).await? {
            Event::Saved { bytes } => {
                let state = read(file).map_err(system("read the state of the shares"))?;
                let whole =
                    u64::try_from(state.len()) == Ok(bytes) && state.len() <= MAX_STATE_BYTES;
                if whole { Ok(state) } else { Err(ShareError::Server) }
            }
            Event::NotSaved(reason) => Err(ShareError::Unsaved(reason)),
            _ => Err(ShareError::Server),
        }
    }

    /// Takes up what another server saved, of the same shares in the same order. Before the machine has requested
    /// anything, and once. After an error the server is of no use.
    ///
    /// # Errors
    /// A file that is in use is gone or locked by somebody else, the state is not of these shares or none, or the
    /// server does not answer.
    pub async fn restore(&self, state: &[u8]) -> Result<(), ShareError> {
        let fill = || {
            let mut file = scratch()?;
            file.write_all(state)?;
            Ok(file)
        };
        let file: File = fill().map_err(system("fill a memory file"))?;
        match self.ask(&Command::Restore, &[file.as_fd()], STATE_LIMIT).await? {
            Event::Restored => Ok(()),
            Event::NotRestored(reason) => Err(ShareError::Unrestored(reason)),
            _ => Err(ShareError::Server),
        }
    }
}

fn scratch() -> io::Result<File> {
    Ok(memfd_create("share-state", MemfdFlags::CLOEXEC)?.into())
}

/// All of it, or one byte more than there may be.
fn read(mut file: File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut state = Vec::new();
    let most = u64::try_from(MAX_STATE_BYTES).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut state)?;
    Ok(state)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> ShareError {
    move |source| ShareError::System { what, source }
}
