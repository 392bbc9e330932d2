//! The guest's root with one program more: archives of this kind may follow each other.

use std::fs;
use std::io::Write as _;
use std::path::Path;

/// A regular file that everybody may execute.
const MODE: u32 = 0o100_755;

/// Writes `root`, then an archive of `program` under `name`, to `output`.
///
/// # Errors
/// A file can't be read or written.
pub fn with_program(root: &Path, program: &Path, name: &str, output: &Path) -> anyhow::Result<()> {
    let mut archive = fs::read(root)?;
    pad(&mut archive);
    let content = fs::read(program)?;
    entry(&mut archive, name, MODE, &content)?;
    entry(&mut archive, "TRAILER!!!", 0, &[])?;
    fs::write(output, archive)?;
    Ok(())
}

/// One entry in the format `newc`: thirteen numbers, the name, the content.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let (size, name_size) = (u32::try_from(content.len())?, u32::try_from(name.len() + 1)?);
    archive.extend(b"070701");
    for number in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(archive, "{number:08X}")?;
    }
    archive.extend(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend(content);
    pad(archive);
    Ok(())
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_follows_the_root() {
        let folder = std::env::temp_dir().join(format!("bench-root-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (root, program, both) = (folder.join("r"), folder.join("p"), folder.join("b"));
        fs::write(&root, b"12345").unwrap();
        fs::write(&program, b"abc").unwrap();
        with_program(&root, &program, "name", &both).unwrap();
        let text = fs::read(&both).unwrap();
        fs::remove_dir_all(folder).unwrap();
        assert!(text.starts_with(b"12345\0\0\x00070701"));
        assert_eq!(text.len() % 4, 0);
        // Header and name: 110 + 5, to 116; the content; the end's header.
        assert_eq!(text.get(8 + 110..8 + 120), Some(&b"name\0\0abc\0"[..]));
        assert!(text.get(8 + 120 + 110..).unwrap().starts_with(b"TRAILER!!!"));
    }
}
