//! What the host and a team's supervisor say to each other over vsock: types, frames and limits.
//!
//! The supervisor connects to [`CONTROL_PORT`] of the host and sends [`message::Event::Hello`]; the
//! host answers [`message::Request::Hello`] or closes. Each command's streams are connections of
//! their own that the supervisor makes to ports which the host named in [`message::Exec`], so vsock
//! credit is the flow control, and no stream passes through the control connection.
//!
//! [`message::Request::Detach`] takes the host out of a team in mid-work, and
//! [`message::Request::Attach`] brings a host back, the same one or another: so machines are saved
//! and go on.
//!
//! Both sides treat the other as hostile: every frame is bounded ([`frame`]), every count and length
//! has a limit ([`limits`]) that the receiver checks ([`check`]), and what breaks one ends the
//! connection.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod limits;

pub mod agent;

pub mod egress;

pub mod message;

pub mod check;

pub mod check_agent;

mod check_egress;

pub mod frame;

/// Version of everything in this crate; both sides must have the same.
pub const VERSION: u16 = 6;

/// The host's vsock port of the control connection.
pub const CONTROL_PORT: u32 = 1;

/// The host's vsock port of streams to the outside, each with a [`egress::Head`]. Ports of commands'
/// streams are above it.
pub const EGRESS_PORT: u32 = 2;
