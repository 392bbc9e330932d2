use super::*;

fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(length.to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(77_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend([0xaa; 12]);
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

fn errno(mut bytes: Vec<u8>) -> i32 {
    let total = bytes.len();
    match check(&mut bytes, total) {
        Err(Refused::Error { unique: 77, errno }) => errno,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ids_of_the_guest_are_taken_away() {
    for (opcode, process) in [(opcode::LOOKUP, 0), (opcode::READDIRPLUS, LISTING)] {
        let body: &[u8] = if process == 0 { b"name\0" } else { &[0; 40] };
        let mut bytes = request(opcode, body);
        let total = bytes.len();
        let head = check(&mut bytes, total).unwrap();
        assert_eq!((head.opcode, head.unique, head.node, head.way), (opcode, 77, 1, Way::Serve));
        assert_eq!(bytes[24..32], [0; 8]);
        assert_eq!(bytes[32..36], process.to_le_bytes());
    }
}

#[test]
fn every_operation_with_a_name_refuses_bad_ones() {
    let with_names = TABLE.iter().filter(|line| !matches!(line.names, Names::None));
    for line in with_names {
        let path = !matches!(line.names, Names::Attribute | Names::AttributeAndValue);
        let long = [vec![b'a'; 256], vec![0]].concat();
        let mut bad: Vec<&[u8]> = vec![b"", b"\0", b"no end", &long];
        if path {
            bad.extend([&b".\0"[..], b"..\0", b"a/b\0", b"/\0", b"../x\0"]);
        }
        for name in bad {
            let body = [&vec![0; line.arguments], name, b"other\0"].concat();
            let fine = name == b"no end"
                && !matches!(line.names, Names::One | Names::Attribute | Names::Two);
            if name.is_empty() || name == b"no end" {
                // The next name takes its place.
                if fine || name.is_empty() {
                    continue;
                }
                let body = [&vec![0; line.arguments], name].concat();
                assert!(errno(request(line.opcode, &body)) > 0, "{} {name:?}", line.opcode);
                continue;
            }
            assert!(errno(request(line.opcode, &body)) > 0, "{} {name:?}", line.opcode);
        }
        // Nothing at all.
        assert_eq!(errno(request(line.opcode, &vec![0; line.arguments])), libc::EINVAL);
    }
}

#[test]
fn second_names_are_checked_too() {
    for opcode in [12, 45] {
        let arguments = if opcode == 12 { 8 } else { 16 };
        for second in [&b".."[..], b"a/b", b"", &[b'x'; 256]] {
            let body = [&vec![0; arguments][..], b"good\0", second, b"\0"].concat();
            assert!(errno(request(opcode, &body)) > 0);
        }
        let body = [&vec![0; arguments][..], b"good\0also\0more"].concat();
        assert_eq!(errno(request(opcode, &body)), libc::EINVAL);
    }
    let long = [&b"name\0"[..], &[b'x'; 4096], b"\0"].concat();
    assert_eq!(errno(request(opcode::SYMLINK, &long)), libc::ENAMETOOLONG);
    assert_eq!(errno(request(opcode::SYMLINK, b"name\0\0")), libc::ENOENT);
}

#[test]
fn lengths_that_lie_and_short_arguments_are_refused() {
    for line in TABLE {
        for delta in [-1_i64, 1, 4096, -40] {
            let mut bytes = request(line.opcode, &vec![0; line.arguments + 8]);
            let total = bytes.len();
            let lie = u32::try_from(i64::try_from(total).unwrap() + delta).unwrap();
            bytes[..4].copy_from_slice(&lie.to_le_bytes());
            assert!(check(&mut bytes, total).is_err(), "{} {delta}", line.opcode);
        }
        for short in 0..line.arguments {
            let mut bytes = request(line.opcode, &vec![0; short]);
            let total = bytes.len();
            assert!(check(&mut bytes, total).is_err(), "{} {short}", line.opcode);
        }
    }
    for length in 0..HEADER {
        let mut bytes = request(17, b"");
        bytes.truncate(length);
        assert!(check(&mut bytes, length).is_err(), "{length}");
    }
}

#[test]
fn what_is_not_in_the_table_is_not_known() {
    for opcode in (0..8192).chain([u32::MAX, 1 << 31]) {
        if !TABLE.iter().any(|line| line.opcode == opcode) {
            assert_eq!(errno(request(opcode, &[0; 128])), libc::ENOSYS);
        }
    }
    let mut numbers: Vec<u32> = TABLE.iter().map(|line| line.opcode).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), TABLE.len());
    assert!(numbers.is_sorted());
}
