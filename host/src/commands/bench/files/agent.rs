//! The container in which files are measured, and one round of the work in it.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;

use cloister_prober::measure::{READ_ONLY, Times, WRITABLE, Work};
use cloister_protocol::agent::{AgentLimits, AgentSpec, Place, Root, ShareMount, User};
use cloister_protocol::message::ExitStatus;

use super::ground;
use crate::commands::bench::{BenchError, beside};
use crate::machine::{ExecSpec, Machine, StdioSpec, Streams};
use crate::text::printable_line;

/// Its number in the machine.
pub(super) const AGENT: u32 = 0;
/// As whom it runs: what a team's agents are by default.
pub(super) const USER: User = User { uid: 1000, gid: 1000 };
/// The program in its root.
pub(super) const PROGRAM: &str = "prober";
/// Most that is kept of what the program says when it fails.
const MAX_SAID: u64 = 4096;
/// Processes, `/tmp`, descriptors and files: what a team's agents have by default. The work needs one process, no file in
/// memory and two descriptors.
const PIDS: u32 = 128;
const TMP_BYTES: u64 = 64 << 20;
const OPEN_FILES: u32 = 1024;
const FILES: u64 = 65_536;

/// The container; it ends with its machine.
pub(super) struct Agent;

/// Makes it. It may use all of the machine, so that a limit of its own is not what is measured.
pub(super) async fn make(
    machine: &Machine,
    cpus: u8,
    memory_mib: u32,
) -> Result<Agent, BenchError> {
    let mount = |share: &str, target: &str, read_only| ShareMount {
        share: share.to_owned(),
        target: target.as_bytes().to_vec(),
        read_only,
    };
    let spec = AgentSpec {
        agent: AGENT,
        name: "files".to_owned(),
        root: Root { share: ground::ROOT.to_owned(), writable_bytes: None },
        mounts: vec![
            mount(ground::WRITABLE, WRITABLE, false),
            mount(ground::READ_ONLY, READ_ONLY, true),
        ],
        limits: AgentLimits {
            memory_bytes: u64::from(memory_mib) << 20,
            cpu_millis: u32::from(cpus) * 1000,
            pids: PIDS,
            tmp_bytes: TMP_BYTES,
            open_files: OPEN_FILES,
            file_bytes: None,
            files: FILES,
        },
        executables: None,
        writable: None,
        egress: None,
    };
    machine.create_agent(spec).await?;
    Ok(Agent)
}

impl Agent {
    /// One round; the time of each call.
    pub(super) async fn work(&self, machine: &Machine, work: Work) -> Result<Times, BenchError> {
        // Three numbers always can be encoded.
        let order = serde_json::to_string(&work).unwrap_or_default();
        let mut spec = ExecSpec::new([format!("/{PROGRAM}"), "files".to_owned(), order]);
        spec.stdio = StdioSpec::Pipes { stdin: false };
        spec.place = Place::Agent { agent: AGENT, user: USER };
        let mut command = machine.exec(spec).await?;
        let Some(Streams::Pipes { stdout, stderr, .. }) = command.take_streams() else {
            return Err(BenchError::Stream(io::ErrorKind::NotConnected.into()));
        };
        let most = work.longest_text();
        let (text, said) = tokio::join!(
            beside(move || read_at_most(stdout, most)),
            beside(move || read_at_most(stderr, MAX_SAID)),
        );
        let (text, said) = (text?, said?);
        match command.wait().await? {
            ExitStatus::Code(0) => read(&text, work).ok_or(BenchError::NoTimes),
            status => {
                let said = printable_line(&String::from_utf8_lossy(&said));
                Err(BenchError::Work { status, said })
            }
        }
    }
}

/// Reads so many bytes at most; whoever writes more finds the stream closed.
fn read_at_most(stream: UnixStream, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The times in what a guest wrote; `None`: they are not those of this work.
fn read(text: &[u8], work: Work) -> Option<Times> {
    serde_json::from_slice(text).ok().filter(|times| work.is_of(times))
}

#[cfg(test)]
mod tests {
    use cloister_prober::measure::Data;

    use super::*;

    #[test]
    fn a_guest_that_tells_other_times_than_were_asked_for_is_not_believed() {
        let work = Work { blocks: 1, reads: 1, files: 1 };
        let data = Data { read: vec![1], random: vec![2] };
        let one = vec![3];
        let times = Times {
            writable: data.clone(),
            write: one.clone(),
            create: one.clone(),
            stat: one.clone(),
            unlink: one,
            read_only: data,
        };
        let text = serde_json::to_vec(&times).unwrap();
        assert_eq!(read(&text, work), Some(times));
        assert_eq!(read(&text, Work { files: 2, ..work }), None);
        for wrong in [&b""[..], b"{}", b"[1]", b"\xff", &text[..text.len() - 1]] {
            assert_eq!(read(wrong, work), None);
        }
    }

    #[test]
    fn no_more_is_read_than_may_be() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let mut theirs = theirs;
            // Ends with an error as soon as nobody reads.
            while io::Write::write_all(&mut theirs, &[b'x'; 1000]).is_ok() {}
        });
        assert_eq!(read_at_most(ours, 1500).unwrap().len(), 1500);
        writer.join().unwrap();
    }
}
