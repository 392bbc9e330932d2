//! `cloister metrics`: figures of all teams in the text form that Prometheus reads, once or served.

mod serve;
mod snapshot;
mod text;

use super::{TeamError, finish, open, print, runtime};
use crate::cli::metrics::MetricsArgs;
use crate::exit_codes;
use snapshot::Snapshot;

/// Prints the figures, or serves them until it is interrupted.
#[must_use]
pub fn metrics(arguments: &MetricsArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: &MetricsArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let runtime = runtime()?;
    match &arguments.listen {
        Some(place) => runtime.block_on(serve::serve(state, place)),
        None => {
            let snapshot = runtime.block_on(Snapshot::take(&state))?;
            print(&text::text(snapshot)).map(|()| exit_codes::OK)
        }
    }
}
