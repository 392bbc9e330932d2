//! Where a vCPU's port and memory accesses go. Addresses without a device read as all ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::devices::power;
use crate::devices::serial::SerialLog;
use crate::devices::virtio::MmioDevice;
use crate::exit::Exit;
use crate::x86_64::layout;

/// Counters of the accesses that reach user space.
#[derive(Debug, Default)]
pub struct Counters {
    /// Exits of any kind.
    pub exits: AtomicU64,
    /// Memory accesses.
    pub mmio: AtomicU64,
    /// Port accesses.
    pub port: AtomicU64,
    /// Accesses to addresses without a device.
    pub unclaimed: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A virtio-mmio device as the vCPU threads share it.
pub type SharedDevice = Arc<Mutex<dyn MmioDevice + Send>>;

/// Everything a vCPU can reach. Shared by all vCPU threads.
pub struct Bus {
    serial: Mutex<SerialLog>,
    /// In the order of their register pages from [`layout::VIRTIO_MMIO_BASE`].
    virtio: Vec<SharedDevice>,
    /// What was counted.
    pub counters: Counters,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bus").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus with the serial log and these virtio devices.
    #[must_use]
    pub fn new(serial: SerialLog, virtio: Vec<SharedDevice>) -> Self {
        Self { serial: Mutex::new(serial), virtio, counters: Counters::default() }
    }

    /// A port read of any width; each byte is a read of its own, as KVM reports string input.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        Counters::add(&self.counters.port);
        let value = match port {
            layout::SERIAL_PORT..layout::SERIAL_PORT_END => {
                let register = u8::try_from(port - layout::SERIAL_PORT).unwrap_or(0);
                self.serial().read(register)
            }
            layout::PANIC_PORT => power::PANIC_EVENTS,
            layout::SLEEP_STATUS_PORT => 0,
            _ => {
                Counters::add(&self.counters.unclaimed);
                u8::MAX
            }
        };
        data.fill(value);
    }

    /// A port write; `Some`: the machine ends.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<Exit> {
        Counters::add(&self.counters.port);
        match port {
            layout::SERIAL_PORT..layout::SERIAL_PORT_END => {
                let register = u8::try_from(port - layout::SERIAL_PORT).unwrap_or(0);
                let mut serial = self.serial();
                for value in data {
                    serial.write(register, *value);
                }
                None
            }
            layout::SLEEP_CONTROL_PORT | layout::RESET_PORT | layout::PANIC_PORT => {
                data.iter().find_map(|value| power::write(port, *value))
            }
            _ => {
                Counters::add(&self.counters.unclaimed);
                None
            }
        }
    }

    /// A memory read outside RAM.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        Counters::add(&self.counters.mmio);
        match self.device_at(address) {
            Some((device, offset)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(u8::MAX),
        }
    }

    /// A memory write outside RAM.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        Counters::add(&self.counters.mmio);
        if let Some((device, offset)) = self.device_at(address) {
            let lock = || device.lock().unwrap_or_else(PoisonError::into_inner);
            let after = lock().write(offset, data);
            if !after.run() {
                lock().lost();
            }
        }
    }

    /// Bytes of the serial log that were dropped.
    #[must_use]
    pub fn serial_dropped(&self) -> u64 {
        self.serial().dropped()
    }

    fn serial(&self) -> std::sync::MutexGuard<'_, SerialLog> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device_at(&self, address: u64) -> Option<(&SharedDevice, u64)> {
        let found = address.checked_sub(layout::VIRTIO_MMIO_BASE).and_then(|distance| {
            let index = usize::try_from(distance / layout::VIRTIO_MMIO_STRIDE).ok()?;
            Some((self.virtio.get(index)?, distance % layout::VIRTIO_MMIO_STRIDE))
        });
        if found.is_none() {
            Counters::add(&self.counters.unclaimed);
        }
        found
    }
}
