//! The fake's guest: a supervisor that runs commands as processes of this host.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command as Process, Stdio as ProcessStdio, exit};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cloister_protocol::frame::{Decoder, encode};
use cloister_protocol::message::{Event, Exec, ExecFailure, ExitStatus, Request, Stdio};
use cloister_protocol::{CONTROL_PORT, VERSION};
use cloister_vmm::control::{Command, Event as VmmEvent, Stats};
use cloister_vmm::exit::ExitCode;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::agents::Agents;
use crate::control::Control;
use crate::detach::{Away, Carried};

/// How this guest misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Manners {
    Ordinary,
    /// Connects and says nothing.
    Mute,
    /// Is of another version.
    OldVersion,
    /// Sends what is no frame after its hello.
    Garbage,
    /// Says hello twice.
    HelloTwice,
    /// Tells of a command that nobody asked for.
    UnknownCommand,
    /// Closes its connection after its hello.
    HangsUp,
    /// Connects to a port where it is not expected, before each command.
    WrongPort,
    /// Keeps a command's output open after its end.
    KeepsOutput,
    /// The machine panics when a command is asked for.
    PanicsOnExec,
    /// Says nothing to a command.
    DeafToExec,
    /// Says nothing when it is to let go of streams.
    DeafToDetach,
    /// Does not keep time limits.
    NoLimits,
    /// Does not come to rest at the first pause.
    NeverRests,
    /// Says the wrong length of its state.
    SavesMoreState,
    /// Stops in the middle of its memory.
    SavesHalf,
    /// Writes a page of its memory twice.
    SavesTwice,
    /// Has more memory to write than two pages.
    SavesMuch,
    /// Ends when it is to be saved.
    EndsOnSave,
    /// Answers a command with words that would steer a terminal.
    RudeFailure,
    /// Tells that it is detached though nobody has asked.
    DetachedUnasked,
    /// The same of being attached.
    AttachedUnasked,
    /// Refuses to be detached.
    HoldsNot,
    /// Tells of a command's end, and then that it is detached.
    ExitsFirst,
    /// Tells twice that it is detached.
    DetachedTwice,
    /// Tells of a command's end while it is detached.
    SpeaksAway,
    /// Tells that it is attached before it was asked for that.
    AttachedAway,
    /// Tells something else first when it is attached.
    SpeaksReturning,
    /// Tells of a command that nobody knows when it is attached.
    Strangers,
}

impl Manners {
    pub(crate) fn named(word: &str) -> Self {
        match word {
            "ordinary" => Self::Ordinary,
            "mute" => Self::Mute,
            "old-version" => Self::OldVersion,
            "guest-garbage" => Self::Garbage,
            "hello-twice" => Self::HelloTwice,
            "unknown-command" => Self::UnknownCommand,
            "hangs-up" => Self::HangsUp,
            "wrong-port" => Self::WrongPort,
            "keeps-output" => Self::KeepsOutput,
            "panics-on-exec" => Self::PanicsOnExec,
            "deaf-to-exec" => Self::DeafToExec,
            "deaf-to-detach" => Self::DeafToDetach,
            "no-limits" => Self::NoLimits,
            "never-rests" => Self::NeverRests,
            "saves-more-state" => Self::SavesMoreState,
            "saves-half" => Self::SavesHalf,
            "saves-twice" => Self::SavesTwice,
            "saves-much" => Self::SavesMuch,
            "ends-on-save" => Self::EndsOnSave,
            "rude-failure" => Self::RudeFailure,
            "detached-unasked" => Self::DetachedUnasked,
            "attached-unasked" => Self::AttachedUnasked,
            "holds-not" => Self::HoldsNot,
            "exits-first" => Self::ExitsFirst,
            "detached-twice" => Self::DetachedTwice,
            "speaks-away" => Self::SpeaksAway,
            "attached-away" => Self::AttachedAway,
            "speaks-returning" => Self::SpeaksReturning,
            "strangers" => Self::Strangers,
            other => unreachable!("no manners named {other}"),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) control: Control,
    manners: Arc<HashSet<Manners>>,
    pub(crate) memory_bytes: u64,
    /// Who waits for an answer to a connection.
    connects: Arc<Mutex<HashMap<u32, Sender<Option<OwnedFd>>>>>,
    pub(crate) running: Arc<Mutex<HashMap<u32, Pid>>>,
    terminals: Arc<Mutex<HashMap<u32, OwnedFd>>>,
    next_id: Arc<Mutex<u32>>,
    pub(crate) agents: Agents,
    pub(crate) away: Away,
    /// What it has from the one that it goes on from; nothing if it began anew.
    pub(crate) carried: Arc<[Carried]>,
    /// How whoever goes on from it behaves.
    pub(crate) later: Arc<[String]>,
}

impl Guest {
    pub(crate) fn new(
        control: Control,
        manners: HashSet<Manners>,
        memory_bytes: u64,
        (carried, later): (Vec<Carried>, Vec<String>),
    ) -> Self {
        Self {
            control,
            manners: Arc::new(manners),
            memory_bytes,
            connects: Arc::default(),
            running: Arc::default(),
            terminals: Arc::default(),
            next_id: Arc::default(),
            agents: Agents::default(),
            away: Away::default(),
            carried: carried.into(),
            later: later.into(),
        }
    }

    pub(crate) fn has(&self, manners: Manners) -> bool {
        self.manners.contains(&manners)
    }

    /// The vmm's loop.
    pub(crate) fn serve(self) -> ! {
        let supervisor = self.clone();
        thread::spawn(move || supervisor.supervise());
        let mut is_restless = self.has(Manners::NeverRests);
        while let Some((command, mut descriptors)) = self.control.receive() {
            match command {
                Command::Pause if is_restless => {}
                // As the vmm does it.
                Command::Resume if std::mem::take(&mut is_restless) => {
                    self.control.send(&VmmEvent::Paused);
                    self.control.send(&VmmEvent::Resumed);
                }
                Command::Accept { id } => self.answer(id, descriptors.pop()),
                Command::Refuse { id } => self.answer(id, None),
                Command::Pause => self.control.send(&VmmEvent::Paused),
                Command::Resume => self.control.send(&VmmEvent::Resumed),
                Command::Stats => self.control.send(&VmmEvent::Stats(Stats::default())),
                // Somebody listens on this port only, and echoes.
                Command::Connect { id, port: 5000 } => {
                    let stream = blocking(descriptors.pop().expect("a stream"));
                    self.control.send(&VmmEvent::Connected { id });
                    thread::spawn(move || {
                        io::copy(&mut &stream, &mut &stream).ok();
                        stream.shutdown(std::net::Shutdown::Both).ok();
                    });
                }
                Command::Connect { id, .. } => self.control.send(&VmmEvent::Refused { id }),
                Command::SaveWhole => {
                    crate::saving::save(&self, descriptors);
                }
                Command::Stop => crate::end(&self.control, ExitCode::Stopped),
                Command::Start(_)
                | Command::StartShared(_)
                | Command::StartSavable(_)
                | Command::Save
                | Command::Fork(..)
                | Command::ForkSavable(..)
                | Command::Rehearse(_)
                | Command::Prepare
                | Command::Probe => {
                    unreachable!("{command:?} came late")
                }
            }
        }
        self.kill_all();
        exit(i32::from(ExitCode::HostGone as u8))
    }

    fn answer(&self, id: u32, stream: Option<OwnedFd>) {
        let waiting =
            self.connects.lock().expect("a lock").remove(&id).expect("an id that was given");
        waiting.send(stream).expect("somebody who waits");
    }

    /// Connects to a port of the host.
    pub(crate) fn connect(&self, port: u32) -> Option<UnixStream> {
        let id = {
            let mut next = self.next_id.lock().expect("a lock");
            *next += 1;
            *next
        };
        let (waiting, answer): (_, Receiver<Option<OwnedFd>>) = channel();
        self.connects.lock().expect("a lock").insert(id, waiting);
        self.control.send(&VmmEvent::Incoming { id, port });
        answer.recv().expect("an answer").map(blocking)
    }

    fn supervise(self) {
        let mut stream = self.connect(CONTROL_PORT).expect("the host lets the supervisor in");
        assert!(self.connect(CONTROL_PORT).is_none(), "the host lets a second supervisor in");
        if self.has(Manners::Mute) {
            thread::park();
        }
        if !self.carried.is_empty() {
            self.carry(&stream);
        }
        let version = if self.has(Manners::OldVersion) { VERSION + 1 } else { VERSION };
        let hello = Event::Hello { version, start_tsc: 1, ready_tsc: 2 };
        send(&stream, &hello);
        if self.has(Manners::HelloTwice) {
            send(&stream, &hello);
        }
        if self.has(Manners::Garbage) {
            stream.write_all(&[0xff; 64]).ok();
        }
        if self.has(Manners::UnknownCommand) {
            send(&stream, &Event::Exited { id: 99, status: ExitStatus::Code(0) });
        }
        if self.has(Manners::DetachedUnasked) {
            send(&stream, &Event::Detached { holds: true });
        }
        if self.has(Manners::AttachedUnasked) {
            send(&stream, &Event::Attached);
        }
        if self.has(Manners::HangsUp) {
            return;
        }
        let mut decoder = Decoder::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 {
                break;
            }
            let mut input = &buffer[..length];
            while let Some(request) = decoder.decode(&mut input).expect("a request") {
                self.request(&stream, request);
            }
        }
    }

    fn request(&self, stream: &UnixStream, request: Request) {
        request.validate().expect("a request within the rules");
        self.check_presence(&request);
        match request {
            Request::Hello { version, .. } => assert_eq!(version, VERSION),
            Request::Exec(exec) => self.exec(stream.try_clone().expect("a second handle"), exec),
            Request::Signal { id, signal } => {
                let signal = Signal::from_named_raw(i32::from(signal)).expect("a named signal");
                if let Some(group) = self.running.lock().expect("a lock").get(&id) {
                    kill_process_group(*group, signal).ok();
                }
            }
            Request::Resize { id, size } => {
                if let Some(terminal) = self.terminals.lock().expect("a lock").get(&id) {
                    resize(terminal, size.rows, size.columns);
                }
            }
            Request::CreateAgent(spec) => self.agents.create(stream, &spec),
            Request::RemoveAgent { agent } => self.agents.remove(stream, agent),
            Request::AgentUsage { agent } => Agents::usage(stream, agent),
            Request::SetEgress { agent, .. } => {
                send(stream, &Event::EgressSet { agent, holds: true });
            }
            Request::Copy(copy) => self.copy(stream.try_clone().expect("a second handle"), copy),
            Request::Ping { token } => send(stream, &Event::Pong { token }),
            // The commands go with the control group; killed here, one could be told first.
            Request::PowerOff => crate::end(&self.control, ExitCode::Stopped),
            Request::Detach { commands } => self.detach(stream, &commands),
            Request::Attach { commands } => self.attach(stream, &commands),
        }
    }

    fn kill_all(&self) {
        for (_, group) in self.running.lock().expect("a lock").drain() {
            kill_process_group(group, Signal::KILL).ok();
        }
    }

    fn exec(&self, stream: UnixStream, exec: Exec) {
        if self.has(Manners::PanicsOnExec) {
            crate::end(&self.control, ExitCode::Panic);
        }
        if self.has(Manners::DeafToExec) {
            return;
        }
        let guest = self.clone();
        thread::spawn(move || {
            if guest.has(Manners::WrongPort) {
                assert!(guest.connect(77).is_none(), "the host lets a stranger in");
            }
            let id = exec.id;
            if guest.has(Manners::RudeFailure) {
                let detail = "no \x1b[2Jway".to_owned();
                return send(
                    &stream,
                    &Event::Failed { id, reason: ExecFailure::Resources, detail },
                );
            }
            match guest.spawn(&exec) {
                Ok((mut child, kept)) => {
                    let group = Pid::from_child(&child);
                    guest.running.lock().expect("a lock").insert(id, group);
                    guest.agents.started(id, exec.place, group);
                    send(&stream, &Event::Started { id });
                    let timer = exec.timeout_ms.filter(|_| !guest.has(Manners::NoLimits));
                    let late = timer.map(|limit| timeout(group, limit));
                    let status = child.wait().expect("a status");
                    guest.running.lock().expect("a lock").remove(&id);
                    let status = match (status.code(), status.signal()) {
                        _ if late.is_some_and(|late| *late.lock().expect("a lock")) => {
                            ExitStatus::TimedOut
                        }
                        (Some(code), _) => ExitStatus::Code(u8::try_from(code).expect("a byte")),
                        (None, signal) => {
                            ExitStatus::Signal(u8::try_from(signal.unwrap_or(0)).expect("a byte"))
                        }
                    };
                    kill_process_group(group, Signal::KILL).ok();
                    guest.away.ended(id);
                    guest.away.tell(&stream, Event::Exited { id, status });
                    guest.agents.ended(id);
                    if guest.has(Manners::KeepsOutput) {
                        thread::park();
                    }
                    drop(kept);
                }
                Err(error) => {
                    let reason = match error.kind() {
                        io::ErrorKind::NotFound => ExecFailure::NotFound,
                        _ => ExecFailure::NotExecutable,
                    };
                    send(&stream, &Event::Failed { id, reason, detail: error.to_string() });
                }
            }
        });
    }

    /// Starts the command; with it comes a handle on its output.
    fn spawn(&self, exec: &Exec) -> io::Result<(std::process::Child, Option<UnixStream>)> {
        let mut words =
            exec.arguments.iter().map(|word| std::ffi::OsString::from_vec(word.clone()));
        let program = words.next().expect("a program");
        let mut process = match exec.stdio {
            Stdio::Terminal { .. } => {
                // Gives it the terminal that its streams are.
                let mut process = Process::new("setsid");
                process.args(["-c", "-w", "--"]).arg(program);
                process
            }
            Stdio::Streams { .. } => Process::new(program),
        };
        process.args(words).env_clear().process_group(0);
        for (name, value) in &exec.environment {
            let text = |bytes: &Vec<u8>| std::ffi::OsString::from_vec(bytes.clone());
            process.env(text(name), text(value));
        }
        process.current_dir(std::ffi::OsString::from_vec(exec.directory.clone()));
        let mut kept = None;
        match exec.stdio {
            Stdio::Streams { stdin, stdout, stderr } => {
                let expected = |port| self.connect(port).expect("the host expects the guest there");
                process.stdin(stdin.map_or_else(ProcessStdio::null, |port| {
                    ProcessStdio::from(OwnedFd::from(expected(port)))
                }));
                let output = expected(stdout);
                kept = Some(output.try_clone()?);
                let errors = expected(stderr);
                if stdin.is_none() {
                    self.away.started(exec.id, [output.try_clone()?, errors.try_clone()?]);
                }
                process.stdout(OwnedFd::from(output));
                process.stderr(OwnedFd::from(errors));
                assert!(self.connect(stdout).is_none(), "a port is good twice");
            }
            Stdio::Terminal { port, size } => {
                let stream = self.connect(port).expect("the host expects the guest there");
                let terminal = self.terminal(exec.id, &stream)?;
                resize(&terminal, size.rows, size.columns);
                process.stdin(terminal.try_clone()?);
                process.stdout(terminal.try_clone()?);
                process.stderr(terminal);
            }
        }
        Ok((process.spawn()?, kept))
    }

    /// A terminal whose other side is `stream`; its end for the command.
    fn terminal(&self, id: u32, stream: &UnixStream) -> io::Result<OwnedFd> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let theirs = rustix::fs::open(&name, flags, rustix::fs::Mode::empty())?;
        self.terminals.lock().expect("a lock").insert(id, ours.try_clone()?);
        let (mut keys, mut screen) = (stream.try_clone()?, stream.try_clone()?);
        let (mut to_terminal, mut from_terminal) =
            (File::from(ours.try_clone()?), File::from(ours));
        thread::spawn(move || {
            io::copy(&mut keys, &mut to_terminal).ok();
            // What a terminal takes for the end of what is typed.
            to_terminal.write_all(&[4]).ok();
        });
        thread::spawn(move || {
            // Ends with an error when the command and all its children have closed their end.
            io::copy(&mut from_terminal, &mut screen).ok();
            screen.shutdown(std::net::Shutdown::Both).ok();
        });
        Ok(theirs)
    }
}

/// Kills a group later; tells whether it did.
fn timeout(group: Pid, limit_ms: u64) -> Arc<Mutex<bool>> {
    let late = Arc::new(Mutex::new(false));
    let told = Arc::clone(&late);
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(limit_ms));
        *told.lock().expect("a lock") = true;
        kill_process_group(group, Signal::KILL).ok();
    });
    late
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a new size");
}

fn blocking(stream: OwnedFd) -> UnixStream {
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false).expect("a stream that blocks");
    stream
}

pub(crate) fn send(mut stream: &UnixStream, event: &Event) {
    // The host may be gone.
    stream.write_all(&encode(event).expect("a frame")).ok();
}
