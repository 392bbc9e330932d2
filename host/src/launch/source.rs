//! Where a machine's vmm comes from: it is started here, or it waited in a pool.

use super::files::Files;
use super::jail::{self, Cell, LimitsWish};
use super::process::VmmProcess;
use super::{LaunchError, LaunchSpec};
use crate::control::ControlSocket;
use crate::pool::Kind;
use crate::pool::take::{Blank, take};

/// What will be a machine's vmm.
#[derive(Debug)]
pub(super) enum Source {
    /// Its jail; it is still to be started.
    Cell(Cell),
    /// It waits in its jail.
    Blank(Box<Blank>),
}

impl Source {
    /// The vmm, in its jail, and its control socket.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn vmm(self, files: &Files) -> Result<(VmmProcess, ControlSocket), LaunchError> {
        Ok(match self {
            Self::Cell(cell) => {
                let (control, vmm_end) = ControlSocket::pair()?;
                (VmmProcess::spawn(&files.jailer, &files.vmm, cell, vmm_end)?, control)
            }
            Self::Blank(blank) => {
                let Blank { pid, handle, control, words, parent, .. } = *blank;
                let process = VmmProcess::of_blank(pid, (handle, words), parent)?;
                (process, ControlSocket::of_host(control)?)
            }
        })
    }
}

impl LaunchSpec {
    /// Takes a vmm out of the pool, if there is one that fits, and gives it this machine's limits.
    ///
    /// # Errors
    /// The pool that was named does not answer, or the limits can't be given.
    pub async fn take_blank(&self) -> Result<Option<Blank>, LaunchError> {
        let Some(place) = self.pool.as_ref().filter(|place| place.may_be_there()) else {
            return Ok(None);
        };
        // What is missing for a start is said by the start itself, and better.
        let Ok(kind) = Kind::of(&self.files, &self.jail) else { return Ok(None) };
        let Some(blank) = take(place, &kind).await? else { return Ok(None) };
        if self.jail.limits == LimitsWish::Asked {
            blank.limit(&jail::limits_of(&self.vm))?;
        }
        Ok(Some(blank))
    }
}
