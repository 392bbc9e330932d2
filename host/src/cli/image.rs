//! The command line of `cloister image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::images::name::Name;

const EXAMPLES: &str = "\
Examples:
  cloister image import image.tar                 An OCI or Docker archive
  cloister image import --name base:1 rootfs.tar.zst
  cloister image import --name base:1 ./rootfs    A root directory
  skopeo copy ... oci-archive:/dev/stdout | cloister image import --name base:1 -
  cloister image pull registry.example.org/team/agent@sha256:...
  cloister image ls

The store is /var/lib/cloister/images for root, else cloister/images below
$XDG_DATA_HOME (~/.local/share). --store or CLOISTER_STORE name another one; its
file system must have user attributes (ext4, xfs, btrfs).

Exit codes: 0 when it was done, 125 when not; standard error says why.";

/// What was typed after `image`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImageArgs {
    /// The store's directory, in place of the usual one.
    #[arg(long, global = true, value_name = "DIR", env = "CLOISTER_STORE", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub store: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What `cloister image` can do.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an image layout, an archive, a tarball or a root directory.
    Import(ImportArgs),
    /// Pull an image from a registry.
    Pull(PullArgs),
    /// List the images and what each would run.
    Ls(LsArgs),
    /// Print all that is known of an image, as JSON.
    Inspect(InspectArgs),
    /// Remove images.
    Rm(RmArgs),
    /// Remove what no image needs any more.
    Gc,
}

/// What was typed after `image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// An OCI layout, an OCI or Docker archive, a tarball (plain, gzip or zstd), a root directory, or -
    /// for standard input; told from what is in it.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub source: PathBuf,

    /// What the image is to be called [default: what the source calls it].
    ///
    /// With @sha256:..., the image must have that digest.
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<Name>,

    /// Which image, if the source has several.
    #[arg(long = "ref", value_name = "NAME")]
    pub reference: Option<String>,

    /// Leave out device nodes, FIFOs and sockets, in place of refusing the image.
    #[arg(long)]
    pub skip_special: bool,

    /// Refuse the image unless this key has signed it (cosign's form, ECDSA P-256).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub verify_key: Option<PathBuf>,
}

/// What was typed after `image pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// HOST[:PORT]/PATH[:TAG][@sha256:DIGEST].
    pub name: Name,

    /// Speak HTTP without TLS to a registry on another machine; to this one it is spoken anyway.
    #[arg(long)]
    pub plain_http: bool,

    /// Leave out device nodes and FIFOs, in place of refusing the image.
    #[arg(long)]
    pub skip_special: bool,

    /// Refuse the image unless this key has signed it (cosign's form, ECDSA P-256).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub verify_key: Option<PathBuf>,
}

/// What was typed after `image ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,
}

/// What was typed after `image inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A name, a digest, or the first digits of one.
    pub image: String,
}

/// What was typed after `image rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names; a digest, or the first digits of one, stands for all its names.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}
