//! What the bench of files finds: the directories that are shared, and the root of the container. All of it goes with
//! the value.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloister_file_server::spec::Owner;
use cloister_prober::measure::{BLOCK, DATA, Work, number_pages};
use cloister_protocol::agent::first_id;
use rustix::fs::{Mode, OFlags};

use super::agent::{AGENT, PROGRAM, USER};
use crate::commands::bench::BenchError;
use crate::launch::shares::Share;
use crate::temporary::{self, Folder};

/// How its directory's name begins.
const PREFIX: &str = "cloister-bench-files-";
/// The container's root, as a directory and as a share.
pub(super) const ROOT: &str = "root";
/// The writable share.
pub(super) const WRITABLE: &str = "writable";
/// The read-only share.
pub(super) const READ_ONLY: &str = "read-only";

/// The directories.
pub(super) struct Ground {
    folder: Folder,
}

/// Removes what killed benches of this user have left in these places; where it was.
pub(super) fn sweep(places: Vec<PathBuf>) -> Vec<PathBuf> {
    temporary::left(places, PREFIX).filter_map(temporary::Left::remove).collect()
}

impl Ground {
    /// Makes them in `place`, with the program that does the work and the file that is to be read.
    pub(super) fn new(place: &Path, prober: &Path, work: Work) -> Result<Self, BenchError> {
        let wrap = |path: &Path| {
            let path = path.to_owned();
            move |source| BenchError::Write { path, source }
        };
        // From here on it is removed, whatever comes.
        let folder = Folder::new(place, PREFIX).map_err(wrap(place))?;
        for name in [ROOT, WRITABLE, READ_ONLY] {
            let path = folder.path().join(name);
            DirBuilder::new().mode(0o755).create(&path).map_err(wrap(&path))?;
        }
        let data = folder.path().join(READ_ONLY).join(DATA);
        fill(&data, work).map_err(wrap(&data))?;
        // The copy has the program's mode.
        fs::copy(prober, folder.path().join(ROOT).join(PROGRAM))
            .map_err(|source| BenchError::Program { path: prober.to_owned(), source })?;
        Ok(Self { folder })
    }

    /// What the machine shares.
    pub(super) fn shares(&self) -> Result<Vec<Share>, BenchError> {
        let first = first_id(AGENT);
        let image = Owner::Image { first_id: first };
        // Whoever owns a file of the host, the agent sees it as its own.
        let all = Owner::All { uid: first + USER.uid, gid: first + USER.gid };
        let share = |name: &str, writable, owner| -> Result<Share, BenchError> {
            let path = self.folder.path().join(name);
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let source = rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|errno| BenchError::Write { path, source: errno.into() })?;
            Ok(Share { name: name.to_owned(), source: Arc::new(source), writable, owner })
        };
        Ok(vec![
            share(ROOT, false, image)?,
            share(WRITABLE, true, all)?,
            share(READ_ONLY, false, all)?,
        ])
    }
}

/// Writes the file that is read in the read-only share.
fn fill(path: &Path, work: Work) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut block = vec![0xa5; BLOCK as usize];
    for number in 0..work.blocks {
        number_pages(&mut block, number);
        file.write_all(&block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cloister_prober::measure::are_pages;

    use super::*;

    const WORK: Work = Work { blocks: 2, reads: 1, files: 1 };

    #[test]
    fn the_file_to_read_has_every_page_and_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("program");
        fs::write(&program, "of the prober").unwrap();
        let ground = Ground::new(place.path(), &program, WORK).unwrap();
        let path = ground.folder.path().to_owned();
        let data = fs::read(path.join(READ_ONLY).join(DATA)).unwrap();
        assert!(data.len() == 2 << 20 && are_pages(&data, 0));
        let shares = ground.shares().unwrap();
        let writable: Vec<_> = shares.iter().filter(|share| share.writable).collect();
        assert_eq!((shares.len(), writable.len(), writable[0].name.as_str()), (3, 1, WRITABLE));
        drop(ground);
        assert!(!path.exists());
    }

    #[test]
    fn a_start_that_fails_leaves_nothing_and_a_killed_one_is_found() {
        let place = tempfile::tempdir().unwrap();
        let lacking = place.path().join("no-program");
        let error = Ground::new(place.path(), &lacking, WORK).err().unwrap();
        assert!(matches!(&error, BenchError::Program { path, .. } if *path == lacking), "{error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let killed = place.path().join(format!("{PREFIX}1-0"));
        fs::create_dir_all(killed.join(WRITABLE)).unwrap();
        assert_eq!(sweep(vec![place.path().to_owned()]), [killed]);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
