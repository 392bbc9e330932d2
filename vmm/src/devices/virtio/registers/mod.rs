//! The virtio-mmio registers (VIRTIO 1.2, section 4.2.2) as a state machine without side effects.
//!
//! A write that the driver may not make in the current phase is ignored and counted, so queue
//! configuration can only change between FEATURES_OK and DRIVER_OK. What the transport must do
//! after a write is its return value.

mod state;

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::device::Facts;
use super::offset;
use super::queue_config::QueueConfig;

/// "virt", little-endian.
pub const MAGIC: u32 = 0x7472_6976;
/// The modern register layout.
pub const VERSION: u32 = 2;
/// "CLST": this vendor.
pub const VENDOR: u32 = 0x5453_4c43;

/// The device uses only what VIRTIO 1 defines; a driver must accept it.
pub const FEATURE_VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Notifications are suppressed by ring indices in both directions.
pub const FEATURE_EVENT_INDEX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// Interrupt status: a queue has used buffers.
pub const INTERRUPT_USED: u32 = 1;
/// Interrupt status: configuration or device status changed.
pub const INTERRUPT_CONFIG: u32 = 2;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// How far the driver has come (VIRTIO 1.2, section 3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing happened since the last reset.
    Reset,
    /// The driver saw the device.
    Acknowledged,
    /// The driver knows how to drive it; features are being negotiated.
    Driver,
    /// Features are fixed; queues are being configured.
    FeaturesOk,
    /// Queue configuration is fixed; the device works.
    DriverOk,
    /// The device met a fault and stopped.
    NeedsReset,
    /// The driver gave up, with these status bits.
    Failed {
        /// The status before it did.
        before: u32,
    },
}

impl Phase {
    /// The status register.
    #[must_use]
    pub const fn status(self) -> u32 {
        match self {
            Self::Reset => 0,
            Self::Acknowledged => ACKNOWLEDGE,
            Self::Driver => DRIVER,
            Self::FeaturesOk => FEATURES_OK,
            Self::DriverOk => DRIVER_OK,
            Self::NeedsReset => NEEDS_RESET,
            Self::Failed { before } => before | FAILED,
        }
    }

    /// The phase after the driver wrote `status`; `None`: it may not.
    ///
    /// One bit at a time, in the specification's order. FEATURES_OK does not stick when the features
    /// are unacceptable; the driver finds out by reading it back.
    fn after(self, status: u32, features_acceptable: bool) -> Option<Self> {
        let current = self.status();
        match (self, status) {
            (_, 0) => Some(Self::Reset),
            (_, same) if same == current => Some(self),
            (_, failed) if failed == current | FAILED => Some(Self::Failed { before: current }),
            (Self::Reset, ACKNOWLEDGE) => Some(Self::Acknowledged),
            (Self::Acknowledged, DRIVER) => Some(Self::Driver),
            (Self::Driver, FEATURES_OK) if features_acceptable => Some(Self::FeaturesOk),
            (Self::Driver, FEATURES_OK) => Some(Self::Driver),
            (Self::FeaturesOk, DRIVER_OK) => Some(Self::DriverOk),
            _ => None,
        }
    }
}

/// What the transport must do after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// DRIVER_OK was set: validate the queues and start the device.
    Start,
    /// The driver reset the device or gave up: stop it.
    Stop,
    /// The driver notified this queue.
    Notify(usize),
}

/// The registers of one device.
#[derive(Debug)]
pub struct Registers {
    facts: Facts,
    phase: Phase,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueConfig>,
    interrupt_status: u32,
    rejected: u64,
}

impl Registers {
    /// The registers of a device that was never touched.
    #[must_use]
    pub fn new(mut facts: Facts) -> Self {
        facts.features |= FEATURE_VERSION_1 | FEATURE_EVENT_INDEX;
        let queues = facts.queue_sizes.iter().map(|max| QueueConfig::new(*max)).collect();
        Self {
            facts,
            phase: Phase::Reset,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            interrupt_status: 0,
            rejected: 0,
        }
    }

    /// How far the driver has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The queues as the driver configured them.
    #[must_use]
    pub fn queues(&self) -> &[QueueConfig] {
        &self.queues
    }

    /// Whether both sides agreed on event indices.
    #[must_use]
    pub fn event_index(&self) -> bool {
        self.driver_features & FEATURE_EVENT_INDEX != 0
    }

    /// Accesses that were ignored because no correct driver makes them.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Marks an interrupt as due. The transport signals it.
    pub fn raise(&mut self, bits: u32) {
        self.interrupt_status |= bits;
    }

    /// The device can't go on. Returns whether the driver must be told: only one that set DRIVER_OK
    /// (VIRTIO 1.2, 2.1.2).
    pub fn break_down(&mut self) -> bool {
        if self.phase != Phase::DriverOk {
            return false;
        }
        self.phase = Phase::NeedsReset;
        self.raise(INTERRUPT_CONFIG);
        true
    }

    /// A read of any width at any offset; fills all of `data`.
    pub fn read(&mut self, at: u64, data: &mut [u8]) {
        data.fill(0);
        let read = match at.checked_sub(offset::CONFIG) {
            Some(start) => self.read_config(start, data),
            None => self.read_register(at, data),
        };
        if read.is_none() {
            self.reject();
        }
    }

    /// A write of any width at any offset.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Effect {
        let value = <[u8; 4]>::try_from(data).map(u32::from_le_bytes);
        let effect = value.ok().and_then(|value| self.set_register(at, value));
        effect.unwrap_or_else(|| {
            self.reject();
            Effect::None
        })
    }

    fn reject(&mut self) {
        self.rejected = self.rejected.saturating_add(1);
    }

    fn read_config(&self, start: u64, data: &mut [u8]) -> Option<()> {
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(data.len())?;
        data.copy_from_slice(self.facts.config.get(start..end)?);
        Some(())
    }

    fn read_register(&self, at: u64, data: &mut [u8]) -> Option<()> {
        let word = <&mut [u8; 4]>::try_from(data).ok()?;
        *word = self.register(at)?.to_le_bytes();
        Some(())
    }

    /// The register at `at`; `None`: there is none to be read.
    fn register(&self, at: u64) -> Option<u32> {
        let queue = self.selected();
        Some(match at {
            offset::MAGIC_VALUE => MAGIC,
            offset::VERSION => VERSION,
            offset::DEVICE_ID => self.facts.id,
            offset::VENDOR_ID => VENDOR,
            offset::DEVICE_FEATURES => match self.device_features_select {
                0 => low_half(self.facts.features),
                1 => high_half(self.facts.features),
                _ => 0,
            },
            // A queue that does not exist reads as size 0 and not ready (4.2.2.1).
            offset::QUEUE_NUM_MAX => queue.map_or(0, |queue| u32::from(queue.max_size)),
            offset::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            offset::INTERRUPT_STATUS => self.interrupt_status,
            offset::STATUS => self.phase.status(),
            // There is no shared memory: length and base read as all ones (4.2.2.1).
            offset::SHM_LEN_LOW..=offset::SHM_BASE_HIGH if at.is_multiple_of(4) => u32::MAX,
            // The configuration never changes, so its generation does not either.
            offset::CONFIG_GENERATION => 0,
            _ => return None,
        })
    }

    /// Sets the register at `at`; `None`: it may not be written, or not now.
    fn set_register(&mut self, at: u64, value: u32) -> Option<Effect> {
        match at {
            offset::STATUS => return self.set_status(value),
            offset::QUEUE_NOTIFY => return self.notify(value),
            offset::DEVICE_FEATURES_SEL => self.device_features_select = value,
            offset::QUEUE_SEL => self.queue_select = value,
            offset::SHM_SEL => {}
            offset::INTERRUPT_ACK if value & !(INTERRUPT_USED | INTERRUPT_CONFIG) == 0 => {
                self.interrupt_status &= !value;
            }
            offset::DRIVER_FEATURES_SEL if self.phase == Phase::Driver => {
                self.driver_features_select = value;
            }
            offset::DRIVER_FEATURES if self.phase == Phase::Driver => {
                self.set_driver_features(value)?;
            }
            offset::QUEUE_READY => self.set_queue_ready(value)?,
            _ => self.configure_queue(at, value)?,
        }
        Some(Effect::None)
    }

    fn set_status(&mut self, status: u32) -> Option<Effect> {
        let acceptable = self.features_acceptable();
        let next = self.phase.after(status, acceptable)?;
        let before = std::mem::replace(&mut self.phase, next);
        Some(match next {
            Phase::Reset => {
                self.reset();
                Effect::Stop
            }
            Phase::Failed { .. } => Effect::Stop,
            Phase::DriverOk if before != next => Effect::Start,
            _ => Effect::None,
        })
    }

    /// Everything as it was at first; only the count of rejected accesses stays.
    fn reset(&mut self) {
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.interrupt_status = 0;
        for queue in &mut self.queues {
            *queue = QueueConfig::new(queue.max_size);
        }
    }

    fn features_acceptable(&self) -> bool {
        let unoffered = self.driver_features & !self.facts.features;
        unoffered == 0 && self.driver_features & FEATURE_VERSION_1 != 0
    }

    fn set_driver_features(&mut self, value: u32) -> Option<()> {
        let features = &mut self.driver_features;
        match self.driver_features_select {
            0 => set_low_half(features, value),
            1 => set_high_half(features, value),
            // No bit above 63 is offered.
            _ if value == 0 => {}
            _ => return None,
        }
        Some(())
    }

    fn notify(&self, index: u32) -> Option<Effect> {
        let index = usize::try_from(index).ok().filter(|index| *index < self.queues.len())?;
        match self.phase {
            Phase::DriverOk => Some(Effect::Notify(index)),
            // The driver may not know yet that the device stopped.
            Phase::NeedsReset => Some(Effect::None),
            _ => None,
        }
    }

    fn set_queue_ready(&mut self, value: u32) -> Option<()> {
        let phase = self.phase;
        let queue = self.selected_mut()?;
        match value {
            // Taking down a queue that is not up: drivers do it after a reset, in any phase.
            0 if !queue.ready => {}
            0 | 1 if phase == Phase::FeaturesOk => queue.ready = value == 1,
            _ => return None,
        }
        Some(())
    }

    fn configure_queue(&mut self, at: u64, value: u32) -> Option<()> {
        if self.phase != Phase::FeaturesOk {
            return None;
        }
        let queue = self.selected_mut().filter(|queue| !queue.ready)?;
        match at {
            offset::QUEUE_NUM => queue.size = u16::try_from(value).ok()?,
            offset::QUEUE_DESC_LOW => set_low_half(&mut queue.descriptors, value),
            offset::QUEUE_DESC_HIGH => set_high_half(&mut queue.descriptors, value),
            offset::QUEUE_DRIVER_LOW => set_low_half(&mut queue.driver_area, value),
            offset::QUEUE_DRIVER_HIGH => set_high_half(&mut queue.driver_area, value),
            offset::QUEUE_DEVICE_LOW => set_low_half(&mut queue.device_area, value),
            offset::QUEUE_DEVICE_HIGH => set_high_half(&mut queue.device_area, value),
            _ => return None,
        }
        Some(())
    }

    fn selected(&self) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut QueueConfig> {
        self.queues.get_mut(usize::try_from(self.queue_select).ok()?)
    }
}

fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high_half(value: u64) -> u32 {
    low_half(value >> 32)
}

fn set_low_half(target: &mut u64, value: u32) {
    *target = (*target & !u64::from(u32::MAX)) | u64::from(value);
}

fn set_high_half(target: &mut u64, value: u32) {
    *target = (*target & u64::from(u32::MAX)) | (u64::from(value) << 32);
}

#[cfg(test)]
#[path = "registers_test.rs"]
mod tests;
