//! Paths of requests, and the patterns that rules hold them against.
//!
//! A server may read a path in another way than this file does. So a path has one meaning here or none:
//! what servers are known to read differently (dot segments, empty segments, encoded slashes, encodings
//! of encodings, parameters behind `;`) is refused wherever a rule looks at paths.

/// What is wrong with a path or a pattern, and what to do.
pub type Fault = (String, &'static str);

/// Longest pattern, in bytes. Paths of interfaces are far shorter.
pub const MAX_PATTERN: usize = 512;
/// `**` in one pattern: each multiplies what a hostile path can make the matching cost.
pub const MAX_DEEP: usize = 2;

/// Parts of a request's path where a rule looks at it. Stops a long path from making the matching of `**` dear.
pub const MAX_PARTS: usize = 128;

const WRITE: &str = "write a path like \"/v1/models\", with `*` for one part of it and `**` for all below, like \"/v1/**\"";

/// A path with one meaning: its parts, decoded, without the slashes between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<String>);

impl Path {
    /// Reads the path of a request, without its query.
    ///
    /// # Errors
    /// It has no single meaning; why, in words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix('/').ok_or("its path does not begin with a slash")?;
        if rest.split('/').nth(MAX_PARTS).is_some() {
            return Err("its path has too many parts");
        }
        let parts: Vec<String> = rest.split('/').map(decoded).collect::<Result<_, _>>()?;
        check(&parts)?;
        Ok(Self(parts))
    }
}

/// Parts that are none, or mean another place, are refused. The last may be empty: a slash at the end.
fn check(parts: &[String]) -> Result<(), &'static str> {
    let inner = parts.split_last().map(|(_, inner)| inner).unwrap_or_default();
    if inner.iter().any(String::is_empty) {
        return Err("its path has two slashes in a row, which servers read differently");
    }
    if parts.iter().any(|part| part == "." || part == "..") {
        return Err("its path has `.` or `..` in it, which servers read differently");
    }
    Ok(())
}

/// A part with its percent encodings read.
fn decoded(part: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let pair = [rest.next(), rest.next()].map(|digit| {
                let value = char::from(digit?).to_digit(16)?;
                u8::try_from(value).ok()
            });
            let [Some(high), Some(low)] = pair else {
                return Err("its path has a percent sign without two digits");
            };
            high << 4 | low
        } else if byte.is_ascii() {
            byte
        } else {
            return Err("its path has bytes that must be encoded");
        };
        match byte {
            b'/' | b'\\' => return Err("its path has an encoded slash or a backslash in it"),
            b';' => return Err("its path has a semicolon, which servers read differently"),
            0..0x20 | 0x7f => return Err("its path has a control character in it"),
            byte => bytes.push(byte),
        }
    }
    // Whoever decodes twice would read another path.
    let twice = bytes.windows(3).any(
        |three| matches!(three, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()),
    );
    if twice {
        return Err("its path is encoded twice");
    }
    String::from_utf8(bytes).map_err(|_| "its path is not UTF-8")
}

/// Looks at a pattern as the team file has it.
///
/// # Errors
/// It is none; what is wrong, and what to do.
pub fn pattern(text: &str) -> Result<(), Fault> {
    if text.len() > MAX_PATTERN {
        let what = format!("a pattern of {} bytes; at most {MAX_PATTERN} are taken", text.len());
        return Err((what, WRITE));
    }
    let Some(rest) = text.strip_prefix('/') else {
        let what = if text.contains("://") {
            "it is a URL and no path"
        } else {
            "the path does not begin with a slash"
        };
        return Err((what.to_owned(), WRITE));
    };
    if text.contains(['?', '#']) {
        let what = "there is a query in it, and rules look at paths alone".to_owned();
        return Err((what, "write the path up to the question mark"));
    }
    let mut parts = Vec::new();
    for part in rest.split('/') {
        if part.contains("**") && part != "**" {
            let what = "`**` is not a whole part of the path".to_owned();
            return Err((what, "put it between slashes, like \"/v1/**\""));
        }
        for piece in part.split('*') {
            decoded(piece).map_err(|why| (format!("no request is let through: {why}"), WRITE))?;
        }
        parts.push(part.to_owned());
    }
    check(&parts).map_err(|why| (format!("no request is let through: {why}"), WRITE))?;
    if parts.iter().filter(|part| *part == "**").count() > MAX_DEEP {
        let what = format!("there are more than {MAX_DEEP} `**` in it");
        return Err((what, "write a shorter pattern, or several"));
    }
    Ok(())
}

/// Whether a pattern that [`pattern`] took means a path. `*` is any text within a part, `**` any number of
/// parts, at the end at least one. With `any_case`, letters of ASCII are the same in both cases: for what
/// denies, as some servers read them so.
#[must_use]
pub fn matches(pattern: &str, path: &Path, any_case: bool) -> bool {
    let parts: Vec<&str> = pattern.strip_prefix('/').unwrap_or(pattern).split('/').collect();
    match_parts(&parts, &path.0, any_case)
}

fn match_parts(pattern: &[&str], parts: &[String], any_case: bool) -> bool {
    match (pattern, parts) {
        ([], []) => true,
        (["**"], parts) => !parts.is_empty(),
        (["**", rest @ ..], parts) => (0..=parts.len()).any(|skipped| {
            parts.get(skipped..).is_some_and(|left| match_parts(rest, left, any_case))
        }),
        ([one, rest @ ..], [part, left @ ..]) => {
            match_part(one, part, any_case) && match_parts(rest, left, any_case)
        }
        _ => false,
    }
}

/// One part: pieces of text with anything between them, each found as early as it can be.
fn match_part(pattern: &str, part: &str, any_case: bool) -> bool {
    let fold = |text: &str| if any_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let part = fold(part);
    // A pattern that was taken can be decoded.
    let pieces: Vec<String> =
        pattern.split('*').filter_map(|piece| decoded(piece).ok()).map(|p| fold(&p)).collect();
    let (Some((first, rest)), true) = (pieces.split_first(), !pieces.is_empty()) else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else { return part == *first };
    let Some(mut left) = part.strip_prefix(first.as_str()) else { return false };
    for piece in middle {
        let Some((_, after)) = left.split_once(piece.as_str()) else { return false };
        left = after;
    }
    left.ends_with(last.as_str())
}

#[cfg(test)]
#[path = "path_test.rs"]
mod tests;
