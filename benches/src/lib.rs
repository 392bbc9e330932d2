//! Comparisons with other machine monitors, in one run, interleaved: what the product itself has no
//! business doing. `README.md` beside this crate has the method and every definition.
//!
//! A measurement is [`subject::Subject::prepare`] (everything that is not measured) →
//! [`subject::Prepared::run`] (clock, process, marker, footprint) → [`report::Report`].

pub mod clock;

pub mod guest;

pub mod spawn;

pub mod subject;

pub mod comparison;

pub mod report;

pub mod arguments;

pub mod rounds;

pub mod shares;

pub mod egress;
