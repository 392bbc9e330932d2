//! `cloister policy apply`: other egress rules for a team that runs.

use super::resolve;
use super::up::warn;
use super::{TeamError, check_running, open, print, runtime};
use crate::cli::policy::ApplyArgs;
use crate::exit_codes;
use crate::state::rows::Origin;
use crate::warden::PART;
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

pub(super) fn run(arguments: &ApplyArgs) -> Result<u8, TeamError> {
    if arguments.target.agent.is_some() {
        return Err(TeamError::WholeTeam);
    }
    // Reading a team file opens everything that it names.
    crate::warden::raise_open_files();
    let state = open(&arguments.state)?;
    let team = &arguments.target.team;
    let row = check_running(&state, team, None)?;
    let file = std::path::absolute(&arguments.file)
        .map_err(|source| TeamError::Read { path: arguments.file.clone(), source })?;
    let prepared = resolve::prepare(Origin { file, ..row.origin })?;
    let digest = runtime()?.block_on(async {
        let bytes = prepared.plan.len() as u64;
        let call = Call::ApplyPolicy { bytes };
        let mut connection = Connection::call(&state, team, &call).await?;
        for part in prepared.plan.chunks(PART) {
            connection.say(&Call::Plan(part.to_vec())).await?;
        }
        match connection.reply().await? {
            Reply::Applied { digest } => Ok(digest),
            Reply::Refused { words } => Err(TeamError::Told(format!(
                "cloister: the rules of {team} are as they were: {words}"
            ))),
            _ => Err(TeamError::from(ChannelError::Gone)),
        }
    })?;
    warn(&prepared);
    print(&format!("{team}: the egress rules of {} hold, {digest}\n", arguments.file.display()))?;
    Ok(exit_codes::OK)
}
