//! The terminal that `cloister` runs on: its size, and raw mode, which is undone whatever happens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::sync::Arc;

use cloister_protocol::message::WindowSize;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A size for a command's terminal when ours has none.
pub const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// The size of the terminal behind `descriptor`, if it is one and knows it.
#[must_use]
pub fn size_of(descriptor: BorrowedFd<'_>) -> Option<WindowSize> {
    let size = tcgetwinsize(descriptor).ok()?;
    // A serial line, for one, says zero.
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The size of the terminal on one of the standard streams.
#[must_use]
pub fn own_size() -> Option<WindowSize> {
    size_of(io::stdout().as_fd())
        .or_else(|| size_of(io::stdin().as_fd()))
        .or_else(|| size_of(io::stderr().as_fd()))
}

/// Standard input's terminal in raw mode: every key goes to the command, Ctrl-C too. Dropped, it is as
/// it was before.
#[derive(Debug)]
pub struct RawMode {
    saved: Arc<Saved>,
}

#[derive(Debug)]
struct Saved {
    /// A descriptor of its own, should standard input be closed meanwhile.
    terminal: OwnedFd,
    modes: Termios,
}

impl RawMode {
    /// Switches standard input's terminal to raw mode.
    ///
    /// # Errors
    /// It is not a terminal, or it refuses.
    pub fn enter() -> io::Result<Self> {
        Self::with(Termios::make_raw)
    }

    /// Switches standard input's terminal to lines that are not shown. Ctrl-C becomes a character of the line, so
    /// that the terminal is not left so.
    ///
    /// # Errors
    /// It is not a terminal, or it refuses.
    pub fn hidden() -> io::Result<Self> {
        Self::with(|modes| modes.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG))
    }

    fn with(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let terminal = io::stdin().as_fd().try_clone_to_owned()?;
        let modes = tcgetattr(&terminal)?;
        let saved = Arc::new(Saved { terminal, modes });
        // A panic may end the process without dropping anything.
        let for_hook = Arc::clone(&saved);
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            for_hook.restore();
            previous(info);
        }));
        let mut raw = saved.modes.clone();
        change(&mut raw);
        // Entered last: from here on it is undone by the guard and by the hook.
        tcsetattr(&saved.terminal, OptionalActions::Now, &raw)?;
        Ok(Self { saved })
    }
}

impl Saved {
    fn restore(&self) {
        // Nothing could be done about a terminal that is gone. `Now`, not `Drain`: a terminal whose
        // other side reads no more would hold us for ever.
        tcsetattr(&self.terminal, OptionalActions::Now, &self.modes).ok();
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.saved.restore();
    }
}
