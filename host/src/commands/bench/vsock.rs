//! `cloister bench vsock`: round trips to the supervisor, and streams through a command.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use super::arguments::VsockArgs;
use super::report::{Line, Report, Unit};
use super::starts::Way;
use super::{BenchError, STREAM_CHUNK, beside, drain, expect_success, rate, start_command};
use crate::launch::LaunchSpec;
use crate::machine::{Machine, now_ns};

pub(super) async fn measure(
    arguments: &VsockArgs,
    launch: LaunchSpec,
) -> Result<Report, BenchError> {
    let what = "round trips to the supervisor, and streams through a command";
    let mut report = Report::new("vsock", what, &launch.vm);
    let machine = Machine::start(launch).await?;
    let trips = round_trips(&machine, arguments).await?;
    let trips = Line::new("round_trip", "round trip to the supervisor", Unit::Nanoseconds, trips);
    report.lines.push(trips.ok_or(BenchError::Nothing)?);

    let bytes = u64::from(arguments.mib) << 20;
    for direction in [Direction::ToGuest, Direction::FromGuest, Direction::Through] {
        let mut rates = Vec::new();
        for _ in 0..arguments.streams {
            let begin = now_ns();
            direction.stream(&machine, bytes).await?;
            rates.push(rate(bytes, now_ns().saturating_sub(begin)));
        }
        let (key, name) = direction.names();
        let line = Line::new(key, name, Unit::BytesPerSecond, rates);
        report.lines.push(line.ok_or(BenchError::Nothing)?);
    }
    report.add_footprints([Way::Boot.footprint(&machine)?]).ok_or(BenchError::Nothing)?;
    machine.stop().await;
    Ok(report)
}

async fn round_trips(machine: &Machine, arguments: &VsockArgs) -> Result<Vec<u64>, BenchError> {
    for _ in 0..arguments.warmup {
        machine.ping().await?;
    }
    let mut trips = Vec::new();
    for _ in 0..arguments.count {
        let begin = now_ns();
        machine.ping().await?;
        trips.push(now_ns().saturating_sub(begin));
    }
    Ok(trips)
}

/// Which way a stream goes. Its time is from the request for its command to that one's end.
#[derive(Clone, Copy)]
enum Direction {
    ToGuest,
    FromGuest,
    Through,
}

impl Direction {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ToGuest => ("to_guest", "stream into `cat > /dev/null`"),
            Self::FromGuest => ("from_guest", "stream out of `head -c`"),
            Self::Through => ("through", "stream through `cat`, both directions"),
        }
    }

    async fn stream(self, machine: &Machine, bytes: u64) -> Result<(), BenchError> {
        let count = bytes.to_string();
        let (arguments, feeds, expected): (&[&str], _, _) = match self {
            Self::ToGuest => (&["sh", "-c", "exec cat > /dev/null"], true, 0),
            Self::FromGuest => (&["head", "-c", &count, "/dev/zero"], false, bytes),
            Self::Through => (&["cat"], true, bytes),
        };
        let (mut command, stdin, stdout) = start_command(machine, arguments, feeds).await?;
        let fed = beside(move || stdin.map_or(Ok(()), |stdin| feed(stdin, bytes)));
        let (got, fed) = tokio::join!(beside(move || drain(stdout)), fed);
        fed?;
        let got = got?;
        expect_success(&mut command).await?;
        if got == expected { Ok(()) } else { Err(BenchError::Short { expected, got }) }
    }
}

/// Writes that many bytes and closes.
fn feed(mut stream: UnixStream, bytes: u64) -> std::io::Result<()> {
    let chunk = vec![0x5a; STREAM_CHUNK];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        stream.write_all(chunk.get(..part).unwrap_or_default())?;
        left -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate(1 << 30, 500_000_000), 2 << 30);
        assert_eq!(rate(u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn feeding_writes_exactly_so_many_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let bytes = 3 * STREAM_CHUNK as u64 + 17;
        let reader = std::thread::spawn(move || drain(theirs));
        feed(ours, bytes).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), bytes);
    }
}
