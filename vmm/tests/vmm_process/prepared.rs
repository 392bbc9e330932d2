//! A vmm that has made its VM before it knows of a machine, as those of a pool do.

use std::os::fd::AsRawFd;

use cloister_vmm::control::{Command, Event};
use cloister_vmm::exit::ExitCode;
use cloister_vmm::spec::{VmSpec, WorkingSet};
use cloister_vmm::toy::{self, Note};

use crate::forks::{Template, assert_counts, running, saved_spec, stop};
use crate::guests;
use crate::process::{Files, Vmm, empty_file, kvm};

fn prepared() -> Vmm {
    let mut vmm = Vmm::spawn();
    vmm.send(&Command::Prepare, &[kvm().as_raw_fd()]);
    vmm
}

#[test]
fn it_boots_a_machine_of_any_shape() {
    for (vcpus, memory_mib) in [(1, 64), (2, 96), (32, 64)] {
        let spec = VmSpec { vcpus, memory_mib, extra_cmdline: String::new() };
        let files = Files::new(&spec, &toy::elf(&guests::count_for_ever(), Note::Pvh));
        let mut vmm = prepared();
        vmm.send(&Command::Start(spec), &files.descriptors());
        vmm.set_log(files.into_log());
        running(&mut vmm);
        assert_counts(&vmm.read_log(300));
        stop(vmm);
    }
}

#[test]
fn it_goes_on_from_a_saved_machine_of_any_shape() {
    for vcpus in [1, 2, 32] {
        let template = Template::new(saved_spec(vcpus, 64), &guests::count_for_ever(), 300);
        for command in [
            Command::Fork(template.spec.clone(), WorkingSet::default()),
            Command::ForkSavable(template.spec.clone(), WorkingSet::default()),
            Command::Rehearse(template.spec.clone()),
        ] {
            let mut vmm = template.go_on_in(prepared, &command);
            let times = running(&mut vmm);
            assert!(times.tsc_khz > 0 && times.loaded_ns < times.run_ns);
            let mut log = template.log.clone();
            log.extend(vmm.read_log(300));
            assert_counts(&log);
            stop(vmm);
        }
    }
}

#[test]
fn what_goes_on_in_it_has_the_registers_of_a_machine() {
    // The guest reports registers that are not what it set as a panic.
    let template = Template::new(saved_spec(1, 64), &guests::watch_registers(), 100);
    let command = Command::ForkSavable(template.spec.clone(), WorkingSet::default());
    let mut vmm = template.go_on_in(prepared, &command);
    running(&mut vmm);
    vmm.read_log(100);
    // Saved again, it has the same registers in its state.
    vmm.send(&Command::Pause, &[]);
    assert_eq!(vmm.receive(), Event::Paused);
    let state = empty_file();
    vmm.send(&Command::Save, &[state.as_raw_fd()]);
    assert!(matches!(vmm.receive(), Event::Saved { .. }));
    stop(vmm);
}

#[test]
fn a_kvm_that_is_none_is_told_when_a_machine_is_asked_for() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut vmm = Vmm::spawn();
    vmm.send(&Command::Prepare, &[null.as_raw_fd()]);
    let spec = VmSpec { vcpus: 1, memory_mib: 64, extra_cmdline: String::new() };
    let files = Files::new(&spec, &toy::elf(&guests::count_for_ever(), Note::Pvh));
    // With a good one beside it, the machine starts all the same.
    vmm.send(&Command::Start(spec), &files.descriptors());
    vmm.set_log(files.into_log());
    running(&mut vmm);
    stop(vmm);
    let mut vmm = prepared();
    vmm.send(&Command::Prepare, &[kvm().as_raw_fd()]);
    assert_eq!(vmm.end().code, ExitCode::Spec);
}
