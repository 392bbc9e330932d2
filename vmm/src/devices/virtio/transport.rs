//! The virtio-mmio transport: joins registers, interrupt, queue events and a device.
//!
//! vCPU threads call [`Transport::read`] and [`Transport::write`], the event loop calls
//! [`Transport::process`], all under one lock that the caller holds. Each call does bounded work; a
//! device that is not done signals the event of one of its own queues and goes on in a later turn.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::MmioDevice;
use super::after::{After, Interrupt, Messages};
use super::device::{Cause, Device, Turn};
use super::fault::{Fault, QueueFault};
use super::queue::Queue;
use super::registers::{Effect, INTERRUPT_USED, Phase, Registers};
use super::saved::{DeviceState, StateFault};

/// A device with its registers.
#[derive(Debug)]
pub struct Transport<D> {
    registers: Registers,
    device: D,
    memory: GuestMemoryMmap,
    interrupt: Arc<dyn Interrupt>,
    /// While what the work leads to is put off.
    after: Option<After>,
    queue_events: Vec<EventFd>,
    fault: Option<Fault>,
}

impl<D: Device> Transport<D> {
    /// A transport of `device` whose driver uses `memory` and is interrupted through `interrupt`.
    ///
    /// # Errors
    /// No event descriptor could be made.
    pub fn new(
        device: D,
        memory: GuestMemoryMmap,
        interrupt: impl Interrupt + 'static,
    ) -> io::Result<Self> {
        let facts = device.facts();
        let events = facts.queue_sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK));
        let queue_events = events.collect::<io::Result<_>>()?;
        let registers = Registers::new(facts);
        let interrupt = Arc::new(interrupt);
        Ok(Self { registers, device, memory, interrupt, after: None, queue_events, fault: None })
    }

    /// The transport as plain data, while neither vCPUs nor the event loop work on it.
    ///
    /// # Errors
    /// The device has requests under way.
    pub fn state(&self) -> Result<DeviceState, StateFault> {
        let mut state = self.registers.state();
        if !self.device.is_at_rest() {
            return Err(StateFault::Busy { id: state.id });
        }
        for (saved, queue) in state.queues.iter_mut().zip(self.device.queues()) {
            (saved.next_available, saved.next_used) = queue.position();
        }
        Ok(state)
    }

    /// Takes on the state of another machine's transport, before anything has touched this one. The
    /// caller lets it be looked at by [`Self::kick`] when the guest runs: nobody will notify of what the
    /// queues hold already.
    ///
    /// # Errors
    /// No driver could have brought a device to it.
    pub fn take_state(&mut self, state: &DeviceState) -> Result<(), StateFault> {
        self.registers.take_state(state)?;
        if self.registers.phase() == Phase::DriverOk {
            let mut queues = self.validate_queues()?;
            for (queue, saved) in queues.iter_mut().zip(&state.queues) {
                queue.go_on_at(saved.next_available, saved.next_used);
            }
            self.device.start(queues);
        }
        Ok(())
    }

    /// A register read by a vCPU; fills all of `data`.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    /// A register write by a vCPU.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        match self.registers.write(offset, data) {
            Effect::None => {}
            Effect::Start => self.start(),
            Effect::Stop => self.stop(),
            Effect::Notify(queue) if D::IS_PROMPT => self.work(Cause::Queue(queue)),
            Effect::Notify(queue) => self.signal_queue(queue),
        }
    }

    /// Does something, and puts off what it leads to until the lock on the transport has been let go.
    pub fn deferring(&mut self, act: impl FnOnce(&mut Self)) -> After {
        self.after = Some(After::default());
        act(self);
        self.after.take().unwrap_or_default()
    }

    /// [`After::run`] said that messages could not be sent.
    pub fn lost(&mut self) {
        self.device.lost();
        // The event loop hears of it by that.
        self.signal_queue(0);
    }

    /// One event for each queue: what a write of the queue's index to the register QueueNotify
    /// signals, without a vCPU leaving the guest. None for a device that [`Device::IS_PROMPT`]: such a
    /// write comes to [`Self::write`].
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        if D::IS_PROMPT { &[] } else { &self.queue_events }
    }

    /// What the event loop waits for, level-triggered, readable; with the token for
    /// [`Self::process`].
    #[must_use]
    pub fn event_sources(&self) -> Vec<(RawFd, u32)> {
        let queues = self.queue_events.iter().map(AsRawFd::as_raw_fd);
        queues.chain(self.device.sources()).zip(0..).collect()
    }

    /// Handles a readable event source: bounded work that consumes the readiness.
    pub fn process(&mut self, token: u32) {
        let Ok(index) = usize::try_from(token) else { return };
        let cause = match self.queue_events.get(index) {
            Some(event) => {
                // Fails only when nothing is to be consumed.
                drop(event.read());
                Cause::Queue(index)
            }
            None => Cause::Source(index - self.queue_events.len()),
        };
        self.work(cause);
    }

    /// Looks at every queue again, and makes the driver do so: after a pause no notification that
    /// was on its way may be missed.
    pub fn kick(&mut self) {
        if self.registers.phase() == Phase::DriverOk {
            for queue in 0..self.queue_events.len() {
                self.signal_queue(queue);
            }
            self.interrupt(INTERRUPT_USED);
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Register accesses that were ignored because no correct driver makes them.
    #[must_use]
    pub fn rejected_accesses(&self) -> u64 {
        self.registers.rejected()
    }

    /// How far the driver has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.registers.phase()
    }

    /// The latest fault, once: for a log that names who is at fault.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Lets the device work and does what its turn asks for.
    pub(super) fn work(&mut self, cause: Cause) {
        let worked = self.device.work(cause);
        if let Some(messages) = self.device.messages() {
            self.send(messages);
        }
        match worked {
            Ok(Turn { interrupt, again }) => {
                if interrupt {
                    self.interrupt(INTERRUPT_USED);
                }
                if let Some(queue) = again {
                    self.signal_queue(queue);
                }
            }
            Err(fault) => self.break_down(fault),
        }
    }

    fn start(&mut self) {
        match self.validate_queues() {
            Ok(queues) => {
                self.device.start(queues);
                // A driver may have made buffers available before DRIVER_OK.
                for queue in 0..self.queue_events.len() {
                    self.signal_queue(queue);
                }
            }
            Err(fault) => self.break_down(fault.into()),
        }
    }

    fn validate_queues(&self) -> Result<Vec<Queue>, QueueFault> {
        let event_index = self.registers.event_index();
        let queues = self.registers.queues().iter();
        queues.map(|queue| queue.validate(&self.memory, event_index, D::MAX_CHAIN_BYTES)).collect()
    }

    /// Takes the queues away at once; the event loop does the rest.
    fn stop(&mut self) {
        drop(self.device.stop());
        self.signal_queue(0);
    }

    fn break_down(&mut self, fault: Fault) {
        self.stop();
        self.fault = Some(fault);
        if self.registers.break_down() {
            self.signal_interrupt();
        }
    }

    fn interrupt(&mut self, bits: u32) {
        self.registers.raise(bits);
        self.signal_interrupt();
    }

    fn signal_interrupt(&mut self) {
        match &mut self.after {
            Some(after) => after.interrupt = Some(Arc::clone(&self.interrupt)),
            None => self.interrupt.signal(),
        }
    }

    fn send(&mut self, new: Messages) {
        match &mut self.after {
            Some(After { messages: Some(messages), .. }) => messages.messages.extend(new.messages),
            Some(after) => after.messages = Some(new),
            None if new.send() => {}
            None => self.lost(),
        }
    }

    fn signal_queue(&self, queue: usize) {
        if let Some(event) = self.queue_events.get(queue) {
            // Fails only when the counter is full; then a signal is pending already.
            drop(event.write(1));
        }
    }
}

impl<D: Device> MmioDevice for Transport<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        Transport::read(self, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> After {
        self.deferring(|transport| transport.write(offset, data))
    }

    fn lost(&mut self) {
        Transport::lost(self);
    }
}
