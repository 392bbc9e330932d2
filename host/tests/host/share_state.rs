//! A file server in its jail leaves what the machine knows and has open to the next one, in another jail.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;

use cloister::launch::shares::ShareError;
use cloister_file_server::control::{Unrestored, Unsaved, Why};
use cloister_file_server::sys::{Record, set_lock};

use super::harness::Installation;
use super::shares::{Bed, before_requests, folder, share};

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn open(bed: &mut Bed, node: u64, flags: i32) -> u64 {
    long(&bed.ask(14, node, &longs(&[u64::from(flags.cast_unsigned())])).expect("an open file"))
}

fn read(bed: &mut Bed, node: u64, handle: u64, offset: u64) -> Result<Vec<u8>, i32> {
    bed.ask(15, node, &longs(&[handle, offset, 4096, 0, 0]))
}

/// A directory whose files the server may write.
fn filled() -> tempfile::TempDir {
    let work = folder();
    fs::create_dir_all(work.path().join("a/b")).expect("folders");
    for name in ["a/b/db", "removed"] {
        fs::write(work.path().join(name), "0123456789").expect("a file");
        let all = fs::Permissions::from_mode(0o666);
        fs::set_permissions(work.path().join(name), all).expect("a mode");
    }
    work
}

#[tokio::test(flavor = "current_thread")]
async fn another_jailed_server_goes_on_with_what_the_machine_has_open() {
    let installation = Installation::jailed("ordinary");
    let (work, single) = (filled(), folder());
    fs::write(single.path().join("settings"), "a = 1").expect("a file");
    let shares = [
        share("work", work.path(), true),
        share("settings", &single.path().join("settings"), false),
    ];
    let mut bed = before_requests(&installation, &shares).await.expect("a server");
    bed.init();
    let root = bed.lookup(1, "work").expect("a share");
    let outer = bed.lookup(root, "a").expect("a folder");
    let inner = bed.lookup(outer, "b").expect("a folder");
    let node = bed.lookup(inner, "db").expect("a file");
    let handle = open(&mut bed, node, libc::O_RDWR);
    let settings = bed.lookup(1, "settings").expect("a share");
    let reading = open(&mut bed, settings, libc::O_RDONLY);
    let lock = longs(&[handle, 1, 2, 5, 1, 0]);
    bed.ask(32, node, &lock).expect("a lock");

    // A checkpoint: the server serves on.
    let server = bed.started.server.clone();
    let state = server.save().await.expect("a state");
    assert_eq!(read(&mut bed, node, handle, 8).expect("content"), b"89");
    let text = String::from_utf8_lossy(&state);
    assert!(!text.contains(work.path().to_str().expect("a path")), "a path of the host");
    let again = server.save().await.expect("a state");
    let late = server.restore(&again).await;
    assert!(matches!(late, Err(ShareError::Unrestored(Unrestored::Late))), "{late:?}");
    drop(bed);

    let mut bed = before_requests(&installation, &shares).await.expect("a server");
    bed.started.server.restore(&state).await.expect("what was open");
    assert_eq!(read(&mut bed, node, handle, 3).expect("content"), b"3456789");
    assert_eq!(read(&mut bed, settings, reading, 0).expect("content"), b"a = 1");
    assert_eq!(bed.lookup(inner, "db"), Ok(node));
    let file = File::open(work.path().join("a/b/db")).expect("a file");
    let record = |start| Record::new(libc::F_RDLCK.cast_unsigned(), start, 9).expect("a range");
    assert!(set_lock(&file, record(5)).is_err());
    set_lock(&file, record(6)).expect("what is not locked");

    // What can't go on is told.
    let removed = bed.lookup(root, "removed").expect("a file");
    let kept = open(&mut bed, removed, libc::O_RDONLY);
    let server = bed.started.server.clone();
    let state = server.save().await.expect("a state");
    fs::remove_file(work.path().join("removed")).expect("a file");
    let refused = server.save().await.expect_err("a file without a name");
    let ShareError::Unsaved(Unsaved::File { share: name, path, why }) = &refused else {
        panic!("{refused:?}")
    };
    // In the jail a share's path begins with the share.
    assert_eq!((name.as_str(), path.as_str(), *why), ("work", "removed (deleted)", Why::Unlinked));
    assert!(refused.remedy().is_some());
    assert_eq!(read(&mut bed, removed, kept, 9).expect("content"), b"9");
    drop((bed, file));

    let bed = before_requests(&installation, &shares).await.expect("a server");
    let refused = bed.started.server.restore(&state).await.expect_err("a file that is gone");
    assert!(cloister::report::chain(&refused).contains("removed"), "{refused:?}");
    let bed = before_requests(&installation, &shares[..1]).await.expect("a server");
    let refused = bed.started.server.restore(&state).await;
    assert!(matches!(refused, Err(ShareError::Unrestored(Unrestored::Shares))), "{refused:?}");
    let bed = before_requests(&installation, &shares).await.expect("a server");
    let refused = bed.started.server.restore(&vec![7; 40 << 20]).await;
    let damaged = matches!(refused, Err(ShareError::Unrestored(Unrestored::Damaged { .. })));
    assert!(damaged, "{refused:?}");
}
