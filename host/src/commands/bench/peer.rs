//! Any command line, timed to its first output, to compare with.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};

use super::arguments::CommonArgs;
use super::starts::{COMMAND, Way};
use super::{BenchError, beside};
use crate::machine::now_ns;

/// Most that is kept of what a failed command said.
const MAX_SAID: u64 = 4096;

/// A command line.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    name: String,
    words: Vec<String>,
}

impl Peer {
    /// Of a line as a person writes it for a shell; but no shell runs, which would take part in the time.
    pub(super) fn of_line(line: &str) -> Result<Self, BenchError> {
        let words = shlex::split(line).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| BenchError::Peer {
            line: line.to_owned(),
            source: io::Error::other("a quote is not closed, or nothing is there"),
        })?;
        Ok(Self { name: line.to_owned(), words })
    }

    /// This program itself with `cloister run`, which starts its machine in that way.
    pub(super) fn ourselves(common: &CommonArgs, way: &Way) -> Result<Self, BenchError> {
        let name = format!("cloister run (by {})", way.name());
        let error = |source| BenchError::Peer { line: name.clone(), source };
        let program = std::env::current_exe().map_err(error)?;
        let mut words = vec![program.display().to_string(), "run".to_owned()];
        words.extend([format!("--cpus={}", common.cpus), format!("--memory={}", common.memory)]);
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("--{name}={value}")));
        };
        let path = |path: &Option<std::path::PathBuf>| {
            path.as_ref().map(|path| path.display().to_string())
        };
        option("kernel", path(&common.guest.kernel));
        option("rootfs", path(&common.guest.rootfs));
        option("cgroup", path(&common.jail.cgroup));
        option("uids", common.jail.uids.map(|ids| ids.to_string()));
        option("pool", path(&common.pool.pool));
        match way {
            Way::Boot | Way::ColdBoot => option("template", Some("none".to_owned())),
            Way::Fork(wish) => {
                option("template", Some("build".to_owned()));
                option("templates", path(&wish.place));
            }
        }
        let has_no_pool = common.pool.no_pool || matches!(way, Way::ColdBoot);
        words.extend(has_no_pool.then(|| "--no-pool".to_owned()));
        words.push("--".to_owned());
        words.extend(COMMAND.map(str::to_owned));
        Ok(Self { name, words })
    }

    /// As people know it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs it to its end; the time to the first byte on its standard output, in nanoseconds.
    pub(super) async fn run(&self) -> Result<u64, BenchError> {
        let words = self.words.clone();
        let run = beside(move || Ok(time(&words))).await?;
        run.map_err(|source| BenchError::Peer { line: self.name.clone(), source })
    }
}

fn time(words: &[String]) -> io::Result<u64> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begin = now_ns();
    let mut child = command.spawn()?;
    let mut first = [0];
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    // Beside the output, so that neither waits for the other.
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        stderr.by_ref().take(MAX_SAID).read_to_end(&mut said).ok();
        io::copy(&mut stderr, &mut io::sink()).ok();
        said
    });
    let count = stdout.read(&mut first);
    let time = now_ns().saturating_sub(begin);
    io::copy(&mut stdout, &mut io::sink()).ok();
    let status = child.wait()?;
    let said = said.join().unwrap_or_default();
    match (count?, status.success()) {
        (1.., true) => Ok(time),
        (0, true) => Err(io::Error::other("it wrote nothing to its standard output")),
        _ => {
            let said = crate::text::printable_line(&String::from_utf8_lossy(&said));
            Err(io::Error::other(format!("it ended with {status}: {said}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(line: &str) -> Result<u64, String> {
        let words = Peer::of_line(line).map_err(|error| format!("{error:?}"))?.words;
        time(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_timed_to_its_first_output_and_not_to_its_end() {
        let time = peer("sh -c 'echo x; exec sleep 2'").unwrap();
        assert!(time > 0 && time < 2_000_000_000, "{time}");
    }

    #[test]
    fn a_command_that_shows_nothing_is_no_measurement() {
        assert!(peer("true").unwrap_err().contains("wrote nothing"));
        let failed = peer("sh -c 'echo no such image >&2; exit 3'").unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.contains("no such image"), "{failed}");
        let failed = peer("sh -c 'echo x; exit 3'").unwrap_err();
        assert!(failed.contains("exit status: 3"), "{failed}");
        assert!(peer("/no/such/program").is_err());
        assert!(peer("a 'b").is_err() && peer("").is_err());
    }
}
