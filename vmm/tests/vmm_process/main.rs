//! The vmm as a process, driven over its control socket, with toy guests on this machine's KVM.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a set-up step that fails fails the test")]

mod forks;
mod guests;
mod prepared;
mod process;
mod whole;

use cloister_vmm::control::{Command, Event};
use cloister_vmm::exit::ExitCode;
use cloister_vmm::spec::VmSpec;
use cloister_vmm::toy::{self, Note};
use process::Vmm;

/// Runs a toy guest to its end and checks that message and exit status agree.
fn end_of(code: &[u8]) -> (ExitCode, String, String) {
    let mut vmm = Vmm::start_toy(code);
    let exit = loop {
        match vmm.receive() {
            Event::Exited(exit) => break exit,
            Event::Running(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let (status, log) = vmm.wait();
    assert_eq!(status, i32::from(exit.code as u8), "{}", exit.detail);
    (exit.code, exit.detail, log)
}

#[test]
fn a_toy_guest_writes_to_the_serial_log_and_powers_off() {
    let (code, _, log) = end_of(&guests::print_and_power_off(b"hello from the guest\n"));
    assert_eq!(code, ExitCode::Stopped);
    assert_eq!(log, "hello from the guest\n");
}

#[test]
fn every_way_to_end_has_its_own_code() {
    assert_eq!(end_of(&guests::reset()).0, ExitCode::Reset);
    assert_eq!(end_of(&guests::panic()).0, ExitCode::Panic);
    let (code, detail, _) = end_of(&guests::triple_fault());
    assert_eq!(code, ExitCode::TripleFault, "{detail}");
    let (code, detail, _) = end_of(&guests::execute_from_nowhere());
    assert_eq!(code, ExitCode::KvmInternal, "{detail}");
    assert!(detail.contains("suberror") && detail.contains("rip"), "{detail}");
}

#[test]
fn a_halt_with_interrupts_off_is_noticed() {
    let (code, detail, _) = end_of(&guests::halt_for_ever());
    assert_eq!(code, ExitCode::Halted, "{detail}");
}

#[test]
fn pause_holds_the_guest_and_resume_lets_it_go_on() {
    let mut vmm = Vmm::start_toy(&guests::print_for_ever(b'.'));
    assert!(matches!(vmm.receive(), Event::Running(_)));
    for _ in 0..20 {
        vmm.read_log(1);
        vmm.send(&Command::Pause, &[]);
        assert_eq!(vmm.receive(), Event::Paused);
        let before = vmm.stats();
        let after = vmm.stats();
        assert_eq!(before.exits, after.exits, "a paused guest must not run");
        vmm.drain_log();
        vmm.send(&Command::Resume, &[]);
        assert_eq!(vmm.receive(), Event::Resumed);
    }
    vmm.send(&Command::Stop, &[]);
    assert_eq!(vmm.end().code, ExitCode::Stopped);
}

#[test]
fn a_guest_is_told_of_each_pause_and_of_nothing_else() {
    let mut vmm = Vmm::start_toy(&guests::watch_the_pauses());
    assert!(matches!(vmm.receive(), Event::Running(_)));
    // Its clock is on when it prints.
    assert_eq!(vmm.read_log(100), [b'.'; 100]);
    for _ in 0..3 {
        vmm.send(&Command::Pause, &[]);
        assert_eq!(vmm.receive(), Event::Paused);
        vmm.drain_log();
        vmm.send(&Command::Resume, &[]);
        assert_eq!(vmm.receive(), Event::Resumed);
        // It looks before each byte; one byte may have been on its way already.
        let said = vmm.read_log(100);
        assert_eq!(said.iter().filter(|byte| **byte == b'p').count(), 1, "{said:?}");
    }
    vmm.send(&Command::Stop, &[]);
    assert_eq!(vmm.end().code, ExitCode::Stopped);
}

#[test]
fn orders_that_overtake_each_other_end_in_the_last_one() {
    let mut vmm = Vmm::start_toy(&guests::print_for_ever(b'.'));
    vmm.send(&Command::Pause, &[]);
    vmm.send(&Command::Resume, &[]);
    vmm.send(&Command::Pause, &[]);
    vmm.send(&Command::Stats, &[]);
    vmm.send(&Command::Resume, &[]);
    vmm.send(&Command::Pause, &[]);
    vmm.send(&Command::Stop, &[]);
    assert_eq!(vmm.end().code, ExitCode::Stopped);
}

#[test]
fn stop_works_in_every_state() {
    // Before the guest runs, running, paused, and in a guest that halted for ever.
    for (guest, pause) in [
        (guests::print_for_ever(b'.'), false),
        (guests::print_for_ever(b'.'), true),
        (guests::spin(), false),
        (guests::spin(), true),
        (guests::halt_for_ever(), false),
    ] {
        let mut vmm = Vmm::start_toy(&guest);
        if pause {
            vmm.send(&Command::Pause, &[]);
        }
        vmm.send(&Command::Stop, &[]);
        assert_eq!(vmm.end().code, ExitCode::Stopped);
    }
}

#[test]
fn all_vcpu_counts_start_and_pause() {
    for vcpus in [1, 2, 32] {
        let mut vmm = Vmm::start(
            VmSpec { vcpus, memory_mib: 64, extra_cmdline: String::new() },
            &toy::elf(&guests::spin(), Note::Pvh),
        );
        assert!(matches!(vmm.receive(), Event::Running(_)), "{vcpus}");
        vmm.send(&Command::Pause, &[]);
        assert_eq!(vmm.receive(), Event::Paused);
        vmm.send(&Command::Stop, &[]);
        assert_eq!(vmm.end().code, ExitCode::Stopped);
    }
}

#[test]
fn a_host_that_goes_away_ends_the_machine() {
    for guest in [guests::spin(), guests::halt_for_ever()] {
        let mut vmm = Vmm::start_toy(&guest);
        assert!(matches!(vmm.receive(), Event::Running(_)));
        let (status, _) = vmm.hang_up();
        assert_eq!(status, i32::from(ExitCode::HostGone as u8));
    }
}

#[test]
fn bad_images_and_specs_are_refused_with_their_code() {
    let good = VmSpec { vcpus: 1, memory_mib: 64, extra_cmdline: String::new() };
    let kernel = toy::elf(&guests::spin(), Note::Pvh);
    let cases: [(&str, VmSpec, &[u8], ExitCode, &str); 6] = [
        ("empty", good.clone(), b"", ExitCode::Image, "ELF"),
        ("text", good.clone(), b"#!/bin/sh\nexit 0\n", ExitCode::Image, "ELF"),
        ("truncated", good.clone(), &kernel[..100], ExitCode::Image, "ELF"),
        ("no note", good.clone(), &toy::elf(&[0xf4], Note::None), ExitCode::Image, "PVH"),
        ("no vCPU", VmSpec { vcpus: 0, ..good.clone() }, &kernel, ExitCode::Spec, "0 vCPUs"),
        ("too many", VmSpec { vcpus: 33, ..good }, &kernel, ExitCode::Spec, "33 vCPUs"),
    ];
    for (name, spec, kernel, code, word) in cases {
        let mut vmm = Vmm::start(spec, kernel);
        let exit = vmm.end();
        assert_eq!(exit.code, code, "{name}: {}", exit.detail);
        assert!(exit.detail.contains(word), "{name}: {}", exit.detail);
    }
}

#[test]
fn garbage_on_the_control_socket_ends_it_before_and_after_the_start() {
    for packet in [vec![0xff; 40], vec![0; 9000], vec![]] {
        let vmm = Vmm::spawn();
        vmm.send_raw(&packet);
        let (status, _) = vmm.wait();
        assert_ne!(status, 0, "{} bytes", packet.len());
    }
    let mut vmm = Vmm::start_toy(&guests::spin());
    assert!(matches!(vmm.receive(), Event::Running(_)));
    vmm.send_raw(&[0xff; 40]);
    assert_eq!(vmm.end().code, ExitCode::Host);
    let mut vmm = Vmm::start_toy(&guests::spin());
    assert!(matches!(vmm.receive(), Event::Running(_)));
    vmm.send(&Command::Connect { id: 1, port: 1 }, &[]);
    let exit = vmm.end();
    assert_eq!(exit.code, ExitCode::Host);
    assert!(exit.detail.contains("descriptors"), "{}", exit.detail);
}

#[test]
fn wild_port_and_memory_accesses_do_no_harm() {
    let (code, _, log) = end_of(&guests::sweep_ports_and_memory());
    assert_eq!(code, ExitCode::Stopped);
    assert_eq!(log, "k");
}

#[test]
fn started_by_hand_it_says_so() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cloister-vmm")).output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Spec as u8)));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("started by cloister"), "{text}");
}
