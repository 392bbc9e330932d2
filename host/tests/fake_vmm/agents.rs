//! The fake's agents: containers in name only. Their commands run on this host as all of the fake's.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use cloister_protocol::agent::{AgentSpec, Copy, Direction, Notice, Place, Usage};
use cloister_protocol::message::{Event, ExecFailure, ExitStatus};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::guest::{Guest, send};

/// An agent of this name can't be made.
const IMPOSSIBLE: &str = "impossible";
/// An agent of this name gets a notice as soon as it is made.
const NOTICED: &str = "noticed";

/// Commands by their ids: whose each is, and its process group.
type Running = HashMap<u32, (u32, Pid)>;

/// Which agents are there, and what runs in each.
#[derive(Clone, Default)]
pub(crate) struct Agents {
    there: Arc<Mutex<HashSet<u32>>>,
    running: Arc<(Mutex<Running>, Condvar)>,
}

impl Agents {
    pub(crate) fn create(&self, stream: &UnixStream, spec: &AgentSpec) {
        let agent = spec.agent;
        if spec.name == IMPOSSIBLE {
            let detail = "step \"root\": no space \x1b[2J".to_owned();
            return send(stream, &Event::AgentFailed { agent, detail });
        }
        assert!(self.there.lock().expect("a lock").insert(agent), "agent {agent} is made twice");
        send(stream, &Event::AgentCreated { agent });
        if spec.name == NOTICED {
            let notice = Notice::ExecDenied { path: b"/bin/\x1bsh".to_vec() };
            send(stream, &Event::AgentNotice { agent, notice });
        }
    }

    /// One was there before.
    pub(crate) fn carry(&self, agent: u32) {
        self.there.lock().expect("a lock").insert(agent);
    }

    /// A command of it was running before.
    pub(crate) fn carried(&self, id: u32, agent: u32, group: Pid) {
        self.running.0.lock().expect("a lock").insert(id, (agent, group));
    }

    /// All that are there, each with those of its commands that are in the list.
    pub(crate) fn as_carried(&self, listed: &[u32]) -> Vec<(u32, Option<u32>)> {
        let running = self.running.0.lock().expect("a lock");
        let commands = listed.iter().filter_map(|id| Some((running.get(id)?.0, Some(*id))));
        let there = self.there.lock().expect("a lock");
        there.iter().map(|agent| (*agent, None)).chain(commands).collect()
    }

    /// Kills what runs in the agent, and tells that it is gone once all of that has ended.
    pub(crate) fn remove(&self, stream: &UnixStream, agent: u32) {
        assert!(self.there.lock().expect("a lock").remove(&agent), "agent {agent} is not there");
        let stream = stream.try_clone().expect("a second handle");
        let running = Arc::clone(&self.running);
        thread::spawn(move || {
            let (commands, changed) = &*running;
            let mut commands = commands.lock().expect("a lock");
            for (_, group) in commands.values().filter(|(owner, _)| *owner == agent) {
                kill_process_group(*group, Signal::KILL).ok();
            }
            while commands.values().any(|(owner, _)| *owner == agent) {
                commands = changed.wait(commands).expect("a lock");
            }
            send(&stream, &Event::AgentRemoved { agent });
        });
    }

    pub(crate) fn usage(stream: &UnixStream, agent: u32) {
        let usage = Usage { memory_bytes: 5 << 20, pids: 2, cpu_us: 1_000_000, ..Usage::default() };
        send(stream, &Event::AgentUsage { agent, usage });
    }

    /// Notes a command of an agent.
    pub(crate) fn started(&self, id: u32, place: Place, group: Pid) {
        let Place::Agent { agent, .. } = place else { return };
        assert!(self.there.lock().expect("a lock").contains(&agent), "no agent {agent}");
        self.running.0.lock().expect("a lock").insert(id, (agent, group));
    }

    /// Its end was told.
    pub(crate) fn ended(&self, id: u32) {
        self.running.0.lock().expect("a lock").remove(&id);
        self.running.1.notify_all();
    }
}

impl Guest {
    /// Copies by this host's `tar`.
    pub(crate) fn copy(&self, stream: UnixStream, copy: Copy) {
        let guest = self.clone();
        thread::spawn(move || {
            let id = copy.id;
            match guest.tar(&copy) {
                Ok(mut child) => {
                    send(&stream, &Event::Started { id });
                    let status = child.wait().expect("a status");
                    let code = status.code().and_then(|code| u8::try_from(code).ok());
                    send(
                        &stream,
                        &Event::Exited { id, status: ExitStatus::Code(code.unwrap_or(9)) },
                    );
                }
                Err(error) => {
                    let (reason, detail) = (ExecFailure::Resources, error.to_string());
                    send(&stream, &Event::Failed { id, reason, detail });
                }
            }
        });
    }

    fn tar(&self, copy: &Copy) -> io::Result<std::process::Child> {
        let stream = self.connect(copy.port).expect("the host expects the guest there");
        let text = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
        let mut tar = Process::new("tar");
        tar.stderr(Stdio::null());
        match &copy.direction {
            Direction::Out(path) => {
                let path = text(path);
                let path = Path::new(&path);
                tar.arg("-C").arg(path.parent().unwrap_or(path)).arg("-c").arg("--");
                tar.arg(path.file_name().unwrap_or(path.as_os_str()));
                tar.stdin(Stdio::null()).stdout(OwnedFd::from(stream));
            }
            Direction::In(path) => {
                tar.arg("-x").arg("-C").arg(text(path));
                tar.stdin(OwnedFd::from(stream)).stdout(Stdio::null());
            }
        }
        tar.spawn()
    }
}
