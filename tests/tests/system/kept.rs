//! Teams that are put on the disk in mid-work and go on from there, once or as several, with real guests.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::team_bed::Bed;

/// Counts on its output, and into a file that it has open all the time.
const COUNTER: &str =
    "exec 3>>/mnt/lines; i=0; while :; do i=$((i+1)); echo $i; echo $i >&3; sleep 0.02; done";

/// Beside it one that sleeps.
fn counting(volume: &str) -> String {
    format!(
        "name = \"t\"\ncpus = 2\n[volumes.{volume}]\n\
         [agents.a]\nimage = \"tools\"\nmemory = \"32MiB\"\ncommand = [\"sh\", \"-c\", '''{COUNTER}''']\n\
         mounts = [{{ volume = \"{volume}\", target = \"/mnt\", writable = true }}]\n\
         [agents.b]\nimage = \"tools\"\nmemory = \"32MiB\"\ncommand = [\"sleep\", \"100000\"]\n"
    )
}

fn is_slow() -> bool {
    std::env::var_os("CLOISTER_TESTS").is_some_and(|kind| kind == "slow")
}

/// The numbers in an agent's log, which must follow each other from `first` on; the last.
fn counted(bed: &Bed, agent: &str, first: Option<usize>) -> usize {
    let lines = bed.call(&["logs", agent]).output().exits(0).text();
    let numbers: Vec<usize> =
        lines.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    let first = first.or(numbers.first().copied()).unwrap_or(1);
    let expected = first..first + numbers.len();
    assert!(numbers.iter().copied().eq(expected), "{agent} from {first}: {lines}");
    numbers.last().copied().unwrap_or(0)
}

fn await_more(bed: &Bed, agent: &str, first: Option<usize>, than: usize) -> usize {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let now = counted(bed, agent, first);
        if now > than {
            return now;
        }
        assert!(Instant::now() < end, "{agent} stands still at {now}");
    }
}

fn status(bed: &Bed, team: &str) -> String {
    let ps = bed.call(&["ps", "--json", team]).output().exits(0).text();
    let ps: serde_json::Value = serde_json::from_str(&ps).unwrap();
    ps["teams"][0]["status"].as_str().unwrap().to_owned()
}

/// The lines of the file, which must be 1, 2, 3…
fn written(bed: &Bed, team: &str) -> usize {
    let text = fs::read_to_string(bed.path("volumes").join(team).join("counts/lines")).unwrap();
    // The last may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let numbers: Vec<usize> = whole.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "{text}");
    numbers.len()
}

#[test]
fn a_suspended_team_goes_on_where_it_was() {
    let bed = Bed::new();
    bed.up(&counting("counts"));
    let mut before = await_more(&bed, "t/a", Some(1), 3);
    for _ in 0..if is_slow() { 100 } else { 4 } {
        let _suspend = bed.call(&["suspend", "t"]).output().exits(0);
        assert_eq!(status(&bed, "t"), "suspended");
        // Nothing of it is in memory.
        let at = counted(&bed, "t/a", Some(1));
        assert!(at >= before && written(&bed, "t") <= at + 1);
        let told = bed.call(&["exec", "t/a"]).command(["true"]).output().exits(125).stderr;
        assert!(told.contains("is suspended") && told.contains("cloister resume"), "{told}");
        let _resume = bed.call(&["resume", "t"]).output().exits(0);
        assert_eq!(status(&bed, "t"), "running");
        let (code, date) = bed.exec("t/a", "date +%s");
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let date: u64 = date.trim().parse().unwrap();
        assert!(code == 0 && now.abs_diff(date) < 10, "{date} in the agent, {now} here");
        before = await_more(&bed, "t/a", Some(1), at);
    }
    assert!(written(&bed, "t") + 1 >= before);
    // Its end is as any other's.
    let (code, told) =
        bed.exec("t/b", "kill -9 $(grep -l ^sleep /proc/[0-9]*/cmdline | cut -d / -f 3)");
    assert_eq!(code, 0, "{told}");
    bed.await_event("exited");
    let _suspend = bed.call(&["suspend", "t"]).output().exits(0);
    let _again = bed.call(&["suspend", "t"]).output().exits(0);
    bed.down();
}

#[test]
fn a_team_forks_in_mid_work() {
    let bed = Bed::new();
    bed.up(&counting("counts"));
    let before = await_more(&bed, "t/a", Some(1), 3);
    let outcome = bed.call(&["fork", "-n", "2", "t", "try"]).output().exits(0);
    assert_eq!(outcome.text(), "try-1\ntry-2\n");
    // The one that was forked has lost nothing.
    let at = await_more(&bed, "t/a", Some(1), before);
    for fork in ["try-1", "try-2"] {
        let agent = format!("{fork}/a");
        let first = await_more(&bed, &agent, None, 0);
        assert!(first > before, "{agent} began at {first}");
        await_more(&bed, &agent, None, first);
        // Its volume is its own.
        let _mark = bed.exec(&agent, &format!("touch /mnt/{fork}"));
        assert!(bed.path("volumes").join(fork).join("counts").join(fork).exists());
        assert!(!bed.path("volumes/t/counts").join(fork).exists());
        assert!(written(&bed, fork) > before);
    }
    let ids = ["t", "try-1", "try-2"].map(|team| {
        let (code, id) = bed.exec(&format!("{team}/b"), "head -c 16 /dev/urandom | md5sum");
        assert_eq!(code, 0);
        id
    });
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    await_more(&bed, "t/a", Some(1), at);

    // A checkpoint is a team that waits; from it others can go on, and it stays.
    let _kept = bed.call(&["checkpoint", "try-1", "kept"]).output().exits(0);
    assert_eq!(status(&bed, "kept"), "suspended");
    let _fork = bed.call(&["fork", "kept", "third"]).output().exits(0);
    let first = await_more(&bed, "third/a", None, 0);
    await_more(&bed, "third/a", None, first);
    assert_eq!(status(&bed, "kept"), "suspended");
    let told = bed.call(&["fork", "t", "try-1"]).output().exits(125).stderr;
    assert!(told.contains("try-1"), "{told}");
    let _down = bed.call(&["down", "try-1", "try-2", "third", "kept"]).output().exits(0);
    for fork in ["try-1", "try-2", "third", "kept"] {
        assert!(!bed.path("volumes").join(fork).exists(), "{fork}");
    }
    await_more(&bed, "t/a", Some(1), at);
    bed.down();
}

#[test]
fn what_does_not_fit_any_more_is_refused_and_nothing_is_lost() {
    let bed = Bed::new();
    let team = counting("counts");
    bed.up(&team);
    let before = await_more(&bed, "t/a", Some(1), 3);
    let _suspend = bed.call(&["suspend", "t"]).output().exits(0);
    let file = bed.path("team/team.toml");
    let saved = bed.logs().parent().unwrap().join("saved");
    let refused = |words: &str| {
        let told = bed.call(&["resume", "t"]).output().exits(125).stderr;
        assert!(told.contains(words), "{words}: {told}");
        assert_eq!(status(&bed, "t"), "suspended");
        assert!(saved.join("memory").exists());
    };
    fs::write(&file, team.replacen("32MiB", "64MiB", 1)).unwrap();
    refused("agents.a.limits.memory");
    fs::write(&file, &team).unwrap();
    // One bit of its memory.
    let memory = saved.join("memory");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o600)).unwrap();
    let image = fs::File::options().read(true).write(true).open(&memory).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, 5 << 20).unwrap();
    image.write_all_at(&[byte[0] ^ 4], 5 << 20).unwrap();
    refused("its memory has changed");
    image.write_all_at(&byte, 5 << 20).unwrap();
    // An open file that is gone.
    let lines = bed.path("volumes/t/counts/lines");
    let aside = bed.path("lines");
    fs::rename(&lines, &aside).unwrap();
    refused("lines");
    fs::copy(&aside, &lines).unwrap();
    // Commands for others than agents are asked about before they are ended.
    for (command, what) in [("start", "suspended"), ("restart", "suspended")] {
        let told = bed.call(&[command, "t"]).output().exits(125).stderr;
        assert!(told.contains(what), "{told}");
    }
    let _resume = bed.call(&["resume", "t"]).output().exits(0);
    await_more(&bed, "t/a", Some(1), before);
    let mut visitor =
        bed.call(&["exec", "t/b"]).command(["sh", "-c", "echo begun; sleep 1000"]).spawn();
    visitor.wait_for("begun");
    let told = bed.call(&["suspend", "t"]).output().exits(125).stderr;
    assert!(told.contains("--end-commands"), "{told}");
    await_more(&bed, "t/a", Some(1), counted(&bed, "t/a", Some(1)));
    let _suspend = bed.call(&["suspend", "--end-commands", "t"]).output().exits(0);
    assert!(!visitor.finish().status.success());
    bed.down();

    // What two teams would both write to is not forked.
    fs::create_dir(bed.path("team/out")).unwrap();
    bed.up("name = \"t\"\n[agents.a]\nimage = \"tools\"\ncommand = [\"sleep\", \"100000\"]\n\
         mounts = [{ source = \"./out\", target = \"/out\", writable = true }]\n");
    let told = bed.call(&["fork", "t", "other"]).output().exits(125).stderr;
    assert!(told.contains("./out") && told.contains("volume"), "{told}");
    let ps = bed.call(&["ps", "-a"]).output().exits(0).text();
    assert!(!ps.contains("other"), "{ps}");
    bed.down();
}
