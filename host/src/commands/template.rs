//! `cloister template`: build, list, show and remove saved machines.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::cli::template::{BuildArgs, TemplateArgs, TemplateCommand};
use crate::commands::clean_up;
use crate::exit_codes;
use crate::launch::LaunchSpec;
use crate::launch::files::Files;
use crate::launch::jail::LimitsWish;
use crate::report::{describe, tell_line};
use crate::template::{About, Key, Notice, Store, TemplateError, make};
use cloister_vmm::spec::VmSpec;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Listing<'a> {
    schema: u32,
    templates: Vec<Listed<'a>>,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    /// Why it can't be used; then nothing else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    about: Option<&'a About>,
}

/// Does what was asked; the exit code.
#[must_use]
pub fn template(arguments: TemplateArgs, limits: LimitsWish) -> u8 {
    let TemplateArgs { place, command } = arguments;
    let done = place.path().and_then(|path| Store::open(&path)).and_then(|store| match command {
        TemplateCommand::Build(arguments) => build(arguments, limits, &store),
        TemplateCommand::Ls(arguments) => list(&store, arguments.json),
        TemplateCommand::Inspect(arguments) => inspect(&store, &arguments.template),
        TemplateCommand::Rm(arguments) if arguments.all => remove_all(&store),
        TemplateCommand::Rm(arguments) => {
            arguments.names.iter().try_for_each(|digits| remove(&store, &store.find(digits)?.0))
        }
    });
    match done {
        Ok(()) => exit_codes::OK,
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn build(arguments: BuildArgs, limits: LimitsWish, store: &Store) -> Result<(), TemplateError> {
    let files = Files::find(arguments.guest.kernel, arguments.guest.rootfs)?;
    let vm = VmSpec {
        vcpus: arguments.cpus,
        memory_mib: arguments.memory,
        extra_cmdline: String::new(),
    };
    let key = Key::with(&files, &vm, arguments.shares, store)?;
    let spec = LaunchSpec { jail: arguments.jail.spec(limits), ..LaunchSpec::new(files, vm) };
    clean_up(&spec.jail);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(TemplateError::Host)?;
    let opened = runtime.block_on(make(&spec, store, &key, &mut tell))?;
    print(&format!("{}\n", opened.key.name()))
}

/// Tells on standard error what a person should know.
pub(crate) fn tell(notice: Notice<'_>) {
    tell_line(format_args!("cloister: {}", words(notice)));
}

/// What a person should know, in one line.
pub(crate) fn words(notice: Notice<'_>) -> String {
    match notice {
        Notice::Building => "building the template of this machine, once".to_owned(),
        Notice::Outdated => {
            let why = "programs, images or this host have changed";
            format!("the template of this machine is built anew: {why}")
        }
        Notice::Unusable(error) => {
            let what = "the template of this machine can't be used and is built anew";
            format!("{what}: {}", describe_cause(error))
        }
        Notice::Unrehearsed(error) => {
            let what = "the template of this machine is made, and machines go on from it slower than \
                        they could";
            format!("{what}: {}", describe_cause(error))
        }
        Notice::Boots(error) => {
            let what = "there is no template for this machine, so it boots";
            format!("{what}: {}", describe_cause(error))
        }
    }
}

/// An error with its causes, in one line.
fn describe_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn list(store: &Store, json: bool) -> Result<(), TemplateError> {
    let all = store.list()?;
    if json {
        let templates = all.iter().map(|(name, about)| match about {
            Ok(about) => Listed { name, damaged: None, about: Some(about) },
            Err(error) => Listed { name, damaged: Some(error.to_string()), about: None },
        });
        return print_json(&Listing { schema: SCHEMA, templates: templates.collect() });
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["TEMPLATE", "CPUS", "MEMORY", "SHARES", "STORED", "MADE"]);
    for (name, about) in &all {
        let short: String = name.chars().take(12).collect();
        match about {
            Ok(about) => {
                let key = &about.key;
                let made = i64::try_from(about.made).ok();
                let made = made.and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
                table.add_row([
                    short,
                    key.vcpus.to_string(),
                    format!("{} MiB", key.memory_mib),
                    if key.shares { "yes" } else { "no" }.to_owned(),
                    format!("{} MiB", about.stored_bytes >> 20),
                    made.map(|made| made.format("%F %TZ").to_string()).unwrap_or_default(),
                ]);
            }
            Err(error) => {
                table.add_row([short, String::new(), error.to_string()]);
            }
        }
    }
    print(&format!("{table}\n"))
}

fn inspect(store: &Store, digits: &str) -> Result<(), TemplateError> {
    let (name, about) = store.find(digits)?;
    print_json(&Listed { name: &name, damaged: None, about: Some(&about?) })
}

fn remove(store: &Store, name: &str) -> Result<(), TemplateError> {
    store.remove_unused(name)?;
    print(&format!("{name}\n"))
}

fn remove_all(store: &Store) -> Result<(), TemplateError> {
    for (name, _) in store.list()? {
        match remove(store, &name) {
            // It stays, which is what was asked for.
            Err(TemplateError::InUse(_)) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn print_json(value: &impl Serialize) -> Result<(), TemplateError> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other);
    print(&format!("{}\n", text.map_err(output)?))
}

fn print(text: &str) -> Result<(), TemplateError> {
    io::stdout().write_all(text.as_bytes()).map_err(output)
}

fn output(source: io::Error) -> TemplateError {
    TemplateError::Io { what: "write", path: "standard output".into(), source }
}
