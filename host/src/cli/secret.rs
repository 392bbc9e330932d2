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
  cloister secret set mail --oauth https://auth.example.com/token --client cloister < refresh-token.txt
                                               Get access tokens with a refresh token
  cloister secret set crm --oauth https://auth.example.com/token --client cloister \\
    --client-credentials --client-secret-file secret.txt
                                               Get them with the client's own secret
  cloister secret ls

A rule of a team file gives a secret to requests of an agent: secret = \"github\".
The agent never sees it. A secret is one line of printable ASCII, at most 8 KiB.
With --oauth the first line of standard input is the refresh token, unless
--client-credentials is given, and the next is the client's secret, if it has one,
unless --client-secret-file names a file that has it now.

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

    /// How it is got from a token server.
    #[command(flatten)]
    pub oauth: OAuthArgs,

    /// Keep a command that writes it, which is run each time, without a shell.
    #[arg(last = true, value_name = "COMMAND")]
    pub program: Vec<String>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// How a secret is got from a token server (OAuth 2.0).
#[derive(Debug, Args)]
pub struct OAuthArgs {
    /// Get access tokens from this token server, each for as long as it is good.
    #[arg(
        long,
        value_name = "URL",
        value_hint = ValueHint::Url,
        requires = "client",
        conflicts_with_all = ["file", "program"]
    )]
    pub oauth: Option<String>,

    /// The client's name at the token server.
    #[arg(long, value_name = "ID", requires = "oauth")]
    pub client: Option<String>,

    /// Keep the client's secret that is in this file now.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, requires = "oauth")]
    pub client_secret_file: Option<PathBuf>,

    /// Send the client's secret in the body, to servers that do not take it as HTTP Basic.
    #[arg(long, requires = "oauth")]
    pub client_secret_in_body: bool,

    /// Use the client's own credentials, and no refresh token.
    #[arg(long, requires = "oauth")]
    pub client_credentials: bool,

    /// What the access tokens are to be good for, in words of the token server.
    #[arg(long, value_name = "SCOPE", requires = "oauth")]
    pub scope: Option<String>,
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
