//! The attacks of `cloister prove`. The program `cloister-prober` is started where the attacks are made: in the jail of
//! a vmm, in the jail of a file server, in an agent's container; and it writes the kernels of hostile guests.
//!
//! `cloister` links [`wire`] alone, and takes what a prober says as hostile.

pub mod wire;

#[cfg(feature = "tries")]
mod calls;

#[cfg(feature = "tries")]
pub mod container;

#[cfg(feature = "attacks")]
pub mod guest;

#[cfg(feature = "attacks")]
pub mod jail;
