//! A share of ours and one of Debian's virtiofsd under QEMU, by the same work in the same guest.

pub mod work;

pub mod root;

pub mod ours;

pub mod qemu;

pub mod report;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::rounds::Line;
use work::{FOLDER, RESULT, Size};

/// What a measurement uses.
#[derive(Clone, Debug)]
pub struct Job {
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its root, with the work program.
    pub root: PathBuf,
    /// The kernel's command line that every guest has.
    pub cmdline: String,
    /// Guest memory.
    pub memory_mib: u32,
    /// The directory that is shared, or in which the one is that is shared.
    pub place: PathBuf,
    /// How much is done.
    pub size: Size,
}

/// Who serves.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Our monitor and file server, in the folder of our programs.
    Cloister(PathBuf),
    /// QEMU and virtiofsd.
    Virtiofsd(qemu::Virtiofsd),
}

impl Subject {
    /// For tables and files.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cloister(_) => "cloister",
            Self::Virtiofsd(subject) => subject.name,
        }
    }

    /// Does the work once, on an empty directory.
    ///
    /// # Errors
    /// The machine did not start, or the work failed.
    pub fn run(&self, job: &Job) -> anyhow::Result<Vec<Line>> {
        let folder = job.place.join(FOLDER);
        fs::create_dir(&folder)?;
        let result = match self {
            Self::Cloister(programs) => ours::run(programs, job),
            Self::Virtiofsd(subject) => subject.run(job),
        };
        let lines = result.and_then(|()| read(&folder));
        fs::remove_dir_all(folder)?;
        lines
    }
}

fn read(folder: &Path) -> anyhow::Result<Vec<Line>> {
    let text = fs::read(folder.join(RESULT)).context("the guest left no result")?;
    Ok(serde_json::from_slice(&text)?)
}
