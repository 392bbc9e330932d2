//! Hostile guest kernels: what each does to the vmm's devices, and their images.

mod bus;
mod elf;
mod interpreter;
mod queues;
mod requests;
mod script;
mod streams;

use script::Script;

use crate::wire::{Case, Group};

/// The vmm's exit codes that are used here (`docs/exit-codes.md`).
const STOPPED: u8 = 0;
const RESET: u8 = 10;
const TRIPLE_FAULT: u8 = 11;
const HALTED: u8 = 12;
const KVM_INTERNAL: u8 = 13;
const PANIC: u8 = 14;
const GUEST_FAULT: u8 = 15;

/// A hostile guest.
struct Guest {
    name: &'static str,
    tries: &'static str,
    why: &'static str,
    script: Script,
    exits: &'static [u8],
    goes_on: bool,
    shares: bool,
}

impl Guest {
    /// One that powers off behind its attack, to show that all of it was made.
    fn new(name: &'static str, tries: &'static str, why: &'static str, script: Script) -> Self {
        let exits = &[STOPPED];
        Self { name, tries, why, script, exits, goes_on: false, shares: false }
    }

    /// One that ends otherwise.
    const fn ends(mut self, exits: &'static [u8]) -> Self {
        self.exits = exits;
        self
    }

    /// One that does it until it is stopped.
    const fn goes_on(mut self) -> Self {
        self.goes_on = true;
        self
    }

    /// One that has shared directories.
    const fn shares(mut self) -> Self {
        self.shares = true;
        self
    }
}

fn guests() -> Vec<Guest> {
    let mut guests = bus::guests();
    guests.extend(queues::guests());
    guests.extend(requests::guests());
    guests.extend(streams::guests());
    guests
}

/// The cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |guest: Guest| Case {
        group: Group::GuestKernel,
        name: guest.name.to_owned(),
        tries: guest.tries.to_owned(),
        why: guest.why.to_owned(),
        expected: Vec::new(),
        alone: true,
        exits: guest.exits.to_vec(),
        goes_on: guest.goes_on,
        shares: guest.shares,
    };
    guests().into_iter().map(case).collect()
}

/// The kernel of a case, as a file.
#[must_use]
pub fn kernel(name: &str) -> Option<Vec<u8>> {
    if name == "idle" {
        let script = Script::default();
        let here = script.here();
        let script = script.call(&[0xf3, 0x90, 0xc3]).again(here, 0);
        return Some(elf::file(&script.assemble()));
    }
    let guest = guests().into_iter().find(|guest| guest.name == name)?;
    Some(elf::file(&guest.script.assemble()))
}
