//! The fake's commands in mid-work without their streams, and with new ones.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command as Process;
use std::sync::{Arc, Mutex};
use std::thread;

use cloister_protocol::message::{Attached, Event, ExitStatus, Request};
use rustix::process::Pid;

use crate::guest::{Guest, Manners, send};

/// Before what a guest has that goes on from a saved one: an agent, or an agent and its command.
pub(crate) const CARRIED: &str = "carried:";

/// Such a thing.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    agent: u32,
    command: Option<u32>,
}

impl Carried {
    pub(crate) fn named(word: &str) -> Option<Self> {
        let mut numbers = word.strip_prefix(CARRIED)?.split('.').map(str::parse);
        let agent = numbers.next()?.ok()?;
        Some(Self { agent, command: numbers.next().and_then(Result::ok) })
    }
}

/// Streams of commands without input, and what is told when the host is back.
#[derive(Clone, Default)]
pub(crate) struct Away {
    outputs: Arc<Mutex<HashMap<u32, [UnixStream; 2]>>>,
    events: Arc<Mutex<Option<Vec<Event>>>>,
    /// The commands that were detached last.
    listed: Arc<Mutex<Vec<u32>>>,
}

impl Away {
    /// Notes a command's streams, of which these are second handles.
    pub(crate) fn started(&self, id: u32, outputs: [UnixStream; 2]) {
        self.outputs.lock().expect("a lock").insert(id, outputs);
    }

    pub(crate) fn ended(&self, id: u32) {
        self.outputs.lock().expect("a lock").remove(&id);
    }

    fn is_away(&self) -> bool {
        self.events.lock().expect("a lock").is_some()
    }

    /// Tells now, or when the host is back.
    pub(crate) fn tell(&self, stream: &UnixStream, event: Event) {
        match &mut *self.events.lock().expect("a lock") {
            Some(events) => events.push(event),
            None => send(stream, &event),
        }
    }
}

impl Guest {
    /// Has agents and commands that nobody has asked for.
    pub(crate) fn carry(&self, stream: &UnixStream) {
        *self.away.events.lock().expect("a lock") = Some(Vec::new());
        for Carried { agent, command } in self.carried.iter() {
            self.agents.carry(*agent);
            let Some(id) = *command else { continue };
            let mut child =
                Process::new("sleep").arg("1000").process_group(0).spawn().expect("a process");
            let group = Pid::from_child(&child);
            self.running.lock().expect("a lock").insert(id, group);
            self.agents.carried(id, *agent, group);
            let (guest, stream) = (self.clone(), stream.try_clone().expect("a second handle"));
            thread::spawn(move || {
                let status = child.wait().expect("a status");
                let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
                let status = ExitStatus::Signal(signal.expect("nothing else ends it"));
                guest.running.lock().expect("a lock").remove(&id);
                guest.away.ended(id);
                guest.away.tell(&stream, Event::Exited { id, status });
                guest.agents.ended(id);
            });
        }
    }

    /// As words of a script, what whoever goes on from here has, and how it does.
    pub(crate) fn as_carried(&self) -> String {
        let listed = self.away.listed.lock().expect("a lock").clone();
        let things = self.agents.as_carried(&listed).into_iter().map(|(agent, command)| {
            let command = command.map(|id| format!(".{id}")).unwrap_or_default();
            format!(" {CARRIED}{agent}{command}")
        });
        things.chain(self.later.iter().map(|word| format!(" {word}"))).collect()
    }

    /// A host that is away asks for nothing but to be back.
    pub(crate) fn check_presence(&self, request: &Request) {
        let may =
            matches!(request, Request::Hello { .. } | Request::Attach { .. } | Request::PowerOff);
        assert!(may || !self.away.is_away(), "{request:?} of a host that is away");
    }

    pub(crate) fn detach(&self, stream: &UnixStream, commands: &[u32]) {
        if self.has(Manners::DeafToDetach) {
            return;
        }
        if self.has(Manners::HoldsNot) {
            return send(stream, &Event::Detached { holds: false });
        }
        let outputs = self.away.outputs.lock().expect("a lock");
        for id in commands {
            for output in outputs.get(id).expect("a command without input") {
                output.shutdown(std::net::Shutdown::Write).expect("an end");
                assert_eq!((&*output).read(&mut [0]).unwrap_or(0), 0);
            }
        }
        drop(outputs);
        if self.has(Manners::ExitsFirst) {
            let id = *commands.first().expect("a command");
            send(stream, &Event::Exited { id, status: ExitStatus::Code(0) });
        }
        *self.away.events.lock().expect("a lock") = Some(Vec::new());
        *self.away.listed.lock().expect("a lock") = commands.to_vec();
        send(stream, &Event::Detached { holds: true });
        if self.has(Manners::DetachedTwice) {
            send(stream, &Event::Detached { holds: true });
        }
        if self.has(Manners::SpeaksAway) {
            let id = *commands.first().expect("a command");
            send(stream, &Event::Exited { id, status: ExitStatus::Code(0) });
        }
        if self.has(Manners::AttachedAway) {
            send(stream, &Event::Attached);
        }
    }

    /// Each command says on its new stream that it is there again.
    pub(crate) fn attach(&self, stream: &UnixStream, commands: &[Attached]) {
        if self.has(Manners::SpeaksReturning) {
            send(stream, &Event::Pong { token: 1 });
        }
        for Attached { id, stdout, stderr } in commands {
            let connect = |port| self.connect(port).expect("the host expects the guest there");
            let [mut output, errors] = [*stdout, *stderr].map(connect);
            // The host may have taken a lie for the answer, and gone on.
            writeln!(output, "again {id}").ok();
            if self.running.lock().expect("a lock").contains_key(id) {
                self.away.started(*id, [output, errors]);
            }
        }
        let mut events = self.away.events.lock().expect("a lock");
        send(stream, &Event::Attached);
        for event in events.take().unwrap_or_default() {
            send(stream, &event);
        }
        if self.has(Manners::Strangers) {
            send(stream, &Event::Exited { id: 99, status: ExitStatus::Code(0) });
        }
    }
}
