//! A supervisor with images to make agents from, and what its tests ask of it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cloister_protocol::agent::{AgentLimits, AgentSpec, Place, Root, ShareMount, User, first_id};
use cloister_protocol::egress::Egress;
use cloister_protocol::message::{Event, Exec, ExitStatus, Request};

use crate::test_bed::{Bed, Streams, eventually};

pub(crate) const USER: User = User { uid: 1000, gid: 1000 };

/// A supervisor with images to make agents from.
pub(crate) struct Agents {
    pub(crate) bed: Bed,
    next_id: u32,
}

impl Agents {
    /// With an image that has busybox and little else.
    pub(crate) fn new() -> Self {
        let bed = Bed::start();
        let agents = Self { bed, next_id: 1 };
        let image = agents.share("image");
        for name in ["bin", "etc", "proc", "dev", "tmp", "home"] {
            std::fs::create_dir(image.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            let _itself = symlink("busybox", image.join("bin").join(applet));
        }
        std::fs::write(
            image.join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\nagent:x:1000:1000::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(image.join("etc/secret"), "for root alone\n").unwrap();
        mode(&image.join("etc/secret"), 0o600);
        agents
    }

    /// A new share.
    pub(crate) fn share(&self, name: &str) -> PathBuf {
        let share = self.bed.directory().join("shares").join(name);
        std::fs::create_dir(&share).unwrap();
        share
    }

    pub(crate) fn spec(&self, agent: u32) -> AgentSpec {
        AgentSpec {
            agent,
            name: format!("agent-{agent}"),
            root: Root { share: "image".into(), writable_bytes: None },
            mounts: vec![],
            limits: AgentLimits {
                memory_bytes: 64 << 20,
                cpu_millis: 1000,
                pids: 64,
                tmp_bytes: 1 << 20,
                open_files: 256,
                file_bytes: None,
                files: 200,
            },
            executables: None,
            writable: None,
            egress: None,
        }
    }

    /// Makes the agent, whose image belongs to it from then on.
    pub(crate) fn create(&mut self, spec: AgentSpec) {
        let agent = spec.agent;
        give(&self.bed.directory().join("shares").join(&spec.root.share), first_id(agent));
        self.bed.send(&Request::CreateAgent(spec));
        assert_eq!(self.bed.event(), Event::AgentCreated { agent });
    }

    /// Asks for one that can't be made: what is told.
    pub(crate) fn refused(&mut self, spec: AgentSpec) -> String {
        let number = spec.agent;
        self.bed.send(&Request::CreateAgent(spec));
        match self.bed.event() {
            Event::AgentFailed { agent, detail } if agent == number => detail,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn set_egress(&mut self, agent: u32, egress: &Egress) {
        self.bed.send(&Request::SetEgress { agent, egress: egress.clone() });
        assert_eq!(self.bed.event(), Event::EgressSet { agent, holds: true });
    }

    pub(crate) fn remove(&mut self, agent: u32) {
        self.bed.send(&Request::RemoveAgent { agent });
        assert_eq!(self.bed.event(), Event::AgentRemoved { agent });
    }

    pub(crate) fn exec(&mut self, agent: u32, user: User, shell: &str) -> Exec {
        let id = self.next_id;
        self.next_id += 1;
        Exec { place: Place::Agent { agent, user }, ..self.bed.shell(id, shell) }
    }

    /// Runs a shell script in the agent as an ordinary user: its output and its errors in one.
    pub(crate) fn run(&mut self, agent: u32, shell: &str) -> (String, ExitStatus) {
        self.run_as(agent, USER, shell)
    }

    pub(crate) fn run_as(&mut self, agent: u32, user: User, shell: &str) -> (String, ExitStatus) {
        let exec = self.exec(agent, user, &format!("exec 2>&1; {shell}"));
        let (output, errors, status) = self.bed.output_of(exec);
        assert_eq!(errors, "");
        (output, status)
    }

    /// Starts a script that says `up`, and goes on.
    pub(crate) fn start(&mut self, agent: u32, user: User, shell: &str) -> (u32, Streams) {
        let exec = self.exec(agent, user, &format!("echo up; {shell}"));
        let id = exec.id;
        let mut streams = self.bed.exec(exec);
        self.bed.started(id);
        streams.read_until("up\n");
        (id, streams)
    }

    /// The process with this command line.
    pub(crate) fn process(&self, needle: &str) -> u32 {
        let mut found = None;
        eventually("a process", || {
            found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                let is_it = String::from_utf8_lossy(&line).replace('\0', " ").trim() == needle;
                let group = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
                let name = self.bed.group().file_name()?.to_str()?;
                (is_it && group.contains(name)).then_some(pid)
            });
            found.is_some()
        });
        found.unwrap()
    }
}

pub(crate) fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives everything below to a user and group.
pub(crate) fn give(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), id);
        }
    }
}

pub(crate) fn mount(share: &str, target: &str, read_only: bool) -> ShareMount {
    ShareMount { share: share.into(), target: target.into(), read_only }
}
