//! `cloister-vmm`: owns one virtual machine. Started by `cloister` with a control socket as
//! descriptor 3, which brings everything else.

use std::os::fd::OwnedFd;
use std::process::ExitCode as ProcessExit;

use cloister_vmm::control::{CONTROL_FD, Command, Event, StartTimes};
use cloister_vmm::control_socket::{self, ControlError, ControlSocket};
use cloister_vmm::exit::{Exit, ExitCode};
use cloister_vmm::fork::Purpose;
use cloister_vmm::kvm::Host;
use cloister_vmm::machine::{self, BuildError, Descriptors, Machine};
use cloister_vmm::{event_loop, fork, probe, seccomp, sys};

fn main() -> ProcessExit {
    let mut times = StartTimes { process_ns: sys::monotonic_ns(), ..StartTimes::default() };
    sys::share_one_heap();
    sys::name_process(c"cloister-vmm");
    if let Err(error) = sys::install_trap_handler() {
        complain(&error);
        return ExitCode::Host.into();
    }
    if let Some(argument) = std::env::args().nth(1) {
        return answer(&argument);
    }
    let (control, command, descriptors, prepared) = match first_message() {
        Ok(first) => first,
        Err(error) => {
            complain(&error);
            return ExitCode::Spec.into();
        }
    };
    times.command_ns = sys::monotonic_ns();
    let (command, descriptors) = match build(command, descriptors, prepared, times) {
        Built::Machine(Ok(machine)) => return run(*machine, control),
        Built::Machine(Err(error)) => {
            let exit = Exit { code: error.code(), detail: chain(&error) };
            control.send_exit(&exit);
            return exit.code.into();
        }
        Built::Garbled => return ExitCode::Spec.into(),
        Built::Other(command, descriptors) => (command, descriptors),
    };
    let exit = match (command, descriptors) {
        (Command::Probe, mut descriptors) => {
            let report = descriptors.pop().map(probe::run);
            let sent = report.map(|report| control.send(&Event::Probed(report)));
            return if matches!(sent, Some(Ok(()))) { ExitCode::Stopped } else { ExitCode::Host }
                .into();
        }
        (other, _) => {
            let error = ControlError::Unexpected { message: control_socket::name(&other) };
            Exit { code: ExitCode::Spec, detail: chain(&error) }
        }
    };
    control.send_exit(&exit);
    exit.code.into()
}

/// What a first message asks for.
enum Built {
    /// A machine.
    Machine(Result<Box<Machine>, BuildError>),
    /// A machine, without the descriptors for it.
    Garbled,
    /// Something else.
    Other(Command, Vec<OwnedFd>),
}

fn build(
    command: Command,
    descriptors: Vec<OwnedFd>,
    prepared: Option<Host>,
    times: StartTimes,
) -> Built {
    let built = match command {
        Command::Start(spec) | Command::StartShared(spec) => Descriptors::from_message(descriptors)
            .map(|given| machine::build(spec, given, prepared, times)),
        Command::StartSavable(spec) => Descriptors::from_message(descriptors)
            .map(|given| machine::build_savable(&spec, given, prepared, times)),
        Command::Fork(spec, written) => fork::Descriptors::from_message(descriptors)
            .map(|given| fork::build(spec, &Purpose::Use(written), given, prepared, times)),
        Command::ForkSavable(spec, written) => fork::Descriptors::from_message(descriptors)
            .map(|given| fork::build(spec, &Purpose::Savable(written), given, prepared, times)),
        Command::Rehearse(spec) => fork::Descriptors::from_message(descriptors)
            .map(|given| fork::build(spec, &Purpose::Rehearsal, given, prepared, times)),
        other => return Built::Other(other, descriptors),
    };
    built.map_or(Built::Garbled, |built| Built::Machine(built.map(Box::new)))
}

/// Runs a machine to its end.
fn run(machine: Machine, control: ControlSocket) -> ProcessExit {
    let confine = if machine.savable.is_some() || machine.noted.is_some() {
        seccomp::confine_savable_loop
    } else {
        seccomp::confine_loop
    };
    match event_loop::run(machine, control, confine) {
        Ok(exit) => exit.code.into(),
        Err(error) => {
            complain(&error);
            ExitCode::Host.into()
        }
    }
}

type First = (ControlSocket, Command, Vec<OwnedFd>, Option<Host>);

/// What the machine is. A message that only makes things ready may come before it.
fn first_message() -> Result<First, ControlError> {
    let control = ControlSocket::inherit(CONTROL_FD)?;
    let (mut command, mut descriptors) = control.receive()?;
    let mut prepared = None;
    if command == Command::Prepare {
        // What is wrong with KVM is told to whoever asks for a machine: then it is tried again.
        prepared = descriptors.pop().and_then(|kvm| Host::prepared(kvm).ok());
        seccomp::prepare();
        (command, descriptors) = control.receive()?;
    }
    Ok((control, command, descriptors, prepared))
}

/// There is nothing to configure by hand; a person who tries is told so.
fn answer(argument: &str) -> ProcessExit {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("cloister-vmm {version}: started by `cloister`, takes no arguments");
    match argument {
        "--help" | "-h" | "--version" | "-V" => {
            write_line(std::io::stdout(), &text);
            ExitCode::Stopped.into()
        }
        _ => {
            write_line(std::io::stderr(), &text);
            ExitCode::Spec.into()
        }
    }
}

fn complain(error: &dyn std::error::Error) {
    write_line(std::io::stderr(), &format!("cloister-vmm: {}", chain(error)));
}

fn write_line(mut out: impl std::io::Write, text: &str) {
    // A closed stream is no reason to fail: the exit status says the same.
    writeln!(out, "{text}").ok();
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
