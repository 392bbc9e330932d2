//! Sizes and times as people type them.

use std::time::Duration;

use cloister_protocol::limits::MAX_TIMEOUT_MS;
use cloister_vmm::spec::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};

/// Why a text is not the quantity that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a size.
    #[error("write a whole number and a unit, like 512M, 2G or 1T (a number alone is MiB)")]
    NotASize,
    /// A size that no machine can have.
    #[error("a machine has {MIN_MEMORY_MIB}M to {}T of memory", MAX_MEMORY_MIB >> 20)]
    SizeRange,
    /// Not a time.
    #[error(
        "write a whole number and a unit, like 500ms, 30s, 5m, 2h or 1d (a number alone is seconds)"
    )]
    NotATime,
    /// A time of nothing, or longer than any limit.
    #[error("a time limit is 1ms to {}d", MAX_TIMEOUT_MS / 86_400_000)]
    TimeRange,
    /// Not a number of CPUs.
    #[error("a machine has 1 to {MAX_VCPUS} CPUs")]
    Cpus,
}

/// A number of vCPUs.
///
/// # Errors
/// It is none, or out of range.
pub fn cpus(text: &str) -> Result<u8, QuantityError> {
    let count = text.parse().map_err(|_| QuantityError::Cpus)?;
    if (1..=MAX_VCPUS).contains(&count) { Ok(count) } else { Err(QuantityError::Cpus) }
}

/// A memory size, in MiB. Units are of 1024 and `M`, `MiB` and `MB` are the same.
///
/// # Errors
/// It is none, or out of range.
pub fn memory_mib(text: &str) -> Result<u32, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::NotASize)?;
    let unit = unit.to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let mib = match letter {
        // `b` alone would be bytes.
        "" if unit.is_empty() => 1,
        "m" => 1,
        "g" => 1 << 10,
        "t" => 1 << 20,
        _ => return Err(QuantityError::NotASize),
    };
    number
        .checked_mul(mib)
        .and_then(|mib| u32::try_from(mib).ok())
        .filter(|mib| (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(mib))
        .ok_or(QuantityError::SizeRange)
}

/// A time limit.
///
/// # Errors
/// It is none, or out of range.
pub fn time_limit(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::NotATime)?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return Err(QuantityError::NotATime),
    };
    number
        .checked_mul(milliseconds)
        .filter(|limit| (1..=MAX_TIMEOUT_MS).contains(limit))
        .map(Duration::from_millis)
        .ok_or(QuantityError::TimeRange)
}

/// Digits, then the rest. A number too big for 64 bits is out of every range here, so it saturates.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    Some((digits.parse().unwrap_or(u64::MAX), unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, mib) in [
            ("512M", 512),
            ("512", 512),
            ("48m", 48),
            ("2G", 2048),
            ("2GiB", 2048),
            ("2gb", 2048),
            ("64 MiB", 64),
            ("4T", 4 << 20),
            (" 100M ", 100),
        ] {
            assert_eq!(memory_mib(text), Ok(mib), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size() {
        for text in ["", "M", "-1G", "1.5G", "512K", "512B", "1GG", "lots", "0x10", "1G 1M"] {
            assert_eq!(memory_mib(text), Err(QuantityError::NotASize), "{text}");
        }
        for text in ["0", "1M", "47M", "5T", "99999999999999999999999T", "18446744073709551615G"] {
            assert_eq!(memory_mib(text), Err(QuantityError::SizeRange), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("1ms", 1),
            ("500ms", 500),
            ("30", 30_000),
            ("30s", 30_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("2h", 7_200_000),
            ("30d", MAX_TIMEOUT_MS),
        ] {
            assert_eq!(time_limit(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_time() {
        for text in ["", "s", "-1s", "1.5s", "1w", "1h30m", "soon", "1S"] {
            assert_eq!(time_limit(text), Err(QuantityError::NotATime), "{text}");
        }
        for text in ["0", "0ms", "31d", "99999999999999999999999"] {
            assert_eq!(time_limit(text), Err(QuantityError::TimeRange), "{text}");
        }
    }

    #[test]
    fn cpu_counts() {
        assert_eq!(cpus("1"), Ok(1));
        assert_eq!(cpus("32"), Ok(32));
        for text in ["0", "33", "1000", "-1", "", "two", "1.5"] {
            assert_eq!(cpus(text), Err(QuantityError::Cpus), "{text}");
        }
    }

    #[test]
    fn messages_name_their_bounds() {
        assert_eq!(QuantityError::SizeRange.to_string(), "a machine has 48M to 4T of memory");
        assert_eq!(QuantityError::TimeRange.to_string(), "a time limit is 1ms to 30d");
        assert_eq!(QuantityError::Cpus.to_string(), "a machine has 1 to 32 CPUs");
    }
}
