//! What the fake writes when it is to be saved with its memory.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use cloister_vmm::control::Event;
use cloister_vmm::exit::ExitCode;
use cloister_vmm::spec::extent_head;

use crate::guest::{Guest, Manners};

/// The state of a fake that goes on begins so: an ordinary one.
const STATE: &str = "070701ordinary";
const PAGE: u64 = 4096;
/// Pages that are written beside the two: 4 MiB.
const MUCH: u64 = 1024;

/// Writes two pages of memory, and a state with what whoever goes on has.
pub(crate) fn save(guest: &Guest, descriptors: Vec<OwnedFd>) {
    let [state, memory] = <[OwnedFd; 2]>::try_from(descriptors).expect("two descriptors");
    if guest.has(Manners::EndsOnSave) {
        crate::end(&guest.control, ExitCode::Host);
    }
    let script = format!("{STATE}{}", guest.as_carried());
    File::from(state).write_all(script.as_bytes()).expect("a pipe");
    let mut memory = File::from(memory);
    let second = if guest.has(Manners::SavesTwice) { 0 } else { guest.memory_bytes - PAGE };
    // Whoever finds something wrong reads no further.
    let much = if guest.has(Manners::SavesMuch) { MUCH } else { 0 };
    let more = (1..=much).map(|page| (page * PAGE, 3));
    for (place, byte) in [(0, 1)].into_iter().chain(more).chain([(second, 2)]) {
        memory.write_all(&extent_head(place, PAGE)).ok();
        memory.write_all(&[byte; 4096]).ok();
    }
    if !guest.has(Manners::SavesHalf) {
        memory.write_all(&extent_head(guest.memory_bytes, 0)).ok();
    }
    drop(memory);
    let bytes = script.len() as u64 + u64::from(guest.has(Manners::SavesMoreState));
    guest.control.send(&Event::Saved { bytes });
}
