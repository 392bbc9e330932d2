//! Saved machines and forks of them, with toy guests on this machine's KVM.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use cloister_vmm::control::{Command, Event, StartTimes};
use cloister_vmm::exit::{Exit, ExitCode};
use cloister_vmm::spec::{SavedSpec, VmSpec, WorkingSet};
use cloister_vmm::toy::{self, Note};

use crate::guests;
use crate::process::{
    Files, Vmm, empty_file, kvm, log_pipe, seal_writes, sealed_file, state_by_now,
};

const FINGERPRINT: [u8; 32] = [7; 32];

pub(crate) fn saved_spec(vcpus: u8, memory_mib: u32) -> SavedSpec {
    let vm = VmSpec { vcpus, memory_mib, extra_cmdline: String::new() };
    SavedSpec { vm, fingerprint: FINGERPRINT, shared: false }
}

/// How often a machine is started at most that is late each time.
const STARTS: u32 = 20;

/// A saved machine.
pub(crate) struct Template {
    pub(crate) spec: SavedSpec,
    pub(crate) memory: File,
    pub(crate) state: File,
    pub(crate) saved: Instant,
    /// What its guest had printed.
    pub(crate) log: Vec<u8>,
}

impl Template {
    /// Runs a guest until it has printed this much, and saves it.
    pub(crate) fn new(spec: SavedSpec, code: &[u8], printed: usize) -> Self {
        let mut vmm = Vmm::spawn();
        let files = Files::new(&spec.vm, &toy::elf(code, Note::Pvh));
        vmm.send(&Command::StartSavable(spec.clone()), &files.descriptors());
        let memory = files.memory.try_clone().unwrap();
        vmm.set_log(files.into_log());
        assert!(matches!(vmm.receive(), Event::Running(_)));
        let mut log = vmm.read_log(printed);
        vmm.send(&Command::Pause, &[]);
        assert_eq!(vmm.receive(), Event::Paused);
        let state = empty_file();
        vmm.send(&Command::Save, &[state.as_raw_fd()]);
        let bytes = match vmm.receive() {
            Event::Saved { bytes } => bytes,
            other => panic!("{other:?}"),
        };
        let saved = Instant::now();
        assert_eq!(state.metadata().unwrap().len(), bytes);
        // It is as before: it can go on, and be saved again.
        log.extend(vmm.take_log());
        stop(vmm);
        seal_writes(&memory);
        Self { spec, memory, state, saved, log }
    }

    pub(crate) fn fork(&self) -> Vmm {
        self.go_on(&Command::Fork(self.spec.clone(), WorkingSet::default()))
    }

    fn fork_with(&self, written: WorkingSet) -> Vmm {
        self.go_on(&Command::Fork(self.spec.clone(), written))
    }

    /// As [`Self::fork`], to be saved again.
    pub(crate) fn fork_savable(&self) -> Vmm {
        self.go_on(&Command::ForkSavable(self.spec.clone(), WorkingSet::default()))
    }

    fn fork_as(&self, spec: SavedSpec, memory: &File, state: &File) -> Vmm {
        Self::start(&Command::Fork(spec, WorkingSet::default()), memory, state)
    }

    /// A machine that goes on, by any of the commands for that. Where its counter is the host's ([`state_by_now`]) it can
    /// be a second too late on a host with much to do; the next one may not be.
    pub(crate) fn go_on(&self, command: &Command) -> Vmm {
        self.go_on_in(Vmm::spawn, command)
    }

    /// The same in a process that is made so.
    pub(crate) fn go_on_in(&self, spawn: fn() -> Vmm, command: &Command) -> Vmm {
        let start = || {
            let state = state_by_now(&self.state, self.saved);
            Self::start_in(spawn(), command, &self.memory, &state)
        };
        for _ in 1..STARTS {
            let mut vmm = start();
            if !vmm.is_late() {
                return vmm;
            }
        }
        start()
    }

    fn start(command: &Command, memory: &File, state: &File) -> Vmm {
        Self::start_in(Vmm::spawn(), command, memory, state)
    }

    fn start_in(mut vmm: Vmm, command: &Command, memory: &File, state: &File) -> Vmm {
        let (log, writer) = log_pipe();
        let kvm = kvm();
        let descriptors = [&kvm, memory, state, &writer].map(AsRawFd::as_raw_fd);
        vmm.send(command, &descriptors);
        vmm.set_log(log);
        vmm
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.memory.metadata().unwrap().len()).unwrap()];
        self.memory.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn state_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.state.metadata().unwrap().len()).unwrap()];
        self.state.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

pub(crate) fn running(vmm: &mut Vmm) -> StartTimes {
    match vmm.receive() {
        Event::Running(times) => times,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn stop(mut vmm: Vmm) {
    vmm.send(&Command::Stop, &[]);
    assert_eq!(vmm.end().code, ExitCode::Stopped);
}

/// Each byte is the one before and one more.
pub(crate) fn assert_counts(bytes: &[u8]) {
    let wrong = bytes.windows(2).find(|pair| pair[1] != pair[0].wrapping_add(1));
    assert_eq!(wrong, None);
}

#[test]
fn forks_go_on_where_the_machine_was_saved_and_change_nothing_of_it() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 300);
    assert_counts(&template.log);
    let before = template.content();
    let mut forks: Vec<Vmm> = (0..4).map(|_| template.fork()).collect();
    for (index, vmm) in forks.iter_mut().enumerate() {
        running(vmm);
        // Each goes on by itself, however far the others are.
        let mut log = template.log.clone();
        log.extend(vmm.read_log(200 * (index + 1)));
        assert_counts(&log);
    }
    forks.into_iter().for_each(stop);
    assert!(before == template.content(), "a fork has changed its template");
}

/// Bytes of its memory file that a vmm has copies of.
fn copied(vmm: &Vmm) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", vmm.id())).unwrap();
    let ours = maps.split("VmFlags").filter(|mapping| mapping.contains("/memfd:memory"));
    let copied = ours.filter_map(|mapping| {
        let line = mapping.lines().find(|line| line.starts_with("Anonymous:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    copied.sum::<u64>() << 10
}

#[test]
fn pages_that_a_fork_is_known_to_write_are_copied_beforehand_and_no_others() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 300);
    let before = template.content();
    let mut plain = template.fork();
    running(&mut plain);
    plain.read_log(10);
    let unasked = copied(&plain);
    stop(plain);
    // Pages of the guest's own, the last one, and many that are empty.
    let places = (0..20).chain(1000..1300).chain([(64 << 8) - 1]);
    let mut vmm = template.fork_with(WorkingSet::of(places));
    running(&mut vmm);
    let mut log = template.log.clone();
    log.extend(vmm.read_log(300));
    assert_counts(&log);
    let (copied, listed) = (copied(&vmm), 321 * 4096);
    assert!((listed..=listed + unasked).contains(&copied), "{copied}, without the list {unasked}");
    stop(vmm);
    assert!(before == template.content(), "a fork has changed its template");
}

#[test]
fn a_list_of_pages_beyond_the_memory_is_refused() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 10);
    let vmm = template.fork_with(WorkingSet::of([64 << 8]));
    assert_refused(vmm, ExitCode::Spec, "a saved machine's pages");
}

#[test]
fn a_rehearsal_tells_which_pages_are_written_and_changes_nothing_of_the_template() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 300);
    let before = template.content();
    let rehearse = Command::Rehearse(template.spec.clone());
    let mut vmm = template.go_on(&rehearse);
    running(&mut vmm);
    let mut log = template.log.clone();
    log.extend(vmm.read_log(300));
    assert_counts(&log);
    vmm.send(&Command::Pause, &[]);
    assert_eq!(vmm.receive(), Event::Paused);
    let copied = copied(&vmm);
    let list = empty_file();
    vmm.send(&Command::Save, &[list.as_raw_fd()]);
    let Event::Saved { bytes } = vmm.receive() else { panic!("no list") };
    stop(vmm);
    let mut encoded = vec![0; usize::try_from(bytes).unwrap()];
    list.read_exact_at(&mut encoded, 0).unwrap();
    let written: WorkingSet = postcard::from_bytes(&encoded).unwrap();
    written.validate(64 << 20).unwrap();
    // Each page that was written has been copied, and no other but that of the generation id.
    assert_eq!((written.pages() + 1) * 4096, copied, "{written:?}");
    assert!(written.pages() > 0);
    assert!(before == template.content(), "a rehearsal has changed its template");
}

#[test]
fn a_fork_can_be_paused_and_resumed() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 10);
    let mut vmm = template.fork();
    running(&mut vmm);
    for _ in 0..20 {
        vmm.read_log(1);
        vmm.send(&Command::Pause, &[]);
        assert_eq!(vmm.receive(), Event::Paused);
        vmm.send(&Command::Resume, &[]);
        assert_eq!(vmm.receive(), Event::Resumed);
    }
    stop(vmm);
}

#[test]
fn a_forks_time_stamp_counter_goes_on() {
    // The guest reports a counter that went back as a panic.
    let template = Template::new(saved_spec(1, 64), &guests::watch_the_counter(), 100);
    for _ in 0..5 {
        let mut vmm = template.fork();
        let times = running(&mut vmm);
        assert!(times.tsc_khz > 0);
        vmm.read_log(100);
        stop(vmm);
    }
}

#[test]
fn vcpus_that_never_ran_are_saved_too() {
    for vcpus in [2, 32] {
        let template = Template::new(saved_spec(vcpus, 64), &guests::count_for_ever(), 10);
        let mut vmm = template.fork();
        running(&mut vmm);
        vmm.read_log(10);
        stop(vmm);
    }
}

#[test]
fn debug_registers_go_on() {
    // The guest reports registers that are not what it set as a panic.
    let template = Template::new(saved_spec(1, 64), &guests::watch_registers(), 100);
    let mut vmm = template.fork();
    running(&mut vmm);
    vmm.read_log(100);
    stop(vmm);
}

#[track_caller]
pub(crate) fn assert_refused(mut vmm: Vmm, code: ExitCode, word: &str) {
    let Exit { code: got, detail } = vmm.end();
    assert_eq!(got, code, "{detail}");
    assert!(detail.contains(word), "{detail}");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 10);
    let refused = |spec: SavedSpec, word| {
        let vmm = template.fork_as(spec, &template.memory, &template.state);
        assert_refused(vmm, ExitCode::Snapshot, word);
    };
    refused(SavedSpec { fingerprint: [8; 32], ..saved_spec(1, 64) }, "another host");
    refused(saved_spec(2, 64), "1 vCPUs, where 2");
    let vmm = template.fork_as(saved_spec(1, 65), &template.memory, &template.state);
    assert_refused(vmm, ExitCode::Host, "67108864 bytes");
    // Memory that somebody could change.
    let writable = sealed_file("writable", 64 << 20);
    let vmm = template.fork_as(saved_spec(1, 64), &writable, &template.state);
    assert_refused(vmm, ExitCode::Host, "sealed against writing");
    // Another processor's.
    let good = template.state_bytes();
    for (state, word) in [
        (Vec::new(), "0 bytes"),
        (vec![b'x'; 4096], "does not begin"),
        (good[..good.len() - 1].to_vec(), "after its header"),
        ([&good[..], &[0]].concat(), "after its header"),
        (flipped(&good, 1000), "damaged"),
        (vec![0; (1 << 20) + 1], "1048577 bytes"),
    ] {
        let file = empty_file();
        file.write_all_at(&state, 0).unwrap();
        let vmm = template.fork_as(saved_spec(1, 64), &template.memory, &file);
        assert_refused(vmm, ExitCode::Snapshot, word);
    }
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

#[test]
fn only_a_paused_machine_that_was_started_for_it_is_saved() {
    let state = empty_file();
    // Not started for it.
    let mut vmm = Vmm::start_toy(&guests::spin());
    running(&mut vmm);
    vmm.send(&Command::Pause, &[]);
    assert_eq!(vmm.receive(), Event::Paused);
    vmm.send(&Command::Save, &[state.as_raw_fd()]);
    assert_refused(vmm, ExitCode::Host, "not allowed at this point");
    // Not paused.
    let spec = saved_spec(1, 64);
    let mut vmm = Vmm::spawn();
    let files = Files::new(&spec.vm, &toy::elf(&guests::spin(), Note::Pvh));
    vmm.send(&Command::StartSavable(spec), &files.descriptors());
    running(&mut vmm);
    vmm.send(&Command::Save, &[state.as_raw_fd()]);
    assert_refused(vmm, ExitCode::Host, "not allowed at this point");
    assert_eq!(state.metadata().unwrap().len(), 0);
}

#[test]
fn an_order_to_go_on_waits_for_the_state() {
    let spec = saved_spec(2, 64);
    let mut vmm = Vmm::spawn();
    let files = Files::new(&spec.vm, &toy::elf(&guests::count_for_ever(), Note::Pvh));
    vmm.send(&Command::StartSavable(spec), &files.descriptors());
    vmm.set_log(files.into_log());
    running(&mut vmm);
    vmm.read_log(10);
    for _ in 0..10 {
        let state = empty_file();
        vmm.send(&Command::Pause, &[]);
        vmm.receive_until(&Event::Paused);
        vmm.send(&Command::Save, &[state.as_raw_fd()]);
        vmm.send(&Command::Resume, &[]);
        assert!(matches!(vmm.receive(), Event::Saved { .. }));
        assert_eq!(vmm.receive(), Event::Resumed);
        vmm.drain_log();
        vmm.read_log(10);
    }
    stop(vmm);
}

/// Others use the processors too: one round of measuring without them is enough.
pub(crate) const ROUNDS: u32 = 10;

/// Starts some machines and takes the least of a time, in microseconds.
pub(crate) fn least_us(start: impl Fn() -> Vmm, time: impl Fn(&StartTimes) -> u64) -> u64 {
    let times = (0..8).map(|_| {
        let mut vmm = start();
        let times = running(&mut vmm);
        stop(vmm);
        time(&times) / 1000
    });
    times.min().unwrap()
}

#[test]
fn the_time_of_a_fork_does_not_grow_with_its_memory() {
    // Where KVM shadows page tables it keeps eight bytes for each page, of which no machine is spared.
    let bookkeeping = |memory_mib| {
        let spec = || VmSpec { vcpus: 1, memory_mib, extra_cmdline: String::new() };
        let kernel = toy::elf(&guests::spin(), Note::Pvh);
        least_us(|| Vmm::start(spec(), &kernel), |times| times.kvm_ns - times.command_ns)
    };
    let fork = |memory_mib| {
        let template = Template::new(saved_spec(1, memory_mib), &guests::count_for_ever(), 10);
        least_us(|| template.fork(), |times| times.run_ns - times.process_ns)
    };
    let mut rounds = (0..ROUNDS).map(|_| {
        let (small, large) = (128, 8 << 10);
        let (kvm_small, kvm_large) = (bookkeeping(small), bookkeeping(large));
        let (small, large) = (fork(small), fork(large));
        println!(
            "fork: {small} and {large} µs; of it KVM, as for any machine: {kvm_small} and {kvm_large} µs"
        );
        // 64 times the memory: a copy of it would take seconds.
        let (grown, allowed) = (large.saturating_sub(small), kvm_large.saturating_sub(kvm_small));
        grown < 2 * allowed + 3000
    });
    assert!(rounds.any(|good| good));
}
