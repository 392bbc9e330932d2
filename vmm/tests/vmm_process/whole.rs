//! Machines that are saved with their memory: booted ones, forks, and forks of those.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread::JoinHandle;
use std::time::Instant;

use cloister_vmm::control::{Command, Event, StartTimes};
use cloister_vmm::exit::ExitCode;
use cloister_vmm::spec::{EXTENT_HEAD_BYTES, Extents, SavedSpec, WorkingSet};
use cloister_vmm::toy::{self, Note};
use cloister_vmm::x86_64::layout;

use crate::forks::{
    ROUNDS, Template, assert_counts, assert_refused, least_us, running, saved_spec, stop,
};
use crate::guests;
use crate::process::{Files, Vmm, empty_file, pipe, seal_writes, sealed_file};

const PAGE: usize = 4096;
/// Where no guest writes.
const UNTOUCHED: [u64; 3] = [33 << 20, (40 << 20) + 8192, (64 << 20) - 4096];

/// Reads extents into a memory file; as many bytes as came.
fn collect(mut from: File, memory_bytes: u64) -> JoinHandle<(File, u64)> {
    std::thread::spawn(move || {
        let memory = sealed_file("memory", memory_bytes);
        let (mut extents, mut came) = (Extents::of(memory_bytes), 0);
        loop {
            let mut head = [0; EXTENT_HEAD_BYTES];
            from.read_exact(&mut head).unwrap();
            let Some(place) = extents.next(&head).unwrap() else { break };
            let mut bytes = vec![0; usize::try_from(place.end - place.start).unwrap()];
            from.read_exact(&mut bytes).unwrap();
            assert!(bytes.chunks(PAGE).all(|page| page.iter().any(|byte| *byte != 0)));
            memory.write_all_at(&bytes, place.start).unwrap();
            came += place.end - place.start;
        }
        assert_eq!(from.read(&mut [0]).unwrap(), 0, "something follows the last extent");
        (memory, came)
    })
}

fn pause(vmm: &mut Vmm) {
    vmm.send(&Command::Pause, &[]);
    vmm.receive_until(&Event::Paused);
}

/// Pauses a machine and saves all of it; also how many bytes of memory came. `log`: all that its guest has printed.
fn save(vmm: &mut Vmm, spec: &SavedSpec, mut log: Vec<u8>) -> (Template, u64) {
    pause(vmm);
    let (state, (from, to)) = (empty_file(), pipe());
    let memory = collect(from, spec.vm.memory_bytes());
    vmm.send(&Command::SaveWhole, &[state.as_raw_fd(), to.as_raw_fd()]);
    drop(to);
    let Event::Saved { bytes } = vmm.receive() else { panic!("not saved") };
    assert_eq!(state.metadata().unwrap().len(), bytes);
    let saved = Instant::now();
    let (memory, came) = memory.join().unwrap();
    seal_writes(&memory);
    log.extend(vmm.take_log());
    (Template { spec: spec.clone(), memory, state, saved, log }, came)
}

/// A template with something in pages that its guest leaves alone.
fn template() -> Template {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 300);
    let memory = sealed_file("memory", 64 << 20);
    memory.write_all_at(&template.content(), 0).unwrap();
    UNTOUCHED.iter().for_each(|place| memory.write_all_at(&[42; 100], *place).unwrap());
    seal_writes(&memory);
    Template { memory, ..template }
}

/// The numbers of the pages in which two memories differ.
fn changed(one: &[u8], other: &[u8]) -> Vec<usize> {
    assert_eq!(one.len(), other.len());
    let pages = one.chunks(PAGE).zip(other.chunks(PAGE)).enumerate();
    pages.filter(|(_, (one, other))| one != other).map(|(number, _)| number).collect()
}

/// The page of the generation id, which no two machines have in common.
#[expect(clippy::cast_possible_truncation, reason = "in the first MiB")]
const ID: usize = layout::GENERATION_ID as usize / PAGE;
/// The page in which the guest counts.
const NUMBER: usize = 0x20_0000 / PAGE;

#[test]
fn a_fork_is_saved_with_its_memory_and_so_are_forks_of_that() {
    let first = template();
    let before = first.content();
    let mut last = template_of(&first);
    for _ in 0..4 {
        let mut vmm = last.fork_savable();
        running(&mut vmm);
        let mut log = last.log.clone();
        log.extend(vmm.read_log(200));
        let (saved, came) = save(&mut vmm, &last.spec, log);
        // What it had printed when it was saved, and nothing else, comes after what its parent had.
        assert_counts(&saved.log);
        let content = saved.content();
        assert_eq!(changed(&last.content(), &content), [ID, NUMBER]);
        assert!(came < 1 << 20, "{came} bytes of a memory that is nearly empty");
        stop(vmm);
        last = saved;
    }
    for place in UNTOUCHED.map(|place| usize::try_from(place).unwrap()) {
        assert_eq!(last.content()[place..place + 100], [42; 100]);
    }
    assert!(before == first.content(), "a fork has changed its template");
}

fn template_of(other: &Template) -> Template {
    Template {
        spec: other.spec.clone(),
        memory: other.memory.try_clone().unwrap(),
        state: other.state.try_clone().unwrap(),
        saved: other.saved,
        log: other.log.clone(),
    }
}

#[test]
fn a_machine_that_was_saved_goes_on_and_is_saved_again() {
    let first = template();
    let mut vmm = first.fork_savable();
    running(&mut vmm);
    let mut last = template_of(&first);
    for _ in 0..3 {
        let mut log = last.log.clone();
        log.extend(vmm.read_log(100));
        (last, _) = save(&mut vmm, &last.spec, log);
        assert_counts(&last.log);
        vmm.send(&Command::Resume, &[]);
        assert_eq!(vmm.receive(), Event::Resumed);
    }
    stop(vmm);
    let mut vmm = last.fork();
    running(&mut vmm);
    let mut log = last.log.clone();
    log.extend(vmm.read_log(100));
    assert_counts(&log);
    stop(vmm);
}

#[test]
fn a_booted_machine_is_saved_with_its_memory_and_no_page_is_made_for_that() {
    let spec = saved_spec(2, 64);
    let mut vmm = Vmm::spawn();
    let files = Files::new(&spec.vm, &toy::elf(&guests::count_for_ever(), Note::Pvh));
    UNTOUCHED.iter().for_each(|place| files.memory.write_all_at(&[42; 100], *place).unwrap());
    vmm.send(&Command::StartSavable(spec.clone()), &files.descriptors());
    let memory = files.memory.try_clone().unwrap();
    vmm.set_log(files.into_log());
    running(&mut vmm);
    let log = vmm.read_log(100);
    pause(&mut vmm);
    let blocks = memory.metadata().unwrap().blocks();
    let (saved, _) = save(&mut vmm, &spec, log);
    assert_eq!(memory.metadata().unwrap().blocks(), blocks);
    let live = Template { memory, ..template_of(&saved) };
    assert_eq!(changed(&saved.content(), &live.content()), Vec::<usize>::new());
    stop(vmm);
    let mut vmm = saved.fork_savable();
    running(&mut vmm);
    let mut log = saved.log.clone();
    log.extend(vmm.read_log(100));
    assert_counts(&log);
    stop(vmm);
}

#[test]
fn what_a_fork_writes_into_empty_memory_is_saved() {
    // All of it lies in parts that the template's file does not have.
    let template = Template::new(saved_spec(1, 64), &guests::fill_and_count(), 10);
    let mut vmm = template.fork_savable();
    running(&mut vmm);
    let mut log = template.log.clone();
    log.extend(vmm.read_log(100));
    let (saved, _) = save(&mut vmm, &template.spec, log);
    stop(vmm);
    let (old, new) = (template.content(), saved.content());
    let changed = changed(&old, &new);
    let (first, pages) = changed.split_first().unwrap();
    assert_eq!(*first, ID);
    // A page for each byte that was printed since, from the first empty one on.
    let printed = saved.log.len() - template.log.len();
    assert!(pages.len().abs_diff(printed) <= 1, "{} pages, {printed} bytes", pages.len());
    assert!(pages.windows(2).all(|pair| pair[1] == pair[0] + 1), "{pages:?}");
    let mut vmm = saved.fork();
    running(&mut vmm);
    vmm.read_log(100);
    stop(vmm);
}

#[test]
fn only_a_paused_machine_that_was_started_for_it_is_saved_with_its_memory() {
    let first = template();
    let try_save = |mut vmm: Vmm, paused: bool| {
        running(&mut vmm);
        if paused {
            pause(&mut vmm);
        }
        let (state, memory) = (empty_file(), empty_file());
        vmm.send(&Command::SaveWhole, &[state.as_raw_fd(), memory.as_raw_fd()]);
        assert_refused(vmm, ExitCode::Host, "not allowed at this point");
        for file in [state, memory] {
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
    };
    try_save(first.fork_savable(), false);
    try_save(first.fork(), true);
    try_save(Vmm::start_toy(&guests::spin()), true);
    let rehearse = Command::Rehearse(first.spec.clone());
    try_save(first.go_on(&rehearse), true);
    // One descriptor where two are needed.
    let mut vmm = first.fork_savable();
    running(&mut vmm);
    pause(&mut vmm);
    vmm.send(&Command::SaveWhole, &[empty_file().as_raw_fd()]);
    assert_refused(vmm, ExitCode::Host, "needs 2 descriptors");
}

#[test]
fn a_list_of_pages_is_copied_into_empty_memory_too() {
    let template = Template::new(saved_spec(1, 64), &guests::count_for_ever(), 100);
    let pages = WorkingSet::of((0..20).chain(5000..5100));
    let command = Command::ForkSavable(template.spec.clone(), pages);
    let mut vmm = template.go_on(&command);
    running(&mut vmm);
    let mut log = template.log.clone();
    log.extend(vmm.read_log(100));
    let (saved, _) = save(&mut vmm, &template.spec, log);
    assert_counts(&saved.log);
    assert_eq!(changed(&template.content(), &saved.content()), [ID, NUMBER]);
    stop(vmm);
}

#[test]
fn whoever_does_not_read_the_memory_ends_the_machine() {
    let mut vmm = template().fork_savable();
    running(&mut vmm);
    pause(&mut vmm);
    let (from, to) = pipe();
    drop(from);
    vmm.send(&Command::SaveWhole, &[empty_file().as_raw_fd(), to.as_raw_fd()]);
    assert_refused(vmm, ExitCode::Host, "writing the saved machine's memory");
}

#[test]
fn a_fork_that_can_be_saved_costs_little_more() {
    for memory_mib in [128, 2 << 10] {
        let template = Template::new(saved_spec(1, memory_mib), &guests::count_for_ever(), 10);
        let time = |times: &StartTimes| times.run_ns - times.process_ns;
        let mut rounds = (0..ROUNDS).map(|_| {
            let plain = least_us(|| template.fork(), time);
            let savable = least_us(|| template.fork_savable(), time);
            println!("{memory_mib} MiB: a fork {plain} µs, one that can be saved {savable} µs");
            // Some milliseconds on a slow host; a look at each page would take as many times that.
            savable < 2 * plain + 1000
        });
        assert!(rounds.any(|good| good), "{memory_mib} MiB");
    }
}
