//! The vmm's one event loop: control messages, devices, vCPU reports and the watchdog.
//!
//! ```text
//!   Running ──pause──▶ Pausing ──all vCPUs out──▶ Resting ──no request out──▶ Paused ──resume──▶ Resuming ──▶ Running
//!      └──────────┴────── stop, the guest's end, or the host's: out of every state ──────────┴──────────────┘
//! ```

mod save;

mod phases;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::timerfd::TimerFd;

use crate::control::{Command, Event, Stats};
use crate::control_socket::{self, ControlError, ControlSocket};
use crate::devices::virtio::{Device, Transport};
use crate::exit::{Exit, ExitCode};
use crate::machine::{Machine, lock};
use crate::vcpu::{Report, Wanted};
use save::Saving;

/// How often the vCPUs are asked whether they can still do anything. A halt with interrupts off
/// gives no event: KVM handles `hlt` itself, and nothing will ever wake that vCPU.
const WATCHDOG_PERIOD: Duration = Duration::from_secs(2);
/// Most messages that wait for the end of a pause: the host has no reason to send more.
const MAX_DEFERRED: usize = 1024;

// What an event's data word names; each device has a range of its own.
const CONTROL: u32 = 0;
const REPORTS: u32 = 1;
const WATCHDOG: u32 = 2;
const VSOCK: u32 = 0x1_0000;
const RNG: u32 = 0x2_0000;
const BALLOON: u32 = 0x3_0000;
const FS: u32 = 0x4_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Pausing {
        left: usize,
    },
    /// The file server still works on requests of a machine that can be saved.
    Resting,
    Paused,
    Resuming {
        left: usize,
    },
}

/// Runs the machine until it ends.
///
/// # Errors
/// The event loop itself can't be made or fails; the machine's own end is the `Exit`.
pub fn run(
    machine: Machine,
    control: ControlSocket,
    confine: fn() -> std::io::Result<()>,
) -> Result<Exit, event_manager::Error> {
    let mut manager = EventManager::<Loop>::new()?;
    let watchdog = TimerFd::new().map_err(event_manager::Error::Epoll)?;
    let id = manager.add_subscriber(Loop::new(machine, control, watchdog));
    manager.subscriber_mut(id)?.start(confine);
    while manager.subscriber_mut(id)?.exit.is_none() {
        manager.run()?;
    }
    Ok(manager.remove_subscriber(id)?.finish())
}

struct Loop {
    machine: Machine,
    control: ControlSocket,
    watchdog: TimerFd,
    phase: Phase,
    /// Asked for while the phase was changing; done when the change is complete.
    next: Option<Wanted>,
    /// [`Event::Running`] was sent.
    announced: bool,
    /// Which vCPUs were dead when last looked at.
    dead: Vec<bool>,
    deferred: Vec<(Command, Vec<OwnedFd>)>,
    /// The machine is being saved.
    saving: Option<Saving>,
    exit: Option<Exit>,
}

impl Loop {
    fn new(machine: Machine, control: ControlSocket, watchdog: TimerFd) -> Self {
        let dead = vec![false; machine.vcpus.count()];
        let phase = Phase::Resuming { left: machine.vcpus.count() };
        Self {
            machine,
            control,
            watchdog,
            phase,
            next: None,
            announced: false,
            dead,
            deferred: Vec::new(),
            saving: None,
            exit: None,
        }
    }

    /// The last steps before the guest runs: from here on nothing is opened.
    fn start(&mut self, confine: fn() -> std::io::Result<()>) {
        if let Err(error) = self.watchdog.reset(WATCHDOG_PERIOD, Some(WATCHDOG_PERIOD)) {
            self.end(ExitCode::Host, format!("arming the watchdog: {error}"));
        } else if let Err(error) = confine() {
            self.end(ExitCode::Host, format!("confining the event loop: {error}"));
        } else {
            self.machine.vcpus.run();
        }
    }

    /// Ends all vCPUs; the machine's last word.
    fn finish(self) -> Exit {
        self.machine.vcpus.stop();
        let exit = self.exit.unwrap_or_else(|| Exit {
            code: ExitCode::Host,
            detail: "the event loop ended by itself".to_owned(),
        });
        self.control.send_exit(&exit);
        exit
    }

    fn end(&mut self, code: ExitCode, detail: String) {
        self.exit.get_or_insert(Exit { code, detail });
    }

    fn send(&mut self, event: &Event) {
        if let Err(error) = self.control.send(event) {
            self.control_failed(&error);
        }
    }

    fn control_failed(&mut self, error: &ControlError) {
        let code = match error {
            ControlError::Closed => ExitCode::HostGone,
            _ => ExitCode::Host,
        };
        self.end(code, error.to_string());
    }

    fn on_control(&mut self, ops: &mut EventOps) {
        match self.control.receive() {
            Ok((command, descriptors)) => self.on_command(command, descriptors, ops),
            Err(error) => self.control_failed(&error),
        }
    }

    fn on_command(&mut self, command: Command, mut descriptors: Vec<OwnedFd>, ops: &mut EventOps) {
        let paused = self.phase != Phase::Running;
        match command {
            Command::Start(_)
            | Command::StartShared(_)
            | Command::StartSavable(_)
            | Command::Fork(..)
            | Command::ForkSavable(..)
            | Command::Rehearse(_)
            | Command::Prepare
            | Command::Probe => {
                let message = control_socket::name(&command);
                self.control_failed(&ControlError::Unexpected { message });
            }
            Command::Stop => self.end(ExitCode::Stopped, "stopped by the host".to_owned()),
            Command::Stats => self.send(&Event::Stats(self.stats())),
            Command::Pause => self.pause(ops),
            Command::Resume => self.resume(ops),
            Command::Save | Command::SaveWhole => self.save(descriptors),
            // A paused machine's memory and devices stand still.
            Command::Connect { .. } | Command::Accept { .. } | Command::Refuse { .. } if paused => {
                if self.deferred.len() < MAX_DEFERRED {
                    self.deferred.push((command, descriptors));
                } else {
                    self.end(ExitCode::Host, "too many messages while paused".to_owned());
                }
            }
            Command::Connect { id, port } => {
                if let Some(stream) = descriptors.pop() {
                    lock(&self.machine.devices.vsock).connect(id, port, stream);
                }
            }
            Command::Accept { id } => {
                if let Some(stream) = descriptors.pop() {
                    lock(&self.machine.devices.vsock).accept(id, stream);
                }
            }
            Command::Refuse { id } => lock(&self.machine.devices.vsock).refuse(id),
        }
        self.forward_vsock_events();
    }

    fn on_reports(&mut self, ops: &mut EventOps) {
        self.machine.wake.read().ok();
        while let Ok(report) = self.machine.reports.try_recv() {
            match report {
                Report::Ended(exit) => {
                    self.exit.get_or_insert(exit);
                }
                Report::Paused => self.on_paused(ops),
                Report::Saved { index, state } => self.on_saved(index, state, ops),
                Report::Running { index, at_ns } => self.on_running(index, at_ns, ops),
                Report::Looked { index, dead } => {
                    if let Some(slot) = self.dead.get_mut(index) {
                        *slot = dead;
                    }
                }
            }
        }
        if self.phase == Phase::Running && self.dead.iter().all(|dead| *dead) {
            let detail = "every vCPU is halted with interrupts off".to_owned();
            self.end(ExitCode::Halted, detail);
        }
    }

    fn on_watchdog(&mut self) {
        self.watchdog.wait().ok();
        if self.phase == Phase::Running {
            self.dead.fill(false);
            self.machine.vcpus.look();
        }
    }

    /// A machine whose files are gone can't go on.
    fn on_fs(&mut self, token: u32) {
        let Some(fs) = &self.machine.devices.fs else { return };
        process(fs, token);
        let failure = lock(fs).device().failure().map(str::to_owned);
        if let Some(failure) = failure {
            self.end(ExitCode::FilesGone, failure);
        }
    }

    fn forward_vsock_events(&mut self) {
        let events = lock(&self.machine.devices.vsock).take_events();
        for event in events {
            self.send(&event);
        }
    }

    fn stats(&self) -> Stats {
        let counters = &self.machine.bus.counters;
        let mut stats = Stats {
            exits: counters.exits.load(Ordering::Relaxed),
            mmio_exits: counters.mmio.load(Ordering::Relaxed),
            port_exits: counters.port.load(Ordering::Relaxed),
            rejected_accesses: counters.unclaimed.load(Ordering::Relaxed),
            serial_dropped_bytes: self.machine.bus.serial_dropped(),
            ..Stats::default()
        };
        lock(&self.machine.devices.vsock).add_stats(&mut stats);
        let rng = lock(&self.machine.devices.rng);
        stats.entropy_bytes = rng.device().served_bytes();
        stats.rejected_accesses += rng.rejected_accesses();
        drop(rng);
        let balloon = lock(&self.machine.devices.balloon);
        stats.given_back_bytes = balloon.device().given_bytes();
        stats.rejected_accesses += balloon.rejected_accesses();
        drop(balloon);
        stats
    }

    fn device_events(&self) -> Vec<Events> {
        let mut events = Vec::new();
        let mut add = |base: u32, sources: Vec<(RawFd, u32)>| {
            events.extend(
                sources
                    .into_iter()
                    .map(|(fd, token)| Events::with_data_raw(fd, base + token, EventSet::IN)),
            );
        };
        add(VSOCK, lock(&self.machine.devices.vsock).event_sources());
        add(RNG, lock(&self.machine.devices.rng).event_sources());
        add(BALLOON, lock(&self.machine.devices.balloon).event_sources());
        events.extend(self.fs_events());
        events
    }

    fn fs_events(&self) -> Vec<Events> {
        let sources = self.machine.devices.fs.iter().flat_map(|fs| lock(fs).event_sources());
        sources.map(|(fd, token)| Events::with_data_raw(fd, FS + token, EventSet::IN)).collect()
    }
}

/// Lets a device handle an event, and does what comes of it when nobody would wait for the device any more.
fn process<D: Device>(device: &Arc<Mutex<Transport<D>>>, token: u32) {
    let after = lock(device).deferring(|transport| transport.process(token));
    if !after.run() {
        lock(device).lost();
    }
}

impl MutEventSubscriber for Loop {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            CONTROL => self.on_control(ops),
            REPORTS => self.on_reports(ops),
            WATCHDOG => self.on_watchdog(),
            token @ FS.. if self.phase == Phase::Resting => {
                self.on_fs(token - FS);
                self.rest(ops);
            }
            // Events that were ready together with the one that paused.
            _ if !matches!(self.phase, Phase::Running) => {}
            token @ VSOCK..RNG => {
                process(&self.machine.devices.vsock, token - VSOCK);
                self.forward_vsock_events();
            }
            token @ RNG..BALLOON => process(&self.machine.devices.rng, token - RNG),
            token @ BALLOON..FS => process(&self.machine.devices.balloon, token - BALLOON),
            token => self.on_fs(token - FS),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let sources = [
            (self.control.as_raw_fd(), CONTROL),
            (self.machine.wake.as_raw_fd(), REPORTS),
            (self.watchdog.as_raw_fd(), WATCHDOG),
        ];
        for (fd, data) in sources {
            if let Err(error) = ops.add(Events::with_data_raw(fd, data, EventSet::IN)) {
                self.end(ExitCode::Host, format!("watching descriptors: {error}"));
            }
        }
    }
}
