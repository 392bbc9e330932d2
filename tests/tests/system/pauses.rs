//! Teams that are paused in place, with a real guest.

use std::time::{Duration, UNIX_EPOCH};

use crate::team_bed::Bed;

const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// The lines of the agent so far, which must be 1, 2, 3…
fn counted(bed: &Bed) -> usize {
    let lines = bed.call(&["logs", "t"]).output().exits(0).text();
    let numbers: Vec<usize> =
        lines.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "{lines}");
    numbers.len()
}

#[test]
fn a_paused_team_stands_still_and_goes_on_with_the_right_time() {
    let bed = Bed::new();
    bed.up(&format!(
        "name = \"t\"\n[agents.a]\nimage = \"tools\"\ncommand = [\"sh\", \"-c\", '''{COUNTER}''']\n\
         memory = \"32MiB\"\n"
    ));
    for _ in 0..5 {
        let _pause = bed.call(&["pause", "t"]).output().exits(0);
        let before = counted(&bed);
        // Time in which a team that runs would write 20 lines; what was on its way may still arrive.
        std::thread::sleep(Duration::from_secs(1));
        assert!(counted(&bed) < before + 5);
        let _resume = bed.call(&["resume", "t"]).output().exits(0);
        // It answers, with the host's time.
        let (code, date) = bed.exec("t/a", "date +%s");
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let date: u64 = date.trim().parse().unwrap();
        assert!(code == 0 && now.abs_diff(date) < 10, "{date} in the agent, {now} here");
        while counted(&bed) <= before {}
    }
    let _pause = bed.call(&["pause", "t"]).output().exits(0);
    bed.down();
}
