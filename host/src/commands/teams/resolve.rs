//! From a team file to what a warden runs: the plan on the command's side, the recipe on the warden's.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_file_server::spec::Owner;
use cloister_protocol::agent::{AgentLimits, AgentSpec, Place, ShareMount, User, first_id};
use cloister_protocol::egress::Egress;
use cloister_protocol::limits::MAX_AGENTS;
use cloister_vmm::spec::VmSpec;

use super::TeamError;
use crate::audit;
use crate::cli::teams::UpArgs;
use crate::egress::policy::Policy;
use crate::egress::rule::Rule;
use crate::images::store::{Store, StoreError};
use crate::launch::LaunchSpec;
use crate::launch::files::Files;
use crate::launch::jail::{IdRange, JailSpec, LimitsWish};
use crate::launch::shares::Share;
use crate::machine::{ExecSpec, StdioSpec, default_environment, set_variable};
use crate::pool;
use crate::report::describe;
use crate::saved::{Life, Record};
use crate::state::rows::{AgentRow, Origin, TeamRow};
use crate::team::inside::{certificates_of, java_stores_of};
use crate::team::load::load_for_me;
use crate::team::plan::{self, Plan, Resolved, Source};
use crate::team::spec::{Condition, Lifetime, Mode, Restart, Root};
use crate::team::volumes;
use crate::template::Wish;
use crate::warden::recipe::{self, After, AgentRecipe, Output, Recipe, Trusted};

/// A team that is ready to be handed to a warden.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) mode: Mode,
    pub(super) agents: Vec<AgentRow>,
    /// The plan, as the warden reads it.
    pub(super) plan: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What a first start is told.
pub(super) fn origin(arguments: UpArgs) -> Result<Origin, TeamError> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|source| TeamError::Read { path: path.clone(), source })
    };
    let optional = |path: Option<PathBuf>| path.map(absolute).transpose();
    let UpArgs { file, start_timeout, guest, store, volumes, jail, pool, origin, .. } = arguments;
    let pool = match pool.place() {
        Some(place) => Some(pool::Place { folder: absolute(place.folder)?, ..place }),
        None => None,
    };
    Ok(Origin {
        file: absolute(file)?,
        // Until the file is read.
        persistent: false,
        observes: false,
        store: optional(store)?,
        volumes: optional(volumes)?,
        kernel: optional(guest.kernel)?,
        rootfs: optional(guest.rootfs)?,
        group: jail.cgroup,
        ids: jail.uids.map(|IdRange { first, last }| format!("{first}-{last}")),
        start_timeout_ms: u64::try_from(start_timeout.as_millis()).unwrap_or(u64::MAX),
        templates: optional(origin.place())?,
        pool,
        template: origin.choice(),
        name: None,
        withheld: false,
    })
}

/// Reads and resolves the team file. Nothing is changed, and everything that is wrong is in the error.
pub(super) fn prepare(origin: Origin) -> Result<Prepared, TeamError> {
    let path = match &origin.store {
        Some(path) => path.clone(),
        None => Store::usual_path().map_err(|error| told(&error))?,
    };
    let store =
        if path.exists() { Some(Store::open(&path).map_err(|error| told(&error))?) } else { None };
    let loaded = load_for_me(&origin.file, &path).map_err(wrong)?;
    let Resolved { mut plan, descriptors } = loaded.resolve(store.as_ref()).map_err(wrong)?;
    if let Some(name) = &origin.name {
        plan.name.value.clone_from(name);
    }
    if origin.withheld {
        withhold(&mut plan);
    }
    let agents = plan.agents.iter();
    let agents =
        agents.map(|one| AgentRow::new(one.name.value.clone(), one.image.name.value.clone()));
    let bytes = serde_json::to_vec(&plan).map_err(|error| TeamError::Refused(error.to_string()))?;
    let agents = agents.collect();
    let persistent = plan.lifetime.value == Lifetime::Persistent;
    let mode = plan.egress_mode.value;
    let origin = Origin { persistent, observes: mode.observes(), ..origin };
    Ok(Prepared { name: plan.name.value, origin, mode, agents, plan: bytes, descriptors })
}

/// Leaves out what gives secrets to requests.
fn withhold(plan: &mut Plan) {
    let gives = |rule: &Rule| rule.http.as_ref().is_some_and(|http| http.credential.is_some());
    for agent in &mut plan.agents {
        agent.egress.retain(|rule| !gives(&rule.value));
    }
}

fn wrong(error: plan::TeamError) -> TeamError {
    match error {
        // They say what to do each for themselves.
        plan::TeamError::Mistakes(mistakes) => TeamError::Told(mistakes.to_string()),
        error => TeamError::Told(describe(&error, error.remedy())),
    }
}

fn told(error: &StoreError) -> TeamError {
    TeamError::Told(describe(error, Some(error.remedy())))
}

/// In the warden: from the plan that was handed over to what it runs. Volumes are made here. `kept`: what the team was
/// when it was kept, which its containers and shares are of.
pub(super) fn recipe(
    row: &TeamRow,
    plan: &[u8],
    descriptors: Vec<OwnedFd>,
    limits: LimitsWish,
    kept: Option<&Record>,
) -> Result<Recipe, String> {
    let bytes = plan;
    let plan: Plan = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Origin { kernel, rootfs, group, ids, start_timeout_ms, templates, template, pool, .. } =
        row.origin.clone();
    let place = row
        .origin
        .volumes
        .clone()
        .or_else(volumes::usual_place)
        .ok_or("it is not known where volumes are: neither XDG_DATA_HOME nor HOME is set")?;
    let forked = row.origin.name.is_some();
    let mut cook = Cook {
        plan: &plan,
        descriptors: &descriptors,
        place: &place,
        shares: Vec::new(),
        forked,
        kept,
    };
    let agents = (0..MAX_AGENTS)
        .zip(&plan.agents)
        .map(|(number, agent)| cook.agent(number, agent))
        .collect::<Result<_, String>>()?;
    let kernel = match &plan.machine.kernel {
        Some(own) => Some(cook.path(own.descriptor)?),
        None => kernel,
    };
    let shares = cook.shares;
    let files = Files::find(kernel, rootfs).map_err(|error| describe(&error, error.remedy()))?;
    let vm = VmSpec {
        vcpus: plan.machine.cpus.value,
        memory_mib: plan.machine.memory_mib.value,
        extra_cmdline: String::new(),
    };
    let ids = ids.and_then(|ids| ids.parse::<IdRange>().ok()).unwrap_or_default();
    let launch = LaunchSpec {
        jail: JailSpec { group, ids, limits },
        pool,
        start_limit: Duration::from_millis(start_timeout_ms),
        shares,
        savable: true,
        ..LaunchSpec::new(files, vm)
    };
    let record = audit::policy::of_plan(&plan, bytes);
    let name = plan.name.value.clone();
    let choice = template.unwrap_or(plan.machine.template.value);
    let origin = Wish { choice, place: templates };
    Ok(Recipe { name, launch, origin, agents, held: descriptors, plan, record })
}

/// Makes agents of a plan ready.
struct Cook<'a> {
    plan: &'a Plan,
    descriptors: &'a [OwnedFd],
    place: &'a Path,
    shares: Vec<Share>,
    /// Whether the team is a fork of its file's.
    forked: bool,
    kept: Option<&'a Record>,
}

impl Cook<'_> {
    fn descriptor(&self, position: usize) -> Result<&OwnedFd, String> {
        self.descriptors.get(position).ok_or_else(|| "the plan lacks a descriptor".to_owned())
    }

    fn copy(&self, position: usize) -> Result<OwnedFd, String> {
        self.descriptor(position)?.try_clone().map_err(|error| error.to_string())
    }

    /// A path to what a descriptor stands for, good while it is open.
    fn path(&self, position: usize) -> Result<PathBuf, String> {
        Ok(PathBuf::from(format!("/proc/self/fd/{}", self.descriptor(position)?.as_raw_fd())))
    }

    fn agent(&mut self, number: u32, agent: &plan::Agent) -> Result<AgentRecipe, String> {
        let user = User { uid: agent.user.value.uid, gid: agent.user.value.gid };
        let mut spec = self.container(number, agent, user)?;
        let limit = agent.limits.time_limit_ms.value.map(Duration::from_millis);
        let egress = self.policy(agent);
        let mut inspects = egress.inspects_any();
        if let Some(life) = self.kept_life(agent) {
            fits(life, &egress)?;
            inspects = life.trusts;
            spec.egress = spec.egress.or_else(|| life.has_network.then(Egress::default));
        }
        Ok(AgentRecipe {
            name: agent.name.value.clone(),
            image: agent.image.name.value.clone(),
            spec,
            exec: exec(agent, number, user),
            user,
            restart: match agent.restart.value {
                Restart::Never => recipe::Restart::Never,
                Restart::OnFailure { times, back_off_ms } => recipe::Restart::OnFailure {
                    times,
                    back_off: Duration::from_millis(back_off_ms),
                },
            },
            after: self.dependencies(agent),
            outputs: self.outputs(agent)?,
            time_limit: limit,
            trusts: inspects,
            trusted: inspects.then(|| self.trusted(agent)).transpose()?,
            egress,
        })
    }

    fn policy(&self, agent: &plan::Agent) -> Policy {
        let observes = self.plan.egress_mode.value.observes();
        Policy::new(agent.egress.clone()).observing(observes).bounded(agent.egress_quota.value)
    }

    /// Where an agent was, if it was kept.
    fn kept_life(&self, agent: &plan::Agent) -> Option<&Life> {
        self.kept?.agents.iter().find(|old| old.row.name == agent.name.value)
    }

    /// Whom an agent's image trusts.
    fn trusted(&self, agent: &plan::Agent) -> Result<Trusted, String> {
        let root = self.descriptor(agent.image.root)?;
        let found = certificates_of(root).map_err(|error| {
            format!("can't read the certificates of {}'s image: {error}", agent.name.value)
        })?;
        let (list, places) = found;
        let home = agent.environment.iter().find(|(name, _)| name == "JAVA_HOME");
        let java_places = java_stores_of(root, home.map(|(_, value)| value.value.as_str()));
        Ok(Trusted { list, places, java_places })
    }

    fn container(
        &mut self,
        number: u32,
        agent: &plan::Agent,
        user: User,
    ) -> Result<AgentSpec, String> {
        let root = format!("root-{number}");
        let source = self.copy(agent.image.root)?;
        let owner = Owner::Image { first_id: first_id(number) };
        self.shares.push(Share {
            name: root.clone(),
            source: source.into(),
            writable: false,
            owner,
        });
        // Whoever owns a file of the host, the agent sees it as its own.
        let first = first_id(number);
        let owner = Owner::All { uid: first + user.uid, gid: first + user.gid };
        let mut mounts = Vec::new();
        for (index, mount) in agent.mounts.iter().enumerate() {
            let name = format!("mount-{number}-{index}");
            let source = match &mount.source {
                Source::Host { descriptor, .. } => self.copy(*descriptor)?,
                Source::Volume(volume) => {
                    volumes::open_or_make(self.place, &self.plan.name.value, volume)
                        .map_err(|error| format!("can't make the volume {volume}: {error}"))?
                }
            };
            let share = Share {
                name: name.clone(),
                source: source.into(),
                writable: mount.writable,
                owner,
            };
            self.shares.push(share);
            let target = mount.target.value.clone().into_bytes();
            mounts.push(ShareMount { share: name, target, read_only: !mount.writable });
        }
        let limits = &agent.limits;
        let bytes = |list: &Option<Vec<String>>| {
            list.as_ref().map(|list| list.iter().map(|path| path.clone().into_bytes()).collect())
        };
        Ok(AgentSpec {
            agent: number,
            name: agent.name.value.clone(),
            root: cloister_protocol::agent::Root {
                share: root,
                writable_bytes: match agent.root.value {
                    Root::ReadOnly => None,
                    Root::Writable(bytes) => Some(bytes),
                },
            },
            mounts,
            limits: AgentLimits {
                memory_bytes: limits.memory.value,
                cpu_millis: limits.cpu_thousandths.value,
                pids: limits.pids.value,
                tmp_bytes: limits.tmp.value,
                open_files: u32::try_from(limits.open_files.value).unwrap_or(u32::MAX),
                file_bytes: Some(limits.file_size.value),
                files: limits.files.value,
            },
            executables: bytes(&agent.executables.value),
            writable: bytes(&agent.writable_directories.value),
            egress: self.policy(agent).for_guest(),
        })
    }

    fn dependencies(&self, agent: &plan::Agent) -> Vec<After> {
        let place = |name: &str| self.plan.agents.iter().position(|one| one.name.value == name);
        let after = agent.after.iter().filter_map(|dependency| {
            let condition = match dependency.value.condition {
                Condition::Started => recipe::Condition::Started,
                Condition::Succeeded => recipe::Condition::Succeeded,
            };
            // Names were checked.
            Some(After { agent: place(&dependency.value.agent)?, condition })
        });
        after.collect()
    }

    /// A fork's outputs lie beside those of the team that it is a fork of.
    fn own(&self, name: &str) -> String {
        if self.forked { format!("{name}.{}", self.plan.name.value) } else { name.to_owned() }
    }

    fn outputs(&self, agent: &plan::Agent) -> Result<Vec<Output>, String> {
        let output = |output: &plan::Output| {
            Ok(Output {
                path: output.path.value.clone().into_bytes(),
                to: self.path(output.directory)?.join(self.own(&output.name)),
                shown: self.own(&output.to.value),
            })
        };
        agent.outputs.iter().map(output).collect()
    }
}

/// Whether a container that was made before can do with the rules.
fn fits(life: &Life, new: &Policy) -> Result<(), String> {
    let agent = &life.row.name;
    let what = if !life.has_network && new.for_guest().is_some() {
        "had no egress rules"
    } else if new.inspects_any() && !life.trusts {
        "had no egress rules that look at requests"
    } else {
        return Ok(());
    };
    Err(format!(
        "{agent} {what} when the team was started that goes on, so its container can't do with those of the file\n\
         take them out again, or `cloister down` the team and start it anew"
    ))
}

fn exec(agent: &plan::Agent, number: u32, user: User) -> ExecSpec {
    let mut environment = default_environment();
    set_variable(&mut environment, b"HOME", b"/tmp");
    for (name, value) in &agent.environment {
        set_variable(&mut environment, name.as_bytes(), value.value.as_bytes());
    }
    ExecSpec {
        arguments: agent.command.value.iter().map(|word| word.clone().into_bytes()).collect(),
        environment,
        directory: agent.directory.value.clone().into_bytes(),
        stdio: StdioSpec::Pipes { stdin: false },
        timeout: None,
        place: Place::Agent { agent: number, user },
    }
}
