//! In a jail: takes the place of a vmm or a file server, is confined as it is, and attacks.

mod attack;
mod hostile;
mod kernel;
mod namespaces;
mod place;
mod processes;
mod shares;
mod sockets;

use std::process::ExitCode;

use attack::Attack;
pub use place::{file_server, vmm};

use crate::calls;
use crate::wire::{Act, Case, Group, MAX_WORDS, Order, Said, Stage};

/// What there is to attack with: numbers of descriptors, -1 where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) group: Group,
    /// `/dev/kvm`.
    pub(crate) kvm: i32,
    /// Guest memory.
    pub(crate) memory: i32,
    /// A file of the host, opened for reading: the guest's kernel.
    pub(crate) file: i32,
    /// A program: of the host, or in the writable share.
    pub(crate) program: i32,
    /// The guest's root image.
    pub(crate) root: i32,
    /// The log.
    pub(crate) log: i32,
    /// The bounce area.
    pub(crate) area: i32,
    /// The file server's socket to the vmm.
    pub(crate) socket: i32,
    /// A read-only share.
    pub(crate) share_read: i32,
    /// A writable one.
    pub(crate) share_write: i32,
    /// The directory of its own descriptors.
    pub(crate) own_descriptors: i32,
    /// Names the socket that `cloister prove` has opened.
    pub(crate) host: u32,
}

impl World {
    /// Every descriptor that a process in this place should have.
    pub(crate) fn descriptors(&self) -> Vec<i32> {
        let all = [
            self.kvm,
            self.memory,
            self.file,
            self.program,
            self.root,
            self.log,
            self.area,
            self.socket,
            self.share_read,
            self.share_write,
            self.own_descriptors,
        ];
        (0..4).chain(all).collect()
    }

    /// The address of a socket of the host's, in its name space without files.
    pub(crate) fn neighbour(&self) -> Vec<u8> {
        let mut address = vec![1, 0, 0];
        address.extend(format!("cloister-prove-{}", self.host).bytes());
        address
    }
}

fn attacks() -> Vec<Attack> {
    let mut rows = namespaces::rows();
    rows.extend(processes::rows());
    rows.extend(kernel::rows());
    rows.extend(sockets::rows());
    rows.extend(shares::rows());
    rows
}

/// The cases of both programs.
#[must_use]
pub fn cases() -> Vec<Case> {
    let rows = attacks();
    let of = |group| rows.iter().filter_map(move |row| row.case(group));
    of(Group::Vmm).chain(of(Group::FileServer)).collect()
}

/// How a prober is confined further, and where it says what it sees.
trait Place {
    /// Enters the filter of a stage.
    fn confine(&self, stage: Stage) -> std::io::Result<()>;
    /// Tells the host.
    fn say(&self, said: &Said);
}

/// Does what is ordered.
fn obey(place: &impl Place, world: &World, order: &Order) -> ExitCode {
    if order.act == Act::Die {
        return hostile::die(place, order.stage);
    }
    let signals = calls::take_signals();
    let rows = attacks();
    let confined = signals.and_then(|()| place.confine(order.stage));
    if let Err(error) = confined {
        let words = format!("can't be confined: {error}");
        place.say(&Said::Unable { name: String::new(), words });
        return ExitCode::FAILURE;
    }
    match order.act {
        Act::Attack => attack_all(place, world, order, &rows),
        Act::Stay => place.say(&Said::Done),
        _ => hostile::send(place, order.act),
    }
    wait_for_end();
    ExitCode::SUCCESS
}

fn attack_all(place: &impl Place, world: &World, order: &Order, rows: &[Attack]) {
    for row in rows {
        let Some(case) = row.case(world.group) else { continue };
        let here = case.expected.iter().any(|expected| expected.stage == order.stage);
        let asked = order.only.as_ref().map_or(!case.alone, |only| *only == case.name);
        if !here || !asked {
            continue;
        }
        place.say(&Said::Begins(case.name.clone()));
        let name = case.name;
        place.say(&match (row.run)(world) {
            Ok(mut words) => {
                words.truncate(words.floor_char_boundary(MAX_WORDS));
                Said::Saw { name, end: None, words }
            }
            Err(end) => Said::Saw { name, end: Some(end), words: String::new() },
        });
    }
    place.say(&Said::Done);
}

/// Until the host ends it: by a call that every filter lets through.
fn wait_for_end() {
    let mut byte = [0_u8; 1];
    while calls::call!(libc::SYS_read, 3, byte.as_mut_ptr(), 1).is_ok_and(|count| count > 0) {}
}
