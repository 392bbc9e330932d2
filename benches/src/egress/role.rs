//! The other parties: the same program in another role, each in a process of its own, told what to do by a line on a
//! socket that is its standard input, and ended by the socket's end.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;

use crate::spawn::{Program, Running};

/// A party that was started.
#[derive(Debug)]
pub struct Role {
    name: &'static str,
    control: BufReader<UnixStream>,
    running: Running,
}

impl Role {
    /// Starts `program` in the role `name`, and waits until it is ready: what it says then.
    ///
    /// # Errors
    /// It can't be started, or ended before; it says itself why, on standard error.
    pub fn start<R: DeserializeOwned>(
        program: &Path,
        name: &'static str,
        spec: &impl Serialize,
    ) -> anyhow::Result<(Self, R)> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // What it printed would be in the result.
        let null = File::options().write(true).open("/dev/null")?;
        let running = Program::new(program, &[name.to_owned()])?
            .spawn(&[(theirs.as_fd(), 0), (null.as_fd(), 1)])
            .with_context(|| format!("starting the {name}"))?;
        drop(theirs);
        send(&mut ours, spec)?;
        let mut role = Self { name, control: BufReader::new(ours), running };
        let ready = role.receive()?;
        Ok((role, ready))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Ends it: its last word.
    ///
    /// # Errors
    /// It ended before, or not well.
    pub fn end<R: DeserializeOwned>(mut self) -> anyhow::Result<R> {
        self.control.get_ref().shutdown(Shutdown::Write)?;
        let last = self.receive()?;
        let status = self.running.wait()?;
        ensure!(status == Some(0), "the {} ended with {status:?}", self.name);
        Ok(last)
    }

    fn receive<R: DeserializeOwned>(&mut self) -> anyhow::Result<R> {
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the {} ended early", self.name);
        Ok(serde_json::from_str(&line)?)
    }
}

/// A party's own side.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Takes standard input, on which the first line says what to do.
    ///
    /// # Errors
    /// It is no such socket: this role is for this program's own use.
    pub fn take<S: DeserializeOwned>() -> anyhow::Result<(Self, S)> {
        let input = std::io::stdin().as_fd().try_clone_to_owned()?;
        let stream = UnixStream::from(input);
        let mut line = String::new();
        // Nothing follows the line, so nothing is lost with the reader.
        BufReader::new(&stream).read_line(&mut line).context("no socket on standard input")?;
        Ok((Self(stream), serde_json::from_str(&line).context("no task on standard input")?))
    }

    /// Says something: that it is ready, or the last word.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub fn say(&mut self, word: &impl Serialize) -> anyhow::Result<()> {
        send(&mut self.0, word)
    }

    /// Waits until nobody needs it any more.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn ended(&self) -> anyhow::Result<()> {
        let stream = self.0.try_clone()?;
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        // An error is an end too.
        while stream.read(&mut [0; 64]).await.unwrap_or(0) > 0 {}
        Ok(self.0.set_nonblocking(false)?)
    }
}

fn send(stream: &mut UnixStream, word: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}
