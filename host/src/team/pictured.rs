//! What an image decides for an agent: command, environment, directory, user. And whether it has what the
//! team file names. What an image says is hostile: bounded, and checked like the file's own words.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cloister_protocol::limits::{MAX_ARGUMENTS, MAX_VARIABLES};
use rustix::fs::FileType;

use super::accounts::{Accounts, USUAL_ID, User};
use super::file::AgentFile;
use super::inside::find_inside;
use super::keys::Rule;
use super::limits::MAX_SPEC_TEXT;
use super::mistake::Fault;
use super::rules::is_at_or_below;
use super::setting::{Origin, Setting};
use super::source::shown;
use crate::images::manifest::Image;

/// Where programs are looked for when neither file nor image says it: Docker's own.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An agent with its image.
pub(super) struct Pictured<'a> {
    pub(super) agent: &'a AgentFile,
    pub(super) image: &'a Image,
    pub(super) root: &'a OwnedFd,
}

/// What came of it.
pub(super) struct Settled {
    pub(super) command: Setting<Vec<String>>,
    pub(super) environment: Vec<(String, Setting<String>)>,
    pub(super) directory: Setting<String>,
    pub(super) user: Setting<User>,
}

impl Pictured<'_> {
    /// Settles everything, or notes what is in the way.
    pub(super) fn settle(&self, note: &mut impl FnMut(Origin, Fault)) -> Option<Settled> {
        let at_image = self.agent.image.from;
        let user = self.user().map_err(|(place, fault)| note(place, fault)).ok();
        let home = user.as_ref().map_or("/", |user| user.value.home.as_str());
        let environment = self.environment(home).map_err(|fault| note(at_image, fault)).ok();
        let directory = self.directory().map_err(|(place, fault)| note(place, fault)).ok();
        let command = self.command().map_err(|fault| note(at_image, fault)).ok();
        let settled = Settled {
            command: command?,
            environment: environment?,
            directory: directory?,
            user: user?,
        };
        let mut good = true;
        for (place, fault) in
            self.programs(&settled).err().into_iter().chain(self.too_much(&settled))
        {
            note(place, fault);
            good = false;
        }
        good.then_some(settled)
    }

    /// The file's, or the image's; an image that says root is run as somebody else.
    fn user(&self) -> Result<Setting<User>, (Origin, Fault)> {
        let at_image = self.agent.image.from;
        let accounts = Accounts::read(self.root).map_err(|error| {
            let what = format!("the image's accounts can't be read ({error})");
            (at_image, (what, "repair the image's /etc/passwd and /etc/group".to_owned()))
        })?;
        if let Some(user) = &self.agent.user {
            let found = accounts.find(&user.value).map_err(|(what, remedy)| {
                (user.from, (format!("`user` is \"{}\": {what}", shown(&user.value)), remedy))
            })?;
            return Ok(Setting { value: found, from: user.from });
        }
        let text = self.image.run.user.as_str();
        if !text.is_empty() {
            let found = accounts.find(text).map_err(|(what, _)| {
                let remedy = "write the agent's `user`".to_owned();
                (at_image, (format!("the image wants to run as {}: {what}", shown(text)), remedy))
            })?;
            if found.uid != 0 {
                return Ok(Setting::of_image(found));
            }
        }
        let usual = accounts.find(&format!("{USUAL_ID}:{USUAL_ID}"));
        usual.map(Setting::usual).map_err(|fault| (at_image, fault))
    }

    /// The image's variables, then the file's; `PATH` and `HOME` if nobody sets them.
    fn environment(&self, home: &str) -> Result<Vec<(String, Setting<String>)>, Fault> {
        let mut variables = BTreeMap::new();
        variables.insert("PATH".to_owned(), Setting::usual(USUAL_PATH.to_owned()));
        variables.insert("HOME".to_owned(), Setting::derived(home.to_owned()));
        for line in &self.image.run.env {
            let pair = line.split_once('=').filter(|(name, _)| !name.is_empty());
            let Some((name, value)) = pair.filter(|_| !line.contains('\0')) else {
                let what = format!("the image's environment has \"{}\"", shown(line));
                return Err((what, "repair the image: variables are NAME=VALUE".to_owned()));
            };
            variables.insert(name.to_owned(), Setting::of_image(value.to_owned()));
        }
        for (name, value) in &self.agent.environment {
            variables.insert(name.clone(), value.clone());
        }
        Ok(variables.into_iter().collect())
    }

    /// As Docker combines them: `command` takes the place of the image's entry point and arguments, `args`
    /// of its arguments alone.
    fn command(&self) -> Result<Setting<Vec<String>>, Fault> {
        let run = &self.image.run;
        let words = match (&self.agent.command, &self.agent.args) {
            (Some(command), args) => {
                let args = args.as_ref().map(|args| args.value.clone()).unwrap_or_default();
                Setting { value: [command.value.clone(), args].concat(), from: command.from }
            }
            (None, Some(args)) => {
                let entry = run.command.iter().take(run.entry_point).cloned();
                Setting { value: entry.chain(args.value.clone()).collect(), from: args.from }
            }
            (None, None) => Setting::of_image(run.command.clone()),
        };
        if words.value.first().is_none_or(String::is_empty) {
            let what = "neither the agent nor its image says what to start".to_owned();
            return Err((what, "write the agent's `command`".to_owned()));
        }
        if words.value.iter().any(|word| word.contains('\0')) {
            return Err((
                "there is a NUL in the image's command".to_owned(),
                "write the agent's `command`".to_owned(),
            ));
        }
        Ok(words)
    }

    /// The file's, or the image's; it must be there.
    fn directory(&self) -> Result<Setting<String>, (Origin, Fault)> {
        let image = self.image.run.workdir.as_str();
        let directory = match &self.agent.directory {
            Some(directory) => directory.clone(),
            None if image.is_empty() => Setting::usual("/".to_owned()),
            None => {
                let trimmed = image.trim_end_matches('/');
                let path = if trimmed.is_empty() { "/" } else { trimmed };
                Rule::Inside.check(path).map_err(|(what, _)| {
                    let what =
                        format!("the image's working directory is \"{}\": {what}", shown(image));
                    (self.agent.image.from, (what, "write the agent's `directory`".to_owned()))
                })?;
                Setting::of_image(path.to_owned())
            }
        };
        let path = directory.value.as_str();
        let found =
            find_inside(self.root, path).is_some_and(|found| found.kind == FileType::Directory);
        let above_mount =
            self.agent.mounts.iter().any(|mount| is_at_or_below(&mount.target.value, path));
        if found || above_mount || self.covered(path) {
            return Ok(directory);
        }
        let place =
            if directory.from == Origin::Image { self.agent.image.from } else { directory.from };
        let what = format!("the image has no directory \"{}\" to work in", shown(path));
        let remedy = "write a `directory` that the image has, or that a mount makes";
        Err((place, (what, remedy.to_owned())))
    }

    /// Whether something of the host, or `/tmp`, is seen at a path, so that the image does not tell.
    fn covered(&self, path: &str) -> bool {
        let targets = self.agent.mounts.iter().map(|mount| mount.target.value.as_str());
        targets.chain(["/tmp"]).any(|target| is_at_or_below(path, target))
    }

    /// The program is there, what may be executed is there, and the program is of it.
    fn programs(&self, settled: &Settled) -> Result<(), (Origin, Fault)> {
        let program = self.program(settled)?;
        let Some(executables) = &self.agent.executables else { return Ok(()) };
        let mut allowed = false;
        for executable in executables {
            let path = executable.value.as_str();
            match find_inside(self.root, path) {
                Some(found) => {
                    allowed |=
                        program.as_ref().is_none_or(|program| program.starts_with(found.path));
                }
                None if self.covered(path) => allowed = true,
                None => {
                    let what = format!("`executables`: the image has no \"{}\"", shown(path));
                    let remedy =
                        "write a file or a directory that the image has, or that a mount makes";
                    return Err((executable.from, (what, remedy.to_owned())));
                }
            }
        }
        if allowed {
            return Ok(());
        }
        let place = executables.first().map_or(self.agent.name.from, |first| first.from);
        let program = program.unwrap_or_default();
        let shown_program = shown(&program.to_string_lossy());
        let what = format!("`executables` does not allow what the agent starts, {shown_program}");
        Err((place, (what, format!("add \"{shown_program}\""))))
    }

    /// Where the program is, links followed; nothing if a mount may have it.
    fn program(&self, settled: &Settled) -> Result<Option<PathBuf>, (Origin, Fault)> {
        let word = settled.command.value.first().map(String::as_str).unwrap_or_default();
        let path = settled.environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, value)| value.value.as_str()).unwrap_or_default();
        let folders: Vec<&str> = if word.contains('/') {
            vec![settled.directory.value.as_str()]
        } else {
            path.split(':').collect()
        };
        let mut covered = false;
        for folder in folders {
            let Some(candidate) = Path::new(folder).join(word).to_str().map(str::to_owned) else {
                continue;
            };
            if self.covered(&candidate) {
                covered = true;
            } else if let Some(found) = find_inside(self.root, &candidate)
                && found.kind == FileType::RegularFile
            {
                return Ok(Some(found.path));
            }
        }
        if covered {
            return Ok(None);
        }
        let from = settled.command.from;
        let place = if from == Origin::Image { self.agent.image.from } else { from };
        let what = format!("the image has no program \"{}\"", shown(word));
        let remedy =
            "write a `command` that the image has, with its whole path or a name that PATH finds";
        Err((place, (what, remedy.to_owned())))
    }

    /// Everything together must fit into a frame of the protocol.
    fn too_much(&self, settled: &Settled) -> Option<(Origin, Fault)> {
        let words = settled.command.value.iter().map(|word| word.len() + 1).sum::<usize>();
        let variables = settled.environment.iter();
        let variables: usize =
            variables.map(|(name, value)| name.len() + value.value.len() + 2).sum();
        let many = settled.command.value.len() > MAX_ARGUMENTS
            || settled.environment.len() > MAX_VARIABLES;
        if words + variables <= MAX_SPEC_TEXT && !many {
            return None;
        }
        let what = format!(
            "with the image's, command and environment have {} bytes; at most {MAX_SPEC_TEXT} are taken, {MAX_ARGUMENTS} words and {MAX_VARIABLES} variables",
            words + variables
        );
        Some((self.agent.image.from, (what, "use an image that says less".to_owned())))
    }
}
