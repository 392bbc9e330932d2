//! The socket device as a Linux driver and the host use it: connecting, data, ends, limits.

use std::io::{Read, Write};
use std::net::Shutdown;

use cloister_vmm::control::{Event, Stats};
use cloister_vmm::devices::virtio::Vsock;
use cloister_vmm::devices::virtio::registers::Phase;
use cloister_vmm::devices::virtio::vsock::packet::{Header, Operation};
use cloister_vmm::devices::virtio::vsock::table::{MAX_CONNECTIONS, MAX_INCOMING};

use crate::driver::Guest;
use crate::peer::{Packet, Peer, data_packet, operations, packet, pair, read_all};

const GUEST_PORT: u32 = 5000;
const HOST_PORT: u32 = 1;

fn stats(peer: &Peer) -> Stats {
    let mut stats = Stats::default();
    peer.guest.transport.add_stats(&mut stats);
    stats
}

fn data_of(packets: &[Packet]) -> Vec<u8> {
    packets.iter().flat_map(|(_, data)| data.iter().copied()).collect()
}

#[test]
fn config_space_has_the_guests_id() {
    let mut guest = Guest::new(Vsock::new().unwrap());
    assert_eq!((guest.get(0x100), guest.get(0x104)), (3, 0));
    let mut byte = [0xff];
    guest.transport.read(0x100, &mut byte);
    assert_eq!(byte, [3]);
    assert_eq!(guest.transport.rejected_accesses(), 0);
}

#[test]
fn the_guest_connects_and_data_flows_both_ways() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"from guest"), b"from guest");
    assert_eq!(read_all(&mut stream), (b"from guest".to_vec(), false));
    stream.write_all(b"from host").unwrap();
    peer.run();
    let packets = peer.packets(true);
    assert_eq!(operations(&packets), [Operation::Data]);
    assert_eq!(data_of(&packets), b"from host");
    let (header, _) = &packets[0];
    assert_eq!((header.source_cid, header.destination_cid), (2, 3));
    assert_eq!((header.source_port, header.destination_port), (HOST_PORT, GUEST_PORT));
    assert_eq!(header.forwarded, 10);
    let stats = stats(&peer);
    assert_eq!((stats.vsock_from_guest_bytes, stats.vsock_to_guest_bytes), (10, 9));
    assert_eq!((stats.connections, stats.vsock_rejected, stats.rejected_accesses), (1, 0, 0));
}

#[test]
fn the_host_connects_and_the_guest_decides() {
    let mut peer = Peer::new();
    let (mut stream, host_port) = peer.connect_to_guest(7, 9000);
    peer.send(&data_packet(9000, host_port, b"hello"), b"hello");
    assert_eq!(read_all(&mut stream), (b"hello".to_vec(), false));
    let (theirs, mut refused) = pair();
    peer.guest.transport.connect(8, 9001, theirs);
    peer.run();
    let port = peer.packets(true)[0].0.source_port;
    assert_ne!(port, host_port);
    peer.send(&packet(Operation::Reset, 9001, port), &[]);
    assert_eq!(peer.events(), [Event::Refused { id: 8 }]);
    assert_eq!(read_all(&mut refused), (vec![], true));
    assert_eq!(stats(&peer).connections, 1);
}

#[test]
fn a_stopped_device_refuses() {
    let mut peer = Peer::over(Guest::new(Vsock::new().unwrap()));
    let (theirs, mut ours) = pair();
    peer.guest.transport.connect(1, 2, theirs);
    assert_eq!(peer.events(), [Event::Refused { id: 1 }]);
    assert_eq!(read_all(&mut ours), (vec![], true));
}

#[test]
fn the_host_refuses() {
    let mut peer = Peer::new();
    peer.send(&packet(Operation::Request, GUEST_PORT, HOST_PORT), &[]);
    let [Event::Incoming { id, port: HOST_PORT }] = peer.events()[..] else { panic!() };
    peer.guest.transport.refuse(id);
    peer.run();
    assert_eq!(operations(&peer.packets(true)), [Operation::Reset]);
    assert_eq!(stats(&peer).connections, 0);
    // An answer to what is answered already, or was never asked.
    let (theirs, mut ours) = pair();
    peer.guest.transport.accept(id, theirs);
    peer.guest.transport.refuse(id + 1);
    assert_eq!(read_all(&mut ours), (vec![], true));
}

#[test]
fn half_closes_travel_both_ways() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    peer.run();
    let packets = peer.packets(true);
    assert_eq!(operations(&packets), [Operation::Data, Operation::Shutdown]);
    assert_eq!(packets[1].0.flags, 2);
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"answer"), b"answer");
    assert_eq!(read_all(&mut stream), (b"answer".to_vec(), false));
    let end = Header { flags: 2, ..packet(Operation::Shutdown, GUEST_PORT, HOST_PORT) };
    peer.send(&end, &[]);
    assert_eq!(read_all(&mut stream), (vec![], true));
}

#[test]
fn a_guest_that_closes_gets_its_reset_after_its_data_is_written() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    let mut sent = Vec::new();
    for round in 0..8_u8 {
        let data = vec![round; 50_000];
        if sent.len() + data.len() > 400_000 {
            break;
        }
        sent.extend_from_slice(&data);
        peer.send(&data_packet(GUEST_PORT, HOST_PORT, &data), &data);
    }
    let close = Header { flags: 3, ..packet(Operation::Shutdown, GUEST_PORT, HOST_PORT) };
    peer.send(&close, &[]);
    assert!(!operations(&peer.packets(true)).contains(&Operation::Reset));
    assert!(peer.guest.transport.device().table().held_bytes() > 0);
    let mut got = Vec::new();
    let mut ended = false;
    while !ended {
        let (data, end) = read_all(&mut stream);
        ended = end;
        got.extend(data);
        peer.run();
    }
    assert!(got == sent);
    assert_eq!(operations(&peer.packets(true)).last(), Some(&Operation::Reset));
    assert_eq!(stats(&peer).connections, 0);
    assert_eq!(stats(&peer).vsock_rejected, 0);
}

#[test]
fn a_guest_that_closes_without_reading_is_an_end_and_no_error() {
    let mut peer = Peer::without_buffers();
    peer.post(2);
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    stream.write_all(&[1; 100_000]).unwrap();
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"enough"), b"enough");
    let close = Header { flags: 3, ..packet(Operation::Shutdown, GUEST_PORT, HOST_PORT) };
    peer.send(&close, &[]);
    assert_eq!(read_all(&mut stream), (b"enough".to_vec(), true));
    assert_eq!(stream.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn what_a_guest_sent_before_it_reset_still_arrives() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    let data = vec![9; 60_000];
    for _ in 0..7 {
        peer.send(&data_packet(GUEST_PORT, HOST_PORT, &data), &data);
    }
    peer.send(&packet(Operation::Reset, GUEST_PORT, HOST_PORT), &[]);
    peer.packets(true);
    // The ports are free again at once.
    let mut second = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    // Read in pieces, so that the device writes more than once and could think of credit.
    let mut total = 0;
    let mut part = vec![0; 32 << 10];
    while total < 420_000 {
        total += stream.read(&mut part).unwrap();
        peer.run();
    }
    assert_eq!(read_all(&mut stream), (vec![], true));
    assert_eq!(total, 420_000);
    assert!(peer.packets(true).is_empty(), "news of a connection that is gone");
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"x"), b"x");
    assert_eq!(read_all(&mut second), (b"x".to_vec(), false));
    assert_eq!(stats(&peer).connections, 1);
}

#[test]
fn a_host_that_closes_delivers_its_data_and_then_resets() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    stream.write_all(&[5; 10_000]).unwrap();
    drop(stream);
    peer.run();
    let packets = peer.packets(true);
    assert_eq!(data_of(&packets), [5; 10_000]);
    assert_eq!(operations(&packets).last(), Some(&Operation::Reset));
    assert_eq!(stats(&peer).connections, 0);
    // What crossed the reset on its way is answered with one.
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"late"), b"late");
    assert_eq!(operations(&peer.packets(true)), [Operation::Reset]);
}

#[test]
fn a_host_that_closes_unread_data_still_delivers_its_own() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    stream.write_all(b"bye").unwrap();
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"unread"), b"unread");
    drop(stream);
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"more"), b"more");
    let packets = peer.packets(true);
    assert_eq!(data_of(&packets), b"bye");
    assert_eq!(operations(&packets).last(), Some(&Operation::Reset));
}

#[test]
fn no_credit_and_no_buffers_stop_the_stream_without_a_spin() {
    let mut peer = Peer::without_buffers();
    peer.post(3);
    peer.send(&Header { buffer: 6000, ..packet(Operation::Request, GUEST_PORT, HOST_PORT) }, &[]);
    let [Event::Incoming { id, .. }] = peer.events()[..] else { panic!() };
    let (theirs, mut stream) = pair();
    peer.guest.transport.accept(id, theirs);
    stream.write_all(&[1; 20_000]).unwrap();
    // Response, 4052 bytes, 1948 bytes: credit and buffers end together.
    peer.run();
    let packets = peer.packets(false);
    assert_eq!(data_of(&packets).len(), 6000);
    let turns = peer.guest.turns;
    stream.write_all(&[1; 1000]).unwrap();
    peer.run();
    assert!(peer.guest.turns - turns <= 2);
    assert!(!peer.guest.turn(20), "the device does not rest");
    // Buffers alone bring the request for credit, once.
    peer.post(8);
    peer.run();
    assert_eq!(operations(&peer.packets(true)), [Operation::CreditRequest]);
    assert!(!peer.guest.turn(20));
    let credit = Header {
        buffer: 100_000,
        forwarded: 6000,
        ..packet(Operation::CreditUpdate, GUEST_PORT, HOST_PORT)
    };
    peer.send(&credit, &[]);
    let mut got = 6000;
    loop {
        let count = data_of(&peer.packets(true)).len();
        if count == 0 {
            break;
        }
        got += count;
        peer.run();
    }
    assert_eq!(got, 21_000);
}

#[test]
fn beyond_its_credit_a_guest_is_reset() {
    let mut peer = Peer::new();
    let _stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    let data = vec![1; 60_000];
    let mut accepted = 0;
    loop {
        peer.send(&data_packet(GUEST_PORT, HOST_PORT, &data), &data);
        assert!(peer.guest.transport.device().table().held_bytes() <= 256 << 10);
        if operations(&peer.packets(true)).contains(&Operation::Reset) {
            break;
        }
        accepted += data.len();
        assert!(accepted < 10 << 20);
    }
    assert_eq!(stats(&peer).vsock_rejected, 1);
}

#[test]
fn what_no_driver_sends_is_answered_and_counted() {
    let request = packet(Operation::Request, GUEST_PORT, HOST_PORT);
    let open = |operation| packet(operation, GUEST_PORT, HOST_PORT);
    // Packet, its data, and whether a reset comes back.
    let cases: [(&str, Header, &[u8], bool); 11] = [
        ("foreign source", Header { source_cid: 4, ..request }, &[], false),
        ("foreign destination", Header { destination_cid: 9, ..request }, &[], true),
        ("type", Header { socket_type: 2, ..request }, &[], true),
        ("operation", Header { operation: 8, ..request }, &[], true),
        ("operation 0", Header { operation: 0, ..request }, &[], true),
        ("twice", request, &[], true),
        ("response", open(Operation::Response), &[], true),
        ("no data", open(Operation::Data), &[], true),
        ("length", Header { length: 5, ..open(Operation::Data) }, b"four", true),
        ("data elsewhere", Header { length: 4, ..open(Operation::CreditUpdate) }, b"four", true),
        ("credit", Header { forwarded: 1, ..open(Operation::CreditUpdate) }, &[], true),
    ];
    for (name, header, data, answered) in cases {
        let mut peer = Peer::new();
        let _stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
        peer.send(&header, data);
        let expected: &[Operation] = if answered { &[Operation::Reset] } else { &[] };
        assert_eq!(operations(&peer.packets(true)), expected, "{name}");
        assert_eq!(stats(&peer).vsock_rejected, 1, "{name}");
        assert_eq!(peer.guest.transport.phase(), Phase::DriverOk, "{name}");
    }
}

#[test]
fn resets_for_strays_are_bounded() {
    let mut peer = Peer::without_buffers();
    for port in 0..1000 {
        peer.send(&packet(Operation::CreditRequest, port, HOST_PORT), &[]);
    }
    assert_eq!(stats(&peer).vsock_rejected, 1000);
    peer.post(128);
    peer.run();
    let mut resets = 0;
    loop {
        let packets = peer.packets(true);
        if packets.is_empty() {
            break;
        }
        resets += packets.len();
        peer.run();
    }
    assert_eq!(resets, 128);
    // A reset for nothing is not answered, so that two ends can't play ping-pong.
    peer.send(&packet(Operation::Reset, 1, HOST_PORT), &[]);
    assert!(peer.packets(true).is_empty());
}

#[test]
fn a_guest_cannot_flood_the_host_with_connections() {
    let mut peer = Peer::new();
    let mut told = 0;
    for port in 0..2000 {
        peer.send(&packet(Operation::Request, port, HOST_PORT), &[]);
        // It changes its mind each time; the host has still to be told and to answer.
        peer.send(&packet(Operation::Reset, port, HOST_PORT), &[]);
        told += peer.events().len();
        peer.packets(true);
    }
    assert_eq!(told, MAX_INCOMING);
    assert_eq!(stats(&peer).connections, 0);
    for id in 0..u32::try_from(told).unwrap() {
        peer.guest.transport.refuse(id);
    }
    let _stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
}

#[test]
fn connections_are_bounded() {
    let mut peer = Peer::new();
    let mut streams = Vec::new();
    for id in 0..u32::try_from(MAX_CONNECTIONS).unwrap() / 2 {
        streams.push(peer.connect_to_host(id, HOST_PORT));
        streams.push(peer.connect_to_guest(id, 7).0);
    }
    assert_eq!(stats(&peer).connections as usize, MAX_CONNECTIONS);
    let (theirs, _ours) = pair();
    peer.guest.transport.connect(5000, 7, theirs);
    assert_eq!(peer.events(), [Event::Refused { id: 5000 }]);
    peer.send(&packet(Operation::Request, 40_000, HOST_PORT), &[]);
    assert_eq!(operations(&peer.packets(true)), [Operation::Reset]);
    assert!(peer.events().is_empty());
    // The host lets go of all at once.
    streams.clear();
    let mut resets = 0;
    while resets < MAX_CONNECTIONS {
        peer.run();
        let packets = peer.packets(true);
        assert!(!packets.is_empty(), "{resets}");
        resets += packets.len();
    }
    assert_eq!(stats(&peer).connections, 0);
}

#[test]
fn streams_take_turns() {
    let mut peer = Peer::new();
    let mut streams: Vec<_> = (0..4).map(|port| peer.connect_to_host(port, HOST_PORT)).collect();
    for stream in &mut streams {
        stream.write_all(&[1; 60_000]).unwrap();
    }
    peer.run();
    // What lies in the first ring of buffers is shared evenly.
    let packets = peer.packets(false);
    assert!(packets.len() >= 60);
    let of = |port| packets.iter().filter(|(header, _)| header.destination_port == port).count();
    let counts: Vec<_> = (0..4).map(of).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    // A turn is at most 64 KiB, 17 buffers; the first is one buffer.
    assert!(*least >= 15 && most - least <= 17, "{counts:?}");
}

#[test]
fn a_reset_of_the_device_ends_all_and_it_works_again() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    let (theirs, mut waiting) = pair();
    peer.guest.transport.connect(3, 99, theirs);
    peer.send(&packet(Operation::Request, 70, 71), &[]);
    let [Event::Incoming { id, .. }] = peer.events()[..] else { panic!() };
    let data = vec![3; 60_000];
    for _ in 0..5 {
        peer.send(&data_packet(GUEST_PORT, HOST_PORT, &data), &data);
    }
    let mut guest = peer.guest;
    guest.start(true);
    guest.run(100);
    assert_eq!(guest.transport.take_events(), [Event::Refused { id: 3 }]);
    assert_eq!(read_all(&mut waiting), (vec![], true));
    let mut total = 0;
    loop {
        let (data, ended) = read_all(&mut stream);
        total += data.len();
        if ended {
            break;
        }
        guest.run(100);
    }
    assert_eq!(total, 300_000);
    let mut peer = Peer::over(guest);
    peer.post(128);
    let (theirs, mut late) = pair();
    peer.guest.transport.accept(id, theirs);
    assert_eq!(read_all(&mut late), (vec![], true));
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    peer.send(&data_packet(GUEST_PORT, HOST_PORT, b"again"), b"again");
    assert_eq!(read_all(&mut stream), (b"again".to_vec(), false));
}

#[test]
fn tiny_receive_buffers_do_not_stop_a_stream() {
    let mut peer = Peer::without_buffers();
    for slot in 0..128 {
        let pieces = [crate::driver::writable(crate::driver::BUFFERS + slot * 64, 46)];
        peer.guest.rings[0].add(&peer.guest.memory, &pieces);
    }
    peer.guest.notify(0);
    peer.send(&packet(Operation::Request, GUEST_PORT, HOST_PORT), &[]);
    let [Event::Incoming { id, .. }] = peer.events()[..] else { panic!() };
    let (theirs, mut stream) = pair();
    peer.guest.transport.accept(id, theirs);
    stream.write_all(&[1; 1000]).unwrap();
    peer.run();
    let used = std::iter::from_fn(|| peer.guest.rings[0].take_used(&peer.guest.memory));
    let lengths: Vec<_> = used.map(|(_, length)| length).collect();
    assert_eq!((lengths.len(), lengths[0], lengths[127]), (128, 44, 46));
    assert_eq!(stats(&peer).vsock_to_guest_bytes, 254);
}

#[test]
fn a_new_driver_never_meets_the_old_ones_connections() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    stream.write_all(b"for the old one").unwrap();
    // The new driver is up before the event loop has its turn.
    peer.guest.start(true);
    let (theirs, mut fresh) = pair();
    peer.guest.transport.connect(1, 5, theirs);
    let mut peer = Peer::over(peer.guest);
    peer.post(128);
    peer.run();
    assert_eq!(operations(&peer.packets(true)), [Operation::Request]);
    assert!(read_all(&mut stream).1 && !read_all(&mut fresh).1);
    assert_eq!(stats(&peer).connections, 1);
}

#[test]
fn a_kick_looks_at_everything_again() {
    let mut peer = Peer::new();
    let mut stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    // The notification gets lost.
    peer.queue(&data_packet(GUEST_PORT, HOST_PORT, b"lost"), b"lost");
    peer.run();
    assert_eq!(read_all(&mut stream), (vec![], false));
    while peer.guest.take_interrupt().is_some() {}
    peer.guest.transport.kick();
    assert_eq!(peer.guest.take_interrupt(), Some(1));
    peer.run();
    assert_eq!(read_all(&mut stream), (b"lost".to_vec(), false));
}
