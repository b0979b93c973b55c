use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    AppServer, Description, Look,
    inspector::{Inspector, LIMIT, Location, Retries},
    not_found::{self, ServerKind},
    signaller::Signaller,
};
use crate::{
    config,
    core::{Cwd, Detection, GenerationKey, Plan, Problem, ServerCommand, Traffic, requirement::Requirement},
    finding::{self, Check},
    procs::ProcessId,
    revision::ReleaseId,
};

mod api;
mod boots;
mod checks;
mod discovery;
mod perform;
mod plan;
mod pool;
mod snapshot;

use api::Api;
use boots::Boots;
use discovery::{Core, Discovery, Instance};
use pool::{Group, Pool};
use snapshot::Snapshot;

/// How it is called where it cannot be seen.
const KIND: ServerKind = ServerKind {
    name: "Passenger",
    section: "passenger",
    programs: &["Passenger", "ruby"],
    masters: discovery::all,
};

/// A Passenger in this pod, with the app that serves releases of ours.
#[derive(Debug)]
pub struct Passenger {
    narrow: Option<String>,
    releases: PathBuf,
    current: PathBuf,
    memory: Mutex<Memory>,
    inspector: Inspector,
    api: Api,
    /// Signals: never behind a look that hangs.
    signaller: Signaller,
}

/// There is no app that could be looked into; what its traffic tells all the same.
#[derive(Debug)]
struct NotFound {
    detection: Detection,
    traffic: Traffic,
    /// Why the core's socket gave nothing, where that is it.
    silent: Option<String>,
}

impl From<Detection> for NotFound {
    fn from(detection: Detection) -> Self {
        Self { detection, traffic: Traffic::default(), silent: None }
    }
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The core.
    followed: Option<ProcessId>,
    /// This core, or one before it, was seen to run a release of ours.
    proven_ours: bool,
    boots: Boots,
    /// How many requests of which generation may wait.
    longest_queue: Option<(GenerationKey, Option<u64>)>,
    /// A process whose image is the app's.
    app: Option<i32>,
}

/// Which of several apps is meant.
enum Choice {
    One(Group),
    Nobody,
    Several,
}

impl Passenger {
    /// Will look for a Passenger that serves releases of this place by way of `current`.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(section: &config::Passenger, place: Location, current: PathBuf) -> io::Result<Self> {
        Ok(Self {
            narrow: section.r#match.clone(),
            releases: place.releases(),
            current,
            memory: Mutex::default(),
            inspector: Inspector::open(&KIND, place)?,
            api: Api::start()?,
            signaller: Signaller::start()?,
        })
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(snapshot) => Look {
                detection: Detection::Seen(snapshot.app_server()),
                traffic: snapshot.traffic(),
                description: snapshot.description(),
                findings: finding::findings(&checks::of(&snapshot)),
            },
            Err(not_found) => {
                let why = self.why_not_found(&not_found).await;
                self.inspector.not_found(not_found.detection, not_found.traffic, &why)
            }
        }
    }

    /// A look may fall into a restart of the core, or find what was not found yet.
    async fn examine_set_up(&self) -> Vec<Check> {
        let mut retries = Retries::for_a_start();
        while retries.lasts().await {
            match self.see().await {
                Ok(snapshot) => return checks::of(&snapshot),
                Err(NotFound { detection: Detection::Unclear, silent: None, .. }) => {}
                Err(not_found) => return self.why_not_found(&not_found).await,
            }
        }
        self.why_not_found(&Detection::Unclear.into()).await
    }

    async fn why_not_found(&self, not_found: &NotFound) -> Vec<Check> {
        if let Some(silent) = &not_found.silent {
            return vec![checks::silent(silent)];
        }
        let (detection, narrow) = (not_found.detection.clone(), self.narrow.clone());
        let look = move || match detection {
            Detection::Missing if !discovery::all(None).is_empty() => checks::not_started(),
            detection => not_found::diagnose(&KIND, &detection, narrow.as_deref()),
        };
        self.inspector.processes.look(LIMIT, look).await.into_iter().collect()
    }

    async fn see(&self) -> Result<Snapshot, NotFound> {
        let mut memory = self.memory.lock().await;
        let followed = memory.followed;
        let found = self.inspector.processes.look(LIMIT, move || discovery::discover(followed)).await;
        let core = match found.unwrap_or(Discovery::Torn) {
            Discovery::One(core) => *core,
            Discovery::Nothing => return Err(Detection::Missing.into()),
            Discovery::Several => return Err(Detection::Ambiguous.into()),
            Discovery::NotPermitted => return Err(Detection::NotPermitted.into()),
            Discovery::Starting | Discovery::Torn => return Err(Detection::Unclear.into()),
        };
        let Some(instance) = core.instance.clone() else { return Err(Detection::Unclear.into()) };
        let ports = self.inspector.watched(core.ports.clone());
        let (pool, sockets) = tokio::join!(self.api.pool(&instance), self.inspector.connections(&ports));
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => {
                let traffic = Traffic { workers: None, sockets };
                return Err(NotFound {
                    detection: Detection::Unclear,
                    traffic,
                    silent: Some(error.to_string()),
                });
            }
        };
        memory.follow(core.image.process);
        let group = match self.choose(&pool) {
            Choice::One(group) => group,
            // It boots from `current` with the first request that comes.
            Choice::Nobody => {
                let traffic = Traffic { workers: None, sockets };
                return Err(NotFound { detection: Detection::Missing, traffic, silent: None });
            }
            Choice::Several => return Err(Detection::Ambiguous.into()),
        };
        memory.boots.look(&core.children, &group);
        let mut snapshot = self.snapshot(core, &pool, group).await;
        snapshot.sockets = sockets;
        (snapshot.gave_up, snapshot.booting) = (memory.boots.failed(), memory.boots.under_way());
        snapshot.longest_queue = self.longest_queue(&mut memory, &instance, &snapshot).await;
        memory.proven_ours |= matches!(snapshot.home(), Cwd::Release(_));
        snapshot.proven_ours = memory.proven_ours;
        memory.app = snapshot.group.serving().map(|process| process.pid).next().or(memory.app);
        Ok(snapshot)
    }

    /// The app that is named, the only one, or else the one that is started in `current`.
    fn choose(&self, pool: &Pool) -> Choice {
        let named = |group: &&Group| self.narrow.as_deref().is_none_or(|text| group.name.contains(text));
        let groups: Vec<&Group> = pool.groups().filter(named).collect();
        let in_current = |group: &&&Group| Path::new(&group.app_root) == self.current;
        match (&groups[..], groups.iter().find(in_current)) {
            ([], _) => Choice::Nobody,
            ([only], _) => Choice::One((*only).clone()),
            (_, Some(ours)) => Choice::One((**ours).clone()),
            _ => Choice::Several,
        }
    }

    async fn snapshot(&self, core: Core, pool: &Pool, group: Group) -> Snapshot {
        let pids: Vec<i32> = group.all().map(|process| process.pid).collect();
        let (root, pid) = (PathBuf::from(&group.app_root), core.image.process.pid);
        let of_files = {
            let pids = pids.clone();
            move || {
                let ids = pids.into_iter().filter_map(|pid| Some((pid, ProcessId::of(pid).ok()?)));
                (ids.collect::<HashMap<_, _>>(), discovery::has_restart_file(pid, &root))
            }
        };
        let (cwds, files) =
            tokio::join!(self.inspector.cwds(pids), self.inspector.files.look(LIMIT, of_files));
        let (ids, restart_file) = files.unwrap_or_default();
        Snapshot {
            core,
            version: pool.passenger_version.clone(),
            capacity: pool.max,
            group,
            ids,
            cwds,
            sockets: None,
            gave_up: false,
            booting: HashSet::new(),
            longest_queue: None,
            restart_file,
            proven_ours: false,
        }
    }

    /// A setting: asked for once in each generation.
    async fn longest_queue(
        &self,
        memory: &mut Memory,
        instance: &Instance,
        snapshot: &Snapshot,
    ) -> Option<u64> {
        let key = snapshot.key();
        if let Some((_, known)) = memory.longest_queue.filter(|(of, _)| *of == key) {
            return known;
        }
        let longest = self.api.longest_queue(instance, &snapshot.group.name).await;
        memory.longest_queue = Some((key, longest));
        longest
    }
}

impl Memory {
    fn follow(&mut self, core: ProcessId) {
        if self.followed != Some(core) {
            *self = Self { followed: Some(core), proven_ours: self.proven_ours, ..Self::default() };
        }
    }
}

fn nameless() -> Description {
    Description { kind: "passenger".into(), ..Description::default() }
}

impl AppServer for Passenger {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(self.look())
    }

    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(self.examine_set_up())
    }

    fn plan<'a>(
        &'a self,
        _running: Option<&'a ReleaseId>,
        release: &'a ReleaseId,
    ) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(self.plan_restart(release))
    }

    fn lacks(&self, requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        Box::pin(async move {
            let app = self.memory.lock().await.app;
            self.inspector.lacks(app, requires).await
        })
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.act(command, on))
    }
}
