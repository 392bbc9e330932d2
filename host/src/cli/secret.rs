//! The command line of `cloister secret`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::teams::StateArgs;
use crate::secrets::is_secret_name;

const EXAMPLES: &str = "\
Examples:
  cloister secret set github < token.txt       Keep a value, sealed with a key of this host
  cloister secret set github                   The same, typed without being shown
  cloister secret set openai --file /run/keys/openai
                                               Read the file whenever a request needs it
  cloister secret set vault -- vault read -field=token secret/agents
                                               Run the command whenever a request needs it
  cloister secret ls

A rule of a team file gives a secret to requests of an agent: secret = \"github\".
The agent never sees it. A secret is one line of printable ASCII, at most 8 KiB.

Exit codes: 0 when it was done, 125 when not.";

/// What was typed after `secret`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SecretArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SecretCommand,
}

/// What `cloister secret` can do.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Keep a secret, in place of one of the same name.
    Set(SetArgs),
    /// List the names, and where each is read from; values are never shown.
    Ls(ListArgs),
    /// Remove secrets.
    Rm(RemoveArgs),
}

/// What was typed after `secret set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Its name: lower-case letters, digits and dashes.
    #[arg(value_name = "NAME", value_parser = name)]
    pub name: String,

    /// Keep the path of a file that has it, which is read now to look at it, and each time.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, conflicts_with = "program")]
    pub file: Option<PathBuf>,

    /// Keep a command that writes it, which is run each time, without a shell.
    #[arg(last = true, value_name = "COMMAND")]
    pub program: Vec<String>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `secret ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `secret rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Their names.
    #[arg(value_name = "NAME", required = true, value_parser = name)]
    pub names: Vec<String>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

fn name(text: &str) -> Result<String, String> {
    if is_secret_name(text) {
        return Ok(text.to_owned());
    }
    Err("a name is 1 to 32 lower-case letters, digits and dashes, the first a letter or digit"
        .into())
}
