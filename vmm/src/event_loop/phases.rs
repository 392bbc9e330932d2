//! Pausing a machine and letting it go on: from one phase to the next.

use event_manager::{EventOps, Events};

use super::{Loop, Phase};
use crate::control::Event;
use crate::devices::virtio::Device as _;
use crate::exit::ExitCode;
use crate::machine::lock;
use crate::vcpu::Wanted;

impl Loop {
    pub(super) fn pause(&mut self, ops: &mut EventOps) {
        match self.phase {
            Phase::Running => {
                self.unwatch(self.device_events(), ops);
                self.phase = Phase::Pausing { left: self.machine.vcpus.count() };
                self.machine.vcpus.want(Wanted::Pause);
            }
            Phase::Pausing { .. } | Phase::Resting | Phase::Resuming { .. } => {
                self.next = Some(Wanted::Pause);
            }
            Phase::Paused => self.send(&Event::Paused),
        }
    }

    pub(super) fn resume(&mut self, ops: &mut EventOps) {
        match self.phase {
            // Who waits for the pause is told of it, so that answers keep their order. It can't be saved like this, and
            // will not: the order to go on is here.
            Phase::Resting => {
                self.unwatch(self.fs_events(), ops);
                self.next = Some(Wanted::Run);
                self.paused(ops);
            }
            // Its state is being read.
            Phase::Paused if self.saving.is_some() => self.next = Some(Wanted::Run),
            Phase::Paused => {
                self.phase = Phase::Resuming { left: self.machine.vcpus.count() };
                self.machine.vcpus.run();
            }
            Phase::Pausing { .. } | Phase::Resuming { .. } => self.next = Some(Wanted::Run),
            Phase::Running => self.send(&Event::Resumed),
        }
    }

    pub(super) fn on_paused(&mut self, ops: &mut EventOps) {
        let Phase::Pausing { left } = &mut self.phase else { return };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        let Some(fs) = self.machine.devices.fs.as_ref().filter(|_| self.machine.savable.is_some())
        else {
            return self.paused(ops);
        };
        lock(fs).device_mut().hold(true);
        self.phase = Phase::Resting;
        self.watch(self.fs_events(), ops);
        self.rest(ops);
    }

    /// Looks whether the file server has answered everything.
    pub(super) fn rest(&mut self, ops: &mut EventOps) {
        let is_at_rest =
            self.machine.devices.fs.as_ref().is_none_or(|fs| lock(fs).device().is_at_rest());
        if is_at_rest {
            self.unwatch(self.fs_events(), ops);
            self.paused(ops);
        }
    }

    fn paused(&mut self, ops: &mut EventOps) {
        self.phase = Phase::Paused;
        self.send(&Event::Paused);
        if self.next.take() == Some(Wanted::Run) {
            self.resume(ops);
        }
    }

    pub(super) fn on_running(&mut self, index: usize, at_ns: u64, ops: &mut EventOps) {
        if !self.announced && index == 0 {
            self.machine.times.run_ns = at_ns;
        }
        let Phase::Resuming { left } = &mut self.phase else { return };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        self.phase = Phase::Running;
        self.dead.fill(false);
        self.watch(self.device_events(), ops);
        lock(&self.machine.devices.vsock).kick();
        lock(&self.machine.devices.rng).kick();
        lock(&self.machine.devices.balloon).kick();
        if let Some(fs) = &self.machine.devices.fs {
            let mut fs = lock(fs);
            fs.device_mut().hold(false);
            fs.kick();
        }
        if std::mem::replace(&mut self.announced, true) {
            self.send(&Event::Resumed);
        } else {
            self.send(&Event::Running(self.machine.times));
        }
        for (command, descriptors) in std::mem::take(&mut self.deferred) {
            self.on_command(command, descriptors, ops);
        }
        if self.next.take() == Some(Wanted::Pause) {
            self.pause(ops);
        }
    }

    fn watch(&mut self, sources: Vec<Events>, ops: &mut EventOps) {
        for events in sources {
            if let Err(error) = ops.add(events) {
                self.end(ExitCode::Host, format!("watching a device: {error}"));
            }
        }
    }

    fn unwatch(&mut self, sources: Vec<Events>, ops: &mut EventOps) {
        for events in sources {
            // Not watched yet if the pause comes before the first run: nothing to do then.
            ops.remove(events).ok();
        }
    }
}
