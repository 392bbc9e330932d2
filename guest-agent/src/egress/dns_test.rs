use super::*;

/// A query for a name in its labels.
fn query(labels: &[&[u8]], kind: u16, class: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&class.to_be_bytes());
    bytes
}

fn question(bytes: &[u8]) -> Question {
    match parse(bytes) {
        Query::Question(question) => question,
        other => panic!("{other:?}"),
    }
}

fn code(query: Query) -> u8 {
    match query {
        Query::Answered(bytes) => bytes[3] & 0xf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_answered() {
    let bytes = query(&[b"API", b"example", b"Com"], 1, 1);
    let question = question(&bytes);
    assert_eq!(question.name, b"api.example.com");
    assert!(question.is_for_address);
    let answer = question.answer(Answer::Address([198, 18, 1, 2].into()));
    // The question comes back as it was, letters' case included.
    assert_eq!(answer[..12], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    assert_eq!(answer[12..bytes.len()], bytes[12..]);
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 18, 1, 2];
    assert_eq!(answer[bytes.len()..], record);
    for (answer, code) in [(Answer::Empty, 0), (Answer::Failure, 2), (Answer::NoName, 3)] {
        let bytes = question.answer(answer);
        assert_eq!((bytes[3] & 0xf, bytes[7]), (code, 0));
    }
    assert!(!self::question(&query(&[b"a"], 28, 1)).is_for_address);
    assert_eq!(self::question(&query(&[], 1, 1)).name, b"");
}

#[test]
fn what_follows_the_question_says_nothing() {
    let mut bytes = query(&[b"a", b"b"], 1, 1);
    let plain = question(&bytes);
    // An OPT record, as most resolvers send.
    bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes[11] = 1;
    assert_eq!(question(&bytes).answer(Answer::Empty), plain.answer(Answer::Empty));
}

#[test]
fn other_messages_are_refused_or_not_answered() {
    let good = query(&[b"a", b"b"], 1, 1);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        parse(&bytes)
    };
    assert_eq!(with(2, 0x81), Query::Nothing, "an answer");
    assert_eq!(code(with(2, 0x28)), 5, "an update");
    assert_eq!(code(with(5, 0)), 1, "no question");
    assert_eq!(code(with(5, 2)), 1, "two questions");
    assert_eq!(code(with(12, 0xc0)), 1, "a pointer");
    assert_eq!(code(with(12, 64)), 1, "a label that is too long");
    assert_eq!(code(with(13, b'.')), 1, "a dot within a label");
    assert_eq!(code(parse(&query(&[b"a"], 1, 3))), 5, "another class");
    let label = [b'x'; 63];
    assert_eq!(code(parse(&query(&[label.as_slice(); 5], 1, 1))), 1, "a name that is too long");
    let label = [b'x'; 49];
    assert_eq!(question(&query(&[label.as_slice(); 5], 1, 1)).name.len(), 249);
    for length in 0..good.len() {
        let cut = parse(good.get(..length).unwrap());
        assert!(!matches!(cut, Query::Question(_)), "{length}");
    }
}

/// No bytes make it fail: every byte of a query is set to every value, and then the rest is cut.
#[test]
fn hostile_bytes_are_parsed_totally() {
    let good = query(&[b"ab", b"cde", b"f"], 1, 1);
    for at in 0..good.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = good.clone();
            bytes[at] = byte;
            for length in [bytes.len(), at + 1, bytes.len() / 2] {
                if let Query::Question(question) = parse(&bytes[..length]) {
                    assert!(question.name.len() <= MAX_HOST_NAME);
                    assert!(question.answer(Answer::Empty).len() <= MAX_QUERY);
                }
            }
        }
    }
}
