use std::io::Write as _;

use cloister_vmm::spec::{MAX_EXTENT_BYTES, extent_head};

use super::*;

const MEMORY: u64 = 64 << 20;

/// A stream of extents, each full of a byte, with its end.
fn stream(extents: &[(u64, u64, u8)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (place, bytes, byte) in extents {
        stream.extend(extent_head(*place, *bytes));
        stream.extend(vec![*byte; usize::try_from(*bytes).unwrap()]);
    }
    stream.extend(extent_head(MEMORY, 0));
    stream
}

fn received(stream: &[u8]) -> Result<File, SaveError> {
    let file = tempfile::tempfile().unwrap();
    receive(&mut &*stream, &file, MEMORY).map(|()| file)
}

fn at(file: &File, place: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    byte[0]
}

#[test]
fn a_memory_is_a_file_of_its_length_with_holes() {
    use std::os::unix::fs::MetadataExt as _;
    let long = MAX_EXTENT_BYTES as u64;
    let last = MEMORY - 4096;
    let file = received(&stream(&[(4096, 8192, 1), (1 << 20, long, 2), (last, 4096, 3)])).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), MEMORY);
    assert!(metadata.blocks() * 512 < 2 << 20, "{} blocks", metadata.blocks());
    let bytes = [(0, 0), (4096, 1), (12287, 1), (12288, 0), (1 << 20, 2), ((2 << 20) - 1, 2)];
    for (place, byte) in bytes.into_iter().chain([(last, 3), (MEMORY - 1, 3), (last - 1, 0)]) {
        assert_eq!(at(&file, place), byte, "{place:#x}");
    }
    assert_eq!(received(&stream(&[])).unwrap().metadata().unwrap().len(), MEMORY);
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_no_memory() {
    let whole = stream(&[(0, 4096, 1), (8192, 4096, 2)]);
    for end in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let error = received(&whole[..end]).unwrap_err();
        assert!(matches!(error, SaveError::Read(_)), "{end}: {error}");
    }
}

#[test]
fn what_is_no_memory_is_refused_by_name() {
    let refused = |stream: &[u8]| match received(stream).unwrap_err() {
        SaveError::Memory(error) => error,
        other => panic!("{other}"),
    };
    let more = [stream(&[]), vec![0]].concat();
    assert_eq!(refused(&more), ExtentError::AfterLast);
    let twice = stream(&[(0, 8192, 1), (4096, 4096, 1)]);
    assert_eq!(refused(&twice), ExtentError::Order { place: 4096, behind: 8192 });
    // Nothing of such a length is ever made room for.
    for bytes in [0, MAX_EXTENT_BYTES as u64 + 4096, u64::MAX] {
        assert_eq!(refused(&extent_head(0, bytes)), ExtentError::Length { bytes });
    }
    for place in [MEMORY, u64::MAX - 4095] {
        let beyond = ExtentError::Beyond { place, memory_bytes: MEMORY };
        assert_eq!(refused(&extent_head(place, 4096)), beyond);
    }
    assert_eq!(refused(&extent_head(7, 4096)), ExtentError::Pages { place: 7, bytes: 4096 });
}

#[test]
fn a_file_with_something_in_it_is_left_as_it_is() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"x").unwrap();
    let error = receive(&mut &*stream(&[]), &file, MEMORY).unwrap_err();
    assert!(matches!(error, SaveError::NotEmpty));
    assert_eq!(file.metadata().unwrap().len(), 1);
}

#[test]
fn a_vmm_that_stops_writing_is_waited_for_up_to_the_deadline() {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut to = File::from(to);
    to.write_all(&stream(&[(0, 4096, 1)])[..100]).unwrap();
    let begin = Instant::now();
    let deadline = begin + Duration::from_millis(300);
    let file = tempfile::tempfile().unwrap();
    let error = receive(&mut Pipe { pipe: from.into(), deadline }, &file, MEMORY).unwrap_err();
    assert!(matches!(error, SaveError::Read(error) if error.kind() == io::ErrorKind::TimedOut));
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn the_limit_grows_with_the_memory() {
    assert_eq!(limit(0), ANSWER_LIMIT);
    assert_eq!(limit(4 << 30), ANSWER_LIMIT + Duration::from_secs(256));
}
