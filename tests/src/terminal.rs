//! A `cloister` on a terminal of its own: a person at a keyboard, as a program.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::running::Stream;

/// How a line is cleared (ECMA-48, EL).
const CLEARED_LINE: &str = "\u{1b}[2K";

/// The terminal and the process in front of it; the process is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    words: String,
    begin: Instant,
    limit: Duration,
    keyboard: File,
    screen: Stream,
}

impl Terminal {
    pub(crate) fn start(
        mut command: Command,
        words: String,
        limit: Duration,
        rows: u16,
        columns: u16,
    ) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&ours).expect("grantpt");
        unlockpt(&ours).expect("unlockpt");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let no_ctty = i32::try_from(OpenptFlags::NOCTTY.bits()).expect("a flag that fits");
        let theirs = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(no_ctty)
                .open(path)
                .expect("the terminal's other side")
        };
        command.stdin(theirs()).stdout(theirs()).stderr(theirs());
        let keyboard = File::from(ours);
        tcsetwinsize(&keyboard, size(rows, columns)).expect("a size");
        let child = command.spawn().unwrap_or_else(|error| panic!("{words}: {error}"));
        // Its copies of the other side must be the only ones, so that its end is the stream's.
        drop(command);
        let screen = Stream::new(keyboard.try_clone().expect("a second handle"), path.to_owned());
        Self { child, words, begin: Instant::now(), limit, keyboard, screen }
    }

    /// Types.
    ///
    /// # Panics
    /// The terminal takes no more.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until `text` stands on the screen; all that was shown so far.
    ///
    /// # Panics
    /// It ends first, or takes longer than the limit.
    pub fn wait_for(&mut self, text: &str) -> String {
        let left = self.limit.saturating_sub(self.begin.elapsed());
        self.screen
            .until(text, left)
            .unwrap_or_else(|why| panic!("`{}`: no {text:?}: {why}", self.words))
    }

    /// Makes the window larger or smaller.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.keyboard, size(rows, columns)).expect("a new size");
    }

    /// Whether the terminal shows what is typed, as a shell's prompt needs it.
    ///
    /// # Panics
    /// The terminal is gone.
    #[must_use]
    pub fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.keyboard).expect("its modes").local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the end of the process; whether it came within the limit.
    ///
    /// # Panics
    /// It can't be waited for.
    #[must_use]
    pub fn ended(&self) -> bool {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).expect("a handle on the process");
        let left = self.limit.saturating_sub(self.begin.elapsed());
        let limit = Timespec::try_from(left).expect("a time that fits");
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut fds, Some(&limit)).expect("it can be waited for") > 0
    }

    /// Waits for the end; the exit code, and what was shown from the command's start on.
    ///
    /// # Panics
    /// It does not end within the limit.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let ended = self.ended();
        if !ended {
            self.child.kill().expect("it can be killed");
        }
        let code = self.child.wait().expect("it can be waited for").code();
        let empty = Stream::new(std::io::empty(), PathBuf::new());
        let shown = std::mem::replace(&mut self.screen, empty).rest();
        let shown = shown.unwrap_or_else(|why| panic!("`{}` has ended, but {why}", self.words));
        let shown = String::from_utf8_lossy(&shown).into_owned();
        // Before that stands a sign of life, drawn again and again.
        let shown = shown.rsplit(CLEARED_LINE).next().unwrap_or_default().to_owned();
        assert!(ended, "`{}` did not end within {:?}: {shown:?}", self.words, self.limit);
        (code, shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After `finish` it has ended, and both are refused.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
