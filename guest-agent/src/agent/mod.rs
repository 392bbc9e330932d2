//! One agent's life: its container is made, commands run in it, it is told what happens to it, and
//! all of it goes.
//!
//! Like a command, an [`Agent`] is a state machine that never waits. What takes time, making the
//! container, is done by a process that becomes the container's init.

mod step;

mod make;

mod mount;

mod root;

mod places;

mod rules;

mod identity;

mod init;

mod enter;

mod calls;

mod filter;

mod group;

mod notices;

mod outside;

mod asked;

mod shares;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use cloister_protocol::agent::{AgentSpec, Notice, Usage, first_id};
use cloister_protocol::check::printable_detail;
use cloister_protocol::message::Event;
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub(crate) use asked::answer;
pub(crate) use enter::{Entrance, LISTENER, enter_directory};
pub(crate) use group::Bounds;
pub(crate) use shares::Shares;

use self::group::AgentGroup;
use self::make::{NAMESPACES, Order, READY};
use self::notices::Notices;
use self::step::{Failed, Step, of};
use crate::command::{Failure, Group, Groups};
use crate::egress::Egress;
use crate::log::Log;
use crate::message::receive;
use crate::poller::{AgentPart, Owner, Poller};
use crate::sys;

/// What all agents share, made with the first.
pub(crate) struct Common {
    shares: Shares,
    bounds: Bounds,
    /// The program of their inits.
    init: Option<OwnedFd>,
}

/// What an agent works with: parts of the supervisor.
pub(crate) struct Around<'a> {
    pub(crate) groups: &'a Groups,
    pub(crate) poller: &'a Poller,
    pub(crate) egress: &'a mut Egress,
    pub(crate) log: &'a Log,
    pub(crate) events: &'a mut Vec<Event>,
}

/// An agent between the request for it and the end of its last process.
pub(crate) struct Agent {
    number: u32,
    /// Names it in the event loop; never used twice.
    serial: u64,
    state: State,
    /// Its group, and all that commands are started with.
    entrance: Rc<Entrance>,
    /// The group of its init.
    _init_group: Group,
    notices: Notices,
}

/// Where in its life an agent is.
enum State {
    /// Its init makes the container.
    Making { init: Pid, report: OwnedFd, spec: Box<AgentSpec>, ready: bool },
    /// Commands may be started.
    Running { init: Pid },
    /// It is being killed.
    Ending { init: Option<Pid>, last: Event },
    /// Nothing is left of it.
    Over,
}

impl Common {
    pub(crate) const fn new(shares: Shares, bounds: Bounds) -> Self {
        Self { shares, bounds, init: None }
    }

    fn init(&mut self) -> Result<&OwnedFd> {
        if self.init.is_none() {
            self.init = Some(init::program()?);
        }
        self.init.as_ref().ok_or(Errno::BADF)
    }
}

impl Agent {
    /// Begins to make a container.
    ///
    /// # Errors
    /// What the host is told.
    pub(crate) fn new(
        spec: &AgentSpec,
        serial: u64,
        common: &mut Common,
        around: &Around<'_>,
    ) -> std::result::Result<Self, Event> {
        let number = spec.agent;
        let made = Self::begin(spec, serial, common, around);
        made.map_err(|failed| Event::AgentFailed {
            agent: number,
            detail: printable_detail(&failed.detail(spec)),
        })
    }

    fn begin(
        spec: &AgentSpec,
        serial: u64,
        common: &mut Common,
        around: &Around<'_>,
    ) -> std::result::Result<Self, Failed> {
        let shares = common.shares.path().map_err(of(Step::Shares))?;
        let bounds = common.bounds;
        let group = AgentGroup::make(around.groups, spec.agent, &spec.limits, bounds)
            .map_err(of(Step::Group))?;
        let started = Self::start(spec, serial, common, around, &shares, &group);
        let (state, init_group, parts) = match started {
            Ok(started) => started,
            Err(failed) => {
                // Nothing runs in it.
                let _left_behind = group.group.remove();
                return Err(failed);
            }
        };
        let listed = spec.executables.is_some();
        let entrance = Entrance {
            agent: spec.agent,
            init: parts.init,
            rules: None,
            terminals: parts.terminals,
            filter: filter::compile(listed),
            listed,
            list: spec.executables.clone().unwrap_or_default(),
            limits: spec.limits,
            group,
        };
        Ok(Self {
            number: spec.agent,
            serial,
            state,
            entrance: Rc::new(entrance),
            _init_group: init_group,
            notices: parts.notices,
        })
    }

    /// Makes what its init needs, and then the init, last: there is no way back from there.
    fn start(
        spec: &AgentSpec,
        serial: u64,
        common: &mut Common,
        around: &Around<'_>,
        shares: &Path,
        group: &AgentGroup,
    ) -> std::result::Result<(State, Group, Parts), Failed> {
        let watch = |fd: &OwnedFd, part| around.poller.watch(fd, Owner::Agent(serial, part));
        let notices = Notices::open(group).map_err(of(Step::Group))?;
        for (file, part) in notices.files() {
            watch(file, part).map_err(of(Step::Group))?;
        }
        watch(group.group.events(), AgentPart::Group).map_err(of(Step::Group))?;
        let terminals = places::terminals(first_id(spec.agent)).map_err(of(Step::Terminals))?;
        let init_program = common.init().map_err(of(Step::InitProgram))?;
        let init_group = group.init().map_err(of(Step::Group))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (report, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(of(Step::Process))?;
        watch(&report, AgentPart::Report).map_err(of(Step::Process))?;
        let order = Order {
            spec,
            shares,
            terminals: terminals.as_fd(),
            init: init_program.as_fd(),
            report: theirs.as_fd(),
        };
        let namespaces = u64::from(NAMESPACES.unsigned_abs());
        let process = sys::fork_with(Some(init_group.entry()), namespaces, || make::make(&order))
            .map_err(of(Step::Process))?;
        let init = match pidfd_open(process, PidfdFlags::empty()) {
            Ok(init) => init,
            Err(error) => {
                let _killed = init_group.kill();
                return Err(of(Step::Process)(error));
            }
        };
        let spec = Box::new(spec.clone());
        let state = State::Making { init: process, report, spec, ready: false };
        Ok((state, init_group, Parts { init, terminals, notices }))
    }

    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    pub(crate) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Nothing is left of it.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// It ends: no command is started in it any more.
    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending { .. } | State::Over)
    }

    /// Its group, which has all that runs in it.
    pub(crate) fn group(&self) -> &Group {
        &self.entrance.group.group
    }

    /// What commands are started with, as long as it runs.
    pub(crate) fn entrance(&self) -> Option<Rc<Entrance>> {
        matches!(self.state, State::Running { .. }).then(|| Rc::clone(&self.entrance))
    }

    /// Its init, as long as it is not reaped.
    pub(crate) const fn process(&self) -> Option<Pid> {
        match self.state {
            State::Making { init, .. } | State::Running { init } => Some(init),
            State::Ending { init, .. } => init,
            State::Over => None,
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        self.entrance.group.usage()
    }

    /// Tells something about it, as long as there is not too much to be told.
    pub(crate) fn tell(&mut self, notice: Notice, events: &mut Vec<Event>) {
        self.notices.note(self.number, notice, events);
    }

    /// Something has happened to a part of it.
    pub(crate) fn happened(&mut self, part: AgentPart, around: &mut Around<'_>) {
        match part {
            AgentPart::Report => self.read_report(around),
            AgentPart::Memory => self.notices.memory(self.number, around.events),
            AgentPart::Processes => self.notices.processes(self.number, around.events),
            // Looked at by `end_when_empty` in each turn.
            AgentPart::Group => {}
        }
    }

    /// What its making came to.
    fn read_report(&mut self, around: &mut Around<'_>) {
        loop {
            let State::Making { init, report, spec, ready } = &mut self.state else { return };
            let init = *init;
            let mut bytes = [0; Failed::LENGTH];
            match receive(report, &mut bytes) {
                Err(Errno::AGAIN) => return,
                Ok((1, rules)) if bytes.first() == Some(&READY) => {
                    *ready = true;
                    // Nobody else has it yet.
                    if let Some(entrance) = Rc::get_mut(&mut self.entrance) {
                        entrance.rules = rules;
                    }
                }
                // It was executed, or has ended without a word; then it will be reaped.
                Ok((0, _)) | Err(_) => {
                    if *ready {
                        let egress = spec.egress.take();
                        self.made(init, egress.as_ref(), around);
                    }
                    return;
                }
                Ok(_) => {
                    let detail = Failed::from_bytes(bytes).map(|failed| failed.detail(spec));
                    let detail = detail.unwrap_or_else(|| "its init said nonsense".to_owned());
                    let last = self.failed(&detail);
                    self.end(last, around);
                    return;
                }
            }
        }
    }

    fn failed(&self, detail: &str) -> Event {
        Event::AgentFailed { agent: self.number, detail: printable_detail(detail) }
    }

    /// The host wants it gone.
    pub(crate) fn remove(&mut self, around: &mut Around<'_>) {
        let last = match self.state {
            State::Making { .. } | State::Running { .. } => {
                Event::AgentRemoved { agent: self.number }
            }
            State::Ending { .. } | State::Over => return,
        };
        self.end(last, around);
    }

    /// Its init was reaped: everything in its process namespace is dead or dying.
    pub(crate) fn reaped(&mut self, around: &mut Around<'_>) {
        // What it had to report is there now.
        self.read_report(around);
        match &mut self.state {
            State::Making { .. } => {
                let last = self.failed("its init was killed while it made the container");
                self.end(last, around);
            }
            State::Running { .. } => {
                let last = Event::AgentRemoved { agent: self.number };
                self.end(last, around);
            }
            State::Ending { .. } | State::Over => {}
        }
        if let State::Ending { init, .. } = &mut self.state {
            *init = None;
        }
    }

    fn end(&mut self, last: Event, around: &mut Around<'_>) {
        around.egress.close(self.number);
        self.state = State::Ending { init: self.process(), last };
        self.kill(around.log);
    }

    /// Kills everything that belongs to it.
    pub(crate) fn kill(&self, log: &Log) {
        if let Err(error) = self.entrance.group.group.kill() {
            log.error(&Failure::Group(error));
        }
    }

    /// Ends it if its init is reaped, it has no command any more, and nothing is left in its group.
    pub(crate) fn end_when_empty(&mut self, has_commands: bool, around: &mut Around<'_>) {
        let State::Ending { init: None, .. } = self.state else { return };
        if has_commands {
            return;
        }
        let group = &self.entrance.group.group;
        match group.is_empty() {
            Ok(false) => return,
            Ok(true) => {
                if let Err(error) = group.remove() {
                    around.log.error(&Failure::Group(error));
                }
            }
            Err(error) => around.log.error(&Failure::Group(error)),
        }
        self.notices.last(self.number, around.events);
        if let State::Ending { last, .. } = std::mem::replace(&mut self.state, State::Over) {
            around.events.push(last);
        }
    }
}

/// What is made for an agent beside its group.
struct Parts {
    init: OwnedFd,
    terminals: OwnedFd,
    notices: Notices,
}
