//! What a vmm that was taken over could send to the host, and the other way round.
#![no_main]

use cloister_vmm::control::{Command, Event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok((event, _)) = postcard::take_from_bytes::<Event>(input) {
        let bytes = postcard::to_allocvec(&event).expect("what was decoded can be encoded");
        assert_eq!(postcard::from_bytes::<Event>(&bytes).as_ref(), Ok(&event));
    }
    if let Ok((command, _)) = postcard::take_from_bytes::<Command>(input) {
        if let Command::Start(spec) = &command {
            // Whatever the spec says: checking it neither panics nor allocates by its numbers.
            spec.validate().ok();
        }
        let bytes = postcard::to_allocvec(&command).expect("what was decoded can be encoded");
        assert_eq!(postcard::from_bytes::<Command>(&bytes).as_ref(), Ok(&command));
    }
});
