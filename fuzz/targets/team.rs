//! Bytes of a hostile team file: they are read without a panic, every mistake has a place in the text, and what
//! is taken keeps what was promised of it.
#![no_main]

use std::ffi::OsString;

use cloister::team::accounts::Accounts;
use cloister::team::file::{Surroundings, TeamFile};
use cloister::team::limits::{MAX_AGENTS, MAX_MISTAKES, MEMORY};
use cloister::team::source::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let environment = |name: &str| (name == "HOME").then(|| OsString::from("/home/me"));
    let read = |path: &str| Ok(Source::new(path, &text));
    let surroundings = Surroundings { environment: &environment, read: &read };
    match TeamFile::parse(Source::new("team.toml", &text), surroundings) {
        Ok(team) => {
            assert!((1..=MAX_AGENTS).contains(&team.agents.len()));
            let memory: u64 = team.agents.iter().map(|agent| agent.limits.memory.value).sum();
            assert!(memory < team.memory.value);
            for agent in &team.agents {
                assert!(MEMORY.hold(agent.limits.memory.value));
                for mount in &agent.mounts {
                    assert!(mount.target.value.starts_with('/') && !mount.target.value.contains("/../"));
                }
            }
        }
        Err(mistakes) => {
            assert!(mistakes.count() > 0 && mistakes.list().len() <= MAX_MISTAKES);
            let lines = text.split('\n').count();
            for mistake in mistakes.list() {
                assert!(mistake.place.line as usize <= lines && mistake.place.column > 0);
            }
            assert!(!mistakes.to_string().is_empty());
        }
    }
    // The same bytes as an image's accounts.
    let accounts = Accounts::parse(&text, &text);
    for user in ["agent", "0", "a:b", "65536"] {
        accounts.find(user).ok();
    }
});
