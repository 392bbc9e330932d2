//! The table without a guest: time limits, buffers, and packets of any content.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::super::establish::{ANSWER_TIME, LARGE_BUFFER, LARGE_BUFFERS_TOTAL, SMALL_BUFFER};
use super::super::packet::TYPE_STREAM;
use super::*;
use crate::control::{GUEST_CID, HOST_CID};

fn from_guest(operation: Operation, guest_port: u32) -> Header {
    Header {
        source_cid: GUEST_CID,
        destination_cid: HOST_CID,
        source_port: guest_port,
        destination_port: 1,
        socket_type: TYPE_STREAM,
        operation: operation.code(),
        buffer: 1 << 18,
        ..Header::default()
    }
}

/// All packets that wait, without data.
fn packets(table: &mut Table) -> Vec<Header> {
    let mut room = [0; 4096];
    let mut packets = Vec::new();
    while let Some(ready) = table.next_ready() {
        packets.extend(table.make_packet(ready, &[VolatileSlice::from(&mut room[..])]));
        assert!(packets.len() < 10_000);
    }
    packets
}

fn operations(table: &mut Table) -> Vec<u16> {
    packets(table).iter().map(|header| header.operation).collect()
}

fn stream() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

#[test]
fn silence_ends_both_kinds_of_connection() {
    let mut table = Table::new().unwrap();
    let start = Instant::now();
    table.connect(7, 80, stream(), start);
    table.packet_from_guest(&from_guest(Operation::Request, 5), &[], start);
    assert_eq!(table.take_events(), [Event::Incoming { id: 0, port: 1 }]);
    assert_eq!(operations(&mut table), [1]);
    table.poll(start + ANSWER_TIME - Duration::from_millis(1)).unwrap();
    assert_eq!(table.len(), 2);
    table.poll(start + ANSWER_TIME).unwrap();
    assert_eq!(table.len(), 0);
    assert_eq!(operations(&mut table), [3, 3]);
    assert_eq!(table.take_events(), [Event::Refused { id: 7 }]);
    assert!(table.deadlines.is_empty() && table.serials.is_empty());
    // Too late an answer closes the stream and does nothing else.
    table.accept(0, stream());
    assert!(table.incoming.is_empty() && table.is_empty() && !table.has_ready());
}

#[test]
fn the_timer_wakes_for_the_earliest_deadline_and_then_rests() {
    let mut table = Table::new().unwrap();
    let past = Instant::now() - ANSWER_TIME;
    table.connect(7, 80, stream(), past);
    table.set_timer(Instant::now()).unwrap();
    let mut events = [EpollEvent::default(); 1];
    assert_eq!(table.epoll.wait(1000, &mut events).unwrap(), 1);
    table.poll(Instant::now()).unwrap();
    table.set_timer(Instant::now()).unwrap();
    assert_eq!(table.take_events(), [Event::Refused { id: 7 }]);
    assert_eq!(table.epoll.wait(20, &mut events).unwrap(), 0);
}

#[test]
fn an_answer_in_time_stops_the_clock() {
    let mut table = Table::new().unwrap();
    let start = Instant::now();
    table.connect(7, 80, stream(), start);
    let [request] = packets(&mut table)[..] else { panic!() };
    let mut response = from_guest(Operation::Response, 80);
    response.destination_port = request.source_port;
    table.packet_from_guest(&response, &[], start);
    table.packet_from_guest(&from_guest(Operation::Request, 5), &[], start);
    table.accept(0, stream());
    table.poll(start + 2 * ANSWER_TIME).unwrap();
    assert_eq!(table.len(), 2);
    assert!(table.deadlines.is_empty());
}

#[test]
fn buffers_become_small_when_much_is_promised() {
    let mut table = Table::new().unwrap();
    let start = Instant::now();
    for id in 0..u32::try_from(MAX_CONNECTIONS).unwrap() {
        table.connect(id, 80, stream(), start);
    }
    let buffers: Vec<_> = packets(&mut table).iter().map(|header| header.buffer).collect();
    assert_eq!((buffers[0], buffers[MAX_CONNECTIONS - 1]), (LARGE_BUFFER, SMALL_BUFFER));
    let total: u64 = buffers.iter().map(|buffer| u64::from(*buffer)).sum();
    assert!(total <= LARGE_BUFFERS_TOTAL + MAX_CONNECTIONS as u64 * u64::from(SMALL_BUFFER));
    table.close_all();
    assert_eq!((table.len(), table.promised), (0, 0));
    table.connect(1, 80, stream(), start);
    assert_eq!(packets(&mut table)[0].buffer, LARGE_BUFFER);
}

/// A header with values near what is meaningful.
fn header() -> impl Strategy<Value = Header> {
    let ports = (0_u32..3, prop::sample::select(vec![1_u32, 2, 1 << 30, (1 << 30) + 1]));
    let cids =
        (prop::sample::select(vec![3_u64, 3, 3, 2]), prop::sample::select(vec![2_u64, 2, 3]));
    let length = prop::sample::select(vec![0_u32, 1, 100, 4000, u32::MAX]);
    let kind = (prop::sample::select(vec![1_u16, 1, 1, 0]), 0_u16..9, 0_u32..8);
    let credit = prop::sample::select(vec![0_u32, 1, 100, 1 << 18, 1 << 31, u32::MAX]);
    (ports, cids, length, kind, (credit.clone(), credit)).prop_map(
        |(ports, cids, length, kind, credit)| Header {
            source_cid: cids.0,
            destination_cid: cids.1,
            source_port: ports.0,
            destination_port: ports.1,
            length,
            socket_type: kind.0,
            operation: kind.1,
            flags: kind.2,
            buffer: credit.0,
            forwarded: credit.1,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]

    #[test]
    fn packets_of_any_content_leave_the_table_whole(
        headers in prop::collection::vec((header(), 0_usize..5000, 0_u8..8), 1..120)
    ) {
        let mut table = Table::new().unwrap();
        let mut hosts = Vec::new();
        let now = Instant::now();
        for (id, (header, length, action)) in (0..).zip(headers) {
            let mut data = vec![0; length.min(header.length as usize)];
            table.packet_from_guest(&header, &[VolatileSlice::from(&mut data[..])], now);
            let (theirs, ours) = UnixStream::pair().unwrap();
            match action {
                0 => table.connect(id, header.source_port, theirs.into(), now),
                1..4 => table.accept(table.next_incoming.wrapping_sub(1), theirs.into()),
                4 => drop(packets(&mut table)),
                5 => hosts.truncate(hosts.len() / 2),
                _ => table.poll(now).unwrap(),
            }
            hosts.push(ours);
            let held: u32 = table.connections.values().map(Connection::promised).sum();
            prop_assert_eq!(u64::from(held), table.promised);
            prop_assert!(table.held_bytes() <= held as usize);
            prop_assert!(table.serials.len() <= table.len());
            let queued = table.connections.values().filter(|connection| connection.queued);
            prop_assert_eq!(queued.count(), table.ready.len());
            prop_assert!(table.resets.len() <= MAX_RESETS);
        }
        table.poll(now + ANSWER_TIME).unwrap();
        table.close_all();
        prop_assert!(table.serials.is_empty() && table.deadlines.is_empty());
    }
}
