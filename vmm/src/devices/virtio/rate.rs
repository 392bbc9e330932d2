//! A token bucket: bounds how fast a guest can make the host work.

use std::time::{Duration, Instant};

const NANOSECONDS: u128 = 1_000_000_000;

/// Holds up to a burst of tokens and refills at a steady rate.
#[derive(Debug)]
pub struct TokenBucket {
    burst: u64,
    per_second: u64,
    tokens: u64,
    /// Up to when tokens were added; less than the time of one token behind the last call.
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket. `per_second` must not be 0.
    #[must_use]
    pub fn new(burst: u64, per_second: u64, now: Instant) -> Self {
        Self { burst, per_second: per_second.max(1), tokens: burst, filled: now }
    }

    /// Tokens that are there now.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.refill(now);
        self.tokens
    }

    /// Takes tokens, no more than are there.
    pub fn take(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_sub(tokens);
    }

    /// How long until `wanted` tokens (at most a burst) are there, if nobody takes any.
    #[must_use]
    pub fn time_until(&self, wanted: u64) -> Duration {
        let missing = wanted.min(self.burst).saturating_sub(self.tokens);
        self.time_of(missing)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        let earned = elapsed.as_nanos() * u128::from(self.per_second) / NANOSECONDS;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        if self.tokens.saturating_add(earned) >= self.burst {
            self.tokens = self.burst;
            self.filled = now;
        } else {
            self.tokens += earned;
            // The rest of the elapsed time counts for the next token.
            self.filled += self.time_of(earned);
        }
    }

    /// Rounded up for a wait; `refill` rounds down, so no token is given twice.
    fn time_of(&self, tokens: u64) -> Duration {
        let nanoseconds = (u128::from(tokens) * NANOSECONDS).div_ceil(u128::from(self.per_second));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(bucket: &mut TokenBucket, now: Instant) -> u64 {
        let tokens = bucket.available(now);
        bucket.take(tokens);
        tokens
    }

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100, 1000, start);
        bucket.take(30);
        assert_eq!(drain(&mut bucket, start), 70);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.time_until(10), Duration::from_millis(10));
        assert_eq!(drain(&mut bucket, start + Duration::from_millis(9)), 9);
        assert_eq!(bucket.available(start + Duration::from_secs(3600)), 100);
    }

    #[test]
    fn no_token_is_lost_or_made_up_in_small_steps() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(64, 3, start);
        bucket.take(64);
        let steps = (1..=10_000).map(|ms| start + Duration::from_millis(ms));
        let taken: u64 = steps.map(|now| drain(&mut bucket, now)).sum();
        assert!((29..=30).contains(&taken), "{taken}");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = TokenBucket::new(5, 5, start);
        bucket.take(5);
        assert_eq!(bucket.available(start - Duration::from_secs(5)), 0);
    }
}
