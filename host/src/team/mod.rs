//! Team files: from TOML text to a checked, resolved plan. No process is started here.
//!
//! [`file::TeamFile::parse`] reads the text and holds it against [`keys`], the one
//! description of every key. [`load::load`] opens what it names on the host, once, and [`load::Loaded::resolve`]
//! finds its images and makes the [`plan::Plan`].

pub mod limits;

pub mod keys;

mod egress_keys;

mod rules;

mod words;

pub mod amount;

pub mod source;

pub mod mistake;

pub mod setting;

pub mod spec;

pub mod variables;

mod node;

mod read;

pub mod file;

mod check;

mod egress;

mod order;

pub mod schema;

pub mod mounts;

pub mod host;

pub mod load;

pub(crate) mod inside;

pub mod accounts;

mod pictured;

pub mod plan;

pub mod difference;

mod resolve;

mod copy;

pub mod volumes;
