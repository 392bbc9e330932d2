//! What a server leaves to the next: written and taken up as a whole, while no request is served.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Router;
use crate::carried::{Carried, Damaged, restore, save};
use crate::control::{Unrestored, Unsaved};
use crate::limits::MAX_STATE_BYTES;

/// Counts requests, so that a state is of one moment.
#[derive(Debug, Default)]
pub(super) struct Turns {
    begun: AtomicU64,
    ended: AtomicU64,
    restored: AtomicBool,
}

impl Turns {
    /// How many were served; `None`: one is under way.
    fn resting(&self) -> Option<u64> {
        // The end first: what begins in between shows as one that is under way.
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }
}

/// A request that is under way, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Router {
    /// To be held while a request is served.
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        self.0.turns.begun.fetch_add(1, Ordering::SeqCst);
        Turn(&self.0.turns)
    }

    /// Writes down what the guest knows and has open; the state's length. The search for files ends when `cancel` is
    /// set. Nothing changes for the guest.
    ///
    /// # Errors
    /// It can't be carried to another server.
    pub fn save(&self, into: &File, cancel: &Arc<AtomicBool>) -> Result<u64, Unsaved> {
        let before = self.0.turns.resting().ok_or(Unsaved::Busy)?;
        let means = save::Means { scratch: into, processes: &self.0.processes, cancel };
        let shares = self.shares();
        let saved = shares.iter().map(|share| save::save(share, means));
        let carried = Carried { shares: saved.collect::<Result<Vec<_>, _>>()?.into() };
        let bytes = carried.encode().ok_or(Unsaved::TooMany)?;
        // The next server looks at each number and name, so that what it would refuse is known now.
        Carried::parse(&bytes).map_err(|_| Unsaved::TooMany)?;
        if self.0.turns.resting() != Some(before) {
            return Err(Unsaved::Busy);
        }
        overwrite(into, &bytes)?;
        Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// Takes up what another server wrote down, before the first request and once at most. Changes the calling
    /// thread's working directory for a moment.
    ///
    /// # Errors
    /// It does not fit, or something that is open is not to be had any more. Nothing is known or open then.
    pub fn restore(&self, from: &File) -> Result<(), Unrestored> {
        let again = self.0.turns.restored.swap(true, Ordering::SeqCst);
        if again || self.0.turns.resting() != Some(0) {
            return Err(Unrestored::Late);
        }
        let taken = self.take_up(from);
        if taken.is_err() {
            for share in self.shares() {
                // What can't be opened again answers with errors.
                share.reset().ok();
            }
        }
        taken
    }

    fn take_up(&self, from: &File) -> Result<(), Unrestored> {
        let bytes = read(from)?;
        let damaged = |damaged: Damaged| Unrestored::Damaged { what: damaged.to_string() };
        let carried = Carried::parse(&bytes).map_err(damaged)?;
        let shares = self.shares();
        if !carried.shares.iter().map(|state| &state.spec).eq(shares.iter().map(|s| &s.spec)) {
            return Err(Unrestored::Shares);
        }
        let (mut nodes, mut handles) = (0, 0);
        for state in &*carried.shares {
            nodes += state.nodes.len();
            handles += state.open.len();
        }
        // And the roots. Files for which no descriptor is left would look as if they were gone.
        let counted = |length| u64::try_from(length).unwrap_or(u64::MAX);
        if !self.0.budget.holds(counted(nodes + shares.len()), counted(handles)) {
            return Err(Unrestored::TooMany);
        }
        let mut each = shares.iter().zip(&**carried.shares);
        each.try_for_each(|(share, state)| restore::restore(share, state, from))
    }
}

fn overwrite(mut into: &File, bytes: &[u8]) -> io::Result<()> {
    into.set_len(0)?;
    into.rewind()?;
    into.write_all(bytes)
}

/// A state, or one byte more than one can have.
fn read(mut from: &File) -> io::Result<Vec<u8>> {
    from.rewind()?;
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_STATE_BYTES).unwrap_or(u64::MAX);
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
