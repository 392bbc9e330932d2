//! The turns of a command's streams.

use super::{Command, Surroundings};
use crate::stream::{Stream, Turn};

impl Command {
    /// Gives every stream a turn, and answers what it asks.
    pub(crate) fn run_streams(&mut self, around: &mut Surroundings<'_>) {
        self.unfinished = false;
        self.answer(around);
        for place in 0..self.streams.len() {
            self.run_stream(place, around);
        }
    }

    /// Gives the stream at this place a turn.
    pub(super) fn run_stream(&mut self, place: usize, around: &mut Surroundings<'_>) {
        let Some(slot) = self.streams.get_mut(place) else { return };
        let Some(stream) = slot else { return };
        match stream.run(&mut around.scratch) {
            Turn::Blocked => {}
            Turn::Unfinished => self.unfinished = true,
            Turn::Done => {
                let was_output = matches!(stream, Stream::Output(_));
                *slot = None;
                if was_output && self.terminal.take().is_some() {
                    // Nobody sees the terminal any more: closing all of it hangs it up.
                    self.streams = [None, None, None];
                }
            }
        }
    }
}
