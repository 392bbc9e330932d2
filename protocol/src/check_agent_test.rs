//! Tests of what agents and copies must keep to.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{AgentBroken, Item};
use crate::agent::{
    AgentLimits, AgentSpec, Copy, Direction, Notice, Place, Root, ShareMount, Usage, User, first_id,
};
use crate::check::Broken;
use crate::limits::{
    IDS_PER_AGENT, MAX_AGENT_NAME, MAX_AGENTS, MAX_BYTES, MAX_MOUNTS, MAX_PATH, MAX_RULES,
    MAX_SHARE_NAME,
};
use crate::message::{Event, Request};

fn good() -> AgentSpec {
    AgentSpec {
        agent: 63,
        name: "scout-1".into(),
        root: Root { share: "python_tools.v1".into(), writable_bytes: None },
        mounts: vec![ShareMount {
            share: "docs".into(),
            target: b"/srv/docs".to_vec(),
            read_only: true,
        }],
        limits: AgentLimits {
            memory_bytes: 256 << 20,
            cpu_millis: 500,
            pids: 128,
            tmp_bytes: 64 << 20,
            open_files: 1024,
            file_bytes: None,
            files: 10_000,
        },
        executables: Some(vec![b"/usr/bin/python3".to_vec(), b"/".to_vec()]),
        writable: None,
        egress: None,
    }
}

fn broken_by(change: impl FnOnce(&mut AgentSpec)) -> AgentBroken {
    let mut spec = good();
    change(&mut spec);
    let broken = spec.validate().unwrap_err();
    assert_eq!(Request::CreateAgent(spec).validate(), Err(Broken::Agent(broken)));
    broken
}

#[test]
fn a_good_agent_passes() {
    assert_eq!(good().validate(), Ok(()));
    assert_eq!(Request::CreateAgent(good()).validate(), Ok(()));
}

#[test]
fn ids_of_agents_do_not_overlap_each_other_or_the_machine() {
    assert_eq!(first_id(0), IDS_PER_AGENT);
    for agent in 1..MAX_AGENTS {
        assert_eq!(first_id(agent) - first_id(agent - 1), IDS_PER_AGENT);
    }
}

#[test]
fn numbers_and_names_are_checked() {
    let agent = MAX_AGENTS;
    assert_eq!(broken_by(|spec| spec.agent = agent), AgentBroken::Number { agent });
    let long = "a".repeat(MAX_AGENT_NAME + 1);
    for name in ["", "-a", "a-", "A", "a b", "a.b", "ä", "a\n", &long] {
        assert_eq!(broken_by(|spec| spec.name = name.into()), AgentBroken::Name, "{name:?}");
    }
    let long = "a".repeat(MAX_SHARE_NAME + 1);
    for name in ["", ".", "..", "a/b", "/", "A", "a\0", &long] {
        let item = Item::Root;
        assert_eq!(broken_by(|s| s.root.share = name.into()), AgentBroken::Share { item });
        let item = Item::Mount(0);
        assert_eq!(broken_by(|s| s.mounts[0].share = name.into()), AgentBroken::Share { item });
    }
}

#[test]
fn targets_are_checked() {
    let item = Item::Mount(0);
    let mut long = b"/".to_vec();
    long.extend(vec![b'a'; MAX_PATH]);
    for target in [&b""[..], b"a", b"//a", b"/a/", b"/a//b", b"/.", b"/a/..", b"/a\0b", &long] {
        let broken = broken_by(|spec| spec.mounts[0].target = target.to_vec());
        assert_eq!(broken, AgentBroken::Path { item }, "{target:?}");
    }
    for target in [&b"/"[..], b"/proc", b"/proc/sys", b"/dev", b"/dev/shm", b"/sys/fs"] {
        let broken = broken_by(|spec| spec.mounts[0].target = target.to_vec());
        assert_eq!(broken, AgentBroken::Reserved { item }, "{target:?}");
    }
    for target in [&b"/tmp"[..], b"/device", b"/a/proc", b"/...", b"/a b"] {
        let mut spec = good();
        spec.mounts[0].target = target.to_vec();
        assert_eq!(spec.validate(), Ok(()), "{target:?}");
    }
}

#[test]
fn counts_are_checked() {
    let one = good().mounts.remove(0);
    let broken = broken_by(|spec| spec.mounts = vec![one; MAX_MOUNTS + 1]);
    assert!(matches!(broken, AgentBroken::TooMany { item: Item::Mount(0), count: 65, limit: 64 }));
    let many = Some(vec![b"/a".to_vec(); MAX_RULES + 1]);
    let broken = broken_by(|spec| spec.executables = many.clone());
    assert!(matches!(broken, AgentBroken::TooMany { item: Item::Executable(0), .. }));
    let broken = broken_by(|spec| spec.writable = many);
    assert!(matches!(broken, AgentBroken::TooMany { item: Item::Writable(0), .. }));
    let broken = broken_by(|spec| spec.writable = Some(vec![b"/a".to_vec(), b"b".to_vec()]));
    assert_eq!(broken, AgentBroken::Path { item: Item::Writable(1) });
}

#[test]
fn every_limit_has_both_ends() {
    type Change = fn(&mut AgentSpec, u64);
    let changes: [(&str, Change, u64); 8] = [
        ("memory", |spec, value| spec.limits.memory_bytes = value, u64::MAX),
        ("processor time", |s, v| s.limits.cpu_millis = u32::try_from(v).unwrap(), 1_000_001),
        ("processes", |s, v| s.limits.pids = u32::try_from(v).unwrap(), (1 << 22) + 1),
        ("/tmp", |spec, value| spec.limits.tmp_bytes = value, u64::MAX),
        ("open files", |s, v| s.limits.open_files = u32::try_from(v).unwrap(), 524_289),
        ("files", |spec, value| spec.limits.files = value, u64::MAX),
        ("the writable root", |spec, value| spec.root.writable_bytes = Some(value), u64::MAX),
        ("a file's size", |spec, value| spec.limits.file_bytes = Some(value), MAX_BYTES + 1),
    ];
    for (name, change, over) in changes {
        for value in [0, over] {
            if (name, value) == ("a file's size", 0) {
                continue;
            }
            let broken = broken_by(|spec| change(spec, value));
            let AgentBroken::Limit { item: Item::Limit(found), value: told, .. } = broken else {
                panic!("{broken:?}")
            };
            assert_eq!((found, told), (name, value));
        }
    }
}

#[test]
fn users_and_copies_are_checked() {
    let user = User { uid: 0, gid: IDS_PER_AGENT - 1 };
    let copy = Copy { id: 1, agent: 0, user, direction: Direction::In(b"/".to_vec()), port: 3 };
    assert_eq!(copy.validate(), Ok(()));
    let wrong = User { uid: IDS_PER_AGENT, gid: 0 };
    let id = Broken::Agent(AgentBroken::Id { uid: IDS_PER_AGENT, gid: 0 });
    assert_eq!(Copy { user: wrong, ..copy.clone() }.validate(), Err(id));
    assert_eq!(Place::Agent { agent: 0, user: wrong }.validate().map_err(Broken::Agent), Err(id));
    let agent = MAX_AGENTS;
    let number = AgentBroken::Number { agent };
    assert_eq!(Copy { agent, ..copy.clone() }.validate(), Err(number.into()));
    assert_eq!(Place::Agent { agent, user }.validate(), Err(number));
    assert_eq!(Copy { port: 1, ..copy.clone() }.validate(), Err(Broken::Port { port: 1 }));
    let direction = Direction::Out(b"/a/../b".to_vec());
    let path = AgentBroken::Path { item: Item::Copied };
    assert_eq!(Request::Copy(Copy { direction, ..copy }).validate(), Err(path.into()));
}

#[test]
fn what_the_guest_tells_is_bounded() {
    let denied = |length| Event::AgentNotice {
        agent: 0,
        notice: Notice::ExecDenied { path: vec![0xff; length] },
    };
    assert_eq!(denied(MAX_PATH).validate(), Ok(()));
    let path = AgentBroken::Path { item: Item::Denied };
    assert_eq!(denied(MAX_PATH + 1).validate(), Err(path.into()));
    let failed = Event::AgentFailed { agent: 0, detail: "x".repeat(1025) };
    assert_eq!(failed.validate(), Err(Broken::Detail { length: 1025 }));
}

#[test]
fn rules_are_told_in_words() {
    let said = broken_by(|spec| spec.limits.pids = 1).to_string();
    assert_eq!(said, "a limit on processes of 1 is not within 3 and 4194304");
    let said = broken_by(|spec| spec.mounts[0].target = b"/dev".to_vec()).to_string();
    assert_eq!(said, "mount 0: nothing can be mounted on / or in /dev, /proc and /sys");
}

pub(crate) fn any_agent() -> impl Strategy<Value = AgentSpec> {
    let path = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            "(/[a-z.]{0,3}){0,4}".prop_map(|path| path.into_bytes()),
        ]
    };
    let paths = move || prop::option::of(prop::collection::vec(path(), 0..4));
    let mount = ("[a-z./]{0,4}", path(), any::<bool>())
        .prop_map(|(share, target, read_only)| ShareMount { share, target, read_only });
    let limits = (any::<(u64, u32, u32, u64, u32)>(), any::<(Option<u64>, u64)>()).prop_map(
        |((memory_bytes, cpu_millis, pids, tmp_bytes, open_files), (file_bytes, files))| {
            AgentLimits { memory_bytes, cpu_millis, pids, tmp_bytes, open_files, file_bytes, files }
        },
    );
    let names = (any::<u32>(), "[a-z-]{0,4}", "[a-z./]{0,4}", any::<Option<u64>>());
    let lists = (paths(), paths(), crate::egress::tests::any_egress());
    (names, prop::collection::vec(mount, 0..4), limits, lists).prop_map(
        |(
            (agent, name, share, writable_bytes),
            mounts,
            limits,
            (executables, writable, egress),
        )| AgentSpec {
            agent,
            name,
            root: Root { share, writable_bytes },
            mounts,
            limits,
            executables,
            writable,
            egress,
        },
    )
}

pub(crate) fn any_copy() -> impl Strategy<Value = Copy> {
    let path = prop::collection::vec(any::<u8>(), 0..12);
    (any::<(u32, u32, u32, u32, u32, bool)>(), path).prop_map(
        |((id, agent, uid, gid, port, out), path)| Copy {
            id,
            agent,
            user: User { uid, gid },
            direction: if out { Direction::Out(path) } else { Direction::In(path) },
            port,
        },
    )
}

pub(crate) fn any_agent_event() -> impl Strategy<Value = Event> {
    let notice = prop_oneof![
        any::<u64>().prop_map(|kills| Notice::OutOfMemory { kills }),
        any::<u64>().prop_map(|refused| Notice::TooManyProcesses { refused }),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|path| Notice::ExecDenied { path }),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|name| Notice::NameRefused { name }),
        any::<u64>().prop_map(|count| Notice::Dropped { count }),
    ];
    let usage = any::<[u64; 6]>().prop_map(|[a, b, c, d, e, f]| Usage {
        memory_bytes: a,
        memory_peak_bytes: b,
        cpu_us: c,
        throttled_us: d,
        pids: e,
        oom_kills: f,
    });
    prop_oneof![
        any::<u32>().prop_map(|agent| Event::AgentCreated { agent }),
        any::<(u32, alloc::string::String)>()
            .prop_map(|(agent, detail)| Event::AgentFailed { agent, detail }),
        any::<u32>().prop_map(|agent| Event::AgentRemoved { agent }),
        (any::<u32>(), usage).prop_map(|(agent, usage)| Event::AgentUsage { agent, usage }),
        (any::<u32>(), notice).prop_map(|(agent, notice)| Event::AgentNotice { agent, notice }),
    ]
}

proptest! {
    #[test]
    fn checking_never_panics(spec in any_agent(), copy in any_copy(), event in any_agent_event()) {
        let _unused = (spec.validate(), copy.validate(), event.validate());
    }

    /// What passes names only what lies in the container's root, and nothing of the supervisor's.
    #[test]
    fn what_passes_has_plain_targets(spec in any_agent()) {
        let spec = AgentSpec { limits: good().limits, name: "a".into(), agent: 0, ..spec };
        if spec.validate().is_ok() {
            for mount in &spec.mounts {
                let parts: Vec<&[u8]> = mount.target.split(|byte| *byte == b'/').skip(1).collect();
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| ![&b""[..], b".", b".."].contains(part)));
                prop_assert!(!mount.share.contains('/') && mount.share != "..");
            }
        }
    }
}
