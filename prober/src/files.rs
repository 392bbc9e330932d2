//! The work of `cloister bench files` in its container: calls on a writable and on a read-only share, each timed by the
//! guest's clock, and nothing else within the time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use crate::measure::{
    BLOCK, DATA, Data, PAGE, READ_ONLY, Times, WRITABLE, Work, are_pages, number_pages,
};

/// By what the places of random reads differ: a prime larger than any file has pages, so that no page comes twice before
/// all have come. 2^32 by the golden ratio, about, which scatters them.
const STRIDE: u64 = 2_654_435_761;

/// Does the work that its argument tells, and writes the times.
#[must_use]
pub fn work(order: &str) -> ExitCode {
    let done = serde_json::from_str(order).map_err(io::Error::other).and_then(|work| {
        let times = all(Path::new(WRITABLE), Path::new(READ_ONLY), work)?;
        let text = serde_json::to_vec(&times).map_err(io::Error::other)?;
        io::stdout().write_all(&text)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that is gone needs no reason.
            writeln!(io::stderr(), "{error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn all(writable: &Path, read_only: &Path, work: Work) -> io::Result<Times> {
    let path = writable.join(DATA);
    let mut times = Times { write: write(&path, work)?, ..Times::default() };
    times.writable = read(&path, work)?;
    fs::remove_file(path)?;
    files(&writable.join("files"), work, &mut times)?;
    times.read_only = read(&read_only.join(DATA), work)?;
    Ok(times)
}

/// The time of one call.
fn timed<T>(times: &mut Vec<u64>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let begin = Instant::now();
    let done = act()?;
    times.push(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    Ok(done)
}

fn block() -> Vec<u8> {
    vec![0x5a; BLOCK as usize]
}

fn write(path: &Path, work: Work) -> io::Result<Vec<u64>> {
    let (mut times, mut block) = (Vec::new(), block());
    let mut file = File::create_new(path)?;
    for number in 0..work.blocks {
        number_pages(&mut block, number);
        let count = timed(&mut times, || file.write(&block))?;
        whole(count, &block, "written")?;
    }
    Ok(times)
}

fn read(path: &Path, work: Work) -> io::Result<Data> {
    let (mut data, mut block) = (Data::default(), block());
    let mut file = File::open(path)?;
    forget(&file)?;
    for number in 0..work.blocks {
        let count = timed(&mut data.read, || file.read(&mut block))?;
        whole(count, &block, "read")?;
        expect(&block, u64::from(number) * u64::from(BLOCK / PAGE))?;
    }
    forget(&file)?;
    let mut page = vec![0; PAGE as usize];
    let pages = work.pages().max(1);
    for turn in 0..u64::from(work.reads) {
        let index = turn.wrapping_mul(STRIDE) % pages;
        let place = index * u64::from(PAGE);
        let count = timed(&mut data.random, || file.read_at(&mut page, place))?;
        whole(count, &page, "read")?;
        expect(&page, index)?;
    }
    Ok(data)
}

/// What the guest keeps of this file goes: of a read-only share it may keep what it has read.
fn forget(file: &File) -> io::Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

/// A call that does less than it was asked for took less time too.
fn whole(count: usize, bytes: &[u8], what: &str) -> io::Result<()> {
    if count == bytes.len() {
        return Ok(());
    }
    Err(io::Error::other(format!("only {count} of {} bytes were {what} at once", bytes.len())))
}

fn expect(bytes: &[u8], first: u64) -> io::Result<()> {
    if are_pages(bytes, first) {
        return Ok(());
    }
    Err(io::Error::other(format!("what was read is not what was written, from page {first} on")))
}

fn files(folder: &Path, work: Work, times: &mut Times) -> io::Result<()> {
    fs::create_dir(folder)?;
    let names: Vec<PathBuf> =
        (0..work.files).map(|number| folder.join(format!("file-{number}"))).collect();
    for name in &names {
        timed(&mut times.create, || {
            OpenOptions::new().write(true).create_new(true).open(name).map(drop)
        })?;
    }
    for name in &names {
        timed(&mut times.stat, || fs::symlink_metadata(name))?;
    }
    for name in &names {
        timed(&mut times.unlink, || fs::remove_file(name))?;
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both shares' directories.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.path("writable")).unwrap();
            fs::create_dir(place.path("read-only")).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn fill(&self, blocks: u32) {
            let mut bytes = Vec::new();
            for number in 0..blocks {
                let mut block = block();
                number_pages(&mut block, number);
                bytes.extend(block);
            }
            fs::write(self.path("read-only/data"), bytes).unwrap();
        }

        fn all(&self, work: Work) -> io::Result<Times> {
            all(&self.path("writable"), &self.path("read-only"), work)
        }
    }

    #[test]
    fn every_call_is_timed_and_nothing_is_left() {
        let place = Place::new();
        let work = Work { blocks: 2, reads: 512, files: 10 };
        place.fill(2);
        let times = place.all(work).unwrap();
        assert!(work.is_of(&times));
        assert!(times.write.iter().chain(&times.create).all(|time| *time > 0));
        assert_eq!(fs::read_dir(place.path("writable")).unwrap().count(), 0);
        // Again: nothing is in the way.
        assert!(place.all(work).is_ok());
    }

    #[test]
    fn what_is_not_there_or_wrong_is_no_measurement() {
        let place = Place::new();
        let work = Work { blocks: 2, reads: 1, files: 1 };
        place.fill(1);
        assert!(place.all(work).unwrap_err().to_string().contains("only 0 of 1048576"));
        fs::write(place.path("read-only/data"), vec![0; 2 << 20]).unwrap();
        let error = place.all(work).unwrap_err().to_string();
        assert!(error.contains("not what was written, from page 0"), "{error}");
        fs::remove_file(place.path("read-only/data")).unwrap();
        assert!(place.all(work).is_err());
    }

    #[test]
    fn random_places_come_once_each() {
        for pages in [256_u64, 768, 64 * 256] {
            let places: std::collections::BTreeSet<u64> =
                (0..pages).map(|turn| turn.wrapping_mul(STRIDE) % pages).collect();
            assert_eq!(places.len() as u64, pages);
        }
    }
}
