//! What a team file names on the host: opened once, held against the lists, and against each other.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType};

use super::file::{AgentFile, MountSource, TeamFile};
use super::mistake::{Fault, Mistakes};
use super::mounts::open::{self, Kind, Opened, below, open};
use super::mounts::person::Person;
use super::mounts::policy::{Grant, Policy};
use super::rules::is_at_or_below;
use super::setting::Setting;
use super::source::shown;

/// By what the host's side is judged.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The operator's list.
    pub policy: &'a Policy,
    /// Whose team it is.
    pub person: &'a Person,
    /// The team file's directory, to start from.
    pub directory: &'a OwnedFd,
    /// Where that is.
    pub real: &'a Path,
    /// The team file, and its file of variables if it has one.
    pub inputs: &'a [PathBuf],
}

/// A source that may be shared.
#[derive(Debug)]
pub struct HostSource {
    /// It.
    pub opened: Opened,
    /// What allows it.
    pub grant: Grant,
}

/// Where an output goes.
#[derive(Debug)]
pub struct HostOutput {
    /// The directory.
    pub directory: Opened,
    /// The name in it.
    pub name: String,
    /// What allows it.
    pub grant: Grant,
}

/// Everything of the host that a team file names.
#[derive(Debug, Default)]
pub struct HostFiles {
    /// The guest's kernel.
    pub kernel: Option<Opened>,
    /// For each agent, for each of its mounts; nothing for a volume.
    pub mounts: Vec<Vec<Option<HostSource>>>,
    /// For each agent, for each of its outputs.
    pub outputs: Vec<Vec<HostOutput>>,
}

impl Judge<'_> {
    /// Opens everything that a team file names.
    ///
    /// # Errors
    /// Everything that is not there, can't be used, or may not be shared.
    pub fn open(&self, file: &TeamFile) -> Result<HostFiles, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut files = HostFiles::default();
        let mut note = |at: &Setting<String>, key: &str, fault: Fault| {
            let what = format!("`{key}` is \"{}\": {}", shown(&at.value), fault.0);
            mistakes.add(&file.source, at.from.place(), what, fault.1);
        };
        if let Some(path) = &file.kernel {
            match self.shared(&path.value, false) {
                Ok((opened, _)) if opened.kind == Kind::File => files.kernel = Some(opened),
                Ok(_) => {
                    note(path, "kernel", owned(("it is a directory".to_owned(), "name a file")));
                }
                Err(fault) => note(path, "kernel", fault),
            }
        }
        for agent in &file.agents {
            let sources = agent.mounts.iter().map(|mount| {
                let MountSource::Host(path) = &mount.source else { return None };
                match self.shared(&path.value, mount.writable) {
                    Ok((opened, grant)) => Some(HostSource { opened, grant }),
                    Err(fault) => {
                        note(path, "source", fault);
                        None
                    }
                }
            });
            files.mounts.push(sources.collect());
        }
        for agent in &file.agents {
            let outputs = agent.outputs.iter().filter_map(|output| {
                let to = &output.to;
                self.output(&to.value, &files).map_err(|fault| note(to, "to", fault)).ok()
            });
            let outputs = outputs.collect();
            files.outputs.push(outputs);
        }
        for (agent, sources) in file.agents.iter().zip(&files.mounts) {
            nested(agent, sources, &mut note);
            undermined(agent, sources, &mut note);
        }
        same_output(file, &files, &mut note);
        mistakes.result()?;
        Ok(files)
    }

    /// Opens what may be shared.
    fn shared(&self, path: &str, writable: bool) -> Result<(Opened, Grant), Fault> {
        let opened = open(self.directory, path).map_err(owned)?;
        let grant = self.allowed(&opened.real, writable)?;
        opened.permitted(writable).map_err(owned)?;
        Ok((opened, grant))
    }

    /// Opens a file that this process itself is to read.
    pub(super) fn input(&self, path: &str) -> Result<Opened, Fault> {
        Ok(self.shared(path, false)?.0)
    }

    fn allowed(&self, real: &Path, writable: bool) -> Result<Grant, Fault> {
        self.policy
            .check(self.person, self.real, real, writable)
            .map_err(|refusal| (refusal.what, refusal.remedy.to_owned()))
    }

    /// The directory that an output goes to is there; what it replaces is no input.
    fn output(&self, path: &str, files: &HostFiles) -> Result<HostOutput, Fault> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        if matches!(name, "" | "." | "..") {
            return Err(owned((
                "it names no file".to_owned(),
                "write the file's own name at the end",
            )));
        }
        let directory = open(self.directory, parent).map_err(owned)?;
        if directory.kind != Kind::Directory {
            return Err(owned(("a file is in the way".to_owned(), "name a file in a directory")));
        }
        let real = directory.real.join(name);
        let grant = self.allowed(&real, true)?;
        directory.permitted(true).map_err(owned)?;
        if let Ok(stat) = sys::statat(&directory.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)
            && !matches!(
                FileType::from_raw_mode(stat.st_mode),
                FileType::RegularFile | FileType::Directory
            )
        {
            let what = "what is there is neither a file nor a directory".to_owned();
            return Err(owned((what, "remove it, or write another name")));
        }
        let kernel = files.kernel.iter().map(|kernel| &kernel.real);
        if self.inputs.iter().chain(kernel).any(|input| input.starts_with(&real)) {
            let what = "it would overwrite a file that the team is made from".to_owned();
            return Err(owned((what, "write another name")));
        }
        for source in files.mounts.iter().flatten().flatten() {
            let source = &source.opened.real;
            if source.starts_with(&real) || real.starts_with(source) {
                let what = format!(
                    "it would change {}, which an agent has mounted",
                    shown(&source.to_string_lossy())
                );
                return Err(owned((what, "write a name outside of everything that is mounted")));
            }
        }
        Ok(HostOutput { directory, name: name.to_owned(), grant })
    }
}

fn owned((what, remedy): open::Fault) -> Fault {
    (what, remedy.to_owned())
}

/// A target within another mount must be there in what that mount shows: nothing is made in it.
fn nested(
    agent: &AgentFile,
    sources: &[Option<HostSource>],
    note: &mut impl FnMut(&Setting<String>, &str, Fault),
) {
    for (mount, source) in agent.mounts.iter().zip(sources) {
        let target = mount.target.value.as_str();
        let above = agent.mounts.iter().zip(sources).filter(|(above, _)| {
            above.target.value != target && is_at_or_below(target, &above.target.value)
        });
        let above = above.max_by_key(|(above, _)| above.target.value.len());
        // A volume's content is the warden's to prepare.
        let Some((above, Some(parent))) = above else { continue };
        let rest = target.strip_prefix(&above.target.value).unwrap_or_default();
        let rest = Path::new(rest.trim_start_matches('/'));
        let found = match parent.opened.kind {
            Kind::Directory => below(&parent.opened.descriptor, rest),
            Kind::File => None,
        };
        let wanted = match source {
            Some(source) if source.opened.kind == Kind::File => FileType::RegularFile,
            _ => FileType::Directory,
        };
        if found != Some(wanted) {
            let kind = if wanted == FileType::Directory { "directory" } else { "file" };
            let what = format!(
                "it lies in the mount at \"{}\", which has no {kind} there",
                above.target.value
            );
            let remedy =
                format!("make an empty {kind} there to mount over, or choose another target");
            note(&mount.target, "target", (what, remedy));
        }
    }
}

/// What is mounted read-only must not be writable by another mount of the same agent, unless that
/// one is covered there by one that is read-only.
fn undermined(
    agent: &AgentFile,
    sources: &[Option<HostSource>],
    note: &mut impl FnMut(&Setting<String>, &str, Fault),
) {
    let all = || {
        agent
            .mounts
            .iter()
            .zip(sources)
            .filter_map(|(mount, source)| Some((mount, source.as_ref()?)))
    };
    for (mount, source) in all().filter(|(mount, _)| !mount.writable) {
        for (other, shown_there) in all().filter(|(mount, _)| mount.writable) {
            let Ok(rest) = source.opened.real.strip_prefix(&shown_there.opened.real) else {
                continue;
            };
            let alias = Path::new(&other.target.value).join(rest);
            let covers = agent.mounts.iter().filter(|cover| alias.starts_with(&cover.target.value));
            let nearest = covers.max_by_key(|cover| cover.target.value.len());
            if nearest.is_some_and(|nearest| std::ptr::eq(nearest, other)) {
                let what = format!(
                    "it is read-only here, and writable at \"{}\" by another mount",
                    shown(&alias.to_string_lossy())
                );
                let MountSource::Host(path) = &mount.source else { continue };
                let remedy = "mount it read-only there too, or share less by the other mount";
                note(path, "source", (what, remedy.to_owned()));
            }
        }
    }
}

/// Two ways to write one path.
fn same_output(
    file: &TeamFile,
    files: &HostFiles,
    note: &mut impl FnMut(&Setting<String>, &str, Fault),
) {
    let mut seen = BTreeMap::new();
    for (agent, outputs) in file.agents.iter().zip(&files.outputs) {
        // With a mistake among them they can't be told apart; that one is told.
        if agent.outputs.len() != outputs.len() {
            continue;
        }
        for (output, host) in agent.outputs.iter().zip(outputs) {
            let real = host.directory.real.join(&host.name);
            if let Some(first) = seen.insert(real, &output.to.value) {
                let what = format!("it is the same file as \"{}\"", shown(first));
                note(&output.to, "to", (what, "give each output a name of its own".to_owned()));
            }
        }
    }
}
