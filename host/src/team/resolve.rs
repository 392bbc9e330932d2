//! From a loaded team file to a plan: images are found and held, and what they decide is filled in.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::file::{AgentFile, MountSource};
use super::host::{HostFiles, HostOutput, HostSource};
use super::load::Loaded;
use super::mistake::{Fault, Mistakes};
use super::mounts::open::Kind;
use super::order;
use super::pictured::{Pictured, Settled};
use super::plan::{
    Agent, Image, Kernel, Machine, Mount, Output, Plan, Resolved, SCHEMA, Source, TeamError,
};
use super::setting::{Origin, Setting};
use super::source::shown;
use crate::images::digest::Digest;
use crate::images::manifest::Image as StoredImage;
use crate::images::name::Name;
use crate::images::store::names::Names;
use crate::images::store::{Store, StoreError};
use crate::report::chain;

/// Descriptors that a plan speaks of.
#[derive(Debug, Default)]
struct Descriptors {
    list: Vec<OwnedFd>,
    /// The positions of a root and of its lock, so that agents of one image share them.
    roots: BTreeMap<Digest, (usize, usize)>,
}

impl Descriptors {
    fn add(&mut self, descriptor: OwnedFd) -> usize {
        self.list.push(descriptor);
        self.list.len() - 1
    }
}

impl Loaded {
    /// Makes the plan. The store is entered meanwhile; afterwards the plan's descriptors hold the roots.
    /// Without a store there is no image.
    ///
    /// # Errors
    /// The store can't be used, or there are mistakes: images that are not there, or do not have what the
    /// file names.
    pub fn resolve(self, store: Option<&Store>) -> Result<Resolved, TeamError> {
        let Self { file, mut host, .. } = self;
        let guard = store.map(Store::enter).transpose()?;
        let names = store.map(Store::names).transpose()?.unwrap_or_default();
        let mut mistakes = Mistakes::default();
        let mut descriptors = Descriptors::default();
        let machine = machine(&file, &mut host, &mut descriptors, &mut mistakes)?;
        let outputs = std::mem::take(&mut host.outputs);
        let sources = std::mem::take(&mut host.mounts);
        let mut agents: Vec<Option<Agent>> = Vec::with_capacity(file.agents.len());
        for ((agent, sources), outputs) in file.agents.iter().zip(sources).zip(outputs) {
            let note = &mut |place: Origin, (what, remedy): Fault| {
                mistakes.add(&file.source, place.place(), what, remedy);
            };
            let found = find(store, &names, &agent.image.value)
                .and_then(|image| Ok((held(store, &image, &mut descriptors)?, image)));
            let settled = match found {
                Ok((positions, image)) => {
                    let root = descriptors.list.get(positions.0);
                    root.and_then(|root| Pictured { agent, image: &image, root }.settle(note))
                        .map(|settled| (settled, image_of(agent, &image, positions)))
                }
                Err((what, remedy)) => {
                    let what = format!("`image` is \"{}\": {what}", shown(&agent.image.value));
                    note(agent.image.from, (what, remedy));
                    None
                }
            };
            agents.push(settled.map(|(settled, image)| {
                planned(agent, image, settled, sources, outputs, &mut descriptors)
            }));
        }
        drop(guard);
        mistakes.result()?;
        // A circle was a mistake before.
        let order = order::start_order(&file.agents).unwrap_or_default();
        let agents = order.into_iter().filter_map(|index| agents.get_mut(index)?.take()).collect();
        let volumes = file.volumes.into_iter().map(|volume| volume.value).collect();
        let (name, lifetime, egress_mode) = (file.name, file.lifetime, file.egress_mode);
        let plan = Plan { schema: SCHEMA, name, lifetime, egress_mode, machine, volumes, agents };
        Ok(Resolved { plan, descriptors: descriptors.list })
    }
}

fn machine(
    file: &super::file::TeamFile,
    host: &mut HostFiles,
    descriptors: &mut Descriptors,
    mistakes: &mut Mistakes,
) -> Result<Machine, Mistakes> {
    let mut kernel = None;
    if let (Some(opened), Some(path)) = (host.kernel.take(), file.kernel.clone()) {
        match opened.reader() {
            Ok(reader) => {
                let descriptor = descriptors.add(OwnedFd::from(reader));
                kernel = Some(Kernel { path, descriptor });
            }
            Err((what, remedy)) => {
                mistakes.add(&file.source, path.from.place(), format!("`kernel`: {what}"), remedy);
            }
        }
    }
    let memory_mib = file.memory.map(|bytes| u32::try_from(bytes >> 20).unwrap_or(u32::MAX));
    Ok(Machine { cpus: file.cpus, memory_mib, kernel, template: file.template })
}

/// The image that a team file means. A name with a digest means that image, under that name.
fn find(store: Option<&Store>, names: &Names, text: &str) -> Result<StoredImage, Fault> {
    let Some(store) = store else {
        return Err(missing("there is no image store yet"));
    };
    let digest = match text.parse::<Name>() {
        Ok(Name { repository, tag, digest: Some(digest) }) => {
            let tag = tag.map(|tag| format!("{repository}:{tag}"));
            let own = |key: &str| match &tag {
                Some(tag) => key == tag,
                None => key.parse::<Name>().is_ok_and(|name| name.repository == repository),
            };
            let found = names.iter().filter(|(key, ..)| own(key)).map(|(_, found, _)| found);
            let found: Vec<Digest> = found.collect();
            match (found.contains(&digest), found.first()) {
                (true, _) => digest,
                (false, Some(other)) => {
                    return Err((
                        format!("the store's image of this name is {other}"),
                        "import or pull the image with this digest, or write the other one"
                            .to_owned(),
                    ));
                }
                (false, None) => return Err(missing("it is not in the store")),
            }
        }
        _ => names.find(text).map(|(_, digest)| digest).map_err(|error| of_store(&error))?,
    };
    store.image(digest).map_err(|error| of_store(&error))
}

fn missing(what: &str) -> Fault {
    let remedy = "`cloister image import` or `cloister image pull` brings it; `cloister image ls` shows what is there";
    (what.to_owned(), remedy.to_owned())
}

fn of_store(error: &StoreError) -> Fault {
    if let StoreError::NotFound(_) = error {
        return missing("it is not in the store");
    }
    (chain(error), error.remedy().to_owned())
}

fn held(
    store: Option<&Store>,
    image: &StoredImage,
    descriptors: &mut Descriptors,
) -> Result<(usize, usize), Fault> {
    let chain = image.chain();
    if let Some(positions) = descriptors.roots.get(&chain) {
        return Ok(*positions);
    }
    let store = store.ok_or_else(|| missing("there is no image store yet"))?;
    let held = store.hold_root(chain).map_err(|error| of_store(&error))?;
    let (root, lock) = held.into_descriptors();
    let positions = (descriptors.add(root), descriptors.add(lock));
    descriptors.roots.insert(chain, positions);
    Ok(positions)
}

fn image_of(agent: &AgentFile, image: &StoredImage, (root, lock): (usize, usize)) -> Image {
    Image {
        name: agent.image.clone(),
        digest: image.digest.to_string(),
        chain: image.chain().to_string(),
        root,
        lock,
    }
}

fn planned(
    agent: &AgentFile,
    image: Image,
    settled: Settled,
    sources: Vec<Option<HostSource>>,
    outputs: Vec<HostOutput>,
    descriptors: &mut Descriptors,
) -> Agent {
    let list = |paths: &Option<Vec<Setting<String>>>| match paths {
        None => Setting::usual(None),
        Some(paths) => Setting {
            from: paths.first().map_or(agent.name.from, |first| first.from),
            value: Some(paths.iter().map(|path| path.value.clone()).collect()),
        },
    };
    let mounts = agent.mounts.iter().zip(sources).filter_map(|(mount, host)| {
        let source = match (&mount.source, host) {
            (MountSource::Volume(name), _) => Source::Volume(name.value.clone()),
            (MountSource::Host(path), Some(host)) => Source::Host {
                path: path.clone(),
                real: shown(&host.opened.real.to_string_lossy()),
                is_file: host.opened.kind == Kind::File,
                grant: host.grant,
                descriptor: descriptors.add(host.opened.descriptor),
            },
            // Would have been a mistake.
            (MountSource::Host(_), None) => return None,
        };
        Some(Mount { source, target: mount.target.clone(), writable: mount.writable })
    });
    let mut mounts: Vec<Mount> = mounts.collect();
    mounts.sort_by_key(|mount| mount.target.value.split('/').count());
    let outputs = agent.outputs.iter().zip(outputs).map(|(output, host)| Output {
        path: output.path.clone(),
        to: output.to.clone(),
        name: host.name,
        grant: host.grant,
        directory: descriptors.add(host.directory.descriptor),
    });
    Agent {
        image,
        command: settled.command,
        environment: settled.environment,
        directory: settled.directory,
        user: settled.user,
        limits: agent.limits.clone(),
        root: agent.root,
        mounts,
        outputs: outputs.collect(),
        executables: list(&agent.executables),
        writable_directories: list(&agent.writable_directories),
        restart: agent.restart,
        after: agent.after.clone(),
        egress: agent.egress.clone(),
        egress_quota: agent.egress_quota,
        name: agent.name.clone(),
    }
}
