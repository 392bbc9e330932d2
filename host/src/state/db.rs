//! The database: one SQLite file. Every change is a transaction, so a crash leaves the old state or
//! the new one.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};

use super::rows::{AgentRow, AgentStatus, Origin, TeamRow, TeamStatus};
use super::{StateDir, StateError};

/// Raised when a table changes.
const VERSION: i64 = 1;
/// How long another process may hold the database; transactions here take milliseconds.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE teams (
    name TEXT PRIMARY KEY NOT NULL,
    status TEXT NOT NULL,
    detail TEXT NOT NULL,
    origin TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE agents (
    team TEXT NOT NULL REFERENCES teams (name) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    image TEXT NOT NULL,
    status TEXT NOT NULL,
    code INTEGER,
    detail TEXT NOT NULL,
    restarts INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    PRIMARY KEY (team, name)
) STRICT;";

/// The open database.
#[derive(Debug)]
pub struct Db {
    connection: Connection,
    path: PathBuf,
}

impl Db {
    /// Opens the database of a state directory, making it if it is not there.
    ///
    /// # Errors
    /// It can't be opened, or was made by another version.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let path = state.path().join("state.db");
        let wrap = |what| {
            let path = path.clone();
            move |source| StateError::Database { what, path, source }
        };
        let mut connection = Connection::open(&path).map_err(wrap("open"))?;
        connection.busy_timeout(BUSY_LIMIT).map_err(wrap("set up"))?;
        connection.pragma_update(None, "foreign_keys", true).map_err(wrap("set up"))?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(wrap("begin"))?;
        let found: i64 = transaction
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(wrap("read"))?;
        match found {
            VERSION => {}
            0 => {
                transaction.execute_batch(SCHEMA).map_err(wrap("make tables"))?;
                transaction
                    .pragma_update(None, "user_version", VERSION)
                    .map_err(wrap("make tables"))?;
            }
            found => return Err(StateError::Version { found, known: VERSION }),
        }
        transaction.commit().map_err(wrap("write"))?;
        Ok(Self { connection, path })
    }

    /// Adds a team that is about to start.
    ///
    /// # Errors
    /// There is one of this name already, or SQLite refuses.
    pub fn add(
        &mut self,
        name: &str,
        origin: &Origin,
        agents: &[AgentRow],
    ) -> Result<(), StateError> {
        let path = self.path.clone();
        let wrap = |source| StateError::Database { what: "add a team", path: path.clone(), source };
        let origin = serde_json::to_string(origin)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        let now = now_ms();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(wrap)?;
        let added = transaction
            .execute(
                "INSERT OR IGNORE INTO teams VALUES (?1, ?2, '', ?3, ?4, ?4)",
                params![name, TeamStatus::Starting.word(), origin, now],
            )
            .map_err(wrap)?;
        if added == 0 {
            return Err(StateError::Exists(name.to_owned()));
        }
        for (position, agent) in agents.iter().enumerate() {
            insert_agent(&transaction, name, position, agent).map_err(wrap)?;
        }
        transaction.commit().map_err(wrap)
    }

    /// Puts a team's agents back to their beginning, of a file that was read again.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn begin_again(
        &mut self,
        name: &str,
        origin: &Origin,
        agents: &[AgentRow],
    ) -> Result<(), StateError> {
        let origin = serde_json::to_string(origin)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        let path = self.path.clone();
        let wrap =
            |source| StateError::Database { what: "change a team", path: path.clone(), source };
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(wrap)?;
        transaction.execute("DELETE FROM agents WHERE team = ?1", [name]).map_err(wrap)?;
        for (position, agent) in agents.iter().enumerate() {
            insert_agent(&transaction, name, position, agent).map_err(wrap)?;
        }
        transaction
            .execute(
                "UPDATE teams SET status = ?2, detail = '', changed_ms = ?3, origin = ?4 WHERE name = ?1",
                params![name, TeamStatus::Starting.word(), now_ms(), origin],
            )
            .map_err(wrap)?;
        transaction.commit().map_err(wrap)
    }

    /// A team is about to go on from the disk, its agents where they are.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn go_on(&self, name: &str, origin: &Origin) -> Result<(), StateError> {
        let origin = serde_json::to_string(origin)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        self.connection
            .execute("UPDATE teams SET origin = ?2 WHERE name = ?1", params![name, origin])
            .map_err(self.wrap("change a team"))?;
        self.set_team(name, TeamStatus::Starting, "")
    }

    /// Notes whether a team's egress is only observed.
    ///
    /// # Errors
    /// There is no such team, or SQLite refuses.
    pub fn set_observes(&self, name: &str, observes: bool) -> Result<(), StateError> {
        let origin = Origin { observes, ..self.team(name)?.origin };
        let origin = serde_json::to_string(&origin)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        let path = self.path.clone();
        self.connection
            .execute("UPDATE teams SET origin = ?2 WHERE name = ?1", params![name, origin])
            .map_err(|source| StateError::Database { what: "change a team", path, source })?;
        Ok(())
    }

    /// Notes how a team stands.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn set_team(&self, name: &str, status: TeamStatus, detail: &str) -> Result<(), StateError> {
        self.connection
            .execute(
                "UPDATE teams SET status = ?2, detail = ?3, changed_ms = ?4 WHERE name = ?1",
                params![name, status.word(), detail, now_ms()],
            )
            .map_err(self.wrap("change a team"))?;
        Ok(())
    }

    /// Notes how an agent stands.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn set_agent(&self, team: &str, agent: &AgentRow) -> Result<(), StateError> {
        self.connection
            .execute(
                "UPDATE agents SET status = ?3, code = ?4, detail = ?5, restarts = ?6, \
                 started_ms = ?7, ended_ms = ?8 WHERE team = ?1 AND name = ?2",
                params![
                    team,
                    agent.name,
                    agent.status.word(),
                    agent.code,
                    agent.detail,
                    agent.restarts,
                    agent.started_ms,
                    agent.ended_ms
                ],
            )
            .map_err(self.wrap("change an agent"))?;
        Ok(())
    }

    /// All teams, by name.
    ///
    /// # Errors
    /// SQLite refuses, or a row can't be understood.
    pub fn teams(&self) -> Result<Vec<TeamRow>, StateError> {
        let wrap = self.wrap("read the teams");
        let mut query =
            self.connection.prepare("SELECT * FROM teams ORDER BY name").map_err(&wrap)?;
        let rows = query.query_map([], team_row).map_err(&wrap)?;
        rows.map(|row| row.map_err(&wrap)?).collect()
    }

    /// A team.
    ///
    /// # Errors
    /// There is none of this name, or SQLite refuses.
    pub fn team(&self, name: &str) -> Result<TeamRow, StateError> {
        self.connection
            .query_row("SELECT * FROM teams WHERE name = ?1", [name], team_row)
            .optional()
            .map_err(self.wrap("read a team"))?
            .ok_or_else(|| StateError::NoTeam(name.to_owned()))?
    }

    /// A team's agents, as in its file.
    ///
    /// # Errors
    /// SQLite refuses, or a row can't be understood.
    pub fn agents(&self, team: &str) -> Result<Vec<AgentRow>, StateError> {
        let wrap = self.wrap("read a team's agents");
        let mut query = self
            .connection
            .prepare("SELECT * FROM agents WHERE team = ?1 ORDER BY position")
            .map_err(&wrap)?;
        let rows = query.query_map([team], agent_row).map_err(&wrap)?;
        rows.map(|row| row.map_err(&wrap)?).collect()
    }

    /// Forgets a team and its agents.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        self.connection
            .execute("DELETE FROM teams WHERE name = ?1", [name])
            .map_err(self.wrap("remove a team"))?;
        Ok(())
    }

    fn wrap(&self, what: &'static str) -> impl Fn(rusqlite::Error) -> StateError + use<> {
        let path = self.path.clone();
        move |source| StateError::Database { what, path: path.clone(), source }
    }
}

fn insert_agent(
    connection: &Connection,
    team: &str,
    position: usize,
    agent: &AgentRow,
) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT INTO agents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            team,
            i64::try_from(position).unwrap_or(i64::MAX),
            agent.name,
            agent.image,
            agent.status.word(),
            agent.code,
            agent.detail,
            agent.restarts,
            agent.started_ms,
            agent.ended_ms
        ],
    )
}

type Understood<T> = rusqlite::Result<Result<T, StateError>>;

fn team_row(row: &Row<'_>) -> Understood<TeamRow> {
    let status: String = row.get("status")?;
    let origin: String = row.get("origin")?;
    let (name, detail) = (row.get("name")?, row.get("detail")?);
    let (created_ms, changed_ms) = (row.get("created_ms")?, row.get("changed_ms")?);
    Ok(TeamStatus::from_word(&status)
        .ok_or_else(|| StateError::Damaged(format!("a team is {status:?}")))
        .and_then(|status| {
            let origin = serde_json::from_str(&origin)
                .map_err(|error| StateError::Damaged(error.to_string()))?;
            Ok(TeamRow { name, status, detail, origin, created_ms, changed_ms })
        }))
}

fn agent_row(row: &Row<'_>) -> Understood<AgentRow> {
    let status: String = row.get("status")?;
    let agent = AgentRow {
        name: row.get("name")?,
        image: row.get("image")?,
        status: AgentStatus::Waiting,
        code: row.get("code")?,
        detail: row.get("detail")?,
        restarts: row.get("restarts")?,
        started_ms: row.get("started_ms")?,
        ended_ms: row.get("ended_ms")?,
    };
    Ok(AgentStatus::from_word(&status)
        .map(|status| AgentRow { status, ..agent })
        .ok_or_else(|| StateError::Damaged(format!("an agent is {status:?}"))))
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> Vec<AgentRow> {
        ["scout", "writer"].map(|name| AgentRow::new(name.into(), "tools".into())).into()
    }

    #[test]
    fn a_team_is_kept_changed_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        let origin = Origin { file: "/a/team.toml".into(), ..Origin::default() };
        let mut db = Db::open(&state).unwrap();
        db.add("a", &origin, &agents()).unwrap();
        assert!(matches!(db.add("a", &origin, &[]), Err(StateError::Exists(_))));

        // Another process sees the same.
        let other = Db::open(&state).unwrap();
        let team = other.team("a").unwrap();
        assert_eq!((team.status, &team.origin), (TeamStatus::Starting, &origin));
        assert_eq!(other.agents("a").unwrap(), agents());

        let ended = AgentRow {
            status: AgentStatus::Failed,
            code: Some(137),
            detail: "out of memory".into(),
            restarts: 2,
            started_ms: Some(1),
            ended_ms: Some(2),
            ..AgentRow::new("writer".into(), "tools".into())
        };
        db.set_agent("a", &ended).unwrap();
        db.set_team("a", TeamStatus::Ended, "x").unwrap();
        assert_eq!(other.agents("a").unwrap().last(), Some(&ended));
        let teams = other.teams().unwrap();
        assert_eq!(teams.first().map(|team| team.status), Some(TeamStatus::Ended));

        let observing = Origin { observes: true, ..origin };
        db.begin_again("a", &observing, &agents()).unwrap();
        assert_eq!(other.team("a").unwrap().origin, observing);
        assert_eq!(other.agents("a").unwrap(), agents());
        db.set_observes("a", false).unwrap();
        assert!(!other.team("a").unwrap().origin.observes);
        db.remove("a").unwrap();
        assert!(matches!(other.team("a"), Err(StateError::NoTeam(_))));
        assert!(other.agents("a").unwrap().is_empty());
    }

    #[test]
    fn another_version_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        let db = Db::open(&state).unwrap();
        db.connection.pragma_update(None, "user_version", 77).unwrap();
        assert!(matches!(Db::open(&state), Err(StateError::Version { found: 77, .. })));
    }
}
