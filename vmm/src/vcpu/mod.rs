//! The thread of one vCPU: a state machine whose state functions return the next state.
//!
//! ```text
//!            wanted = Run            wanted = Pause
//!   Paused ────────────▶ Running ────────────▶ Paused
//!     │ wanted = Stop       │ wanted = Stop, or the guest ended its machine
//!     └────────▶ Ended ◀────┘
//! ```

mod report;

pub use report::{Report, Wanted};

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Bus;
use crate::exit::{Exit, ExitCode};
use crate::kvm::ImmediateExit;
use crate::kvm::saved::VcpuState;
use crate::sys;

/// Stack of a vCPU thread: deepest use is formatting one exit message.
const STACK_BYTES: usize = 128 << 10;
/// `KVM_MP_STATE_UNINITIALIZED`: an application processor that was never started.
const MP_UNINITIALIZED: u32 = 1;
/// `KVM_MP_STATE_HALTED`.
const MP_HALTED: u32 = 3;
/// RFLAGS: interrupts are on.
const RFLAGS_IF: u64 = 1 << 9;
/// `KVM_SYSTEM_EVENT_*` of the KVM API, section 5.
const SYSTEM_SHUTDOWN: u32 = 1;
const SYSTEM_RESET: u32 = 2;

/// What one thread and the event loop share.
#[derive(Debug, Default)]
struct Orders {
    wanted: Mutex<Order>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    wanted: Wanted,
    look: bool,
    save: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self { wanted: Wanted::Pause, look: false, save: false }
    }
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All vCPU threads, from the event loop's side.
#[derive(Debug)]
pub struct Vcpus {
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    orders: Arc<Orders>,
    immediate_exit: ImmediateExit,
    handle: JoinHandle<()>,
}

/// What the threads need of their surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where accesses go.
    pub bus: Arc<Bus>,
    /// Where reports go.
    pub reports: Sender<Report>,
    /// Wakes the event loop for a report.
    pub wake: Arc<EventFd>,
    /// Which model-specific registers are saved; none where nothing is.
    pub msrs: Arc<[u32]>,
}

impl Vcpus {
    /// Starts a thread per vCPU, all of them paused. `confine` runs first in each thread.
    ///
    /// # Errors
    /// A thread can't be made.
    pub fn start(
        vcpus: Vec<VcpuFd>,
        surroundings: &Surroundings,
        confine: fn() -> io::Result<()>,
    ) -> io::Result<Self> {
        sys::install_kick_handler()?;
        let mut threads = Vec::with_capacity(vcpus.len());
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let immediate_exit = ImmediateExit::new(&vcpu)?;
            let orders = Arc::new(Orders::default());
            let vcpu = Vcpu {
                index,
                vcpu,
                immediate_exit,
                orders: Arc::clone(&orders),
                surroundings: surroundings.clone(),
                was_stopped: false,
            };
            let handle = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || vcpu.main(confine))?;
            threads.push(Thread { orders, immediate_exit, handle });
        }
        Ok(Self { threads })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Asks every vCPU for a state; those that change it answer by a [`Report`].
    pub fn want(&self, wanted: Wanted) {
        for thread in &self.threads {
            thread.order(|order| order.wanted = wanted);
        }
    }

    /// Has every vCPU run, all of which are paused: nobody has to be taken out of the guest for it.
    pub fn run(&self) {
        for thread in &self.threads {
            thread.tell(|order| order.wanted = Wanted::Run);
        }
    }

    /// Asks every vCPU whether it can still do anything; each that runs answers by a [`Report`].
    pub fn look(&self) {
        for thread in &self.threads {
            thread.order(|order| order.look = true);
        }
    }

    /// Asks every vCPU, all of which are paused, for its state; each answers by a [`Report`].
    pub fn save(&self) {
        for thread in &self.threads {
            thread.order(|order| order.save = true);
        }
    }

    /// Ends all threads and waits for them.
    pub fn stop(self) {
        self.want(Wanted::Stop);
        for thread in self.threads {
            // A thread that panicked has already ended the process (panic = abort).
            thread.handle.join().ok();
        }
    }
}

impl Thread {
    fn tell(&self, change: impl FnOnce(&mut Order)) {
        change(&mut self.orders.lock());
        self.orders.changed.notify_one();
    }

    fn order(&self, change: impl FnOnce(&mut Order)) {
        self.tell(change);
        self.immediate_exit.set();
        sys::kick(&self.handle);
    }
}

enum State {
    Paused,
    Running,
    Ended(Option<Exit>),
}

struct Vcpu {
    index: usize,
    vcpu: VcpuFd,
    immediate_exit: ImmediateExit,
    orders: Arc<Orders>,
    surroundings: Surroundings,
    /// It ran, and was taken out of the guest since.
    was_stopped: bool,
}

impl Vcpu {
    fn main(mut self, confine: fn() -> io::Result<()>) {
        let mut state = match confine() {
            Ok(()) => State::Paused,
            Err(error) => State::Ended(Some(host_exit("confining a vCPU thread", &error))),
        };
        let exit = loop {
            state = match state {
                State::Paused => self.paused(),
                State::Running => self.running(),
                State::Ended(exit) => break exit,
            };
        };
        if let Some(exit) = exit {
            self.report(Report::Ended(exit));
        }
    }

    /// Waits out of the guest until something else is wanted.
    fn paused(&mut self) -> State {
        let orders = Arc::clone(&self.orders);
        let mut order = orders.lock();
        loop {
            order.look = false;
            if std::mem::take(&mut order.save) {
                drop(order);
                let state = VcpuState::read(&self.vcpu, &self.surroundings.msrs).map(Box::new);
                self.report(Report::Saved { index: self.index, state });
                order = orders.lock();
                continue;
            }
            match order.wanted {
                Wanted::Run => {
                    drop(order);
                    if let Err(exit) = self.tell_guest() {
                        return State::Ended(Some(exit));
                    }
                    let at_ns = sys::monotonic_ns();
                    self.report(Report::Running { index: self.index, at_ns });
                    return State::Running;
                }
                Wanted::Stop => return State::Ended(None),
                Wanted::Pause => {
                    order = orders.changed.wait(order).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Tells a guest that was stopped that it was, before it runs on: its clock has gone on meanwhile. It finds a flag in
    /// its clock's page (`KVM_KVMCLOCK_CTRL` of the KVM API), at which Linux looks before it complains of processors that
    /// did nothing for so long: of a stall of RCU, or by the watchdog, where the kernel has one.
    fn tell_guest(&mut self) -> Result<(), Exit> {
        if !std::mem::take(&mut self.was_stopped) {
            return Ok(());
        }
        match self.vcpu.kvmclock_ctrl() {
            // It has not switched this clock on, so it has no page for a flag.
            Err(error) if error.errno() == libc::EINVAL => Ok(()),
            told => told.map_err(|error| host_exit("KVM_KVMCLOCK_CTRL", &error.into())),
        }
    }

    /// Runs the guest until something else is wanted or the machine ends.
    fn running(&mut self) -> State {
        loop {
            // Cleared before the order is read: an order that comes after the read sets it again.
            self.immediate_exit.clear();
            let order = {
                let mut shared = self.orders.lock();
                let order = *shared;
                shared.look = false;
                order
            };
            match order.wanted {
                Wanted::Run => {}
                Wanted::Stop => return State::Ended(None),
                Wanted::Pause => {
                    self.was_stopped = true;
                    self.report(Report::Paused);
                    return State::Paused;
                }
            }
            if order.look {
                let dead = self.is_dead();
                self.report(Report::Looked { index: self.index, dead });
            }
            if let Some(exit) = self.run_until_interrupted() {
                return State::Ended(Some(exit));
            }
        }
    }

    /// Handles exits until a kick (`None`) or the machine's end.
    fn run_until_interrupted(&mut self) -> Option<Exit> {
        loop {
            let bus = &self.surroundings.bus;
            let exit = self.vcpu.run();
            bus.counters.exits.fetch_add(1, Ordering::Relaxed);
            let (code, what) = match exit {
                Ok(VcpuExit::IoOut(port, data)) => match bus.port_write(port, data) {
                    Some(exit) => return Some(exit),
                    None => continue,
                },
                Ok(VcpuExit::IoIn(port, data)) => {
                    bus.port_read(port, data);
                    continue;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    bus.mmio_read(address, data);
                    continue;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    bus.mmio_write(address, data);
                    continue;
                }
                Err(error) if error.errno() == libc::EINTR => return None,
                Err(error) if error.errno() == libc::EAGAIN => continue,
                Err(error) => (ExitCode::Host, format!("KVM_RUN: {error}")),
                Ok(VcpuExit::Hlt) => (ExitCode::Halted, "halted".to_owned()),
                Ok(VcpuExit::Shutdown) => (ExitCode::TripleFault, "triple fault".to_owned()),
                Ok(VcpuExit::SystemEvent(SYSTEM_SHUTDOWN, _)) => {
                    (ExitCode::Stopped, "the guest powered off".to_owned())
                }
                Ok(VcpuExit::SystemEvent(SYSTEM_RESET, _)) => {
                    (ExitCode::Reset, "the guest asked for a reset".to_owned())
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    (ExitCode::KvmInternal, format!("entering the guest failed: {reason:#x}"))
                }
                Ok(VcpuExit::InternalError) => {
                    (ExitCode::KvmInternal, "KVM could not go on".to_owned())
                }
                Ok(other) => {
                    (ExitCode::GuestFault, format!("exit that nothing handles: {other:?}"))
                }
            };
            return Some(self.describe(code, &what));
        }
    }

    /// Adds what a person needs to find the guest's fault: where it was.
    fn describe(&mut self, code: ExitCode, what: &str) -> Exit {
        let suberror = if code == ExitCode::KvmInternal {
            sys::internal_suberror(self.vcpu.get_kvm_run())
        } else {
            None
        };
        let suberror = suberror.map_or(String::new(), |number| format!(", suberror {number}"));
        let place = match self.vcpu.get_regs() {
            Ok(regs) => format!("rip {:#x}, rflags {:#x}", regs.rip, regs.rflags),
            Err(error) => format!("registers can't be read: {error}"),
        };
        Exit { code, detail: format!("vCPU {}: {what}{suberror}; {place}", self.index) }
    }

    /// Halted with interrupts off (only a reset could wake it), or never started by the guest.
    fn is_dead(&self) -> bool {
        let Ok(state) = self.vcpu.get_mp_state() else { return false };
        match state.mp_state {
            MP_UNINITIALIZED => true,
            MP_HALTED => self.vcpu.get_regs().is_ok_and(|regs| regs.rflags & RFLAGS_IF == 0),
            _ => false,
        }
    }

    fn report(&self, report: Report) {
        // The receiver is gone only when the process is ending anyway.
        if self.surroundings.reports.send(report).is_ok() {
            self.surroundings.wake.write(1).ok();
        }
    }
}

fn host_exit(what: &str, error: &io::Error) -> Exit {
    Exit { code: ExitCode::Host, detail: format!("{what}: {error}") }
}
