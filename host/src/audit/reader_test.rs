//! A log is read while it grows, ends in the middle of a line, and loses its oldest segments.

use std::fs;
use std::io::Write as _;

use tempfile::TempDir;

use super::*;

fn add(folder: &TempDir, first: u64, text: &str) {
    let path = folder.path().join(segment_name(first));
    let file = File::options().create(true).append(true).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

fn next(reader: &mut Reader) -> Option<(u64, String)> {
    let line = reader.line().unwrap()?;
    Some((line.number, String::from_utf8(line.bytes).unwrap()))
}

fn line(number: u64, text: &str) -> Option<(u64, String)> {
    Some((number, text.to_owned()))
}

#[test]
fn lines_come_once_they_are_whole() {
    let folder = TempDir::new().unwrap();
    let mut reader = Reader::new(folder.path());
    assert_eq!(next(&mut reader), None);
    add(&folder, 1, "one\ntw");
    assert_eq!(next(&mut reader), line(1, "one"));
    assert_eq!(next(&mut reader), None);
    // A crash had cut it; the next writer takes it away and goes on in its place.
    File::options()
        .write(true)
        .open(folder.path().join(segment_name(1)))
        .unwrap()
        .set_len(4)
        .unwrap();
    add(&folder, 1, "zwei\n");
    assert_eq!(next(&mut reader), line(2, "zwei"));
    assert_eq!(next(&mut reader), None);
    add(&folder, 1, "three\n");
    add(&folder, 4, "four\n");
    assert_eq!(next(&mut reader), line(3, "three"));
    assert_eq!(next(&mut reader), line(4, "four"));
    assert_eq!(next(&mut reader), None);
}

#[test]
fn a_segment_that_is_read_can_be_dropped() {
    let folder = TempDir::new().unwrap();
    add(&folder, 1, "one\ntwo\n");
    add(&folder, 3, "three\n");
    add(&folder, 4, "four\n");
    let mut reader = Reader::new(folder.path());
    assert_eq!(next(&mut reader), line(1, "one"));
    fs::remove_file(folder.path().join(segment_name(1))).unwrap();
    fs::remove_file(folder.path().join(segment_name(3))).unwrap();
    assert_eq!(next(&mut reader), line(2, "two"));
    assert_eq!(next(&mut reader), line(4, "four"));
    assert_eq!(next(&mut reader), None);
}

#[test]
fn any_record_is_found() {
    let folder = TempDir::new().unwrap();
    add(&folder, 5, "five\nsix\n");
    add(&folder, 7, "seven\neight\n");
    let mut reader = Reader::new(folder.path());
    for (wanted, found) in [
        (0, line(5, "five")),
        (1, line(5, "five")),
        (5, line(5, "five")),
        (6, line(6, "six")),
        (7, line(7, "seven")),
        (8, line(8, "eight")),
        (9, None),
        (u64::MAX, None),
    ] {
        reader.seek(wanted).unwrap();
        assert_eq!(next(&mut reader), found, "{wanted}");
    }
}

#[test]
fn a_record_is_found_by_its_own_number() {
    let folder = TempDir::new().unwrap();
    let record = |seq: u64| {
        let json = serde_json::json!({
            "log": "a", "seq": seq, "prev": "b", "time": "c", "kind": "d", "detail": "",
        });
        format!("{json}\n")
    };
    // Records 2 to 4 were taken out.
    add(&folder, 1, &[record(1), record(5), "none\n".into(), record(7)].concat());
    let mut reader = Reader::new(folder.path());
    for (wanted, found) in [(2, Some(5)), (5, Some(5)), (6, Some(6)), (7, Some(7)), (8, None)] {
        reader.seek(wanted).unwrap();
        assert_eq!(reader.line().unwrap().map(|line| line.number), found, "{wanted}");
    }
}

#[test]
fn what_is_no_log_is_told() {
    let folder = TempDir::new().unwrap();
    // A link that leads nowhere is not waited for, a name that is none not looked at.
    std::os::unix::fs::symlink("nowhere", folder.path().join(segment_name(1))).unwrap();
    add(&folder, 2, "two\n");
    fs::write(folder.path().join("head"), "x").unwrap();
    let mut reader = Reader::new(folder.path());
    assert_eq!(next(&mut reader), line(2, "two"));
    assert_eq!(next(&mut reader), None);
    add(&folder, 2, &"x".repeat(2 * MAX_LINE));
    assert!(reader.line().unwrap_err().to_string().contains("can't read"));
    let gone = folder.path().join("gone");
    assert!(Reader::new(&gone).line().is_err());
}
