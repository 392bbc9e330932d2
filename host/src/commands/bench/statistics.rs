//! What is said about a row of measurements: median, percentiles, extremes.

use serde::Serialize;

/// A row of measurements in a few numbers, in the unit of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub count: usize,
    /// The smallest.
    pub min: u64,
    /// The middle one; of an even count, the mean of the two in the middle.
    pub median: u64,
    /// At least 90 % are no larger.
    pub p90: u64,
    /// At least 99 % are no larger.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl Summary {
    /// Of `values` in any order; `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<u64> = values.into_iter().collect();
        sorted.sort_unstable();
        Some(Self {
            count: sorted.len(),
            min: *sorted.first()?,
            median: median(&sorted)?,
            p90: percentile(&sorted, 90)?,
            p99: percentile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }
}

fn median(sorted: &[u64]) -> Option<u64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(lower.midpoint(upper))
}

/// By nearest rank: always one of the measurements, never one between two.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = sorted.len().checked_mul(percent)?.div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// `part` of `whole`, as a ratio.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a ratio of times needs no 53 bits")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_there_is_no_summary() {
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn one_value_is_everything() {
        let all = Summary { count: 1, min: 7, median: 7, p90: 7, p99: 7, max: 7 };
        assert_eq!(Summary::of([7]), Some(all));
    }

    #[test]
    fn order_does_not_matter_and_an_even_count_has_two_middles() {
        let summary = Summary::of([40, 10, 20, 30]).unwrap();
        assert_eq!((summary.min, summary.median, summary.max), (10, 25, 40));
        assert_eq!(Summary::of([3, 1, 2]).unwrap().median, 2);
        assert_eq!(Summary::of([u64::MAX, u64::MAX]).unwrap().median, u64::MAX);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let of = |count: u64| Summary::of(1..=count).unwrap();
        assert_eq!((of(10).p90, of(10).p99), (9, 10));
        assert_eq!((of(100).p90, of(100).p99), (90, 99));
        assert_eq!((of(1000).p90, of(1000).p99), (900, 990));
        assert_eq!((of(11).p90, of(2).p90), (10, 2));
    }

    #[test]
    fn ratios_are_of_the_whole() {
        assert!((ratio(1, 4) - 0.25).abs() < f64::EPSILON);
    }
}
