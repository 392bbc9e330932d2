//! Many commands at once in one machine, by the library.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;

use cloister::launch::LaunchSpec;
use cloister::launch::files::Files;
use cloister::machine::{ExecSpec, Machine, Streams};
use cloister_protocol::message::ExitStatus;
use cloister_tests::prefix::Prefix;
use cloister_vmm::spec::VmSpec;

/// More than a team's agents will run; the protocol's own bound is higher.
const COMMANDS: u8 = 100;

fn launch_spec() -> LaunchSpec {
    let prefix = Prefix::built();
    let files = Files {
        vmm: prefix.vmm(),
        jailer: prefix.jailer(),
        kernel: prefix.kernel(),
        root: prefix.root(),
        kvm: "/dev/kvm".into(),
    };
    LaunchSpec::new(files, VmSpec { vcpus: 2, memory_mib: 512, extra_cmdline: String::new() })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn reader(mut stream: UnixStream) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn a_hundred_commands_at_once_in_one_machine_all_end_right() {
    block_on(async {
        let machine = Machine::start(launch_spec()).await.unwrap();
        let mut running = Vec::new();
        for number in 0..COMMANDS {
            // Each waits for its input, so all of them are there at once.
            let script = format!("read word; echo $word {number}; exit {number}");
            let mut command = machine.exec(ExecSpec::new(["sh", "-c", &script])).await.unwrap();
            let Some(Streams::Pipes { stdin: Some(stdin), stdout, .. }) = command.take_streams()
            else {
                panic!("no streams");
            };
            running.push((number, command, stdin, reader(stdout)));
        }
        for (number, mut command, mut stdin, output) in running {
            stdin.write_all(b"word\n").unwrap();
            assert_eq!(command.wait().await.unwrap(), ExitStatus::Code(number));
            assert_eq!(output.join().unwrap(), format!("word {number}\n"));
        }
        machine.ping().await.unwrap();
        machine.stop().await;
    });
}

#[test]
fn a_machine_that_is_paused_answers_nothing_and_goes_on_after_it() {
    block_on(async {
        let machine = Machine::start(launch_spec()).await.unwrap();
        machine.ping().await.unwrap();
        machine.pause().await.unwrap();
        let wait = std::time::Duration::from_secs(3);
        let silent = tokio::time::timeout(wait, machine.ping()).await.is_err();
        assert!(silent, "a paused machine answered");
        machine.resume().await.unwrap();
        let mut command = machine.exec(ExecSpec::new(["true"])).await.unwrap();
        assert_eq!(command.wait().await.unwrap(), ExitStatus::Code(0));
        machine.stop().await;
    });
}
