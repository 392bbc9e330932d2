//! Sizes, times and shares of a CPU as a team file writes them.

/// A size in bytes: a whole number and a unit of 1024 (`64KiB`, `256M`, `1 GiB`).
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    // Beyond every bound.
    Some(number.saturating_mul(1 << shift))
}

/// A time in milliseconds: a whole number and a unit (`500ms`, `30s`, `5m`, `2h`, `1d`).
#[must_use]
pub fn time(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return None,
    };
    Some(number.saturating_mul(milliseconds))
}

/// Thousandths of a CPU, from a number as TOML writes it (`2`, `0.5`, `1e-1`).
#[must_use]
pub fn thousandths(text: &str) -> Option<u64> {
    let plain = text.replace('_', "");
    let number: f64 = plain.parse().ok()?;
    let scaled = (number * 1000.0).round();
    let fits = scaled.is_finite() && (0.0..=1e9).contains(&scaled);
    if !fits || (number * 1000.0 - scaled).abs() > 1e-6 {
        return None;
    }
    // A whole number, written and read again: no conversion that could lose anything.
    format!("{scaled:.0}").parse().ok()
}

/// A size in its largest whole unit.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// A time in its largest whole unit.
#[must_use]
pub fn show_time(milliseconds: u64) -> String {
    for (length, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if milliseconds > 0 && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

/// Thousandths of a CPU as a number.
#[must_use]
pub fn show_thousandths(value: u64) -> String {
    let text = format!("{}.{:03}", value / 1000, value % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Digits and the unit after them.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    // More digits are beyond every bound, as is what does not fit into 64 bits.
    if digits.is_empty() || digits.len() > 30 {
        return None;
    }
    Some((digits.parse().unwrap_or(u64::MAX), rest.strip_prefix(' ').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64KiB", 64 << 10),
            ("64K", 64 << 10),
            ("256M", 256 << 20),
            ("1 GiB", 1 << 30),
            ("2tb", 2 << 40),
            ("0M", 0),
            ("99999999999999999999T", u64::MAX),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "64", "M", "-1M", "1.5G", "1  M", "1B", "1 M ", " 1M", "1GG", "٣M"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(time(text), Some(milliseconds), "{text}");
        }
        for text in ["", "30", "s", "1S", "1h30m", "1.5s", "-1s"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn shares_of_a_cpu() {
        for (text, share) in
            [("2", 2000), ("0.5", 500), ("1e-1", 100), ("1_0.25", 10_250), ("0", 0), ("0.001", 1)]
        {
            assert_eq!(thousandths(text), Some(share), "{text}");
        }
        for text in ["", "nan", "inf", "-inf", "-1", "0.0005", "1e300", "x"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [1 << 10, 3 << 20, 1 << 30, 1 << 44, (1 << 20) + 1024] {
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
        for milliseconds in [1, 500, 1000, 90_000, 3_600_000, 86_400_000 * 30] {
            assert_eq!(time(&show_time(milliseconds)), Some(milliseconds));
        }
        for share in [10, 500, 1000, 1250, 32_000] {
            assert_eq!(thousandths(&show_thousandths(share)), Some(share));
        }
    }
}
