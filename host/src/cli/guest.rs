//! What can be said about the guest's files on the command line.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Arguments of every command that starts a machine.
#[derive(Clone, Debug, Args)]
pub struct GuestArgs {
    /// The guest's kernel, an uncompressed vmlinux with a PVH entry [default: lib/cloister/vmlinux
    /// beside the bin of this program].
    #[arg(long, value_name = "FILE", env = "CLOISTER_KERNEL", hide_env_values = true)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,

    /// The guest's root, an uncompressed cpio archive [default: lib/cloister/rootfs.cpio beside the
    /// bin of this program].
    #[arg(long, value_name = "FILE", env = "CLOISTER_ROOTFS", hide_env_values = true)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub rootfs: Option<PathBuf>,
}
