//! What an ordinary guest does.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use cloister_file_server::control::Refusal;
use cloister_file_server::spec::{Kind, Owner, ShareSpec};

use crate::bed::{Bed, ROOT, long, open_directory, words, writable};

#[test]
fn files_are_made_written_read_and_removed() {
    let place = tempfile::tempdir().unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let (file, handle) = bed.create(work, "notes.txt", 0o666).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid, file.attr.mode & 0o7777), (1000, 1001, 0o644));
    assert_eq!(bed.write(file.node, handle, 0, b"hello"), Ok(5));
    assert_eq!(bed.write(file.node, handle, 5, &[7; 1 << 20]), Ok(1 << 20));
    assert_eq!(bed.read(file.node, handle, 0, 5).unwrap(), b"hello");
    assert_eq!(bed.read(file.node, handle, 5, 1 << 20).unwrap(), vec![7; 1 << 20]);
    assert_eq!(bed.getattr(file.node).unwrap().size, 5 + (1 << 20));
    let bytes = fs::read(place.path().join("notes.txt")).unwrap();
    assert!(bytes.starts_with(b"hello") && bytes.len() == 5 + (1 << 20));
    bed.release(file.node, handle).unwrap();

    bed.ask(9, work, &[words(&[0o755, 0o22]), b"sub\0".to_vec()].concat()).unwrap();
    let sub = bed.lookup(work, "sub").unwrap().node;
    let rename = [&sub.to_le_bytes()[..], b"notes.txt\0moved\0"].concat();
    bed.ask(12, work, &rename).unwrap();
    assert!(place.path().join("sub/moved").exists());
    bed.ask(6, work, b"link\0sub/moved\0").unwrap();
    let link = bed.lookup(work, "link").unwrap().node;
    assert_eq!(bed.ask(5, link, b"").unwrap(), b"sub/moved");
    bed.ask(13, work, &[&file.node.to_le_bytes()[..], b"hard\0"].concat()).unwrap();
    assert_eq!(fs::metadata(place.path().join("hard")).unwrap().nlink(), 2);
    bed.ask(10, work, b"hard\0").unwrap();
    bed.ask(10, sub, b"moved\0").unwrap();
    bed.ask(11, work, b"sub\0").unwrap();
    assert!(!place.path().join("sub").exists());
}

#[test]
fn shares_are_listed_and_each_is_its_own() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut bed, work) = Bed::sharing(one.path());
    assert_eq!(bed.list(ROOT, true).unwrap().len(), 1);
    let other = bed.share(writable("other"), two.path());
    for (name, node) in bed.list(ROOT, true).unwrap() {
        let expected = if name == "work" { work } else { other };
        assert_eq!(node, expected, "{name}");
    }
    fs::write(two.path().join("secret"), "x").unwrap();
    assert_eq!(bed.lookup(work, "secret").unwrap_err(), libc::ENOENT);
    let found = bed.lookup(other, "secret").unwrap().node;
    // From one share into another there is no rename and no link.
    let rename = [&work.to_le_bytes()[..], b"secret\0stolen\0"].concat();
    assert_eq!(bed.ask(12, other, &rename), Err(libc::EXDEV));
    assert_eq!(bed.ask(13, work, &[&found.to_le_bytes()[..], b"s\0"].concat()), Err(libc::EXDEV));
    assert_eq!(bed.router.add(writable("work"), open_directory(two.path())), Err(Refusal::Name));
    assert_eq!(bed.router.add(writable("W"), open_directory(two.path())), Err(Refusal::Spec));
    // In the directory of shares nothing can be made.
    assert_eq!(bed.create(ROOT, "new", 0o644).unwrap_err(), libc::EROFS);
    assert_eq!(bed.ask(10, ROOT, b"work\0"), Err(libc::EROFS));
    assert!(bed.ask(17, ROOT, b"").is_ok() && bed.ask(17, work, b"").is_ok());
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("a"), "data").unwrap();
    let mut bed = Bed::with_descriptors(4096);
    let spec = ShareSpec { writable: false, ..writable("docs") };
    let docs = bed.share(spec, place.path());
    let file = bed.lookup(docs, "a").unwrap().node;
    let handle = bed.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(bed.read(file, handle, 0, 10).unwrap(), b"data");
    assert_eq!(bed.write(file, handle, 0, b"x"), Err(libc::EROFS));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(bed.open(file, flags), Err(libc::EROFS));
    }
    assert_eq!(bed.create(docs, "b", 0o644).unwrap_err(), libc::EROFS);
    let names = b"a\0b\0";
    let changes: [(u32, u64, Vec<u8>); 10] = [
        (4, file, vec![0; 88]),
        (6, docs, b"l\0t\0".to_vec()),
        (8, docs, [words(&[libc::S_IFREG | 0o644, 0, 0, 0]), b"n\0".to_vec()].concat()),
        (9, docs, [words(&[0o755, 0]), b"d\0".to_vec()].concat()),
        (10, docs, b"a\0".to_vec()),
        (11, docs, b"a\0".to_vec()),
        (12, docs, [&docs.to_le_bytes()[..], names].concat()),
        (13, docs, [&file.to_le_bytes()[..], b"h\0"].concat()),
        (21, file, [words(&[1, 0]), b"user.a\0x".to_vec()].concat()),
        (24, file, b"user.a\0".to_vec()),
    ];
    for (opcode, node, body) in changes {
        assert_eq!(bed.ask(opcode, node, &body), Err(libc::EROFS), "{opcode}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn only_files_directories_and_links_are_shown_or_made() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let (mut bed, work) = Bed::sharing(place.path());
    let fifo = rustix::fs::FileType::Fifo;
    for number in 0..300 {
        let name = path(&format!("pipe{number}"));
        rustix::fs::mknodat(rustix::fs::CWD, name, fifo, 0o666.into(), 0).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    fs::write(path("file"), "").unwrap();
    symlink("nowhere", path("link")).unwrap();
    for plus in [false, true] {
        let names: Vec<String> =
            bed.list(work, plus).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [".", "..", "file", "link"], "{plus}");
    }
    for hidden in ["pipe7", "socket"] {
        assert_eq!(bed.lookup(work, hidden).unwrap_err(), libc::ENOENT);
    }
    for kind in [libc::S_IFIFO, libc::S_IFCHR, libc::S_IFBLK, libc::S_IFSOCK] {
        let body = [words(&[kind | 0o644, 0x103, 0, 0]), b"special\0".to_vec()].concat();
        assert_eq!(bed.ask(8, work, &body), Err(libc::EPERM));
    }
    // A file that became a FIFO after it was looked up is what it was, or nothing.
    let file = bed.lookup(work, "file").unwrap().node;
    fs::remove_file(path("file")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("file"), fifo, 0o666.into(), 0).unwrap();
    assert!(bed.open(file, libc::O_RDONLY).is_ok());
    assert_eq!(bed.lookup(work, "file").unwrap_err(), libc::ENOENT);
}

#[test]
fn set_id_bits_are_neither_shown_nor_made() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("tool");
    fs::write(&path, "#!").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let tool = bed.lookup(work, "tool").unwrap();
    assert_eq!(tool.attr.mode & 0o7777, 0o755);
    let (made, _) = bed.create(work, "new", 0o6777).unwrap();
    assert_eq!(made.attr.mode & 0o7777, 0o755);
    // FATTR_MODE.
    let mut body = vec![0; 88];
    body[..4].copy_from_slice(&1_u32.to_le_bytes());
    body[68..72].copy_from_slice(&0o6711_u32.to_le_bytes());
    bed.ask(4, made.node, &body).unwrap();
    let mode = fs::metadata(place.path().join("new")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o711);
}

#[test]
fn a_file_share_is_the_file_alone() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "one").unwrap();
    let mut bed = Bed::with_descriptors(4096);
    let owner = Owner::All { uid: 0, gid: 0 };
    let spec = ShareSpec { name: "config.toml".into(), kind: Kind::File, writable: false, owner };
    let file = bed.share(spec, place.path());
    let handle = bed.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(bed.read(file, handle, 0, 9).unwrap(), b"one");
    // The directory around it has the library's number 1, and is nobody's.
    let around = (file >> 48) << 48 | 1;
    assert_eq!(bed.getattr(around).unwrap_err(), libc::ESTALE);
    assert_eq!(bed.lookup(around, "file").unwrap_err(), libc::ESTALE);
}

#[test]
fn attributes_of_users_pass_and_the_hosts_do_not() {
    let place = tempfile::tempdir().unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let (file, _) = bed.create(work, "f", 0o644).unwrap();
    let set = |name: &str, value: &str| {
        let size = u32::try_from(value.len()).unwrap();
        [words(&[size, 0]), name.as_bytes().to_vec(), vec![0], value.as_bytes().to_vec()].concat()
    };
    bed.ask(21, file.node, &set("user.colour", "blue")).unwrap();
    let get = [words(&[64, 0]), b"user.colour\0".to_vec()].concat();
    assert_eq!(bed.ask(22, file.node, &get).unwrap(), b"blue");
    for name in ["security.capability", "trusted.x", "system.posix_acl_access", "user.cloister.x"] {
        assert_eq!(bed.ask(21, file.node, &set(name, "x")), Err(libc::EOPNOTSUPP), "{name}");
        let get = [words(&[64, 0]), name.as_bytes().to_vec(), vec![0]].concat();
        assert_eq!(bed.ask(22, file.node, &get), Err(libc::EOPNOTSUPP), "{name}");
    }
    let path = place.path().join("f");
    rustix::fs::setxattr(&path, "user.containers.x", b"1", rustix::fs::XattrFlags::empty())
        .unwrap();
    assert_eq!(bed.ask(23, file.node, &words(&[64, 0])).unwrap(), b"user.colour\0");
    assert_eq!(
        long(&[bed.ask(23, file.node, &words(&[0, 0])).unwrap(), vec![0; 8]].concat(), 0),
        12
    );
    assert_eq!(bed.ask(23, file.node, &words(&[5, 0])), Err(libc::ERANGE));
}

#[test]
fn changes_of_the_host_are_seen_at_once() {
    let place = tempfile::tempdir().unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let path = place.path().join("f");
    fs::write(&path, "1").unwrap();
    let file = bed.lookup(work, "f").unwrap();
    assert_eq!(file.seconds, 0);
    let handle = bed.open(file.node, libc::O_RDWR).unwrap();
    fs::write(&path, "22").unwrap();
    assert_eq!(bed.getattr(file.node).unwrap().size, 2);
    assert_eq!(bed.read(file.node, handle, 0, 9).unwrap(), b"22");
    bed.write(file.node, handle, 2, b"3").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"223");
}
