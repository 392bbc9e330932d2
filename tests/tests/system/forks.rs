//! Very many machines that go on from one template, several at once: each checks itself, and no two are alike.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use cloister::launch::LaunchSpec;
use cloister::launch::files::Files;
use cloister::launch::shares::Share;
use cloister::machine::{ExecSpec, Streams};
use cloister::template::{self, Choice, Notice, Wish};
use cloister_file_server::spec::Owner;
use cloister_protocol::message::ExitStatus;
use cloister_tests::prefix::Prefix;
use cloister_vmm::spec::VmSpec;
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::programs::is_slow;

/// So many at once: each has some 30 MiB of its own, and a lab has 6 GiB. More would only wait for its one processor.
const WAVE: usize = 10;
const VCPUS: u8 = 2;
/// A start in a lab takes seconds, with others beside it as many times that.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long what the kernel of a machine printed may take to come here.
const SERIAL_LIMIT: Duration = Duration::from_secs(20);
/// How far the clock of a machine may be from this one's when its word of it comes here.
const CLOCK_SECONDS: u64 = 60;

/// Says what no two machines may share and what time it is; then how each check came out, "wrong" where it failed.
const CHECK: &str = r#"
is() { [ "$2" = "$3" ] && echo "$1" || echo "wrong $1: $2, not $3"; }
cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx1; head -c 16 /dev/hwrng | od -An -tx1
date +%s
uptime() { cut -d' ' -f1 /proc/uptime | tr -d .; }
# What the kernel was told of its generation id, it was told before the shell began.
is generation "$(dmesg | grep -c 'reseeded due to virtual machine fork')" 1
begin=$(uptime); sleep 0.3; [ $(($(uptime) - begin)) -ge 30 ] && echo clock || echo wrong clock
{ timeout 1 sleep 600; } 2>/dev/null; is timer $? 143
is arithmetic "$((6 * 7)) $(awk 'BEGIN { for (n = 1; n <= 2000; n++) s += 1 / n; printf "%.9f", s }')" "42 8.178368104"
is digest "$(seq 1 2000 | sha256sum | cut -c1-16)" 6251e5743b6fd6a7
for cpu in 0 1; do
  is "cpu$cpu" "$(taskset $((1 << cpu)) sh -c 'cut -d" " -f39 /proc/$$/stat')" $cpu
done
trap 'caught=yes' USR1; kill -USR1 $$; is trap "$caught" yes
{ sleep 600 & kill -KILL $!; wait $!; } 2>/dev/null; is kill $? 137
echo data >/tmp/f && mv /tmp/f /tmp/g; is file "$(cat /tmp/g) $(ls /tmp)" "data g"
mkdir -p /mnt && mount -t virtiofs cloister /mnt
is share "$(cat /mnt/desk/question)" "who are you?"
echo "number $1" >/mnt/desk/answer$1; is written "$(cat /mnt/desk/answer$1)" "number $1"
echo "<0>serial $1." >/dev/kmsg; echo end
"#;
/// What is said when nothing failed, after the numbers and the time.
const RIGHT: [&str; 14] = [
    "generation",
    "clock",
    "timer",
    "arithmetic",
    "digest",
    "cpu0",
    "cpu1",
    "trap",
    "kill",
    "file",
    "share",
    "written",
    "end",
    "",
];

struct Bed {
    folder: TempDir,
    wish: Wish,
}

impl Bed {
    fn new() -> Self {
        // Where the lab has a file system of its own, on which a template is not read over a wire.
        let lab = PathBuf::from("/run/lab");
        let folder = if lab.is_dir() { TempDir::new_in(lab) } else { TempDir::new() }.unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let desk = folder.path().join("desk");
        fs::create_dir(&desk).unwrap();
        // The file server's own user writes there.
        fs::set_permissions(&desk, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(desk.join("question"), "who are you?\n").unwrap();
        let place = Some(folder.path().join("templates"));
        Self { folder, wish: Wish { choice: Choice::Build, place } }
    }

    fn desk(&self) -> PathBuf {
        self.folder.path().join("desk")
    }
}

fn launch_spec(desk: &Path) -> LaunchSpec {
    let prefix = Prefix::built();
    let files = Files {
        vmm: prefix.vmm(),
        jailer: prefix.jailer(),
        kernel: prefix.kernel(),
        root: prefix.root(),
        kvm: "/dev/kvm".into(),
    };
    let vm = VmSpec { vcpus: VCPUS, memory_mib: 128, extra_cmdline: String::new() };
    let source = rustix::fs::open(desk, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let owner = Owner::All { uid: 0, gid: 0 };
    let share = Share { name: "desk".into(), source: Arc::new(source), writable: true, owner };
    let spec = LaunchSpec::new(files, vm);
    LaunchSpec { shares: vec![share], start_limit: START_LIMIT, ..spec }
}

/// Starts one machine from the template, which is there, and lets it check itself; its numbers, each its own.
async fn check(spec: LaunchSpec, wish: Wish, number: usize) -> Vec<String> {
    let tell = |notice: Notice<'_>| unreachable!("number {number} is no plain fork: {notice:?}");
    let machine = template::start(spec, &wish, tell).await.unwrap();
    let words = ["sh", "-c", &format!("exec 2>&1; set -- {number}; {CHECK}")];
    let mut command = machine.exec(ExecSpec::new(words)).await.unwrap();
    let Some(Streams::Pipes { mut stdout, .. }) = command.take_streams() else {
        unreachable!("pipes were asked for");
    };
    let reader = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(command.wait().await.unwrap(), ExitStatus::Code(0), "number {number}");
    let text = reader.await.unwrap();
    let said: Vec<&str> = text.split('\n').collect();
    let Some((numbers, said)) = said.split_at_checked(4) else { unreachable!("{text}") };
    assert_eq!(said.get(1..), Some(&RIGHT[..]), "number {number} said:\n{text}");
    let (date, now) = (said[0].parse::<u64>().unwrap(), UNIX_EPOCH.elapsed().unwrap().as_secs());
    assert!(now.abs_diff(date) < CLOCK_SECONDS, "number {number}: {date}, and here it is {now}");
    // It comes by itself, not with the output.
    let wanted = format!("serial {number}.");
    let serial = || String::from_utf8_lossy(&machine.console()).into_owned();
    let begin = Instant::now();
    while !serial().contains(&wanted) {
        assert!(begin.elapsed() < SERIAL_LIMIT, "number {number} without {wanted}: {}", serial());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(machine.stop().await.is_orderly(), "number {number}");
    numbers.iter().map(|number| number.trim().to_owned()).collect()
}

#[test]
fn hundreds_of_forks_of_one_template_all_check_themselves() {
    let bed = Bed::new();
    let count = if is_slow() { 500 } else { 3 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // The first makes the template, and so is not counted.
        let spec = || launch_spec(&bed.desk());
        let first = template::start(spec(), &bed.wish, |_| {}).await.unwrap();
        first.stop().await;
        let begin = Instant::now();
        let (mut seen, mut passed) = (BTreeSet::new(), 0);
        while passed < count {
            let mut wave = JoinSet::new();
            for number in passed..count.min(passed + WAVE) {
                wave.spawn(check(spec(), bed.wish.clone(), number));
            }
            while let Some(numbers) = wave.join_next().await {
                for number in numbers.unwrap_or_else(|error| panic!("after {passed}: {error}")) {
                    assert!(seen.insert(number.clone()), "{number} comes twice");
                }
                passed += 1;
            }
        }
        let seconds = begin.elapsed().as_secs();
        println!("{passed} forks of one template checked themselves, in {seconds} s");
        assert_eq!(seen.len(), 4 * count);
        for number in 0..count {
            let answer = fs::read_to_string(bed.desk().join(format!("answer{number}"))).unwrap();
            assert_eq!(answer, format!("number {number}\n"));
        }
    });
}
