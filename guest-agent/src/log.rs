//! The supervisor's log: the kernel's, so that it comes out on the serial log.
//!
//! Few lines are written at all, and the kernel bounds their rate (ten in five seconds for one
//! opening of `/dev/kmsg`, its `printk.devkmsg=ratelimit`).

use std::error::Error;
use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::panic::PanicHookInfo;

use rustix::fs::{Mode, OFlags};

/// Longest line, in bytes: the kernel refuses records over about 1,000.
const MAX_LINE: usize = 900;

/// The kernel's `KERN_EMERG`: what a console shows however quiet it is.
const EMERGENCY: u8 = 0;

/// The kernel's `KERN_ERR`: in the log, and on a console only if that was asked for.
const ERROR: u8 = 3;

/// Where the supervisor tells what goes wrong.
#[derive(Debug)]
pub(crate) struct Log {
    output: OwnedFd,
}

impl Log {
    /// The kernel's log.
    pub(crate) fn open() -> rustix::io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open("/dev/kmsg", flags, Mode::empty()).map(|output| Self { output })
    }

    /// A log that goes to `output`.
    #[cfg(test)]
    pub(crate) const fn to(output: OwnedFd) -> Self {
        Self { output }
    }

    /// An error that the machine lives on with, and its causes.
    pub(crate) fn error(&self, error: &dyn Error) {
        self.line(ERROR, &chain(error));
    }

    /// The error that ends the machine, and its causes.
    pub(crate) fn fatal(&self, error: &dyn Error) {
        self.line(EMERGENCY, &chain(error));
    }

    /// A fault of the supervisor's own, which ends the machine too.
    pub(crate) fn panic(&self, panic: &PanicHookInfo<'_>) {
        self.line(EMERGENCY, &panic.to_string());
    }

    /// Something that was asked for on the console.
    pub(crate) fn announce(&self, text: &str) {
        self.line(EMERGENCY, text);
    }

    /// There is nowhere to tell that the log can't be written, so that is ignored.
    fn line(&self, level: u8, text: &str) {
        let mut line = format!("<{level}>cloister: {text}");
        line.truncate(line.floor_char_boundary(MAX_LINE));
        // One record, whatever the text.
        let mut line = line.replace('\n', " ");
        line.push('\n');
        let _unwritten = rustix::io::write(&self.output, line.as_bytes());
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        let _never_fails = write!(text, ": {one}");
        cause = one.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::io::Errno;
    use rustix::pipe::pipe;

    use super::{Log, MAX_LINE};

    fn logged(act: impl FnOnce(&Log)) -> String {
        let (read, write): (OwnedFd, OwnedFd) = pipe().unwrap();
        act(&Log::to(write));
        let mut bytes = vec![0; 4096];
        let count = rustix::io::read(read, &mut bytes).unwrap();
        bytes.truncate(count);
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("can't do {0}")]
    struct Failed(String, #[source] Errno);

    #[test]
    fn errors_are_one_line_with_their_causes() {
        let line = logged(|log| log.error(&Failed("a\nb".into(), Errno::NOENT)));
        assert_eq!(line, "<3>cloister: can't do a b: No such file or directory (os error 2)\n");
    }

    #[test]
    fn lines_are_cut() {
        let line = logged(|log| log.error(&Failed("ä".repeat(5000), Errno::NOENT)));
        assert!(line.len() <= MAX_LINE + 1 && line.ends_with("ä\n"));
    }

    #[test]
    fn the_announcement_is_shown_on_any_console() {
        let line = logged(|log| log.announce(crate::ANNOUNCEMENT));
        assert_eq!(line, "<0>cloister: supervisor ready\n");
    }
}
