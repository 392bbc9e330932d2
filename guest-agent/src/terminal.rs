//! A command's pseudo-terminal, from its master's side.

use std::os::fd::{AsFd, OwnedFd};

use cloister_protocol::message::WindowSize;
use rustix::fs::OFlags;
use rustix::io::Result;
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{SpecialCodeIndex, Winsize, tcgetattr, tcgetpgrp, tcsetwinsize};

/// What terminals are set to when nobody has changed it: control-D.
const USUAL_END_OF_INPUT: u8 = 4;

/// Makes a terminal of the machine: its master, and the command's side.
pub(crate) fn open() -> Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    // By the master and not by a path, so that it is this terminal whatever /dev/pts is.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// Gives a terminal its first size; its master doesn't block from now on.
pub(crate) fn prepare(master: impl AsFd, size: WindowSize) -> Result<()> {
    rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK)?;
    resize(master, size)
}

/// Gives the terminal a new size; the kernel tells its foreground group.
pub(crate) fn resize(master: impl AsFd, size: WindowSize) -> Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size)
}

/// The process group that the terminal's keys go to.
pub(crate) fn foreground(master: impl AsFd) -> Option<Pid> {
    tcgetpgrp(master).ok()
}

/// What has to be typed to end the input: twice within a line, where once only ends the line.
pub(crate) fn end_of_input(master: impl AsFd, line_open: bool) -> Vec<u8> {
    let character = tcgetattr(master)
        .map_or(USUAL_END_OF_INPUT, |modes| modes.special_codes[SpecialCodeIndex::VEOF]);
    vec![character; if line_open { 2 } else { 1 }]
}

#[cfg(test)]
#[path = "terminal_test.rs"]
mod tests;
