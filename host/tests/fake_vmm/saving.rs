//! What the fake writes when it is to be saved with its memory.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use cloister_vmm::control::Event;
use cloister_vmm::exit::ExitCode;
use cloister_vmm::spec::extent_head;

use crate::control::Control;
use crate::guest::Manners;

/// The state of a fake that goes on begins so: an ordinary one.
const STATE: &str = "070701ordinary";
const PAGE: u64 = 4096;
/// Of every fake machine that is saved.
const MEMORY: u64 = 64 << 20;

/// Writes two pages of memory, and a state with `more` of the script of who goes on.
pub(crate) fn save(
    control: &Control,
    manners: &HashSet<Manners>,
    more: &str,
    descriptors: Vec<OwnedFd>,
) {
    let has = |manner| manners.contains(&manner);
    let [state, memory] = <[OwnedFd; 2]>::try_from(descriptors).expect("two descriptors");
    if has(Manners::EndsOnSave) {
        crate::end(control, ExitCode::Host);
    }
    let script = format!("{STATE}{more}");
    File::from(state).write_all(script.as_bytes()).expect("a pipe");
    let mut memory = File::from(memory);
    let second = if has(Manners::SavesTwice) { 0 } else { MEMORY - PAGE };
    // Whoever finds something wrong reads no further.
    for (place, byte) in [(0, 1), (second, 2)] {
        memory.write_all(&extent_head(place, PAGE)).ok();
        memory.write_all(&[byte; 4096]).ok();
    }
    if !has(Manners::SavesHalf) {
        memory.write_all(&extent_head(MEMORY, 0)).ok();
    }
    drop(memory);
    let bytes = script.len() as u64 + u64::from(has(Manners::SavesMoreState));
    control.send(&Event::Saved { bytes });
}
