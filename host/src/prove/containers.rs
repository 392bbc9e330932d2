//! Attacks from inside an agent's container: a real team in a temporary store, with a neighbour who has everything
//! open that is looked for. Both as the agent's user and as the container's user 0.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use cloister_prober::wire::{Case, LAST_LINE, LINE, MAX_WORDS, READY_LINE, Said};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::Progress;
use super::bed::{self, Bed};
use super::folder::{self, STATE};
use super::report::{Seen, describe};
use crate::doctor::{self, Status};
use crate::text::printable_line;

/// How long a command of the team may take. A minute is usual on an emulated host.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// Longest output of the prober: a line for each case.
const MAX_OUTPUT: usize = 4 << 20;
/// The agents that attack: as which user, and their name.
const ATTACKERS: [(&str, &str); 2] = [("user", "as the agent's user"), ("root", "as user 0")];

pub(super) async fn run(
    bed: &Bed<'_>,
    host: &doctor::Report,
    cases: &[Case],
    progress: &mut Progress<'_>,
) {
    let failed = host.checks.iter().find(|check| check.status == Status::Fail);
    if let Some(check) = failed {
        return progress.none(cases, &format!("no team can run here: {}", check.found));
    }
    let team = match Team::start(bed, progress).await {
        Ok(team) => team,
        Err(why) => return progress.none(cases, &why),
    };
    let mut found: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for (agent, whom) in ATTACKERS {
        (progress.tell)(&format!("attacking from a container {whom}"));
        match team.command(&["exec", &team.target(agent), "--", "/prober", "container"]).await {
            Ok(output) => read(&output, whom, &mut found),
            Err(error) => {
                progress.none(cases, &format!("{whom}: {error}"));
                return team.end().await;
            }
        }
    }
    let neighbour =
        team.command(&["exec", &team.target("neighbour"), "--", "/prober", "list"]).await;
    let lives = neighbour.is_ok_and(|output| output.status.success());
    for case in cases {
        let mut seen = found.remove(&case.name).unwrap_or_default();
        if seen.is_empty() {
            seen.push(Seen::not_run("the prober ended before this"));
        }
        if !lives && case.alone {
            seen.push(Seen::new(false, "the neighbour does not live any more"));
        }
        progress.add(case, seen);
    }
    team.end().await;
}

/// Takes what a prober wrote, which is hostile: only lines that are whole words of it count.
fn read(output: &Output, whom: &str, found: &mut BTreeMap<String, Vec<Seen>>) {
    let bytes = output.stdout.get(..output.stdout.len().min(MAX_OUTPUT)).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    let mut begun = None;
    for line in text.lines() {
        if line == LAST_LINE {
            begun = None;
        }
        let Some(said) = line.strip_prefix(LINE).and_then(|said| serde_json::from_str(said).ok())
        else {
            continue;
        };
        match said {
            Said::Begins(name) => begun = Some(name),
            Said::Saw { name, end, words } if words.len() <= MAX_WORDS => {
                begun = None;
                let seen = match end {
                    Some(end) => Seen::new(true, format!("{whom}: {}", describe(end))),
                    None => {
                        let words = printable_line(&words);
                        Seen::new(false, format!("{whom}: succeeded: {words}"))
                    }
                };
                found.entry(name).or_default().push(seen);
            }
            _ => {}
        }
    }
    // The last one ends all that its agent has.
    if let Some(name) = begun {
        let seen = Seen::new(true, format!("{whom}: ended ({})", output.status));
        found.entry(name).or_default().push(seen);
    }
}

/// A team that runs. It is taken down by [`Team::end`], or when it is dropped.
struct Team<'a> {
    bed: &'a Bed<'a>,
    name: String,
    ended: bool,
}

impl<'a> Team<'a> {
    async fn start(bed: &'a Bed<'a>, progress: &Progress<'_>) -> Result<Self, String> {
        let name = folder::team_of(std::process::id());
        let mut team = Self { bed, name, ended: true };
        let said = |what: &str, output: io::Result<Output>| match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let words = printable_line(&String::from_utf8_lossy(&output.stderr));
                Err(format!("{what}: {}", words.chars().take(MAX_WORDS).collect::<String>()))
            }
            Err(error) => Err(format!("{what}: {error}")),
        };
        (progress.tell)("importing the image of the container");
        let image = bed.path("image.tar");
        write_image(&image, &bed.wish.prober()).map_err(|error| format!("an image: {error}"))?;
        let image = image.display().to_string();
        said("an image", team.command(&["image", "import", "--name", "prober", &image]).await)?;
        let file = bed.ground().join("team/team.toml");
        fs::write(&file, team.file()).map_err(|error| format!("a team file: {error}"))?;
        (progress.tell)("starting the team of the containers");
        // From here on there may be something to take down.
        team.ended = false;
        said("a team", team.command(&["up", "-d", &file.display().to_string()]).await)?;
        team.await_neighbour().await?;
        Ok(team)
    }

    fn target(&self, agent: &str) -> String {
        format!("{}/{agent}", self.name)
    }

    fn file(&self) -> String {
        let mut text = format!(
            "name = \"{}\"\n[agents.neighbour]\nimage = \"prober\"\ncommand = [\"/prober\", \"neighbour\"]\n",
            self.name
        );
        for ((agent, _), user) in ATTACKERS.into_iter().zip(["1000:1000", "0:0"]) {
            text.push_str(&format!(
                "[agents.{agent}]\nimage = \"prober\"\nuser = \"{user}\"\nrestart = \"never\"\n\
                 command = [\"/prober\", \"stay\"]\nmounts = [\n\
                 {{ source = \"./in\", target = \"/in\" }},\n\
                 {{ source = \"./out\", target = \"/out\", writable = true }},\n]\n"
            ));
        }
        text
    }

    /// Attacks on a neighbour that has not opened anything yet would show nothing.
    async fn await_neighbour(&self) -> Result<(), String> {
        let target = self.target("neighbour");
        let mut command =
            self.words(&["logs", "-f", &target]).map_err(|error| error.to_string())?;
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("the neighbour's log: {error}"))?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no log")?).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains(READY_LINE) {
                    return Ok(());
                }
            }
            Err("the neighbour ended before it was ready".to_owned())
        };
        let ready = timeout(COMMAND_LIMIT, ready).await;
        child.kill().await.ok();
        ready.unwrap_or_else(|_| Err("the neighbour does not say that it is ready".to_owned()))
    }

    /// This program with other words, and state, images and volumes of its own.
    fn words(&self, words: &[&str]) -> io::Result<Command> {
        let wish = self.bed.wish;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env("CLOISTER_STATE", self.bed.path(STATE))
            .env("CLOISTER_VOLUMES", self.bed.path("volumes"))
            .env("CLOISTER_STORE", self.bed.ground().join("store"));
        if let Some(group) = &wish.jail.group {
            command.env("CLOISTER_CGROUP", group);
        }
        let ids = wish.jail.ids;
        command.env("CLOISTER_UIDS", format!("{}-{}", ids.first, ids.last));
        command.env("CLOISTER_KERNEL", &wish.files.kernel).env("CLOISTER_ROOTFS", &wish.files.root);
        command.args(words).stdin(Stdio::null());
        Ok(command)
    }

    async fn command(&self, words: &[&str]) -> io::Result<Output> {
        bed::run(self.words(words)?, COMMAND_LIMIT).await
    }

    async fn end(mut self) {
        self.command(&["down", &self.name]).await.ok();
        self.ended = true;
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        folder::take_down(&self.name, &self.bed.path(STATE));
    }
}

/// An image that holds the prober and what a container's root needs; everything in it is user 0's.
fn write_image(path: &Path, prober: &Path) -> io::Result<()> {
    let mut archive = tar::Builder::new(fs::File::create(path)?);
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    for folder in ["tmp", "proc", "dev", "etc", "in", "out"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, folder, io::empty())?;
    }
    let accounts = "root:x:0:0::/:/prober\nagent:x:1000:1000::/:/prober\n";
    for (name, mode, text) in
        [("etc/passwd", 0o644, accounts), ("etc/secret", 0o600, "of the container's root\n")]
    {
        let mut header = header(tar::EntryType::Regular, mode, text.len() as u64);
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    let program = fs::File::open(prober)?;
    let mut header = header(tar::EntryType::Regular, 0o755, program.metadata()?.len());
    archive.append_data(&mut header, "prober", program)?;
    archive.into_inner()?.sync_data()
}
