//! One command's life: connect its streams, start it, pass its bytes, see it end, clean up.
//!
//! A [`Command`] is a state machine. It is told what has happened and answers with events for the
//! host; it never waits.

mod detach;

mod flow;

mod plan;

mod program;

mod process;

mod group;

mod failure;

mod surroundings;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use cloister_protocol::agent::{Copy, Notice, Place};
use cloister_protocol::message::{Event, Exec, ExitStatus, WindowSize};
use rustix::io::{Errno, Result};
use rustix::process::Pid;

pub(crate) use failure::Failure;
pub(crate) use group::{Group, Groups};
pub(crate) use surroundings::Surroundings;

use self::failure::Report;
use self::plan::{Plan, Streams, Work};
use crate::agent::{Agent, Entrance, LISTENER};
use crate::poller::{Owner, Part};
use crate::stream::Stream;
use crate::{agent, message, sys, terminal, timer};

/// A command between its request and the last byte of its streams.
pub(crate) struct Command {
    id: u32,
    /// Never used twice, other than the id: names the command in the event loop.
    serial: u64,
    state: State,
    streams: Streams,
    /// A stream could go on at once, or more programs are asked about.
    unfinished: bool,
    place: Place,
    /// Its agent's, while it has a process.
    entrance: Option<Rc<Entrance>>,
    /// Where it waits with the programs that it is about to execute.
    listener: Option<OwnedFd>,
    /// The master of its terminal, if it has one.
    terminal: Option<Rc<OwnedFd>>,
    group: Option<Group>,
    timer: Option<OwnedFd>,
    timed_out: bool,
    /// It has no program of its own.
    is_copy: bool,
    /// It waits for other streams, and is kept for them.
    detached: bool,
    /// The host does not know it.
    forgotten: bool,
}

/// Where in its life a command is.
enum State {
    /// Its connections are being made.
    Connecting(Box<Plan>),
    /// The process is there; whether it becomes the program is not known yet.
    Starting { process: Pid, report: OwnedFd, work: Box<Work> },
    /// It could not become the program, and is about to end.
    Failing { process: Pid, failure: Failure },
    /// The program runs.
    Running { process: Pid },
    /// The process is reaped, or there never was one; what it started is being killed.
    Ending { last: Event },
    /// All that is left is bytes on their way to the host.
    Flowing,
}

impl Command {
    /// Begins to connect the streams of a command.
    pub(crate) fn new(
        exec: Exec,
        serial: u64,
        around: &Surroundings<'_>,
    ) -> std::result::Result<Self, Failure> {
        let id = exec.id;
        Ok(Self::of(id, serial, Plan::new(exec, serial, around.host, &around.poller)?))
    }

    /// Begins to connect the stream of a copy.
    pub(crate) fn copy(
        copy: Copy,
        serial: u64,
        around: &Surroundings<'_>,
    ) -> std::result::Result<Self, Failure> {
        let id = copy.id;
        Ok(Self::of(id, serial, Plan::of_copy(copy, serial, around.host, &around.poller)?))
    }

    fn of(id: u32, serial: u64, plan: Plan) -> Self {
        Self {
            id,
            serial,
            place: plan.place,
            is_copy: matches!(plan.work, Work::Copy(_)),
            state: State::Connecting(Box::new(plan)),
            streams: [None, None, None],
            unfinished: false,
            entrance: None,
            listener: None,
            terminal: None,
            group: None,
            timer: None,
            timed_out: false,
            detached: false,
            forgotten: false,
        }
    }

    /// Whether it runs in this agent's container, or is about to.
    pub(crate) const fn is_of(&self, number: u32) -> bool {
        matches!(self.place, Place::Agent { agent, .. } if agent == number)
    }

    /// Its agent ends: if it has no process yet, it gets none.
    pub(crate) fn agent_ends(&mut self, around: &mut Surroundings<'_>) {
        if let (State::Connecting(_), Place::Agent { agent, .. }) = (&self.state, self.place) {
            self.state = State::Ending { last: Failure::NoAgent { agent }.event(self.id) };
            self.end_when_empty(around);
        }
    }

    /// Its group, if that is in no agent's.
    pub(crate) fn group_of_machine(&self) -> Option<&Group> {
        self.group.as_ref().filter(|_| self.place == Place::Machine)
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// Whether the host was told its end: then the id is free, though bytes may be on their way.
    pub(crate) const fn has_ended(&self) -> bool {
        matches!(self.state, State::Flowing)
    }

    /// Nothing is left of it.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended() && !self.detached && self.streams.iter().all(Option::is_none)
    }

    /// A stream could go on at once: it should have another turn.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Its process, as long as it is not reaped.
    pub(crate) const fn process(&self) -> Option<Pid> {
        match self.state {
            State::Starting { process, .. }
            | State::Failing { process, .. }
            | State::Running { process } => Some(process),
            State::Connecting(_) | State::Ending { .. } | State::Flowing => None,
        }
    }

    /// Something has happened to a part of it.
    pub(crate) fn happened(&mut self, part: Part, around: &mut Surroundings<'_>) {
        match (part, &self.state) {
            (Part::Report, _) => self.read_report(around),
            (Part::Timer, _) => {
                self.timed_out = true;
                self.kill(around);
            }
            (Part::Group, _) => self.end_when_empty(around),
            (Part::Asked, _) => self.answer(around),
            (Part::Stream(place), State::Connecting(_)) => self.connected(place, around),
            (Part::Stream(_), _) if self.terminal.is_some() => self.run_streams(around),
            (Part::Stream(place), _) => self.run_stream(place.into(), around),
        }
    }

    /// Its process was reaped.
    pub(crate) fn reaped(&mut self, status: ExitStatus, around: &mut Surroundings<'_>) {
        // What it had to report is in the pipe now.
        self.read_report(around);
        let last = match &self.state {
            State::Failing { failure, .. } => failure.event(self.id),
            _ if self.timed_out => Event::Exited { id: self.id, status: ExitStatus::TimedOut },
            _ => Event::Exited { id: self.id, status },
        };
        self.state = State::Ending { last };
        self.timer = None;
        self.end_when_empty(around);
        if !self.has_ended() {
            self.kill(around);
        }
    }

    /// Passes a signal on: to the terminal's foreground group, else to the command's own.
    pub(crate) fn signal(&self, signal: u8) {
        let Some(process) = self.process() else { return };
        let group = self.terminal.as_ref().and_then(terminal::foreground).unwrap_or(process);
        if sys::signal_group(group, signal).is_err() {
            // It has not made its group yet. It is not reaped either, so the number is its own.
            let _refused = sys::signal_process(process, signal);
        }
    }

    /// Gives its terminal a new size.
    pub(crate) fn resize(&self, size: WindowSize) {
        if let Some(master) = &self.terminal {
            // Refused only by a terminal that hangs up, where it does not matter.
            let _refused = terminal::resize(master, size);
        }
    }

    /// Kills everything that belongs to it.
    pub(crate) fn kill(&self, around: &Surroundings<'_>) {
        if let Some(Err(error)) = self.group.as_ref().map(Group::kill) {
            around.log.error(&Failure::Group(error));
        }
    }

    /// Lets go on what is about to be executed, and tells what will be denied.
    fn answer(&mut self, around: &mut Surroundings<'_>) {
        let (Some(listener), Some(entrance)) = (&self.listener, &self.entrance) else { return };
        let (denied, more) = agent::answer(listener, entrance);
        self.unfinished |= more;
        if !denied.is_empty() {
            // What was answered before it may be the program itself, and that has begun is told first.
            self.read_report(around);
        }
        let Place::Agent { agent, .. } = self.place else { return };
        if let Some(agent) = around.agents.get_mut(&agent) {
            for path in denied {
                agent.tell(Notice::ExecDenied { path }, &mut around.events);
            }
        }
    }

    /// A connection is made, or has failed; the last one starts the program.
    fn connected(&mut self, place: u8, around: &mut Surroundings<'_>) {
        let State::Connecting(plan) = &mut self.state else { return };
        let result = match plan.connected(place) {
            Ok(true) => self.start(around),
            Ok(false) => Ok(()),
            Err(error) => Err(Failure::Connect(error)),
        };
        if let Err(failure) = result {
            self.state = State::Ending { last: failure.event(self.id) };
            self.end_when_empty(around);
        }
    }

    fn start(&mut self, around: &mut Surroundings<'_>) -> std::result::Result<(), Failure> {
        let State::Connecting(plan) = &mut self.state else { return Ok(()) };
        let owner = |part| Owner::Command(self.serial, part);
        let inside = match plan.place {
            Place::Machine => None,
            Place::Agent { agent, user } => {
                let running = around.agents.get(&agent).and_then(Agent::entrance);
                Some((running.ok_or(Failure::NoAgent { agent })?, user))
            }
        };
        let by_reference = inside.as_ref().map(|(entrance, user)| (&**entrance, *user));
        let ends =
            plan.make_ends(self.serial, &around.poller, by_reference).map_err(Failure::Streams)?;
        let group = match by_reference {
            None => around.new_group(self.id),
            Some((entrance, _)) => entrance.command_group(self.id),
        }
        .map_err(Failure::Group)?;
        around.poller.watch(group.events(), owner(Part::Group)).map_err(Failure::Group)?;
        let group = self.group.insert(group);
        if let Some(timeout) = plan.timeout {
            let timer = timer::start(timeout).map_err(Failure::Prepare)?;
            around.poller.watch(&timer, owner(Part::Timer)).map_err(Failure::Prepare)?;
            self.timer = Some(timer);
        }
        let State::Connecting(plan) = std::mem::replace(&mut self.state, State::Flowing) else {
            return Ok(());
        };
        let work = Box::new(plan.work);
        let (process, report) = process::start(&work, &ends.files, group.entry(), by_reference)
            .map_err(Failure::Fork)?;
        self.entrance = inside.map(|(entrance, _)| entrance);
        self.streams = ends.streams;
        self.terminal = ends.terminal;
        match around.poller.watch(&report, owner(Part::Report)) {
            Ok(()) => self.state = State::Starting { process, report, work },
            Err(error) => {
                self.state = State::Failing { process, failure: Failure::Prepare(error) };
                self.kill(around);
            }
        }
        // Input may have come before its pipe was there.
        self.run_streams(around);
        Ok(())
    }

    /// What the process has to say: nothing when it has become the program, or why it has not.
    fn read_report(&mut self, around: &mut Surroundings<'_>) {
        loop {
            let State::Starting { process, report, work } = &self.state else { return };
            let process = *process;
            let mut bytes = [0; Report::LENGTH];
            let (length, descriptor) = match message::receive(report, &mut bytes) {
                Err(Errno::AGAIN) => return,
                Err(_) => (0, None),
                Ok(message) => message,
            };
            if length == 1 && bytes.first() == Some(&LISTENER) {
                self.listen(descriptor, around);
                continue;
            }
            let failure = Report::from_bytes(bytes).filter(|_| length == Report::LENGTH);
            if let Some(report) = failure {
                let failure = Failure::of_process(report, work);
                self.state = State::Failing { process, failure };
                return;
            }
            self.state = State::Running { process };
            self.tell(Event::Started { id: self.id }, around);
        }
    }

    /// The process is about to execute its program, and waits until it may.
    fn listen(&mut self, listener: Option<OwnedFd>, around: &mut Surroundings<'_>) {
        let Some(listener) = listener else { return };
        if let Err(error) = around.poller.watch(&listener, Owner::Command(self.serial, Part::Asked))
        {
            // Without an answer it would wait for ever.
            around.log.error(&Failure::Prepare(error));
            self.kill(around);
        }
        self.listener = Some(listener);
        self.answer(around);
    }

    /// Ends it if its process is reaped and nothing of it is left in its group.
    pub(crate) fn end_when_empty(&mut self, around: &mut Surroundings<'_>) {
        if !matches!(self.state, State::Ending { .. }) {
            return;
        }
        match self.remove_group() {
            Ok(true) => {}
            Ok(false) => return,
            // The group stays behind, and can't keep the command from ending.
            Err(error) => around.log.error(&Failure::Group(error)),
        }
        let State::Ending { last } = std::mem::replace(&mut self.state, State::Flowing) else {
            return;
        };
        self.entrance = None;
        self.listener = None;
        if matches!(last, Event::Failed { .. }) {
            self.streams = [None, None, None];
        }
        self.tell(last, around);
        for slot in &mut self.streams {
            match slot {
                Some(Stream::Output(output)) => output.command_ended(),
                // Nobody reads it.
                Some(Stream::Input(_)) | None => *slot = None,
            }
        }
        self.terminal = None;
        self.run_streams(around);
    }

    fn tell(&self, event: Event, around: &mut Surroundings<'_>) {
        if !self.forgotten {
            around.events.push(event);
        }
    }

    /// Removes its group, if there is one and it is empty. Whether it is gone.
    fn remove_group(&mut self) -> Result<bool> {
        let Some(group) = &self.group else { return Ok(true) };
        if !group.is_empty()? {
            return Ok(false);
        }
        let result = group.remove();
        self.group = None;
        result.map(|()| true)
    }
}
