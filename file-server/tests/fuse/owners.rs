//! Whom the guest sees as owner.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use cloister_file_server::spec::{Kind, Owner, ShareSpec};
use rustix::fs::{XattrFlags, setxattr};

use crate::bed::{Bed, words};

#[test]
fn an_image_shows_recorded_owners_and_may_be_kept() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::write(path("app"), "x").unwrap();
    fs::write(path("plain"), "x").unwrap();
    fs::write(path("broken"), "x").unwrap();
    symlink("app", path("link")).unwrap();
    let record = "user.containers.override_stat";
    setxattr(path("app"), record, b"33:34:4750", XattrFlags::empty()).unwrap();
    setxattr(path("broken"), record, b"-1:0:777", XattrFlags::empty()).unwrap();
    let mut bed = Bed::with_descriptors(4096);
    let owner = Owner::Image { first_id: 200_000 };
    let spec = ShareSpec { name: "image".into(), kind: Kind::Directory, writable: false, owner };
    let image = bed.share(spec, place.path());
    let app = bed.lookup(image, "app").unwrap();
    assert_eq!((app.attr.uid, app.attr.gid), (200_033, 200_034));
    assert_eq!(app.attr.mode & 0o7777, 0o750);
    assert!(app.seconds > 3600);
    let again = bed.getattr(app.node).unwrap();
    assert_eq!((again.uid, again.gid, again.mode), (app.attr.uid, app.attr.gid, app.attr.mode));
    for name in ["plain", "broken", "link"] {
        let entry = bed.lookup(image, name).unwrap();
        assert_eq!((entry.attr.uid, entry.attr.gid), (200_000, 200_000), "{name}");
    }
    // The record itself is not the guest's to see.
    assert_eq!(bed.ask(23, app.node, &words(&[256, 0])).unwrap(), b"");
    let get = [words(&[64, 0]), record.as_bytes().to_vec(), vec![0]].concat();
    assert_eq!(bed.ask(22, app.node, &get), Err(libc::EOPNOTSUPP));
}

#[test]
fn a_guest_changes_no_owner() {
    let place = tempfile::tempdir().unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let (file, _) = bed.create(work, "f", 0o644).unwrap();
    let before = fs::metadata(place.path().join("f")).unwrap();
    let chown = |uid: u32, gid: u32, valid: u32| {
        let mut body = vec![0; 88];
        body[..4].copy_from_slice(&valid.to_le_bytes());
        body[76..80].copy_from_slice(&uid.to_le_bytes());
        body[80..84].copy_from_slice(&gid.to_le_bytes());
        body
    };
    // FATTR_UID 2, FATTR_GID 4.
    assert!(bed.ask(4, file.node, &chown(1000, 1001, 6)).is_ok());
    for (uid, gid, valid) in [(0, 1001, 6), (1000, 0, 6), (0, 0, 2), (0, 0, 4), (u32::MAX, 1001, 6)]
    {
        assert_eq!(bed.ask(4, file.node, &chown(uid, gid, valid)), Err(libc::EPERM));
    }
    let after = fs::metadata(place.path().join("f")).unwrap();
    assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
}
