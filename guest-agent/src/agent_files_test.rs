//! Files of agents, with a whole supervisor: shares, links, what may be written, and copies. They need root.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use cloister_protocol::agent::{Copy, Direction, User, first_id};
use cloister_protocol::message::{Event, ExecFailure, ExitStatus, Request};

use crate::agent_bed::{Agents, USER, give, mount};

#[test]
fn a_writable_share_is_written_and_a_nested_one_stays_protected() {
    let mut agents = Agents::new();
    let work = agents.share("work");
    std::fs::create_dir(work.join("kept")).unwrap();
    let kept = agents.share("kept");
    let one = agents.bed.directory().join("shares/one-file");
    std::fs::write(&one, "one\n").unwrap();
    let first = first_id(2);
    give(&work, first + 1000);
    give(&kept, first + 1000);
    let mut spec = agents.spec(2);
    spec.mounts = vec![
        mount("work", "/job", false),
        mount("kept", "/job/kept", true),
        mount("one-file", "/etc/one", true),
        mount("work", "/tmp/again", true),
    ];
    agents.create(spec);
    let (output, _) = agents.run(2, "echo hello > /job/new; echo x > /job/kept/new; cat /etc/one /tmp/again/new; rmdir /job/kept; stat -c %u /job/new");
    assert_eq!(std::fs::read_to_string(work.join("new")).unwrap(), "hello\n");
    assert!(!kept.join("new").exists());
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].contains("Read-only"), "{output}");
    assert_eq!(lines[1..3], ["one", "hello"]);
    assert!(lines[3].contains("busy"), "{output}");
    assert_eq!(lines[4], "1000");
}

#[test]
fn links_lead_nothing_out() {
    let mut agents = Agents::new();
    let outside = agents.bed.directory().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let image = agents.bed.directory().join("shares/image");
    let docs = agents.share("docs");
    std::fs::create_dir(docs.join("real")).unwrap();
    symlink(&outside, image.join("absolute")).unwrap();
    symlink("../../../../../../../../proc", image.join("to-proc")).unwrap();
    symlink("/bin", docs.join("to-bin")).unwrap();
    symlink("/home", image.join("var")).unwrap();
    let refuse = |agents: &mut Agents, target: &str| {
        let mut spec = agents.spec(1);
        spec.mounts = vec![mount("docs", "/data", false), mount("docs", target, false)];
        agents.refused(spec)
    };
    // A link that leads nowhere inside is no directory to make something in.
    let told = refuse(&mut agents, "/absolute/x");
    assert!(told.starts_with("can't mount the share docs at /absolute/x"), "{told}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let told = refuse(&mut agents, "/to-proc/x");
    assert!(told.contains("/to-proc/x"), "{told}");
    let told = refuse(&mut agents, "/to-proc/sys");
    assert!(told.contains("lies in what the supervisor makes"), "{told}");
    let told = refuse(&mut agents, "/data/to-bin");
    assert!(told.contains("lies in what the supervisor makes"), "{told}");
    let told = refuse(&mut agents, "/data/missing");
    assert!(told.contains("lies in another share"), "{told}");
    assert!(!docs.join("missing").exists());
    // One within the image is followed, as images have them.
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("docs", "/var/docs", true)];
    agents.create(spec);
    let (output, _) = agents.run(1, "ls /home/docs");
    assert_eq!(output, "real\nto-bin\n");
    agents.remove(1);
    for name in ["proc", "dev", "tmp"] {
        std::fs::remove_dir(image.join(name)).unwrap();
        symlink("/home", image.join(name)).unwrap();
        let spec = agents.spec(1);
        let told = agents.refused(spec);
        assert!(told.starts_with(&format!("can't make /{name}: ")), "{told}");
        std::fs::remove_file(image.join(name)).unwrap();
    }
    // Missing ones are made.
    let spec = agents.spec(1);
    agents.create(spec);
    assert_eq!(agents.bed.log(), "");
}

#[test]
fn a_writable_root_is_written_within_its_bound() {
    let mut agents = Agents::new();
    let mut spec = agents.spec(1);
    spec.root.writable_bytes = Some(1 << 20);
    agents.create(spec);
    let root = User { uid: 0, gid: 0 };
    let (output, _) = agents.run_as(1, root, "echo new > /etc/new; rm /etc/passwd; cat /etc/new; ls /etc; dd if=/dev/zero of=/home/big bs=64k count=64 2>&1 | head -1");
    assert_eq!(
        output,
        "new\nnew\nsecret\ndd: error writing '/home/big': No space left on device\n"
    );
    assert!(agents.bed.directory().join("shares/image/etc/passwd").exists());
    let (output, _) = agents.run(1, "dd if=/dev/zero of=/tmp/big bs=64k count=64 2>&1 | head -1; rm /tmp/big; i=0; while [ $i -lt 500 ] && touch /tmp/$i; do i=$((i+1)); done; echo $i");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "dd: error writing '/tmp/big': No space left on device");
    let files: u32 = lines.last().unwrap().parse().unwrap();
    assert!((190..200).contains(&files), "{output}");
}

#[test]
fn only_listed_directories_are_written() {
    let mut agents = Agents::new();
    let work = agents.share("work");
    std::fs::create_dir(work.join("out")).unwrap();
    give(&work, first_id(1) + 1000);
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("work", "/job", false)];
    spec.writable = Some(vec![b"/job/out".to_vec()]);
    agents.create(spec);
    let (output, _) = agents.run(1, "echo a > /job/out/a && echo made; echo b > /job/b; echo c > /tmp/c; mkdir /job/d; rm -r /job/out/a && echo removed; echo x > /dev/null && echo null; mv /job/out /job/elsewhere; ln -s / /job/out/link && echo link");
    let denied = output.lines().filter(|line| line.contains("Permission denied")).count();
    assert_eq!(denied, 4, "{output}");
    for word in ["made", "removed", "null", "link"] {
        assert!(output.lines().any(|line| line == word), "{word}: {output}");
    }
    assert!(!work.join("b").exists() && work.join("out").exists());
}

/// What a copy sent, or how it ended.
fn copy(agents: &mut Agents, direction: Direction, bytes: &[u8]) -> (Vec<u8>, Event) {
    let (id, port) = (500, agents.bed.new_port());
    let path = agents.bed.directory().join(port.to_string());
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    agents.bed.send(&Request::Copy(Copy { id, agent: 1, user: USER, direction, port }));
    let (mut stream, _) = listener.accept().unwrap();
    let _closed = stream.write_all(bytes);
    let _closed = stream.shutdown(std::net::Shutdown::Write);
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    let mut event = agents.bed.event();
    if event == (Event::Started { id }) {
        event = agents.bed.event();
    }
    (output, event)
}

#[test]
fn files_are_copied_out_and_in() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    let script = "mkdir -p /tmp/out/deep; echo text > /tmp/out/deep/file; chmod 4751 /tmp/out/deep/file; ln -s /etc/passwd /tmp/out/link; mkfifo /tmp/out/pipe; mkdir /tmp/in; echo old > /tmp/in/keep; n=$(printf %0150d 7); echo long > /tmp/out/$n";
    assert_eq!(agents.run(1, script), (String::new(), ExitStatus::Code(0)));
    let (archive, event) = copy(&mut agents, Direction::Out(b"/tmp/out".to_vec()), b"");
    assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(0) });
    let mut names = Vec::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        names.push((
            entry.path().unwrap().to_str().unwrap().to_owned(),
            text,
            entry.header().mode().unwrap(),
        ));
    }
    names.sort();
    let long = format!("out/{:0150}", 7);
    let wanted = [
        ("out", "", 0o755),
        (long.as_str(), "long\n", 0o644),
        ("out/deep", "", 0o755),
        ("out/deep/file", "text\n", 0o751),
        ("out/link", "", 0o777),
    ];
    assert_eq!(names, wanted.map(|(name, text, mode)| (name.to_owned(), text.to_owned(), mode)));
    let (_, event) = copy(&mut agents, Direction::In(b"/tmp/in".to_vec()), &archive);
    assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(0) });
    let (output, _) = agents.run(1, "cd /tmp/in; cat keep out/deep/file; readlink out/link; stat -c '%a %U' out/deep/file; ls out | wc -l");
    assert_eq!(output, "old\ntext\n/etc/passwd\n751 agent\n3\n");
    let (_, event) = copy(&mut agents, Direction::Out(b"/tmp/none".to_vec()), b"");
    let Event::Failed { reason, detail, .. } = event else { panic!("{event:?}") };
    assert_eq!(
        (reason, detail.as_str()),
        (ExecFailure::NotFound, "can't find /tmp/none: No such file or directory (os error 2)")
    );
    let (sent, event) = copy(&mut agents, Direction::Out(b"/etc/secret".to_vec()), b"");
    assert_eq!((sent.len(), event), (0, Event::Exited { id: 500, status: ExitStatus::Code(1) }));
}

#[test]
fn hostile_archives_stay_in_their_directory() {
    let mut agents = Agents::new();
    let spec = agents.spec(1);
    agents.create(spec);
    agents.run(
        1,
        "mkdir /tmp/in; mkdir /tmp/other; echo safe > /tmp/other/file; ln -s ../other /tmp/in/link",
    );
    use tar::EntryType::{Block, Char, Link, Regular, Symlink};
    let entry = |name: &str, kind: tar::EntryType, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_size(if kind == Regular { 4 } else { 0 });
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        if kind == Regular {
            bytes.extend(b"evil");
            bytes.resize(1024, 0);
        }
        bytes
    };
    let failing = [
        entry("../other/file", Regular, ""),
        entry("/tmp/other/file", Regular, ""),
        entry("link/file", Regular, ""),
        entry("a/../../other/file", Regular, ""),
        entry("hard", Link, "../other/file"),
        entry("hard", Link, "link/file"),
        b"no archive at all, but some bytes".repeat(40),
    ];
    for archive in failing {
        let (_, event) = copy(&mut agents, Direction::In(b"/tmp/in".to_vec()), &archive);
        assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(1) });
    }
    let mut skipped = entry("device", Char, "");
    skipped.extend(entry("disk", Block, ""));
    skipped.extend(entry("away", Symlink, "/tmp/other"));
    skipped.extend(entry("set-id", Regular, ""));
    // Replaces the link, and does not follow it.
    skipped.extend(entry("away", Regular, ""));
    let (_, event) = copy(&mut agents, Direction::In(b"/tmp/in".to_vec()), &skipped);
    assert_eq!(event, Event::Exited { id: 500, status: ExitStatus::Code(0) });
    let (output, _) =
        agents.run(1, "cat /tmp/other/file; ls -A /tmp/other /tmp/in; stat -c %a /tmp/in/set-id");
    assert_eq!(output, "safe\n/tmp/in:\naway\nlink\nset-id\n\n/tmp/other:\nfile\n755\n");
}
