//! The registers as plain data, and registers that take on such a state: only what a driver could have brought
//! them to.

use virtio_bindings::bindings::virtio_config::VIRTIO_CONFIG_S_FEATURES_OK;

use super::super::queue_config::QueueConfig;
use super::super::saved::{DeviceState, QueueState, StateFault};
use super::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, INTERRUPT_CONFIG, INTERRUPT_USED,
    NEEDS_RESET, Phase, Registers,
};

impl Phase {
    /// The phase with this status; `None`: there is none.
    const fn of_status(status: u32) -> Option<Self> {
        Some(match status {
            0 => Self::Reset,
            ACKNOWLEDGE => Self::Acknowledged,
            DRIVER => Self::Driver,
            FEATURES_OK => Self::FeaturesOk,
            DRIVER_OK => Self::DriverOk,
            NEEDS_RESET => Self::NeedsReset,
            failed if failed & FAILED != 0 => {
                let before = failed & !FAILED;
                match before {
                    0 | ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | NEEDS_RESET => {
                        Self::Failed { before }
                    }
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// Whether features were agreed on in this phase.
    const fn has_features(self) -> bool {
        self.status() & VIRTIO_CONFIG_S_FEATURES_OK != 0
    }
}

impl Registers {
    /// The registers as plain data; the queues without their positions.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        let queue = |config: &QueueConfig| QueueState {
            size: config.size,
            ready: config.ready,
            descriptors: config.descriptors,
            driver_area: config.driver_area,
            device_area: config.device_area,
            ..QueueState::default()
        };
        DeviceState {
            id: self.facts.id,
            status: self.phase.status(),
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            interrupt_status: self.interrupt_status,
            queues: self.queues.iter().map(queue).collect(),
        }
    }

    /// Registers that no driver has touched take on a state that a driver could have brought them to.
    ///
    /// # Errors
    /// None could.
    pub fn take_state(&mut self, state: &DeviceState) -> Result<(), StateFault> {
        let (got, want) = (state.id, self.facts.id);
        if got != want {
            return Err(StateFault::Device { got, want });
        }
        let status = state.status;
        self.phase = Phase::of_status(status).ok_or(StateFault::Status { status })?;
        let features = state.driver_features;
        self.driver_features = features;
        if self.phase.has_features() && !self.features_acceptable() {
            return Err(StateFault::Features { features });
        }
        let (got, want) = (state.queues.len(), self.queues.len());
        if got != want {
            return Err(StateFault::Queues { got, want });
        }
        let status = state.interrupt_status;
        if status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
            return Err(StateFault::Interrupts { status });
        }
        self.interrupt_status = status;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        for (config, queue) in self.queues.iter_mut().zip(&state.queues) {
            let QueueState { size, ready, descriptors, driver_area, device_area, .. } = *queue;
            let max_size = config.max_size;
            *config = QueueConfig { max_size, size, ready, descriptors, driver_area, device_area };
        }
        Ok(())
    }
}
