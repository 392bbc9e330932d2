//! The attacks of `cloister prove`. The program `cloister-prober` is started where the attacks are made: in the jail of
//! a vmm, in the jail of a file server, in an agent's container; and it writes the kernels of hostile guests.
//!
//! The same program does the work of `cloister bench files` in a container of that bench's own.
//!
//! `cloister` links [`wire`] and [`measure`] alone, and takes what a prober says as hostile.

pub mod measure;
pub mod wire;

#[cfg(feature = "tries")]
mod calls;

#[cfg(feature = "tries")]
pub mod container;

#[cfg(feature = "attacks")]
pub mod files;

#[cfg(feature = "attacks")]
pub mod guest;

#[cfg(feature = "attacks")]
pub mod jail;
