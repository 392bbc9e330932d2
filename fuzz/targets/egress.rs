//! What a hostile guest sends on a stream to the outside: its head, and a TLS client's first message. Whatever is
//! taken names one host in its one form, and means the same however it was cut.
#![no_main]

use cloister::egress::hello::{Hello, examine};
use cloister_protocol::egress::{Head, Target, is_host_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(head) = Head::decode(input) {
        assert!(head.port > 0);
        if let Target::Name(name) = &head.target {
            assert!(is_host_name(name));
        }
        let bytes = head.encode().expect("what was taken can be sent");
        assert_eq!(Head::decode(&bytes[2..]).as_ref(), Ok(&head));
    }
    if let Ok(Hello::To(name)) = examine(input) {
        assert!(is_host_name(&name));
        // No part of it is understood as something else.
        for end in 1..input.len().min(64) {
            assert!(matches!(examine(&input[..end]), Ok(Hello::Unfinished) | Ok(Hello::To(_))));
        }
    }
});
