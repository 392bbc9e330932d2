//! Tests of the frames.

extern crate std;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use std::error::Error;

use proptest::prelude::*;

use super::{Decoder, FrameError, PREFIX, encode};
use crate::agent::{Place, User};
use crate::check_agent::tests::{any_agent, any_agent_event, any_copy};
use crate::limits::MAX_FRAME;
use crate::message::{
    Attached, Event, Exec, ExecFailure, ExitStatus, Identity, Request, Stdio, WindowSize,
};

/// Everything in `bytes`, which arrive in pieces of these sizes (the rest in one).
fn decode_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<Request>, Option<FrameError>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    let mut rest = bytes;
    let sizes = cuts.iter().copied().chain([usize::MAX]);
    for size in sizes {
        let (mut piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        loop {
            match decoder.decode::<Request>(&mut piece) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
            assert!(decoder.body.capacity() <= MAX_FRAME);
        }
        assert!(piece.is_empty(), "None means that the piece was taken whole");
    }
    (messages, None)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn frame_is_length_then_message() {
    assert_eq!(encode(&Request::PowerOff).unwrap(), [1, 0, 0, 0, 10]);
    assert_eq!(encode(&Request::Ping { token: 300 }).unwrap(), [3, 0, 0, 0, 9, 0xac, 0x02]);
    let commands = vec![Attached { id: 1, stdout: 7, stderr: 8 }];
    assert_eq!(encode(&Request::Detach { commands: vec![1] }).unwrap(), [3, 0, 0, 0, 11, 1, 1]);
    assert_eq!(encode(&Request::Attach { commands }).unwrap(), [5, 0, 0, 0, 12, 1, 1, 7, 8]);
    assert_eq!(encode(&Event::Detached { holds: true }).unwrap(), [2, 0, 0, 0, 11, 1]);
    assert_eq!(encode(&Event::Attached).unwrap(), [1, 0, 0, 0, 12]);
}

#[test]
fn several_messages_in_one_piece_come_one_by_one() {
    let mut bytes = encode(&Request::Ping { token: 1 }).unwrap();
    bytes.extend(encode(&Request::Ping { token: 2 }).unwrap());
    let (messages, error) = decode_pieces(&bytes, &[]);
    assert_eq!(messages, [Request::Ping { token: 1 }, Request::Ping { token: 2 }]);
    assert_eq!(error, None);
}

#[test]
fn too_long_is_refused_with_the_prefix_alone() {
    let length = u32::try_from(MAX_FRAME + 1).unwrap();
    let (messages, error) = decode_pieces(&length.to_le_bytes(), &[]);
    assert!(messages.is_empty());
    assert_eq!(error, Some(FrameError::TooLong { length: MAX_FRAME + 1 }));
}

#[test]
fn too_long_stays_refused() {
    let mut decoder = Decoder::new();
    for _ in 0..3 {
        let mut input = &[0xff, 0xff, 0xff, 0xff, 9][..];
        assert!(decoder.decode::<Request>(&mut input).is_err());
    }
}

#[test]
fn a_message_over_the_limit_is_not_encoded() {
    let message = vec![0_u8; MAX_FRAME];
    let error = encode(&message).unwrap_err();
    assert_eq!(error, FrameError::TooLong { length: MAX_FRAME + 3 });
}

#[test]
fn the_longest_frame_passes() {
    // Three bytes of length in front of the text.
    let message = vec![7_u8; MAX_FRAME - 3];
    let frame = encode(&message).unwrap();
    assert_eq!(frame.len(), MAX_FRAME + PREFIX);
    let mut input = &frame[..];
    assert_eq!(Decoder::new().decode::<Vec<u8>>(&mut input), Ok(Some(message)));
}

#[test]
fn trailing_bytes_are_refused() {
    let (_, error) = decode_pieces(&framed(&[10, 0, 0]), &[]);
    assert_eq!(error, Some(FrameError::TrailingBytes { length: 3, extra: 2 }));
}

#[test]
fn an_empty_frame_is_refused() {
    let (_, error) = decode_pieces(&framed(&[]), &[]);
    assert!(matches!(error, Some(FrameError::Malformed { length: 0, .. })));
}

#[test]
fn an_unknown_message_is_refused() {
    let (_, error) = decode_pieces(&framed(&[13]), &[]);
    assert!(matches!(error, Some(FrameError::Malformed { length: 1, .. })));
}

#[test]
fn a_cut_stream_is_told_from_a_whole_one() {
    let mut decoder = Decoder::new();
    assert!(decoder.is_between_frames());
    let frame = encode(&Request::PowerOff).unwrap();
    let (mut first, mut second) = frame.split_at(2);
    assert_eq!(decoder.decode::<Request>(&mut first), Ok(None));
    assert!(!decoder.is_between_frames());
    assert_eq!(decoder.decode(&mut second), Ok(Some(Request::PowerOff)));
    assert!(decoder.is_between_frames());
}

#[test]
fn a_claimed_count_reserves_no_memory() {
    // An Exec with id 0 that says it has 2^32 - 1 arguments, and ends there.
    let (_, error) = decode_pieces(&framed(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), &[]);
    assert!(matches!(error, Some(FrameError::Malformed { length: 8, .. })));
}

#[test]
fn errors_tell_figures_and_cause() {
    let said = |error: FrameError| {
        let cause = error.source().map_or_else(String::new, |cause| cause.to_string());
        (error.to_string(), cause)
    };
    let (text, _) = said(FrameError::TooLong { length: 999_999 });
    assert_eq!(text, "a frame of 999999 bytes is over the limit of 262144");
    let (text, _) = said(FrameError::TrailingBytes { length: 9, extra: 2 });
    assert_eq!(text, "a frame of 9 bytes has 2 bytes after its message");
    let (text, cause) =
        said(decode_pieces(&framed(&[8, 0x80]), &[]).1.expect("a varint is cut off"));
    assert_eq!(text, "a frame of 2 bytes is not a message");
    assert!(cause.contains("end of buffer"), "{cause}");
}

pub(crate) fn any_exec() -> impl Strategy<Value = Exec> {
    let text = || prop::collection::vec(any::<u8>(), 0..20);
    let size = any::<(u16, u16)>().prop_map(|(rows, columns)| WindowSize { rows, columns });
    let stdio = prop_oneof![
        any::<(Option<u32>, u32, u32)>().prop_map(|(stdin, stdout, stderr)| Stdio::Streams {
            stdin,
            stdout,
            stderr
        }),
        (any::<u32>(), size).prop_map(|(port, size)| Stdio::Terminal { port, size }),
    ];
    let place = prop_oneof![
        Just(Place::Machine),
        any::<(u32, u32, u32)>()
            .prop_map(|(agent, uid, gid)| Place::Agent { agent, user: User { uid, gid } }),
    ];
    (
        any::<u32>(),
        place,
        prop::collection::vec(text(), 0..6),
        prop::collection::vec((text(), text()), 0..6),
        text(),
        stdio,
        any::<Option<u64>>(),
    )
        .prop_map(|(id, place, arguments, environment, directory, stdio, timeout_ms)| Exec {
            id,
            place,
            arguments,
            environment,
            directory,
            stdio,
            timeout_ms,
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any::<(u16, Option<([u8; 32], u64)>)>().prop_map(|(version, fork)| Request::Hello {
            version,
            fork: fork.map(|(entropy, wall_ns)| Identity { entropy, wall_ns }),
        }),
        any_exec().prop_map(Request::Exec),
        any_agent().prop_map(Request::CreateAgent),
        any_copy().prop_map(Request::Copy),
        any::<u32>().prop_map(|agent| Request::RemoveAgent { agent }),
        any::<u32>().prop_map(|agent| Request::AgentUsage { agent }),
        any::<(u32, u8)>().prop_map(|(id, signal)| Request::Signal { id, signal }),
        any::<(u32, u16, u16)>().prop_map(|(id, rows, columns)| Request::Resize {
            id,
            size: WindowSize { rows, columns }
        }),
        any::<u64>().prop_map(|token| Request::Ping { token }),
        Just(Request::PowerOff),
        prop::collection::vec(any::<u32>(), 0..6).prop_map(|commands| Request::Detach { commands }),
        prop::collection::vec(any_attached(), 0..6)
            .prop_map(|commands| Request::Attach { commands }),
    ]
}

fn any_attached() -> impl Strategy<Value = Attached> {
    any::<(u32, u32, u32)>().prop_map(|(id, stdout, stderr)| Attached { id, stdout, stderr })
}

fn any_event() -> impl Strategy<Value = Event> {
    let reason = prop_oneof![
        Just(ExecFailure::NotFound),
        Just(ExecFailure::NotExecutable),
        Just(ExecFailure::Directory),
        Just(ExecFailure::BadRequest),
        Just(ExecFailure::Resources),
    ];
    let status = prop_oneof![
        any::<u8>().prop_map(ExitStatus::Code),
        any::<u8>().prop_map(ExitStatus::Signal),
        Just(ExitStatus::TimedOut),
    ];
    prop_oneof![
        any::<(u16, u64, u64)>().prop_map(|(version, start_tsc, ready_tsc)| Event::Hello {
            version,
            start_tsc,
            ready_tsc
        }),
        any::<u32>().prop_map(|id| Event::Started { id }),
        (any::<u32>(), reason, any::<String>()).prop_map(|(id, reason, detail)| Event::Failed {
            id,
            reason,
            detail
        }),
        (any::<u32>(), status).prop_map(|(id, status)| Event::Exited { id, status }),
        any::<u64>().prop_map(|token| Event::Pong { token }),
        any::<bool>().prop_map(|holds| Event::Detached { holds }),
        Just(Event::Attached),
        any_agent_event(),
    ]
}

proptest! {
    #[test]
    fn requests_come_back_however_the_stream_is_cut(
        requests in prop::collection::vec(any_request(), 0..8),
        cuts in prop::collection::vec(0_usize..40, 0..40),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|one| encode(one).unwrap()).collect();
        prop_assert_eq!(decode_pieces(&bytes, &cuts), (requests, None));
    }

    #[test]
    fn events_come_back(event in any_event()) {
        let frame = encode(&event).unwrap();
        let mut input = &frame[..];
        prop_assert_eq!(Decoder::new().decode(&mut input), Ok(Some(event)));
        prop_assert!(input.is_empty());
    }

    #[test]
    fn hostile_bytes_mean_the_same_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(0_usize..30, 0..30),
    ) {
        prop_assert_eq!(decode_pieces(&bytes, &cuts), decode_pieces(&bytes, &[]));
    }

    /// With true lengths in front, the bytes get as far as the message types.
    #[test]
    fn hostile_bodies_mean_the_same_however_they_are_cut(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        cuts in prop::collection::vec(0_usize..30, 0..30),
    ) {
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        prop_assert_eq!(decode_pieces(&bytes, &cuts), decode_pieces(&bytes, &[]));
    }

    /// One changed byte of a true frame: decoded or refused, never a panic.
    #[test]
    fn a_damaged_frame_never_panics(
        event in any_event(), place in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut frame = encode(&event).unwrap();
        let place = place.index(frame.len());
        frame[place] = byte;
        let mut input = &frame[..];
        let mut decoder = Decoder::new();
        while let Ok(Some(_)) = decoder.decode::<Event>(&mut input) {}
    }
}
