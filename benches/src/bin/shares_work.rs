//! `bench-shares-work`: what is measured of a share, inside the guest, with the guest's clock. Under our
//! monitor it is a command; under another it is the guest's first program.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cloister_benches::rounds::Line;
use cloister_benches::shares::work::{BLOCK, FOLDER, MOUNT, RESULT, Size, TAG};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_init = std::process::id() == 1;
    let result = Size::read(&words).and_then(|size| work(&size));
    if is_init {
        // Whoever started the machine reads the result's file, and sees by its absence that there is none.
        if let Err(error) = result {
            let text = format!("<0>bench-shares-work: {error:#}");
            fs::write("/dev/kmsg", text).ok();
        }
        rustix::fs::sync();
        reboot(RebootCommand::Restart).ok();
        return ExitCode::FAILURE;
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "bench-shares-work: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn work(size: &Size) -> anyhow::Result<()> {
    fs::create_dir_all(MOUNT)?;
    mount(TAG, MOUNT, c"virtiofs", MountFlags::empty(), None)?;
    // For `drop_caches`; it is there already where there is a supervisor.
    mount("proc", "/proc", c"proc", MountFlags::empty(), None).ok();
    let folder = Path::new(MOUNT).join(FOLDER);
    let mut lines = Vec::new();
    data(&folder, size, &mut lines)?;
    files(&folder, size, &mut lines)?;
    fs::write(folder.join(RESULT), serde_json::to_string(&lines)?)?;
    Ok(())
}

/// Times each turn of `act`.
fn timed(
    name: &str,
    count: usize,
    lines: &mut Vec<Line>,
    mut act: impl FnMut(usize) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut each = Vec::with_capacity(count);
    let begin = Instant::now();
    let mut before = begin;
    for number in 0..count {
        act(number)?;
        let now = Instant::now();
        each.push(nanoseconds(now - before));
        before = now;
    }
    let total_ns = nanoseconds(before - begin);
    lines.push(Line::new(name, total_ns, each)?);
    Ok(())
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Nothing of files stays in the guest's memory.
fn forget_pages() -> std::io::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "1")
}

fn data(folder: &Path, size: &Size, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let path = folder.join("data");
    let mut block: Vec<u8> = (0..=u8::MAX).cycle().take(BLOCK).collect();
    let mut file = File::create(&path)?;
    timed("write", size.blocks, lines, |_| file.write_all(&block))?;
    drop(file);
    forget_pages()?;
    let mut file = File::open(&path)?;
    timed("read", size.blocks, lines, |_| file.read_exact(&mut block))?;
    anyhow::ensure!(block.get(257) == Some(&1), "what was read is not what was written");
    drop(file);
    forget_pages()?;
    let file = OpenOptions::new().read(true).open(&path)?;
    let mut page = [0; 4096];
    let pages = u64::try_from(size.blocks * (BLOCK / page.len()))?;
    let mut place: u64 = 0x9e37_79b9_7f4a_7c15;
    timed("random-read", size.reads, lines, |_| {
        // Marsaglia's xorshift: the same places in every run.
        place ^= place << 13;
        place ^= place >> 7;
        place ^= place << 17;
        file.read_exact_at(&mut page, place % pages * 4096)
    })?;
    fs::remove_file(path)?;
    Ok(())
}

fn files(folder: &Path, size: &Size, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let folder = folder.join("files");
    fs::create_dir(&folder)?;
    let names: Vec<PathBuf> =
        (0..size.files).map(|number| folder.join(format!("file-{number}"))).collect();
    let name = |number: usize| names.get(number).ok_or(std::io::ErrorKind::InvalidInput);
    timed("create", size.files, lines, |number| {
        OpenOptions::new().write(true).create_new(true).open(name(number)?).map(drop)
    })?;
    timed("stat", size.files, lines, |number| fs::symlink_metadata(name(number)?).map(drop))?;
    timed("unlink", size.files, lines, |number| fs::remove_file(name(number)?))?;
    fs::remove_dir(folder)?;
    Ok(())
}
