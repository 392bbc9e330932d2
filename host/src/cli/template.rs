//! The command line of `cloister template`, and what other commands are told of templates.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Subcommand, ValueHint};

use super::guest::GuestArgs;
use super::jail::JailArgs;
use crate::quantity::{cpus, memory_mib};
use crate::template::{self, Choice, TemplateError, Wish};

const EXAMPLES: &str = "\
Examples:
  cloister template build                  For `cloister run` as it is
  cloister template build --cpus 4 --memory 2G --shares
                                           For a team of that size
  cloister template ls
  cloister template rm --all

A template is a saved machine whose supervisor is up and has done nothing yet.
`cloister run` and `cloister up` go on from the one of their machine's CPUs,
memory and shares, if one was ever built; else they boot. --template build builds
it on first need, --template none boots, and a team file can say the same by
`template`. One that does not fit any more, since a program, the kernel, the root
or this host has changed, is never used: the next such machine builds it anew. A
machine with another --kernel or --rootfs has a template of its own, or boots.

They are in /var/cache/cloister/templates for root, else in cloister/templates
below $XDG_CACHE_HOME (~/.cache). --templates or CLOISTER_TEMPLATES name another
directory.

Exit codes: 0 when it was done, 125 when not; standard error says why.";

/// What was typed after `template`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TemplateArgs {
    /// Where they are.
    #[command(flatten)]
    pub place: PlaceArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: TemplateCommand,
}

/// Where templates are.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// The directory for templates, in place of the usual one.
    #[arg(long, global = true, value_name = "DIR", env = "CLOISTER_TEMPLATES")]
    #[arg(hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub templates: Option<PathBuf>,
}

impl PlaceArgs {
    /// The directory.
    ///
    /// # Errors
    /// None was named, and there is no home.
    pub fn path(&self) -> Result<PathBuf, TemplateError> {
        self.templates.clone().map_or_else(template::usual_path, Ok)
    }
}

/// Whether a machine goes on from a template.
#[derive(Clone, Debug, Args)]
pub struct OriginArgs {
    /// Go on from a template: auto, if one was ever built for a machine of this shape; build, and build it if not;
    /// none, boot [default: auto].
    #[arg(long, value_name = "WORD", hide_possible_values = true)]
    pub template: Option<Choice>,

    /// Boot the machine, whatever else says from where it goes on: short for --template none.
    #[arg(long, env = "CLOISTER_COLD", hide_env_values = true, action = ArgAction::SetTrue)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub cold: bool,

    /// The directory for templates [default: templates in /var/cache/cloister for root, else in cloister
    /// below $XDG_CACHE_HOME (~/.cache)].
    #[arg(long, value_name = "DIR", env = "CLOISTER_TEMPLATES", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub templates: Option<PathBuf>,
}

impl OriginArgs {
    /// What was chosen, if anything was.
    #[must_use]
    pub const fn choice(&self) -> Option<Choice> {
        if self.cold { Some(Choice::None) } else { self.template }
    }

    /// The directory of templates; `None`: none was named, and there is no home.
    #[must_use]
    pub fn place(&self) -> Option<PathBuf> {
        self.templates.clone().or_else(|| template::usual_path().ok())
    }

    /// For a machine whose file says nothing of it.
    #[must_use]
    pub fn wish(&self) -> Wish {
        Wish { choice: self.choice().unwrap_or_default(), place: self.place() }
    }
}

/// What `cloister template` can do.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Build the template of a machine's shape, if it is not there.
    Build(BuildArgs),
    /// List what is there.
    Ls(LsArgs),
    /// Print all that is known of a template, as JSON.
    Inspect(InspectArgs),
    /// Remove templates.
    Rm(RmArgs),
}

/// What was typed after `template build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// CPUs of the machine, 1 to 32.
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = cpus)]
    pub cpus: u8,

    /// Memory of the machine: 512M, 2G; a number alone is MiB.
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = memory_mib)]
    pub memory: u32,

    /// For machines with shared directories, as all teams have.
    #[arg(long)]
    pub shares: bool,

    /// The guest's kernel and root.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// Where its jail is.
    #[command(flatten)]
    pub jail: JailArgs,
}

/// What was typed after `template ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print one JSON object, for programs.
    #[arg(long)]
    pub json: bool,
}

/// What was typed after `template inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The first digits of its name.
    pub template: String,
}

/// What was typed after `template rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The first digits of their names.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "TEMPLATE")]
    pub names: Vec<String>,

    /// All that no running machine uses.
    #[arg(long)]
    pub all: bool,
}
