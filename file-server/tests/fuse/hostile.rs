//! What only a hostile guest sends: every answer is an error, and nothing else happens.

use std::fs;

use cloister_file_server::control::Job;
use cloister_file_server::limits::{SLOT_BYTES, SLOTS};
use cloister_file_server::memory::Checked;

use crate::bed::{Bed, read_body, word, words};

#[test]
fn handles_and_files_that_were_never_given_are_errors() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), "data").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let file = bed.lookup(work, "f").unwrap().node;
    let handle = bed.open(file, libc::O_RDONLY).unwrap();
    for wrong in [0, handle + 1, handle | 1 << 63, u64::MAX, 7 << 48] {
        assert!(bed.read(file, wrong, 0, 4).is_err());
        assert!(bed.write(file, wrong, 0, b"x").is_err());
        assert!(bed.release(file, wrong).is_err());
        assert!(bed.ask(28, work, &read_body(wrong, 0, 4096)).is_err());
    }
    // A handle of another file.
    assert!(bed.read(work, handle, 0, 4).is_err());
    for wrong in [0, 2, 99, file + 1, 5 << 48 | 1, u64::MAX] {
        for opcode in [3, 4, 5, 14, 17, 22, 23, 27] {
            let body = if opcode == 22 { [&[0; 8][..], b"user.a\0"].concat() } else { vec![0; 88] };
            let answer = bed.ask(opcode, wrong, &body);
            // Numbers below the first share's are all the directory of shares.
            if wrong >> 48 == 0 && [3, 17, 27].contains(&opcode) {
                continue;
            }
            assert!(answer.is_err(), "{opcode} on {wrong:#x}");
        }
        assert!(bed.lookup(wrong, "f").is_err());
    }
    // The handle still works.
    assert_eq!(bed.read(file, handle, 0, 4).unwrap(), b"data");
    bed.release(file, handle).unwrap();
    assert!(bed.read(file, handle, 0, 4).is_err());
}

#[test]
fn names_that_lead_elsewhere_are_errors_and_make_nothing() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("shared");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("secret"), "x").unwrap();
    std::os::unix::fs::symlink("../secret", inner.join("way-out")).unwrap();
    std::os::unix::fs::symlink("/", inner.join("root")).unwrap();
    let (mut bed, work) = Bed::sharing(&inner);
    for name in
        ["..", ".", "../secret", "/etc/passwd", "way-out/x", "", "root/etc", &"n".repeat(256)]
    {
        assert!(bed.lookup(work, name).is_err(), "{name}");
        assert!(bed.create(work, name, 0o644).is_err(), "{name}");
        let ended = [name.as_bytes(), &[0]].concat();
        let make = [words(&[0o755, 0]), ended.clone()].concat();
        assert!(bed.ask(9, work, &make).is_err(), "{name}");
        assert!(bed.ask(10, work, &ended).is_err() && bed.ask(11, work, &ended).is_err());
        let rename = [&work.to_le_bytes()[..], b"way-out\0", &ended].concat();
        assert!(bed.ask(12, work, &rename).is_err());
        assert!(bed.ask(6, work, &[&ended[..], b"target\0"].concat()).is_err());
    }
    // A link is shown and not followed.
    let link = bed.lookup(work, "way-out").unwrap();
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert!(bed.open(link.node, libc::O_RDONLY).is_err());
    assert!(bed.lookup(link.node, "x").is_err());
    assert_eq!(fs::read_dir(&inner).unwrap().count(), 2);
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
}

#[test]
fn messages_that_are_none_get_an_error_or_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    for opcode in (0..64).chain([4096, u32::MAX]) {
        for length in [0, 1, 7, 8, 16, 39, 40, 88, 200, 4096, 70_000, 200_000] {
            for lie in [0_i64, -1, 1, 1 << 20] {
                let mut message = bed.message(opcode, work, &vec![0; 70_000]);
                message.resize(length.max(8), 0);
                let claimed = i64::try_from(length).unwrap() + lie;
                message[..4].copy_from_slice(&u32::try_from(claimed.max(0)).unwrap().to_le_bytes());
                message.truncate(length);
                let reply = bed.raw(&message, SLOT_BYTES);
                assert!(reply.is_empty() || reply.len() >= 16, "{opcode} {length}");
                if lie != 0 && !reply.is_empty() {
                    assert_ne!(word(&reply, 4), 0, "{opcode} {length} {lie}");
                }
            }
        }
    }
    // The server is well; there was a new start among the messages.
    let work = bed.lookup(1, "work").unwrap().node;
    bed.create(work, "after", 0o644).unwrap();
}

#[test]
fn no_room_for_a_reply_is_no_reply_or_an_error() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), vec![1; 8192]).unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let file = bed.lookup(work, "f").unwrap().node;
    let handle = bed.open(file, libc::O_RDONLY).unwrap();
    for room in [0, 1, 15, 16, 17, 40, 100, 4096] {
        for (opcode, node, body) in [
            (1, work, b"f\0".to_vec()),
            (3, file, vec![0; 16]),
            (15, file, read_body(handle, 0, 8192)),
            (17, work, Vec::new()),
            (28, work, read_body(0, 0, 8192)),
            (26, 1, words(&[7, 38, 0, 0])),
            (31, file, vec![0; 48]),
        ] {
            let message = bed.message(opcode, node, &body);
            let reply = bed.raw(&message, room);
            assert!(reply.is_empty() || reply.len() >= 16, "{opcode} {room}");
        }
    }
}

#[test]
fn jobs_out_of_bounds_are_none() {
    let job = Job { slot: 0, request_bytes: 40, reply_bytes: 16 };
    let most = u32::try_from(SLOT_BYTES).unwrap();
    assert!(Checked::new(Job { request_bytes: most, reply_bytes: most, ..job }).is_some());
    for job in [
        Job { slot: SLOTS, ..job },
        Job { slot: u32::MAX, ..job },
        Job { request_bytes: most + 1, ..job },
        Job { reply_bytes: u32::MAX, ..job },
    ] {
        assert_eq!(Checked::new(job), None);
    }
}

#[test]
fn open_and_known_files_are_capped_and_come_free_again() {
    let place = tempfile::tempdir().unwrap();
    for number in 0..64 {
        fs::write(place.path().join(number.to_string()), "").unwrap();
    }
    // An eighth of it for open files.
    let mut bed = Bed::with_descriptors(32);
    let work = bed.share(crate::bed::writable("work"), place.path());
    let file = bed.lookup(work, "0").unwrap().node;
    let handles: Vec<u64> = (0..4).map(|_| bed.open(file, libc::O_RDONLY).unwrap()).collect();
    assert_eq!(bed.open(file, libc::O_RDONLY), Err(libc::ENFILE));
    for handle in handles {
        bed.release(file, handle).unwrap();
    }
    assert!(bed.open(file, libc::O_RDONLY).is_ok());
    let mut known = Vec::new();
    let refused = (1..64).find_map(|number| match bed.lookup(work, &number.to_string()) {
        Ok(entry) => {
            known.push(entry.node);
            None
        }
        Err(errno) => Some(errno),
    });
    assert_eq!(refused, Some(libc::ENOMEM));
    assert_eq!(known.len() + 2, 28);
    // More than it was told of: as often as it was.
    for node in known {
        bed.forget(node, u64::MAX);
    }
    assert!(bed.lookup(work, "63").is_ok());
    // Forgetting what is not known, or the share itself, is nothing.
    bed.forget(99 << 48, 1);
    bed.forget(0, 1);
    bed.forget(work, u64::MAX);
    assert_eq!(bed.getattr(work).unwrap_err(), libc::ESTALE);
    assert!(bed.lookup(1, "work").is_ok());
}
