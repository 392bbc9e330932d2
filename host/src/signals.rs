//! Signals to `cloister`: before the command runs they end the start, afterwards they are passed on.

use std::collections::VecDeque;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// So many requests to end, within [`INSISTENCE_TIME`], end the machine whatever the command does.
const INSISTENCE_COUNT: usize = 3;
/// Slower presses are ordinary use: many programs take Ctrl-C as "stop this", not as "end".
const INSISTENCE_TIME: Duration = Duration::from_secs(2);

/// Something that a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This signal is for the command.
    PassOn(u8),
    /// The third request to end in a short time: the machine has to go.
    End(u8),
    /// The terminal has another size.
    Resize,
}

/// The signals that are listened to.
#[derive(Debug)]
pub struct Signals {
    /// Those that ask to end.
    ending: Vec<(u8, Signal)>,
    /// Those that mean only what the command makes of them.
    others: Vec<(u8, Signal)>,
    window: Signal,
    insistence: Insistence,
}

impl Signals {
    /// Takes the signals over from their default actions; what this process was told to ignore (as
    /// `nohup` and background jobs are) stays ignored. Signals that arrive before they are asked for
    /// are not lost.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored_signals(&fs::read_to_string("/proc/self/status")?);
        let listen = |kinds: &[SignalKind]| -> io::Result<Vec<(u8, Signal)>> {
            let mut listening = Vec::new();
            for kind in kinds {
                let number = number(*kind);
                if ignored & bit(number) == 0 {
                    listening.push((number, signal(*kind)?));
                }
            }
            Ok(listening)
        };
        let ending = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let others = [SignalKind::user_defined1(), SignalKind::user_defined2()];
        Ok(Self {
            ending: listen(&ending)?,
            others: listen(&others)?,
            window: signal(SignalKind::window_change())?,
            insistence: Insistence::default(),
        })
    }

    /// Waits for a signal that asks to end; its number. Cancel safe.
    pub async fn end(&mut self) -> u8 {
        any(&mut self.ending).await
    }

    /// Waits for any of the signals. Cancel safe.
    pub async fn next(&mut self) -> Wish {
        let signal = tokio::select! {
            signal = any(&mut self.ending) => signal,
            signal = any(&mut self.others) => return Wish::PassOn(signal),
            _ = self.window.recv() => return Wish::Resize,
        };
        if self.insistence.note(Instant::now()) { Wish::End(signal) } else { Wish::PassOn(signal) }
    }
}

/// Waits for the first of `signals`; for ever if there are none.
async fn any(signals: &mut [(u8, Signal)]) -> u8 {
    poll_fn(|context| {
        for (number, signal) in signals.iter_mut() {
            if signal.poll_recv(context).is_ready() {
                return Poll::Ready(*number);
            }
        }
        Poll::Pending
    })
    .await
}

/// The set of ignored signals in the text of `/proc/self/status`, one bit each.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A signal's place in such a set.
fn bit(signal: u8) -> u64 {
    u32::from(signal).checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// Signal numbers of Linux fit a byte.
fn number(kind: SignalKind) -> u8 {
    u8::try_from(kind.as_raw_value()).unwrap_or(0)
}

/// Notices somebody who asks again and again.
#[derive(Debug, Default)]
struct Insistence {
    recent: VecDeque<Instant>,
}

impl Insistence {
    /// Notes a request to end; whether it is one too many.
    fn note(&mut self, now: Instant) -> bool {
        self.recent.push_back(now);
        self.recent.retain(|then| now.duration_since(*then) <= INSISTENCE_TIME);
        self.recent.len() >= INSISTENCE_COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_short_time_insist() {
        let start = Instant::now();
        let mut insistence = Insistence::default();
        assert!(!insistence.note(start));
        assert!(!insistence.note(start + INSISTENCE_TIME / 2));
        assert!(insistence.note(start + INSISTENCE_TIME));
    }

    #[test]
    fn slow_presses_do_not() {
        let start = Instant::now();
        let mut insistence = Insistence::default();
        for press in 0..20 {
            assert!(!insistence.note(start + INSISTENCE_TIME * press * 3 / 4));
        }
    }

    #[test]
    fn ignored_signals_are_read() {
        // nohup: SIGHUP is signal 1.
        let ignored = ignored_signals("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n");
        assert_ne!(ignored & bit(1), 0);
        assert_ne!(ignored & bit(13), 0);
        assert_eq!(ignored & bit(2), 0);
        assert_eq!(ignored_signals(""), 0);
    }

    #[test]
    fn numbers_are_those_of_linux() {
        assert_eq!(number(SignalKind::interrupt()), 2);
        assert_eq!(number(SignalKind::terminate()), 15);
    }
}
