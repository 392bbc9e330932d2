//! Memory that a guest has no use for any more goes back to the host, by itself.

use std::fs;
use std::future::Future;
use std::io::Read as _;
use std::time::{Duration, Instant};

use cloister::launch::LaunchSpec;
use cloister::launch::files::Files;
use cloister::machine::{ExecSpec, Machine, Streams};
use cloister::template::{self, Choice, Wish};
use cloister_protocol::message::ExitStatus;
use cloister_tests::prefix::Prefix;
use cloister_vmm::spec::VmSpec;
use tempfile::TempDir;

/// What a guest writes and removes, and what of it must come back at least: free memory is reported by blocks of 4 MiB, and
/// some of these are not whole.
const FILE_MIB: u64 = 40;
const LEAST_MIB: u64 = 24;
/// A kernel looks every 2 s for what it may report, and each time reports a part.
const LIMIT: Duration = Duration::from_secs(90);

fn launch_spec() -> LaunchSpec {
    let prefix = Prefix::built();
    let files = Files {
        vmm: prefix.vmm(),
        jailer: prefix.jailer(),
        kernel: prefix.kernel(),
        root: prefix.root(),
        kvm: "/dev/kvm".into(),
    };
    let vm = VmSpec { vcpus: 1, memory_mib: 256, extra_cmdline: String::new() };
    LaunchSpec { start_limit: Duration::from_secs(120), ..LaunchSpec::new(files, vm) }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// What a command in the machine says.
async fn said(machine: &Machine, script: String) -> String {
    let mut command = machine.exec(ExecSpec::new(["sh", "-c", &script])).await.unwrap();
    let Some(Streams::Pipes { mut stdout, .. }) = command.take_streams() else {
        unreachable!("pipes were asked for");
    };
    let reader = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(command.wait().await.unwrap(), ExitStatus::Code(0), "{script}");
    reader.await.unwrap()
}

/// Memory that the machine's process has, in MiB.
fn resident_mib(machine: &Machine) -> u64 {
    let id = machine.vmm_id().unwrap();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

async fn gives_memory_back(machine: &Machine, kind: &str) {
    let fill =
        format!("head -c $(({FILE_MIB} << 20)) /dev/zero | tr '\\0' x >/tmp/f; sha256sum </tmp/f");
    let sum = said(machine, fill.clone()).await;
    let full = resident_mib(machine);
    assert!(full >= FILE_MIB, "{kind}: {full} MiB");
    said(machine, "rm /tmp/f".into()).await;
    let begin = Instant::now();
    let left = loop {
        // Nothing tells anybody when a kernel has reported.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let left = resident_mib(machine);
        if left + LEAST_MIB <= full {
            break left;
        }
        assert!(begin.elapsed() < LIMIT, "{kind}: {full} MiB, and {left} MiB after {LIMIT:?}");
    };
    let given = machine.stats().await.unwrap().given_back_bytes >> 20;
    println!(
        "{kind}: {full} MiB with a file of {FILE_MIB}, {left} MiB without it; {given} MiB were given back"
    );
    assert!(given >= LEAST_MIB);
    // The memory is as good as it was.
    assert_eq!(said(machine, fill).await, sum);
}

#[test]
fn what_a_guest_frees_the_host_has_again() {
    let folder = TempDir::new().unwrap();
    let wish = Wish { choice: Choice::Build, place: Some(folder.path().join("templates")) };
    block_on(async {
        let machine = Machine::start(launch_spec()).await.unwrap();
        gives_memory_back(&machine, "booted").await;
        machine.stop().await;
        // The first makes the template.
        template::start(launch_spec(), &wish, |_| {}).await.unwrap().stop().await;
        let machine = template::start(launch_spec(), &wish, |_| {}).await.unwrap();
        gives_memory_back(&machine, "forked").await;
        machine.stop().await;
    });
}
