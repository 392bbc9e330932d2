//! `cloister doctor`.

use crate::cli::DoctorArgs;

/// Placeholder.
#[must_use]
pub fn doctor(_arguments: DoctorArgs) -> u8 {
    0
}
