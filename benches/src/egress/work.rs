//! What is done by every way: connections, requests, and transfers by one stream and by several at once.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::Protocol;
use super::client::{Client, Connection};
use crate::rounds::Line;

/// Bytes of a small answer.
const SMALL: u64 = 128;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// New connections one after the other, each with a small request, and closed.
    Connect,
    /// Small requests, one after the other on one connection.
    Request,
    /// Bytes from the server, by so many streams at once.
    Download(u32),
    /// Bytes to it.
    Upload(u32),
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Connections.
    pub connections: u32,
    /// Requests.
    pub requests: u32,
    /// Bytes of a transfer, by all of its streams.
    pub bytes: u64,
    /// Streams of the transfers that have several.
    pub streams: u32,
}

impl Size {
    /// All kinds of work, with each protocol.
    pub fn cases(&self) -> impl Iterator<Item = (Protocol, Work)> + use<> {
        let works = [
            Work::Connect,
            Work::Request,
            Work::Download(1),
            Work::Download(self.streams),
            Work::Upload(1),
            Work::Upload(self.streams),
        ];
        Protocol::ALL.into_iter().flat_map(move |protocol| works.map(|work| (protocol, work)))
    }
}

impl Work {
    /// For tables and files.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Connect => "connect".to_owned(),
            Self::Request => "request".to_owned(),
            Self::Download(streams) => format!("download-{streams}"),
            Self::Upload(streams) => format!("upload-{streams}"),
        }
    }

    /// Whether it is a matter of bytes, and not of how often.
    #[must_use]
    pub const fn is_transfer(self) -> bool {
        matches!(self, Self::Download(_) | Self::Upload(_))
    }

    /// Does it: the time of each connection, request or stream, and of all.
    ///
    /// # Errors
    /// Something of it fails.
    pub async fn run(self, client: &Client<'_>, size: &Size) -> anyhow::Result<Line> {
        let (total, each) = match self {
            Self::Connect => connect(client, size.connections).await?,
            Self::Request => request(client, size.requests).await?,
            Self::Download(streams) | Self::Upload(streams) => {
                let bytes = size.bytes / u64::from(streams.max(1));
                self.transfer(client, streams, bytes).await?
            }
        };
        Line::new(&self.name(), nanoseconds(total), each)
    }

    async fn transfer(
        self,
        client: &Client<'_>,
        streams: u32,
        bytes: u64,
    ) -> anyhow::Result<Times> {
        let mut connections = Vec::new();
        for _ in 0..streams {
            let mut connection = client.connect().await?;
            // Whatever the first request of a connection costs is no part of this.
            connection.download(SMALL).await?;
            connections.push(connection);
        }
        let begin = Instant::now();
        let mut running = JoinSet::new();
        for connection in connections {
            running.spawn(self.stream(connection, bytes));
        }
        let (mut each, mut open) = (Vec::new(), Vec::new());
        while let Some(done) = running.join_next().await {
            open.push(done??);
            each.push(nanoseconds(begin.elapsed()));
        }
        let total = begin.elapsed();
        for connection in open {
            connection.close().await;
        }
        Ok((total, each))
    }

    async fn stream(self, mut connection: Connection, bytes: u64) -> anyhow::Result<Connection> {
        match self {
            Self::Upload(_) => connection.upload(bytes).await?,
            _ => connection.download(bytes).await?,
        }
        Ok(connection)
    }
}

/// Of all, and of each in nanoseconds.
type Times = (Duration, Vec<u64>);

async fn connect(client: &Client<'_>, count: u32) -> anyhow::Result<Times> {
    let (begin, mut each) = (Instant::now(), Vec::new());
    for _ in 0..count {
        let begin = Instant::now();
        let mut connection = client.connect().await?;
        connection.download(SMALL).await?;
        connection.close().await;
        each.push(nanoseconds(begin.elapsed()));
    }
    Ok((begin.elapsed(), each))
}

async fn request(client: &Client<'_>, count: u32) -> anyhow::Result<Times> {
    let mut connection = client.connect().await?;
    connection.download(SMALL).await?;
    let (begin, mut each) = (Instant::now(), Vec::new());
    for _ in 0..count {
        let begin = Instant::now();
        connection.download(SMALL).await?;
        each.push(nanoseconds(begin.elapsed()));
    }
    let total = begin.elapsed();
    connection.close().await;
    Ok((total, each))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
