//! A team file that is in order by itself: read, checked, with every default filled in. Neither the image
//! store nor the files that it names have been looked at yet.

use std::cell::RefCell;

use toml::de::{DeTable, DeValue};

use super::keys::TEAM;
use super::limits::{
    BACK_OFF, CPUS, FILE_SIZE, FILES, MEMORY, OPEN_FILES, PIDS, USUAL_TMP, machine_memory,
};
use super::mistake::{Fault, Mistakes};
use super::node::{Node, Value};
use super::read::Reader;
use super::setting::{Origin, Setting};
use super::source::{Place, Source};
use super::spec::{Condition, Dependency, Lifetime, Limits, Mode, Restart, Root};
use super::variables::{Lookup, Variables, read_file};
use super::{check, egress};
use crate::egress::quota::Quota;
use crate::egress::rule::Rule;
use crate::template::Choice;

/// A team file.
#[derive(Clone, Debug)]
pub struct TeamFile {
    /// Its text, to point into.
    pub source: Source,
    /// The team's name.
    pub name: Setting<String>,
    /// vCPUs of the machine.
    pub cpus: Setting<u8>,
    /// Memory of the machine, in bytes; whole MiB.
    pub memory: Setting<u64>,
    /// What becomes of its volumes.
    pub lifetime: Setting<Lifetime>,
    /// What becomes of connections that no egress rule is about.
    pub egress_mode: Setting<Mode>,
    /// The guest's kernel, if not the usual one.
    pub kernel: Option<Setting<String>>,
    /// Whether the machine goes on from a template.
    pub template: Setting<Choice>,
    /// In the order of the file.
    pub agents: Vec<AgentFile>,
    /// Names of volumes, in the order of the file.
    pub volumes: Vec<Setting<String>>,
}

/// An agent of a team file.
#[derive(Clone, Debug)]
pub struct AgentFile {
    /// Its name.
    pub name: Setting<String>,
    /// The image's name or digest.
    pub image: Setting<String>,
    /// Program and first arguments, if not the image's.
    pub command: Option<Setting<Vec<String>>>,
    /// Arguments, if not the image's.
    pub args: Option<Setting<Vec<String>>>,
    /// Variables beside the image's.
    pub environment: Vec<(String, Setting<String>)>,
    /// The working directory, if not the image's.
    pub directory: Option<Setting<String>>,
    /// The user, if not the image's.
    pub user: Option<Setting<String>>,
    /// What it may use.
    pub limits: Limits,
    /// Its root.
    pub root: Setting<Root>,
    /// In the order of the file.
    pub mounts: Vec<MountFile>,
    /// In the order of the file.
    pub outputs: Vec<OutputFile>,
    /// What it may execute; nothing if everything.
    pub executables: Option<Vec<Setting<String>>>,
    /// Where it may write; nothing if wherever something else allows it.
    pub writable_directories: Option<Vec<Setting<String>>>,
    /// What happens when it fails.
    pub restart: Setting<Restart>,
    /// What it waits for.
    pub after: Vec<Setting<Dependency>>,
    /// What it may reach outside; in the order of the file.
    pub egress: Vec<Setting<Rule>>,
    /// How much may pass on the way there.
    pub egress_quota: Setting<Quota>,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A path of the host.
    Host(Setting<String>),
    /// A volume of the team.
    Volume(Setting<String>),
}

/// A mount of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFile {
    /// What.
    pub source: MountSource,
    /// Where.
    pub target: Setting<String>,
    /// Whether it can be written to.
    pub writable: bool,
}

/// An output of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// In the container.
    pub path: Setting<String>,
    /// On the host.
    pub to: Setting<String>,
}

/// What a team file is read with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// A variable of the environment.
    pub environment: Lookup<'a>,
    /// Reads the file of variables; an error says what is wrong, and what to do.
    pub read: &'a dyn Fn(&str) -> Result<Source, Fault>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

impl TeamFile {
    /// Reads a text.
    ///
    /// # Errors
    /// Everything that is wrong in it. What is no TOML is told alone: the rest can't be understood.
    pub fn parse(source: Source, surroundings: Surroundings<'_>) -> Result<Self, Mistakes> {
        let text = source.text().to_owned();
        let (toml, errors) = DeTable::parse_recoverable(&text);
        let mut mistakes = Mistakes::default();
        for error in errors {
            let place = source.place(error.span().unwrap_or_default());
            let what = format!("this is not TOML: {}", error.message());
            mistakes.add(&source, place, what, syntax_remedy(error.message()));
        }
        mistakes.result()?;
        let toml = toml.get_ref();
        let mut mistakes = Mistakes::default();
        let variables = variables(&source, toml, surroundings, &mut mistakes);
        let reader = Reader { source: &source, variables, mistakes: RefCell::new(mistakes) };
        let start = Place { line: 1, column: 1, length: 1 };
        let top = reader.table(&TEAM, toml, start);
        let team = team(&reader, &top);
        if let Some(team) = &team {
            check::check(&reader, team);
        }
        reader.mistakes.take().result()?;
        // Without a mistake the name and the agents are there.
        let Some(team) = team else { return Err(Mistakes::default()) };
        Ok(Self { source, ..team })
    }
}

/// The values of `${NAME}`. The table and the name of the file can't have variables themselves.
fn variables<'a>(
    source: &Source,
    toml: &DeTable<'_>,
    surroundings: Surroundings<'a>,
    mistakes: &mut Mistakes,
) -> Variables<'a> {
    let mut variables =
        Variables { environment: Some(surroundings.environment), ..Variables::default() };
    if let Some(DeValue::Table(table)) = toml.get("variables").map(|value| value.get_ref()) {
        let texts = table.iter().filter_map(|(name, value)| {
            Some((name.get_ref().to_string(), value.get_ref().as_str()?.to_owned()))
        });
        variables.table = texts.collect();
    }
    if let Some(value) = toml.get("variables-file")
        && let Some(path) = value.get_ref().as_str()
    {
        match (surroundings.read)(path) {
            Ok(file) => variables.file = read_file(&file, mistakes),
            Err((what, remedy)) => mistakes.add(source, source.place(value.span()), what, remedy),
        }
    }
    variables
}

/// What to do about TOML's own complaint.
fn syntax_remedy(message: &str) -> &'static str {
    if message.contains("duplicate key") {
        "take one of the two out"
    } else if ["string", "quote", "escape"].iter().any(|word| message.contains(word)) {
        "put text between quotation marks; inside of them a backslash is written twice"
    } else if message.contains("recursion") {
        "nothing in a team file lies that deep: take it out"
    } else {
        "write it as TOML (https://toml.io): KEY = VALUE on a line, text between quotation marks, [TABLE] for tables"
    }
}

fn team(reader: &Reader<'_>, top: &Node) -> Option<TeamFile> {
    let agents = top.get("agents")?;
    if matches!(&agents.value, Value::Table(entries) if entries.is_empty()) {
        let remedy = "add [agents.NAME] with an image";
        reader.add(agents.place, "there is no agent in `agents`", remedy);
    }
    let agents: Vec<AgentFile> = agents
        .entries()
        .iter()
        .map(|(name, place, node)| {
            agent(reader, Setting { value: name.clone(), from: Origin::File(*place) }, node)
        })
        .collect();
    let sum: u64 = agents.iter().map(|agent| agent.limits.memory.value).sum();
    let shares: u64 =
        agents.iter().map(|agent| u64::from(agent.limits.cpu_thousandths.value)).sum();
    let cpus = top.number("cpus").unwrap_or_else(|| {
        Setting::derived(shares.div_ceil(1000).clamp(1, super::limits::MACHINE_CPUS.most))
    });
    let lifetime = top.text("lifetime").map_or(Setting::usual(Lifetime::Ephemeral), |word| {
        word.map(
            |word| {
                if word == "persistent" { Lifetime::Persistent } else { Lifetime::Ephemeral }
            },
        )
    });
    let egress_mode = top.text("egress-mode").map_or(Setting::usual(Mode::Enforce), |word| {
        word.map(|word| if word == "observe" { Mode::Observe } else { Mode::Enforce })
    });
    let template = top.text("template").map_or(Setting::usual(Choice::default()), |word| {
        // Another word is a mistake, and nothing comes of this file.
        word.map(|word| Choice::of_word(&word).unwrap_or_default())
    });
    let volumes = top.get("volumes").map(Node::entries).unwrap_or_default();
    Some(TeamFile {
        source: Source::new("", ""),
        name: top.text("name").unwrap_or_else(|| Setting::usual(String::new())),
        cpus: cpus.map(|cpus| u8::try_from(cpus).unwrap_or(u8::MAX)),
        memory: top.number("memory").unwrap_or_else(|| Setting::derived(machine_memory(sum))),
        lifetime,
        egress_mode,
        kernel: top.text("kernel"),
        template,
        volumes: volumes.iter().map(|(name, _, node)| node.setting(name.clone())).collect(),
        agents,
    })
}

fn agent(reader: &Reader<'_>, name: Setting<String>, node: &Node) -> AgentFile {
    let list = |key: &str| {
        let items = node.texts(key)?;
        Some(node.get(key)?.setting(items.into_iter().map(|item| item.value).collect()))
    };
    let environment = node.get("environment").map(Node::entries).unwrap_or_default();
    let environment = environment.iter().filter_map(|(name, _, value)| {
        Some((name.clone(), value.setting(value.as_text()?.to_owned())))
    });
    let items = |key: &str| node.get(key).map(Node::items).unwrap_or_default().iter();
    AgentFile {
        // Without one there is a mistake, and nothing comes of this file.
        image: node.text("image").unwrap_or_else(|| Setting::usual(String::new())),
        command: list("command"),
        args: list("args"),
        environment: environment.collect(),
        directory: node.text("directory"),
        user: node.text("user"),
        limits: limits(node),
        root: root(node),
        mounts: items("mounts").filter_map(|mount| self::mount(reader, mount)).collect(),
        outputs: items("outputs").filter_map(output).collect(),
        executables: node.texts("executables"),
        writable_directories: node.texts("writable-directories"),
        restart: restart(node),
        after: items("after").filter_map(dependency).collect(),
        egress: items("egress").filter_map(|rule| egress::rule(reader, rule)).collect(),
        egress_quota: egress::quota(reader, node.get("egress-quota")),
        name,
    }
}

fn output(node: &Node) -> Option<OutputFile> {
    Some(OutputFile { path: node.text("path")?, to: node.text("to")? })
}

fn limits(node: &Node) -> Limits {
    let number = |key: &str, usual: Option<u64>| {
        node.number(key).unwrap_or_else(|| Setting::usual(usual.unwrap_or_default()))
    };
    let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let memory = number("memory", MEMORY.usual);
    // From the memory: a default that does not fit into it would be a mistake that nobody made.
    let tmp = node.number("tmp").unwrap_or_else(|| match memory.value / 4 {
        quarter if quarter < USUAL_TMP => Setting::derived(quarter),
        _ => Setting::usual(USUAL_TMP),
    });
    Limits {
        cpu_thousandths: number("cpus", CPUS.usual).map(short),
        memory,
        pids: number("pids", PIDS.usual).map(short),
        tmp,
        files: number("files", FILES.usual),
        open_files: number("open-files", OPEN_FILES.usual),
        file_size: number("file-size", FILE_SIZE.usual),
        time_limit_ms: node
            .number("time-limit")
            .map_or(Setting::usual(None), |limit| limit.map(Some)),
    }
}

fn root(node: &Node) -> Setting<Root> {
    let Some(root) = node.get("root") else { return Setting::usual(Root::ReadOnly) };
    root.number("writable")
        .map_or_else(|| root.setting(Root::ReadOnly), |size| size.map(Root::Writable))
}

fn restart(node: &Node) -> Setting<Restart> {
    let Some(restart) = node.get("restart") else { return Setting::usual(Restart::Never) };
    let Some(times) = restart.number("on-failure") else { return restart.setting(Restart::Never) };
    let back_off = restart.number("back-off").map(|time| time.value);
    times.map(|times| Restart::OnFailure {
        times: u32::try_from(times).unwrap_or(u32::MAX),
        back_off_ms: back_off.or(BACK_OFF.usual).unwrap_or_default(),
    })
}

fn dependency(node: &Node) -> Option<Setting<Dependency>> {
    if let Some(agent) = node.as_text() {
        let agent = agent.to_owned();
        return Some(node.setting(Dependency { agent, condition: Condition::Started }));
    }
    let succeeded = node.text("condition").is_some_and(|word| word.value == "succeeded");
    let condition = if succeeded { Condition::Succeeded } else { Condition::Started };
    Some(node.text("agent")?.map(|agent| Dependency { agent, condition }))
}

/// A mount shows one thing.
fn mount(reader: &Reader<'_>, node: &Node) -> Option<MountFile> {
    const ONE: &str =
        "write source = \"PATH\" for a directory or a file of the host, or volume = \"NAME\"";
    let target = node.text("target");
    let source = match (node.text("source"), node.text("volume")) {
        (Some(source), None) => MountSource::Host(source),
        (None, Some(volume)) => MountSource::Volume(volume),
        (Some(_), Some(volume)) => {
            reader.add(volume.from.place(), "the mount has both `source` and `volume`", ONE);
            return None;
        }
        // What is there, and wrong, was told.
        (None, None) if node.get("source").or_else(|| node.get("volume")).is_some() => return None,
        (None, None) => {
            reader.add(node.place, "the mount has neither `source` nor `volume`", ONE);
            return None;
        }
    };
    Some(MountFile { source, target: target?, writable: node.flag("writable") })
}
