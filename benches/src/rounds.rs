//! What one round found of one kind of work, and how one subject's rounds compare with another's.

use anyhow::Context as _;
use cloister::commands::bench::statistics::{Summary, ratio};
use serde::{Deserialize, Serialize};

/// One kind of work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// How often it was done.
    pub count: u64,
    /// All of it, in nanoseconds.
    pub total_ns: u64,
    /// One turn, in nanoseconds: the middle one.
    pub median_ns: u64,
    /// At least 99 of 100 took no longer.
    pub p99_ns: u64,
}

impl Line {
    /// Of the time of each turn.
    ///
    /// # Errors
    /// There was none.
    pub fn new(name: &str, total_ns: u64, each: Vec<u64>) -> anyhow::Result<Self> {
        let count = u64::try_from(each.len())?;
        let Summary { median, p99, .. } = Summary::of(each).context("nothing was done")?;
        Ok(Self { name: name.to_owned(), count, total_ns, median_ns: median, p99_ns: p99 })
    }
}

/// One subject's figures by another's, of the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The median of the one's by the median of the other's.
    pub of_medians: f64,
    /// Of the rounds, one by one: the least.
    pub least: f64,
    /// The largest.
    pub largest: f64,
}

impl Share {
    /// Of the rounds' figures in order; `None` if one of them has none, or only zeros.
    #[must_use]
    pub fn of(part: &[u64], whole: &[u64]) -> Option<Self> {
        let median = |figures: &[u64]| Some(Summary::of(figures.iter().copied())?.median);
        let middle = median(whole).filter(|middle| *middle > 0)?;
        let of_medians = ratio(median(part)?, middle);
        let each: Vec<f64> =
            part.iter().zip(whole).map(|(part, whole)| ratio(*part, *whole)).collect();
        let least = each.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = each.iter().copied().fold(0.0, f64::max);
        Some(Self { of_medians, least, largest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_medians_and_of_each_round() {
        let share = Share::of(&[10, 30, 20], &[10, 10, 40]).unwrap();
        assert_eq!(share, Share { of_medians: 2.0, least: 0.5, largest: 3.0 });
        assert_eq!(Share::of(&[], &[1]), None);
        assert_eq!(Share::of(&[1], &[]), None);
        assert_eq!(Share::of(&[1, 1, 1], &[0, 0, 5]), None);
    }

    #[test]
    fn a_line_is_of_at_least_one_turn() {
        let line = Line::new("work", 60, vec![10, 30, 20]).unwrap();
        assert_eq!((line.count, line.total_ns, line.median_ns, line.p99_ns), (3, 60, 20, 30));
        assert!(Line::new("work", 0, vec![]).is_err());
    }
}
