//! Handing records to collectors: what comes in which order and what is missing ([`source`]), as what
//! ([`message`], [`syslog`], [`journal`]), to whom ([`collector`]), and up to where that has come ([`cursor`]).

pub mod collector;
pub mod cursor;
pub mod journal;
pub mod message;
pub mod otlp;
pub mod place;
pub mod severity;
pub mod source;
pub mod syslog;
mod tcp;
mod unacknowledged;
