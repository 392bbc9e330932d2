//! The socket device (VIRTIO 1.2, section 5.10): streams between ports of the guest and descriptors
//! of the host. It makes no connection of its own on the host.

pub mod packet;

pub mod credit;

pub mod backlog;

pub mod state;

pub mod connection;

pub mod table;

pub mod establish;

mod receive;

mod anew;

mod host;

use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use crate::control::GUEST_CID;

use super::device::{Cause, Device, Facts, Turn};
use super::fault::{Fault, QueueFault};
use super::queue::{Chain, Queue};
use anew::Anew;
use packet::{HEADER_LENGTH, HEADER_SIZE, Header, MAX_DATA};
use table::Table;

/// The socket device's id.
const DEVICE_ID: u32 = 19;
/// Queue of packets to the guest.
const RX: usize = 0;
/// Queue of packets from the guest.
const TX: usize = 1;
/// Receive, transmit, event. Linux fills the receive queue with buffers of 4 KiB as it boots, so its
/// size costs boot time and guest memory; Linux posts 8 event buffers.
const QUEUE_SIZES: &[u16] = &[128, 128, 8];
/// Packets in one turn and direction, so that registers and other devices have theirs.
const PACKETS_PER_TURN: usize = 64;
/// Bytes in one turn and direction: about 100 µs of copying.
const BYTES_PER_TURN: usize = 512 << 10;

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    queues: Option<Queues>,
    table: Table,
    /// The driver stopped the device; its connections have still to be ended.
    ending: bool,
    /// Whether the driver has to learn that its connections are gone.
    anew: Anew,
}

#[derive(Debug)]
struct Queues {
    rx: Queue,
    tx: Queue,
    /// Holds buffers for events: see [`anew`].
    event: Queue,
}

impl Vsock {
    /// A stopped device without connections.
    ///
    /// # Errors
    /// No epoll or timer could be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self { queues: None, table: Table::new()?, ending: false, anew: Anew::No })
    }

    /// Its connections and counters.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    fn is_running(&self) -> bool {
        self.queues.is_some()
    }

    /// Ends the connections of a driver that is gone. Comes before anything else that the event loop
    /// does with the table: the next driver may be there already.
    fn finish_stop(&mut self) {
        if std::mem::take(&mut self.ending) {
            self.table.close_all();
        }
    }

    /// Moves packets both ways. What the guest sends can make packets to it.
    fn move_packets(&mut self, queues: &mut Queues, cause: Cause) -> Result<Turn, Fault> {
        let transmitted = cause == Cause::Queue(TX) && self.transmit(&mut queues.tx)?;
        self.anew = self.anew.next(&mut queues.event)?;
        let received = self.anew == Anew::No && self.receive(&mut queues.rx)?;
        let again = if transmitted { Some(TX) } else { received.then_some(RX) };
        let tx_interrupt = queues.tx.wants_interrupt()? | queues.event.wants_interrupt()?;
        let interrupt = queues.rx.wants_interrupt()? || tx_interrupt;
        Ok(Turn { interrupt, again })
    }

    /// Takes packets from the guest. `true`: the turn ended before they did.
    fn transmit(&mut self, tx: &mut Queue) -> Result<bool, QueueFault> {
        let now = Instant::now();
        let mut bytes = 0;
        tx.mute()?;
        for _ in 0..PACKETS_PER_TURN {
            let Some(chain) = tx.pop()? else {
                if tx.unmute()? {
                    continue;
                }
                return Ok(false);
            };
            bytes += self.packet_from_guest(tx, &chain, now)?;
            tx.push(chain, 0)?;
            if bytes >= BYTES_PER_TURN {
                break;
            }
        }
        Ok(true)
    }

    /// Reads one packet; returns the length of its data.
    fn packet_from_guest(
        &mut self,
        tx: &Queue,
        chain: &Chain,
        now: Instant,
    ) -> Result<usize, QueueFault> {
        let mut header = [0; HEADER_SIZE];
        let readable = chain.readable();
        if !chain.writable().is_empty() || tx.read(readable, &mut header)? < HEADER_SIZE {
            self.table.drop_packet();
            return Ok(0);
        }
        let header = Header::parse(&header);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let payload = tx.slices(readable, HEADER_SIZE, length)?;
        self.table.packet_from_guest(&header, &payload, now);
        Ok(payload.iter().map(vm_memory::VolatileSlice::len).sum())
    }

    /// Gives packets to the guest. `true`: the turn ended before they did.
    fn receive(&mut self, rx: &mut Queue) -> Result<bool, QueueFault> {
        let mut bytes = 0;
        for _ in 0..PACKETS_PER_TURN {
            let Some(ready) = self.table.next_ready() else { return Ok(false) };
            let chains = pop_buffers(rx, self.table.room_wanted(ready))?;
            if chains.is_empty() {
                self.table.put_back(ready);
                // Without a buffer there is nothing to do until the guest notifies of one.
                if rx.unmute()? {
                    continue;
                }
                return Ok(false);
            }
            let mut room = Vec::with_capacity(chains.len());
            for chain in &chains {
                room.extend(rx.slices(chain.writable(), HEADER_SIZE, MAX_DATA)?);
            }
            let header = self.table.make_packet(ready, &room);
            bytes += header.map_or(0, |header| header.length as usize);
            push_packets(rx, chains, header)?;
            if bytes >= BYTES_PER_TURN {
                break;
            }
        }
        Ok(self.table.has_ready())
    }
}

impl Device for Vsock {
    fn facts(&self) -> Facts {
        let config = GUEST_CID.to_le_bytes().to_vec();
        Facts { id: DEVICE_ID, features: 0, queue_sizes: QUEUE_SIZES, config }
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.table.source()]
    }

    fn start(&mut self, queues: Vec<Queue>) {
        self.queues =
            <[Queue; 3]>::try_from(queues).ok().map(|[rx, tx, event]| Queues { rx, tx, event });
    }

    fn stop(&mut self) -> Vec<Queue> {
        self.ending = true;
        // The next driver begins with no connection anyway.
        self.anew = Anew::No;
        self.queues.take().map_or_else(Vec::new, |queues| vec![queues.rx, queues.tx, queues.event])
    }

    fn queues(&self) -> Vec<&Queue> {
        let queues = self.queues.iter();
        queues.flat_map(|queues| [&queues.rx, &queues.tx, &queues.event]).collect()
    }

    fn work(&mut self, cause: Cause) -> Result<Turn, Fault> {
        let now = Instant::now();
        self.finish_stop();
        if let Cause::Source(_) = cause {
            self.table.poll(now)?;
        }
        let turn = match self.queues.take() {
            Some(mut queues) => {
                let turn = self.move_packets(&mut queues, cause);
                self.queues = Some(queues);
                turn?
            }
            None => Turn::default(),
        };
        self.table.set_timer(now)?;
        Ok(turn)
    }
}

/// Takes receive buffers until they have room for `wanted` bytes of data, or there are no more.
fn pop_buffers(rx: &mut Queue, wanted: usize) -> Result<Vec<Chain>, QueueFault> {
    let mut chains = Vec::new();
    let mut room = 0;
    while room < wanted.max(1) {
        let Some(chain) = rx.pop()? else { break };
        // A buffer must hold a header and some data, and nothing for the device to read.
        if !chain.readable().is_empty() {
            return Err(QueueFault::Direction);
        }
        let length = Chain::bytes(chain.writable()).saturating_sub(HEADER_SIZE);
        if length == 0 {
            return Err(QueueFault::TooSmall);
        }
        room += length;
        chains.push(chain);
    }
    Ok(chains)
}

/// Completes as many of these buffers as the packet's data fills, each as a packet of its own, and
/// puts the others back.
fn push_packets(
    rx: &mut Queue,
    chains: Vec<Chain>,
    header: Option<Header>,
) -> Result<(), QueueFault> {
    let mut rest = header;
    for chain in chains {
        let Some(header) = rest else {
            rx.unpop(chain);
            continue;
        };
        let room = Chain::bytes(chain.writable()).saturating_sub(HEADER_SIZE).min(MAX_DATA);
        let length = header.length.min(u32::try_from(room).unwrap_or(u32::MAX));
        let left = header.length - length;
        rest = (left > 0).then_some(Header { length: left, ..header });
        rx.write(chain.writable(), &Header { length, ..header }.to_bytes())?;
        rx.push(chain, length.saturating_add(HEADER_LENGTH))?;
    }
    Ok(())
}
