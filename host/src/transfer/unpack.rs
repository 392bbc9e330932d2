//! A container's archive, made into files of the host's user: regular files, directories and
//! symbolic links that stay inside, without owners, set-id bits or attributes.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;

use crate::images::archive::content::write_content;
use crate::images::archive::entry::{Entry, Kind};
use crate::images::archive::fault::{Fault, LayerError};
use crate::images::archive::path::Names;
use crate::images::archive::stream::TarStream;
use crate::images::archive::tree::Tree;
use crate::images::limits::MAX_PATH;

/// Most files, directories and links of one copy.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Most bytes of one copy; holes count.
pub const MAX_BYTES: u64 = 16 << 30;

/// Unpacks an archive into the empty directory `root`; the name of its one top entry, if it has any.
///
/// # Errors
/// The archive is damaged, has more than one top entry, leads out, is too large, or the file system
/// refuses.
pub fn unpack(input: impl Read, root: OwnedFd) -> Result<Option<OsString>, LayerError> {
    let mut stream = TarStream::new(input);
    let mut unpacker = Unpacker { tree: Tree::new(root), top: None, entries: 0, bytes: 0 };
    loop {
        let number = unpacker.entries.saturating_add(1);
        match stream.next_entry() {
            Ok(Some(entry)) => unpacker
                .entry(&mut stream, &entry)
                .map_err(|fault| LayerError::new(number, &entry.path, fault))?,
            // The sender marks the end; without it something is missing.
            Ok(None) if stream.is_marked() || unpacker.entries == 0 => break,
            Ok(None) => return Err(LayerError::new(number, b"", Fault::Truncated)),
            Err((path, fault)) => return Err(LayerError::new(number, &path, fault)),
        }
    }
    Ok(unpacker.top.map(OsString::from_vec))
}

struct Unpacker {
    tree: Tree,
    top: Option<Vec<u8>>,
    entries: u64,
    bytes: u64,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, stream: &mut TarStream<R>, entry: &Entry) -> Result<(), Fault> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.entries > MAX_ENTRIES {
            return Err(Fault::Entries(MAX_ENTRIES));
        }
        if self.bytes > MAX_BYTES {
            return Err(Fault::Bytes(MAX_BYTES));
        }
        let names = Names::parse(&entry.path)?;
        let Some((folders, name)) = names.split() else { return Err(Fault::Root) };
        match (&self.top, names.all().first()) {
            (None, Some(first)) => self.top = Some(first.clone()),
            (Some(top), Some(first)) if top == first => {}
            _ => return Err(Fault::Root),
        }
        let parent = self.tree.open(folders)?.ok_or(Fault::Through)?;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        match entry.kind {
            Kind::Directory => match sys::mkdirat(&parent, name, mode | Mode::RWXU) {
                Ok(()) => Ok(()),
                Err(error) => Err(Fault::store("make a directory")(error)),
            },
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = sys::openat(&parent, name, flags, mode | Mode::RUSR | Mode::WUSR)
                    .map_err(Fault::store("make a file"))?;
                write_content(&mut File::from(file), stream, entry)
            }
            Kind::Symlink if stays_inside(folders.len(), &entry.link) => {
                sys::symlinkat(entry.link.as_slice(), &parent, name)
                    .map_err(Fault::store("make a symbolic link"))
            }
            Kind::Symlink => Err(Fault::Through),
            Kind::HardLink => self.hard_link(&parent, name, &entry.link),
            Kind::Special(what) => Err(Fault::Special(what)),
        }
    }

    fn hard_link(&self, parent: &OwnedFd, name: &[u8], target: &[u8]) -> Result<(), Fault> {
        let target = Names::parse(target)?;
        let missing = || Fault::HardLink("of it".to_owned());
        let (folders, source) = target.split().ok_or_else(missing)?;
        let folder = self.tree.open(folders)?.ok_or_else(missing)?;
        match sys::linkat(folder.as_fd(), source, parent.as_fd(), name, sys::AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::PERM) => Err(missing()),
            Err(error) => Err(Fault::store("make a link")(error)),
        }
    }
}

/// Whether a link `depth` directories deep leads nowhere but into the copy, by its words alone: the
/// directories on its way could be links too, but these stay inside as well. The top entry itself is
/// the copy, so one level less is inside.
fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if depth == 0 || target.is_empty() || target.len() > MAX_PATH || target.starts_with(b"/") {
        return false;
    }
    // A link over a link's parent would go by where that leads, so `..` may only lead the path.
    let mut level = depth;
    let mut down = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if down => return false,
            b".." => match level.checked_sub(1) {
                Some(less) if less >= 1 => level = less,
                _ => return false,
            },
            _ => down = true,
        }
    }
    !target.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, EntryType, Header};

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o6755);
        header
    }

    /// What becomes of an archive; the directory is empty afterwards, or has one entry.
    fn try_unpack(
        build: impl FnOnce(&mut Builder<Vec<u8>>),
    ) -> Result<Option<OsString>, LayerError> {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(Vec::new());
        build(&mut builder);
        let bytes = builder.into_inner().unwrap();
        let root = File::open(folder.path()).unwrap();
        let result = unpack(bytes.as_slice(), root.into());
        let outside = folder.path().parent().unwrap().join("cloister-escaped");
        assert!(!outside.exists());
        result
    }

    fn link(builder: &mut Builder<Vec<u8>>, path: &str, target: &str) {
        builder.append_link(&mut header(EntryType::Symlink, 0), path, target).unwrap();
    }

    fn directory(builder: &mut Builder<Vec<u8>>, path: &str) {
        builder.append_data(&mut header(EntryType::Directory, 0), path, &[][..]).unwrap();
    }

    fn file(builder: &mut Builder<Vec<u8>>, path: &str) {
        builder.append_data(&mut header(EntryType::Regular, 2), path, &b"ok"[..]).unwrap();
    }

    #[test]
    fn what_stays_inside_is_made() {
        let made = try_unpack(|archive| {
            directory(archive, "top");
            directory(archive, "top/a");
            file(archive, "top/a/f");
            link(archive, "top/a/l", "../a/f");
            let mut hard = header(EntryType::Link, 0);
            archive.append_link(&mut hard, "top/h", "top/a/f").unwrap();
        });
        assert_eq!(made.unwrap(), Some("top".into()));
        assert_eq!(try_unpack(|_| {}).unwrap(), None);
    }

    #[test]
    fn what_leads_out_or_is_odd_is_refused() {
        type Build = fn(&mut Builder<Vec<u8>>);
        let wrong: [(&str, Build); 9] = [
            ("a link upwards", |a| {
                directory(a, "top");
                link(a, "top/l", "../cloister-escaped");
            }),
            ("an absolute link", |a| {
                directory(a, "top");
                link(a, "top/l", "/etc/passwd");
            }),
            ("a link as the top that leads out", |a| link(a, "top", "cloister-escaped")),
            ("through a link", |a| {
                directory(a, "top");
                directory(a, "top/d");
                link(a, "top/l", "d");
                file(a, "top/l/f");
            }),
            ("up behind a name", |a| {
                directory(a, "top");
                directory(a, "top/d");
                link(a, "top/d/l", "x/../../../y");
            }),
            ("two tops", |a| {
                file(a, "one");
                file(a, "two");
            }),
            ("twice the same", |a| {
                file(a, "one");
                file(a, "one");
            }),
            ("a device", |a| {
                a.append_data(&mut header(EntryType::Char, 0), "null", &[][..]).unwrap();
            }),
            ("a hard link to nothing", |a| {
                directory(a, "top");
                a.append_link(&mut header(EntryType::Link, 0), "top/h", "top/none").unwrap();
            }),
        ];
        for (name, build) in wrong {
            let result = try_unpack(build);
            assert!(result.is_err(), "{name}: {result:?}");
        }
    }
}
