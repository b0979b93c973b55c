use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    AppServer, Description, Look,
    acts::Acts,
    eyes::{Eyes, LIMIT, Patience, Place},
    unseen::{self, Kind},
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
mod census;
mod checks;
mod perform;
mod plan;
mod pool;
mod view;

use api::Api;
use boots::Boots;
use census::{Core, Found, Instance};
use pool::{Group, Pool};
use view::View;

/// How it is called where it cannot be seen.
const KIND: Kind =
    Kind { name: "Passenger", section: "passenger", programs: &["Passenger", "ruby"], masters: census::all };

/// A Passenger in this pod, with the app that serves releases of ours.
#[derive(Debug)]
pub struct Passenger {
    narrow: Option<String>,
    releases: PathBuf,
    current: PathBuf,
    memory: Mutex<Memory>,
    eyes: Eyes,
    api: Api,
    /// Signals: never behind a look that hangs.
    acts: Acts,
}

/// There is no app that could be looked into; what its traffic tells all the same.
#[derive(Debug)]
struct Unseen {
    detection: Detection,
    traffic: Traffic,
    /// Why the core's socket gave nothing, where that is it.
    silent: Option<String>,
}

impl From<Detection> for Unseen {
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
    pub fn new(section: &config::Passenger, place: Place, current: PathBuf) -> io::Result<Self> {
        Ok(Self {
            narrow: section.r#match.clone(),
            releases: place.releases(),
            current,
            memory: Mutex::default(),
            eyes: Eyes::open(&KIND, place)?,
            api: Api::start()?,
            acts: Acts::start()?,
        })
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(view) => Look {
                detection: Detection::Seen(view.app_server()),
                traffic: view.traffic(),
                description: view.description(),
                findings: finding::findings(&checks::of(&view)),
            },
            Err(unseen) => {
                let why = self.why_unseen(&unseen).await;
                self.eyes.unseen(unseen.detection, unseen.traffic, &why)
            }
        }
    }

    /// A look may fall into a restart of the core, or find what was not found yet.
    async fn examine_set_up(&self) -> Vec<Check> {
        let mut patience = Patience::for_a_start();
        while patience.lasts().await {
            match self.see().await {
                Ok(view) => return checks::of(&view),
                Err(Unseen { detection: Detection::Unclear, silent: None, .. }) => {}
                Err(unseen) => return self.why_unseen(&unseen).await,
            }
        }
        self.why_unseen(&Detection::Unclear.into()).await
    }

    async fn why_unseen(&self, unseen: &Unseen) -> Vec<Check> {
        if let Some(silent) = &unseen.silent {
            return vec![checks::silent(silent)];
        }
        let (detection, narrow) = (unseen.detection.clone(), self.narrow.clone());
        let look = move || match detection {
            Detection::Missing if !census::all(None).is_empty() => checks::not_started(),
            detection => unseen::of(&KIND, &detection, narrow.as_deref()),
        };
        self.eyes.census.run(LIMIT, look).await.into_iter().collect()
    }

    async fn see(&self) -> Result<View, Unseen> {
        let mut memory = self.memory.lock().await;
        let followed = memory.followed;
        let found = self.eyes.census.run(LIMIT, move || census::take(followed)).await;
        let core = match found.unwrap_or(Found::Torn) {
            Found::One(core) => *core,
            Found::Nothing => return Err(Detection::Missing.into()),
            Found::Several => return Err(Detection::Ambiguous.into()),
            Found::NotPermitted => return Err(Detection::NotPermitted.into()),
            Found::Starting | Found::Torn => return Err(Detection::Unclear.into()),
        };
        let Some(instance) = core.instance.clone() else { return Err(Detection::Unclear.into()) };
        let ports = self.eyes.watched(core.ports.clone());
        let (pool, sockets) = tokio::join!(self.api.pool(&instance), self.eyes.connections(&ports));
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => {
                let traffic = Traffic { workers: None, sockets };
                return Err(Unseen {
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
                return Err(Unseen { detection: Detection::Missing, traffic, silent: None });
            }
            Choice::Several => return Err(Detection::Ambiguous.into()),
        };
        memory.boots.look(&core.children, &group);
        let mut view = self.view(core, &pool, group).await;
        view.sockets = sockets;
        (view.gave_up, view.booting) = (memory.boots.failed(), memory.boots.under_way());
        view.longest_queue = self.longest_queue(&mut memory, &instance, &view).await;
        memory.proven_ours |= matches!(view.home(), Cwd::Release(_));
        view.proven_ours = memory.proven_ours;
        memory.app = view.group.serving().map(|process| process.pid).next().or(memory.app);
        Ok(view)
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

    async fn view(&self, core: Core, pool: &Pool, group: Group) -> View {
        let pids: Vec<i32> = group.all().map(|process| process.pid).collect();
        let (root, pid) = (PathBuf::from(&group.app_root), core.image.process.pid);
        let of_files = {
            let pids = pids.clone();
            move || {
                let ids = pids.into_iter().filter_map(|pid| Some((pid, ProcessId::of(pid).ok()?)));
                (ids.collect::<HashMap<_, _>>(), census::has_restart_file(pid, &root))
            }
        };
        let (cwds, files) = tokio::join!(self.eyes.cwds(pids), self.eyes.files.run(LIMIT, of_files));
        let (ids, restart_file) = files.unwrap_or_default();
        View {
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
    async fn longest_queue(&self, memory: &mut Memory, instance: &Instance, view: &View) -> Option<u64> {
        let key = view.key();
        if let Some((_, known)) = memory.longest_queue.filter(|(of, _)| *of == key) {
            return known;
        }
        let longest = self.api.longest_queue(instance, &view.group.name).await;
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
            self.eyes.lacks(app, requires).await
        })
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.act(command, on))
    }
}
