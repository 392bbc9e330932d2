//! When each step was done: for the bench, which builds the jailer with the feature `times`. In any other build
//! there is nothing of it.

use crate::step::Step;

#[cfg(feature = "times")]
mod marks {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::step::STEPS;
    use crate::sys;

    /// As [`super::now_ns`] tells it: of the start, then of each step by its number.
    static MARKS: [AtomicU64; STEPS.len() + 1] = [const { AtomicU64::new(0) }; STEPS.len() + 1];

    pub(super) fn set(index: usize) {
        if let Some(mark) = MARKS.get(index) {
            mark.store(super::now_ns(), Ordering::Relaxed);
        }
    }

    /// All of them, as 64-bit numbers, at once.
    pub(super) fn write(fd: i32) {
        let bytes: Vec<u8> =
            MARKS.iter().flat_map(|mark| mark.load(Ordering::Relaxed).to_le_bytes()).collect();
        sys::write(fd, &bytes).ok();
    }
}

/// The time of day in nanoseconds. No system call, which the last steps would not allow: the kernel's own page of
/// code tells it.
#[cfg(feature = "times")]
#[must_use]
pub fn now_ns() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(0)
}

/// The jailer runs.
pub(crate) fn begin() {
    #[cfg(feature = "times")]
    marks::set(0);
}

/// A step was tried; before the last, which does not come back, everything is reported.
pub(crate) fn mark(step: Step) {
    #[cfg(feature = "times")]
    {
        marks::set(step as usize);
        if step == Step::Execute {
            marks::write(crate::spec::REPORT_FD);
        }
    }
    #[cfg(not(feature = "times"))]
    let _: Step = step;
}
