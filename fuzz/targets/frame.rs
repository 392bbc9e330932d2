//! Bytes of a hostile peer on the control connection, in hostile pieces: frames and messages, both
//! directions. What decodes must validate without a panic, and encode to the same bytes.
#![no_main]

use cloister_protocol::frame::{Decoder, encode};
use cloister_protocol::limits::MAX_FRAME;
use cloister_protocol::message::{Event, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, stream)) = input.split_first() else { return };
    let step = usize::from(*cut).max(1);
    let mut requests = Decoder::default();
    let mut events = Decoder::default();
    for mut piece in stream.chunks(step) {
        while !piece.is_empty() {
            match requests.decode::<Request>(&mut piece) {
                Ok(Some(request)) => {
                    let again = encode(&request);
                    assert!(request.validate().is_err() || again.is_ok());
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }
    for mut piece in stream.chunks(step) {
        while !piece.is_empty() {
            match events.decode::<Event>(&mut piece) {
                Ok(Some(event)) => {
                    assert!(event.validate().is_err() || encode(&event).is_ok());
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }
    assert!(stream.len() <= MAX_FRAME * 4);
});
