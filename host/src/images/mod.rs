//! Images: where they are kept, how they get there, and what they would run.

pub mod limits;

pub mod digest;

pub mod name;

pub mod archive;

pub(crate) mod files;

pub mod store;

pub mod manifest;

pub mod source;

pub mod signature;

pub mod policy;

pub mod import;

pub mod credentials;

pub mod registry;
