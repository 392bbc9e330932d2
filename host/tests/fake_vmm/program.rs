//! A vmm without a machine: speaks the control protocol on descriptor 3 as its script says, and as the
//! "guest" runs commands on this host. The script is what follows the magic in the root image.

#![expect(clippy::exit, reason = "the process ends from whichever thread finds that it is over")]

mod agents;
mod control;
mod detach;
mod guest;
mod saving;

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{ExitCode, exit};

use cloister_vmm::control::{Command, Event, ProbeReport, ProbeVerdict, StartTimes};
use cloister_vmm::exit::{self as vmm_exit, Exit};
use cloister_vmm::spec::SavedSpec;
use control::Control;
use detach::{CARRIED, Carried};
use guest::{Guest, Manners};

/// Before manners of who goes on from this machine.
const LATER: &str = "later-";

fn main() -> ExitCode {
    // What is found wrong in any thread is told as the machine's end.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        tell(what);
        exit(101);
    }));
    let control = Control::inherited();
    let (mut command, mut descriptors) = control.receive().expect("a first command");
    if command == Command::Prepare {
        (command, descriptors) = control.receive().expect("what the machine is");
    }
    match command {
        Command::Probe => {
            let detail = "a fake".to_owned();
            let report = ProbeReport { verdict: ProbeVerdict::Hardware, duration_us: 7, detail };
            control.send(&Event::Probed(report));
            ExitCode::SUCCESS
        }
        Command::Start(vm) => start(control, descriptors, vm.memory_bytes()),
        // What comes after these are the bounce area and the socket of a file server, which ends when that closes; nothing
        // here asks it for a file.
        Command::StartSavable(SavedSpec { vm, .. }) | Command::StartShared(vm) => {
            let mut descriptors = descriptors;
            let _shares = descriptors.split_off(5);
            start(control, descriptors, vm.memory_bytes())
        }
        Command::ForkSavable(SavedSpec { vm, .. }, _) => {
            let mut descriptors = descriptors;
            let _shares = descriptors.split_off(4);
            let [kvm, memory, state, console] =
                <[OwnedFd; 4]>::try_from(descriptors).expect("four descriptors");
            // The script is in the state then.
            let kernel = state.try_clone().expect("a second handle");
            start(control, vec![kvm, memory, kernel, state, console], vm.memory_bytes())
        }
        other => unreachable!("{other:?} came first"),
    }
}

fn start(control: Control, descriptors: Vec<OwnedFd>, memory_bytes: u64) -> ExitCode {
    let [_kvm, _memory, _kernel, root, console] =
        <[OwnedFd; 5]>::try_from(descriptors).expect("five descriptors");
    let mut script = vec![0; 4096];
    // By calls that its jail lets it make: others would be the last. Who handed it over may have left it at its end.
    let mut root = std::fs::File::from(root);
    root.rewind().expect("a file");
    let length = root.read(&mut script).expect("a script");
    script.truncate(length);
    let script = String::from_utf8(script).expect("a script");
    let script = script.trim_start_matches("070701").trim().to_owned();
    let words: Vec<&str> = script.split_whitespace().collect();
    let mut console = std::fs::File::from(console);
    let running = Event::Running(StartTimes { process_ns: 1, ..StartTimes::default() });
    match words.as_slice() {
        ["silent"] => control.until_closed(),
        ["running"] => {
            control.send(&running);
            control.until_closed()
        }
        ["dies"] => {
            eprintln!("boom \x1b[2J");
            return ExitCode::from(3);
        }
        ["killed"] => {
            std::process::abort();
        }
        ["garbage"] => control.send_bytes(&[0xff; 32]),
        ["long"] => control.send_bytes(&[0; 9000]),
        ["trailing"] => control.send_bytes(&[3, 0, 0, 0]),
        ["descriptor"] => control.send_with_descriptor(&running),
        ["unexpected"] => control.send(&Event::Paused),
        ["flood"] => control.flood(),
        ["exit", code] => return report(&control, code.parse().expect("a code")),
        ["panic"] => {
            console.write_all(b"Kernel panic - not syncing: \x1b[31mred\r\n").expect("a console");
            return report(&control, vmm_exit::ExitCode::Panic as u8);
        }
        manners => {
            console.write_all(b"a console line\r\n").expect("a console");
            control.send(&running);
            let (carried, manners): (Vec<&str>, Vec<&str>) =
                manners.iter().partition(|word| word.starts_with(CARRIED));
            let carried = carried.iter().filter_map(|word| Carried::named(word)).collect();
            let (later, now): (Vec<&str>, Vec<&str>) =
                manners.iter().partition(|word| word.starts_with(LATER));
            let later = later.iter().filter_map(|word| word.strip_prefix(LATER));
            let later = later.map(str::to_owned).collect();
            let manners = now.iter().map(|word| Manners::named(word)).collect();
            Guest::new(control, manners, memory_bytes, (carried, later)).serve();
        }
    }
    // Whoever sent something bad waits to be killed for it.
    control_wait()
}

fn control_wait() -> ! {
    loop {
        std::thread::park();
    }
}

/// Ends the machine with a detail that would steer a terminal.
fn report(control: &Control, code: u8) -> ExitCode {
    let code = vmm_codes().into_iter().find(|known| *known as u8 == code).expect("a known code");
    control.send(&Event::Exited(Exit { code, detail: "detail \x1b[1m\nof two lines".into() }));
    code.into()
}

fn vmm_codes() -> Vec<vmm_exit::ExitCode> {
    use vmm_exit::ExitCode::{
        FilesGone, GuestFault, Halted, Host, HostGone, Image, Kvm, KvmInternal, Panic, Reset, Spec,
        Stopped, TripleFault,
    };
    vec![
        Stopped,
        Host,
        Spec,
        Image,
        Kvm,
        Reset,
        TripleFault,
        Halted,
        KvmInternal,
        Panic,
        GuestFault,
        HostGone,
        FilesGone,
    ]
}

/// The process ends as the machine has.
fn end(control: &Control, code: vmm_exit::ExitCode) -> ! {
    control.send(&Event::Exited(Exit { code, detail: String::new() }));
    exit(i32::from(code as u8))
}
