//! How fast the socket device moves data, with a simulated guest on the same thread and the host on
//! another. Prints MB/s; asserts only that all arrives. Meant for
//! `cargo test --release -p cloister-vmm --test virtio -- --ignored --nocapture throughput`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use cloister_vmm::devices::virtio::vsock::packet::{Header, Operation};

use crate::peer::{Peer, RX, TX, data_packet, packet};

const HOST_PORT: u32 = 1;
const GUEST_PORT: u32 = 2;
const TOTAL: u64 = 1 << 30;

fn connected() -> (Peer, UnixStream) {
    let mut peer = Peer::new();
    let stream = peer.connect_to_host(GUEST_PORT, HOST_PORT);
    stream.set_nonblocking(false).unwrap();
    (peer, stream)
}

fn report(name: &str, start: Instant, peer: &Peer, interrupts: u64) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = TOTAL as f64 / seconds / 1e6;
    println!("{name}: {rate:.0} MB/s ({} turns, {interrupts} interrupts)", peer.guest.turns);
}

#[test]
#[ignore = "takes seconds and measures"]
fn throughput_host_to_guest() {
    let (mut peer, mut stream) = connected();
    let start = Instant::now();
    let host = std::thread::spawn(move || {
        let data = vec![7; 256 << 10];
        for _ in 0..TOTAL / data.len() as u64 {
            stream.write_all(&data).unwrap();
        }
        stream
    });
    let (mut got, mut told, mut interrupts) = (0_u64, 0, 0);
    while got < TOTAL {
        assert!(peer.guest.turn(5000), "stands still at {got}");
        for (header, data) in peer.packets(true) {
            assert_ne!(header.operation, Operation::Reset.code());
            got += data.len() as u64;
        }
        peer.guest.rings[RX].ask_interrupt(&peer.guest.memory);
        interrupts += u64::from(peer.guest.interrupt.read().is_ok());
        if got - told >= 64 << 10 && peer.can_send() {
            told = got;
            let credit = packet(Operation::CreditUpdate, GUEST_PORT, HOST_PORT);
            peer.queue(&Header { forwarded: got as u32, ..credit }, &[]);
            peer.guest.notify(TX);
        }
    }
    drop(host.join().unwrap());
    report("host to guest", start, &peer, interrupts);
}

#[test]
#[ignore = "takes seconds and measures"]
fn throughput_guest_to_host() {
    let (mut peer, mut stream) = connected();
    let host = std::thread::spawn(move || {
        let mut data = vec![0; 256 << 10];
        let mut got = 0;
        while got < TOTAL {
            got += stream.read(&mut data).unwrap() as u64;
        }
        stream
    });
    let start = Instant::now();
    let data = vec![7; 64 << 10];
    let (mut sent, mut forwarded, mut interrupts) = (0_u64, 0_u64, 0);
    while forwarded < TOTAL {
        let mut progress = false;
        while sent < TOTAL && sent - forwarded + data.len() as u64 <= 256 << 10 && peer.can_send() {
            peer.queue(&data_packet(GUEST_PORT, HOST_PORT, &data), &data);
            sent += data.len() as u64;
            progress = true;
        }
        if sent == TOTAL && !progress {
            let ask = packet(Operation::CreditRequest, GUEST_PORT, HOST_PORT);
            peer.can_send().then(|| peer.queue(&ask, &[]));
        }
        peer.guest.notify(TX);
        assert!(peer.guest.turn(5000), "stands still at {sent}");
        for (header, _) in peer.packets(true) {
            assert_ne!(header.operation, Operation::Reset.code());
            forwarded += u64::from(header.forwarded.wrapping_sub(forwarded as u32));
        }
        peer.guest.rings[RX].ask_interrupt(&peer.guest.memory);
        interrupts += u64::from(peer.guest.interrupt.read().is_ok());
    }
    drop(host.join().unwrap());
    report("guest to host", start, &peer, interrupts);
}

#[test]
#[ignore = "takes seconds and measures"]
fn throughput_round_trips() {
    let (mut peer, mut stream) = connected();
    let rounds = 100_000;
    let start = Instant::now();
    let mut byte = [0];
    for _ in 0..rounds {
        stream.write_all(b"x").unwrap();
        assert!(peer.guest.turn(1000));
        let packets = peer.packets(true);
        let data = &packets[0].1;
        let header = data_packet(GUEST_PORT, HOST_PORT, data);
        let forwarded = peer.guest.transport.device().table().counters().to_guest_bytes as u32;
        peer.queue(&Header { forwarded, ..header }, data);
        peer.guest.notify(TX);
        assert!(peer.guest.turn(1000));
        stream.read_exact(&mut byte).unwrap();
    }
    let each = start.elapsed().as_nanos() / rounds;
    println!("round trip: {each} ns with both ends on one thread, without a guest's exits");
}
