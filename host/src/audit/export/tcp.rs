//! A collector that is reached by TCP. Nothing of syslog tells that a message was read, so the connection does: when it is
//! half closed, a collector reads to its end and closes its half, and before that it is not known to have anything.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::collector::addresses;
use super::place::Target;
use super::unacknowledged::unacknowledged;

/// How long one address may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a collector may take to read what it was sent, once it was told that this is all.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes that a collector may say meanwhile: it has nothing to say.
const MAX_ANSWER: usize = 64 << 10;

/// A connection, made when there is something to send.
#[derive(Debug, Default)]
pub(super) struct Tcp {
    stream: Option<TcpStream>,
}

impl Tcp {
    /// Sends all of `bytes`, by a new connection to `target` if there is none.
    pub(super) async fn send(&mut self, target: &Target, bytes: &[u8]) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(target).await?),
        };
        // One that has closed its half reads no more, whatever is still written.
        let mut answer = [0; 1024];
        match stream.try_read(&mut answer) {
            Ok(0) => return Err(closed()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        stream.write_all(bytes).await
    }

    /// Ends the connection, and waits until the other side has read everything.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        let ended = timeout(READ_LIMIT, ended(&mut stream)).await;
        ended.map_err(|_| {
            let words = format!(
                "it has not closed its side of the connection within {} s of the end of the messages",
                READ_LIMIT.as_secs()
            );
            io::Error::new(io::ErrorKind::TimedOut, words)
        })?
    }
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses(target).await? {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        }
    }
    Err(last)
}

async fn ended(stream: &mut TcpStream) -> io::Result<()> {
    // An end that came before ours says nothing about what was sent.
    let mut answer = [0; 1024];
    if matches!(stream.try_read(&mut answer), Ok(0)) {
        return Err(closed());
    }
    stream.shutdown().await?;
    let mut said = 0_usize;
    loop {
        match stream.read(&mut answer).await? {
            0 => break,
            count => said = said.saturating_add(count),
        }
        if said > MAX_ANSWER {
            let words = "it answers, as no collector of syslog does";
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
    }
    // One that had closed just before has answered by a reset, or has acknowledged nothing.
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match unacknowledged(&*stream)? {
        0 => Ok(()),
        _ => Err(closed()),
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "it has closed the connection")
}

#[cfg(test)]
#[path = "tcp_test.rs"]
mod tests;
