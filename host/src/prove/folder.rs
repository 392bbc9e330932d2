//! The directories of a run, and what a killed one left in its own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::temporary::{self, Folder};

/// How their names begin; the run's process id and a number follow.
const PREFIX: &str = "cloister-prove-";
/// Where they can be, beside the usual directory for temporary files.
pub(super) const OTHER_PLACES: [&str; 2] = ["/tmp", "/var/tmp"];
/// The state directory of the team in one.
pub(super) const STATE: &str = "state";

/// Makes one in `place`.
pub(super) fn make(place: &Path) -> io::Result<Folder> {
    Folder::new(place, PREFIX)
}

/// The name of the team of a run.
pub(super) fn team_of(process: u32) -> String {
    format!("prove-{process}")
}

/// Takes down and removes what killed runs of this user have left; tells what it was.
#[must_use]
pub fn sweep() -> Vec<PathBuf> {
    let mut places = vec![std::env::temp_dir()];
    places.extend(OTHER_PLACES.map(PathBuf::from));
    let remove = |left: temporary::Left| {
        let state = left.path.join(STATE);
        if state.exists() {
            take_down(&team_of(left.process), &state);
        }
        left.remove()
    };
    temporary::left(places, PREFIX).filter_map(remove).collect()
}

/// Ends a team by this program, whatever it says: a caller that was ended by a signal has no runtime any more.
pub(super) fn take_down(team: &str, state: &Path) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args(["down", team]).env("CLOISTER_STATE", state);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
}
