//! Any bytes as a saved machine: an error or a machine that can be written again, with no more memory than the
//! bytes take; its devices take on their states or refuse them.
#![no_main]

use cloister_vmm::devices::virtio::{Balloon, Rng, Transport, Vsock};
use cloister_vmm::memory::Giver;
use cloister_vmm::snapshot::{HEADER_BYTES, Snapshot, with_header};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY_BYTES: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    look_at(input);
    // And with a header that fits, which no mutation finds.
    let whole = with_header(&[0; 32], 1 << 20, input).expect("inputs are short");
    look_at(&whole);
});

fn look_at(input: &[u8]) {
    let Ok(snapshot) = Snapshot::decode(input) else { return };
    let again = snapshot.encode().expect("what was read is within the bounds");
    assert_eq!(Snapshot::decode(&again).expect("just written").memory_bytes, snapshot.memory_bytes);
    assert!(again.len() >= HEADER_BYTES);
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .expect("a small mapping");
    let interrupt = || EventFd::new(EFD_NONBLOCK).expect("a descriptor");
    for state in &snapshot.body.devices {
        let vsock = Vsock::new().expect("a device");
        let mut vsock = Transport::new(vsock, memory.clone(), interrupt()).expect("descriptors");
        if vsock.take_state(state).is_ok() {
            vsock.begin_anew();
            vsock.kick();
            for (_, token) in vsock.event_sources() {
                vsock.process(token);
            }
        }
        let rng = Rng::new().expect("a device");
        let mut rng = Transport::new(rng, memory.clone(), interrupt()).expect("descriptors");
        if rng.take_state(state).is_ok() {
            rng.kick();
            rng.process(0);
        }
        let balloon = Balloon::new(Giver::saved(&memory));
        let mut balloon =
            Transport::new(balloon, memory.clone(), interrupt()).expect("descriptors");
        if balloon.take_state(state).is_ok() {
            balloon.kick();
            (0..3).for_each(|queue| balloon.process(queue));
        }
    }
}
