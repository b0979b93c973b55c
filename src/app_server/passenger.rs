//! Passenger, observed through /proc and its core's socket, restarted over the same socket.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    AppServer, Wanted,
    driver::{self, Driver},
    inspector::{LIMIT, Location, Surroundings},
    not_found::{self, NotFound, ServerKind},
    server::{Discovery, Search, Server},
};
use crate::{
    config::{self, ServerFacts},
    core::{Detection, GenerationKey, Mode, Plan, Problem, ServerCommand},
    finding::Check,
    procs::ProcessId,
};

mod api;
mod boots;
mod checks;
pub(crate) mod discovery;
mod order;
mod plan;
pub(crate) mod pool;
mod snapshot;

use api::Api;
use boots::Boots;
use discovery::{Core, Instance};
use pool::{Group, Pool};
use snapshot::Snapshot;

/// A Passenger in this pod, with the app that serves releases of ours.
struct Passenger {
    current: PathBuf,
    api: Api,
}

/// Will look for a Passenger that serves releases of this location by way of `current`.
///
/// # Errors
/// When its threads cannot be started.
pub(crate) fn start(
    section: &config::Passenger,
    location: Location,
    current: PathBuf,
) -> io::Result<Arc<dyn AppServer>> {
    Driver::start(Passenger { current, api: Api::start()? }, section.r#match.as_deref(), location)
}

/// What a Passenger can do.
pub(crate) fn facts(section: &config::Passenger) -> ServerFacts {
    driver::facts::<Passenger>(section)
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    core: Option<ProcessId>,
    boots: Boots,
    /// How many requests of which generation may wait.
    longest_queue: Option<(GenerationKey, Option<u64>)>,
}

/// Its own stop lets no request finish, and its restarts wait for none: the old processes finish theirs.
impl Server for Passenger {
    type Section = config::Passenger;
    type Processes = Core;
    type Memory = Memory;
    type Snapshot = Snapshot;

    const KIND: ServerKind = ServerKind {
        name: "Passenger",
        section: "passenger",
        programs: &["Passenger", "ruby"],
        start: "point Passenger to `current` (passenger_app_root /srv/app/current)",
        masters: discovery::all,
    };
    const IN_PLACE: bool = true;

    fn discover(&self, search: &Search) -> Discovery<Core> {
        discovery::discover(&search.known)
    }

    async fn snapshot(
        &self,
        driver: &Driver<Self>,
        memory: &mut Memory,
        core: Core,
    ) -> Result<Snapshot, NotFound> {
        let not_found = |detection: Detection, why| NotFound { detection, ports: core.ports.clone(), why };
        let Some(instance) = &core.instance else { return Err(not_found(Detection::Unclear, None)) };
        let ports = driver.inspector.watched(&core.ports);
        let (pool, sockets) =
            tokio::join!(self.api.pool(instance), driver.inspector.connections(ports.clone()));
        let pool =
            pool.map_err(|error| not_found(Detection::Unclear, Some(checks::silent(&error.to_string()))))?;
        let group = match self.choose(&pool, driver.matching.as_deref()) {
            Ok(Some(group)) => group,
            // It boots from `current` with the first request that comes.
            Ok(None) => return Err(not_found(Detection::Missing, Some(checks::not_started()))),
            Err(()) => return Err(not_found(Detection::Ambiguous, None)),
        };
        memory.follow(core.image.process);
        memory.boots.look(&core.children, &group);
        let (ids, restart_file) = files_of(driver, &core, &group).await;
        let cwds = driver.inspector.cwds(group.all().map(|process| process.pid).collect()).await;
        let key = core.image.generation_named(&group.uuid);
        let longest_queue = self.longest_queue(memory, instance, key, &group).await;
        Ok(Snapshot {
            version: pool.passenger_version.clone(),
            capacity: pool.max,
            group,
            ids,
            surroundings: Surroundings { cwds, ports, sockets },
            gave_up: memory.boots.failed(),
            booting: memory.boots.under_way(),
            longest_queue,
            restart_file,
            core,
        })
    }

    fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        checks::of(snapshot)
    }

    async fn plan(&self, _: &Driver<Self>, snapshot: &Snapshot, wanted: Wanted<'_>) -> Result<Plan, Problem> {
        plan::refuse_what_is_pinned(snapshot, wanted.release)?;
        Ok(Plan::new(Mode::Hot))
    }

    async fn order(
        &self,
        driver: &Driver<Self>,
        command: ServerCommand,
        on: GenerationKey,
    ) -> Result<(), Problem> {
        order::carry_out(driver, command, on).await
    }

    fn why_not_found(&self, detection: &Detection, matching: Option<&str>) -> Check {
        match detection {
            Detection::Missing if !discovery::all(None).is_empty() => checks::not_started(),
            _ => not_found::diagnose(&Self::KIND, detection, matching),
        }
    }
}

impl Passenger {
    /// The app that is named, the only one, or else the one that is started in `current`. An error: several could be
    /// meant.
    fn choose(&self, pool: &Pool, matching: Option<&str>) -> Result<Option<Group>, ()> {
        let named = |group: &&Group| matching.is_none_or(|text| group.name.contains(text));
        let groups: Vec<&Group> = pool.groups().filter(named).collect();
        let in_current = |group: &&&Group| Path::new(&group.app_root) == self.current;
        match (&groups[..], groups.iter().find(in_current)) {
            ([], _) => Ok(None),
            ([only], _) => Ok(Some((*only).clone())),
            (_, Some(ours)) => Ok(Some((**ours).clone())),
            _ => Err(()),
        }
    }

    /// A setting: asked for once in each generation.
    async fn longest_queue(
        &self,
        memory: &mut Memory,
        instance: &Instance,
        key: GenerationKey,
        group: &Group,
    ) -> Option<u64> {
        if let Some((_, known)) = memory.longest_queue.filter(|(of, _)| *of == key) {
            return known;
        }
        let longest = self.api.longest_queue(instance, &group.name).await;
        memory.longest_queue = Some((key, longest));
        longest
    }
}

/// Which of the app's processes are still there, and whether its release has a restart file.
async fn files_of(driver: &Driver<Passenger>, core: &Core, group: &Group) -> (HashMap<i32, ProcessId>, bool) {
    let pids: Vec<i32> = group.all().map(|process| process.pid).collect();
    let (root, pid) = (PathBuf::from(&group.app_root), core.image.process.pid);
    let look = move || {
        let ids = pids.into_iter().filter_map(|pid| Some((pid, ProcessId::of(pid).ok()?)));
        (ids.collect(), discovery::has_restart_file(pid, &root))
    };
    driver.inspector.files.look(LIMIT, look).await.unwrap_or_default()
}

impl Memory {
    fn follow(&mut self, core: ProcessId) {
        if self.core != Some(core) {
            *self = Self { core: Some(core), ..Self::default() };
        }
    }
}
