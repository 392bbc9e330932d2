//! Attacks on what surrounds a jail: the jailer's own checks, the tie to the host, hostile bytes on control sockets,
//! and what is told of a refused system call.

use std::io;
use std::time::Duration;

use cloister_jailer::step::Step;
use cloister_prober::wire::{Act, Case, End, Group, Said, Stage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Progress;
use super::bed::Bed;
use super::place::{Heard, MEMORY_MIB, Prober, machine};
use super::report::Seen;
use crate::control::ControlSocket;
use crate::launch::jail::{Cell, limits_of};
use crate::launch::process::{ProcessError, VmmProcess};

/// How long the kernel may take to end a process whose host has gone.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Name, what it tries, why it must fail.
type Row = (&'static str, &'static str, &'static str);

const SPECS: [Row; 4] = [
    (
        "spec-no-descriptors",
        "hands the jailer a description whose numbers are out of bounds: no descriptors",
        "the jailer checks every number before its first step",
    ),
    ("spec-no-user", "the same: the user id that means 'none'", "the jailer checks every number"),
    (
        "spec-much-memory",
        "the same: more memory than any machine",
        "the jailer checks every number",
    ),
    (
        "spec-other-host",
        "has the jailer bind the jail to a process that did not start it, so that it would outlive its host",
        "the jailer's parent must be the process that the description names",
    ),
];

const SENDS: [(Row, Act); 5] = [
    (
        (
            "send-too-long",
            "sends its host a packet that is longer than any message",
            "a packet is bounded before it is read, and one that is none ends the machine",
        ),
        Act::SendTooLong,
    ),
    (
        (
            "send-noise",
            "sends its host bytes that are no message",
            "what is no message ends the machine",
        ),
        Act::SendNoise,
    ),
    (
        ("send-tail", "hides bytes behind a message", "what is no message ends the machine"),
        Act::SendTail,
    ),
    (
        (
            "send-descriptor",
            "hands its host a descriptor, as if it were a stream",
            "the host makes no room for descriptors on this socket: the kernel drops them, and the machine ends",
        ),
        Act::SendDescriptor,
    ),
    (
        ("send-end", "closes its end and goes on", "the host ends a process that does not answer"),
        Act::SendEnd,
    ),
];

const OUTLIVE: Row = (
    "outlive-host",
    "goes on when the thread that started it has ended",
    "the kernel kills it by its parent-death signal, whoever killed the host",
);

const DIE: Row = (
    "refused-call-is-told",
    "makes a system call that the filter refuses, as code does that was taken over without knowing of the filter",
    "the process ends, and its host is told which call it was",
);

fn case(group: Group, row: Row) -> Case {
    let (name, tries, why) = row;
    Case {
        group,
        name: name.to_owned(),
        tries: tries.to_owned(),
        why: why.to_owned(),
        expected: Vec::new(),
        alone: true,
        exits: Vec::new(),
        goes_on: false,
        shares: false,
    }
}

pub(super) fn cases() -> Vec<Case> {
    let of_vmm = SPECS.into_iter().chain(SENDS.map(|(row, _)| row)).chain([OUTLIVE, DIE]);
    let mut cases: Vec<Case> = of_vmm.map(|row| case(Group::Vmm, row)).collect();
    cases.extend([OUTLIVE, DIE].map(|row| case(Group::FileServer, row)));
    cases
}

pub(super) fn is_own(case: &Case) -> bool {
    cases().iter().any(|own| own.group == case.group && own.name == case.name)
}

pub(super) async fn run(bed: &Bed<'_>, cases: &[Case], progress: &mut Progress<'_>) {
    for case in cases {
        let send = SENDS.iter().find(|((name, ..), _)| *name == case.name);
        let seen = match (case.name.as_str(), send) {
            (_, Some((_, act))) => vec![send_hostile(bed, *act).await],
            ("outlive-host", _) => vec![outlive(bed, case.group).await],
            ("refused-call-is-told", _) => die(bed, case.group).await,
            (name, _) => vec![refuse(bed, name)],
        };
        progress.add(case, seen);
    }
}

/// The jailer must refuse it, by the right step.
fn refuse(bed: &Bed<'_>, name: &str) -> Seen {
    let vm = machine(String::new());
    let mut cell = match bed.wish.jail.cell(limits_of(&vm)) {
        Ok(cell) => cell,
        Err(error) => return Seen::not_run(&crate::report::chain(&error)),
    };
    let wanted = match name {
        "spec-no-descriptors" => {
            cell.spec.descriptors = 0;
            Step::Spec
        }
        "spec-no-user" => {
            cell.spec.ids.uid = u32::MAX;
            Step::Spec
        }
        "spec-much-memory" => {
            let Some(limits) = &mut cell.spec.limits else {
                return Seen::not_run("this program asks for no limits");
            };
            limits.memory_bytes = u64::MAX;
            Step::Spec
        }
        _ => {
            cell.spec.host_pid = std::os::unix::process::parent_id().max(1);
            Step::Host
        }
    };
    match spawn(bed, cell) {
        Err(ProcessError::Jail { failure, source, .. }) if failure.step == wanted => {
            Seen::new(true, format!("{failure}: {source}"))
        }
        Err(error) => Seen::unexpected(crate::report::chain(&error)),
        Ok(_) => Seen::new(false, "the program was started"),
    }
}

fn spawn(bed: &Bed<'_>, cell: Cell) -> Result<VmmProcess, ProcessError> {
    let (_control, end) =
        ControlSocket::pair().map_err(|error| ProcessError::Descriptor(io::Error::other(error)))?;
    VmmProcess::spawn(&bed.wish.files.jailer, &bed.wish.prober(), cell, end)
}

async fn send_hostile(bed: &Bed<'_>, act: Act) -> Seen {
    match Prober::start(bed, Group::Vmm, Stage::Loop, None, act).await {
        Err(why) => Seen::not_run(&why),
        Ok(mut prober) => match prober.hear().await {
            Heard::Refused(error) => Seen::new(true, format!("the host stops listening: {error}")),
            Heard::Ended { .. } if act == Act::SendEnd => {
                Seen::new(true, "the host sees the end, and ends the process")
            }
            heard => Seen::new(false, format!("the host took it: {heard:?}")),
        },
    }
}

/// It is refused in every stage of the program, and told.
async fn die(bed: &Bed<'_>, group: Group) -> Vec<Seen> {
    let stages: &[Stage] = match group {
        Group::FileServer => &[Stage::Serving],
        _ => &[Stage::Loop, Stage::Vcpu],
    };
    let told = format!("{} is not allowed", libc::SYS_socket);
    let mut seen = Vec::new();
    for stage in stages {
        seen.push(Seen::at(
            *stage,
            match Prober::start(bed, group, *stage, None, Act::Die).await {
                Err(why) => Seen::not_run(&why),
                Ok(mut prober) => match prober.hear().await {
                    Heard::Ended { end: Some(End::Killed(libc::SIGSYS)), stderr }
                        if stderr.contains(&told) =>
                    {
                        Seen::new(true, format!("killed by SIGSYS; {stderr}"))
                    }
                    Heard::Ended { end: Some(end), stderr } => {
                        Seen::unexpected(format!("{}: {stderr}", super::report::describe(end)))
                    }
                    heard => Seen::new(false, format!("it goes on: {heard:?}")),
                },
            },
        ));
    }
    seen
}

/// Starts one from a thread that ends.
async fn outlive(bed: &Bed<'_>, group: Group) -> Seen {
    let started = std::thread::scope(|scope| {
        let starter = std::thread::Builder::new().name("starter".into());
        let thread = starter.spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let started: Result<_, String> = runtime.block_on(async {
                let stage = if group == Group::FileServer { Stage::Serving } else { Stage::Loop };
                let mut prober = Prober::start(bed, group, stage, None, Act::Stay).await?;
                match prober.hear().await {
                    Heard::Said(Said::Done) => {}
                    heard => return Err(format!("it did not stay: {heard:?}")),
                }
                let pid = prober.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                let pid = pid.ok_or("it has ended")?;
                let handle = pidfd_open(pid, PidfdFlags::empty());
                Ok((prober, handle.map_err(|errno| errno.to_string())?))
            });
            started.map(|(prober, handle)| (runtime, prober, handle))
        });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(started)) => started,
            _ => Err("no thread".to_owned()),
        }
    });
    let (runtime, prober, handle) = match started {
        Ok(started) => started,
        Err(why) => return Seen::not_run(&why),
    };
    // Its thread has ended; nobody here has touched it.
    let limit = Timespec::try_from(END_LIMIT).ok();
    let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], limit.as_ref());
    // Reaps it, and removes its control group.
    drop(prober);
    runtime.shutdown_background();
    match ended {
        Ok(1) => Seen::new(true, "the kernel ended it"),
        _ => Seen::new(false, format!("it lived for {} s", END_LIMIT.as_secs())),
    }
}

// The limits of these jails are those of the smallest machines.
const _: () = assert!(MEMORY_MIB < 128);
