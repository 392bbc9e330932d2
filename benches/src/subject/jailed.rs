//! `cloister-vmm` in its jail, started as `cloister` starts it. The clock starts with the jailer: control group and sealed
//! copy of the program are made before.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ::cloister::launch::jail::{Cell, JailSpec, limits_of};
use ::cloister::launch::{place, process};
use anyhow::{Context, bail};
use cloister_vmm::control::CONTROL_FD;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Job, Prepared};
use crate::spawn::{Program, Running};

/// The jail of a measurement. Dropped, its control group is removed, and whatever is in it is killed.
#[derive(Debug)]
pub(super) struct Jail {
    vmm: PathBuf,
    reports: Option<OwnedFd>,
    _cell: Cell,
}

/// Puts what was prepared into a jail.
pub(super) fn enter(
    vmm: &Path,
    jailer: &Path,
    job: &Job,
    mut prepared: Prepared,
) -> anyhow::Result<Prepared> {
    let at = prepared.descriptors.iter().position(|(_, place)| *place == CONTROL_FD);
    let (control, _) = prepared.descriptors.remove(at.context("no control socket")?);
    let jail = JailSpec { limits: job.limits, ..JailSpec::default() };
    let cell = jail.cell(limits_of(&job.spec()))?;
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    prepared.descriptors.extend(place::descriptors(vmm, &cell, control, report)?);
    prepared.program = Program::new(jailer, &[])?;
    prepared.jail = Some(Jail { vmm: vmm.to_owned(), reports: Some(reports), _cell: cell });
    Ok(prepared)
}

impl Jail {
    /// The jailed process, once the jailer has executed it.
    pub(super) fn process(&mut self, jailer: Running) -> anyhow::Result<Running> {
        let Some(reports) = self.reports.take() else { bail!("its jailer has reported before") };
        let pid = process::await_jail(jailer.into_pid(), reports, &self.vmm)?;
        Ok(Running::of(pid))
    }
}
