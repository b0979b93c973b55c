//! Puma, observed through /proc and its control server, restarted by signals.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    AppServer, Wanted,
    aside::{self, Aside},
    driver::{self, Driver},
    inspector::{LIMIT, Location, Surroundings},
    not_found::{NotFound, ServerKind},
    raised::Output,
    server::{Discovery, Search, Server, Snapshot as _},
    sides::Settings,
    slot_order::{self, Order},
};
use crate::{
    config::{self, RestartMode, ServerFacts},
    core::{Cwd, Files, GenerationKey, Plan, Problem, ProcessKey, ServerCommand, observation::Served},
    finding::Check,
    lane::Lane,
    procs::{Entry, Image, ProcessId, loaded},
    revision::ReleaseId,
    slots::{List, Role},
};

mod beside;
pub(crate) mod binds;
mod checks;
pub(crate) mod command_line;
pub(crate) mod config_file;
pub(crate) mod control;
mod discovery;
mod evidence;
mod fit;
mod loads;
mod order;
mod plan;
pub(crate) mod release_diff;
mod restart_modes;
mod setup;
mod snapshot;
/// What the files of an app tell of its Puma, without one.
pub(crate) mod source_tree;
mod started_by;
mod statements;
pub(crate) mod title;

use beside::Neighbour;
use control::{Control, ControlServer, Whose};
use discovery::{Found, ServerProcesses};
pub(crate) use release_diff::not_loaded_by_phased;
use setup::Setup;
use snapshot::Snapshot;
use started_by::StartedBy;

/// A Puma in this pod.
struct Puma {
    told: config::Puma,
    settings: Settings,
    control: ControlServer,
    /// The files that processes have loaded.
    loaded: Lane,
    /// Processes that looked as if they would become a Puma.
    starting: Mutex<Vec<Entry>>,
    /// What it writes since it was told to restart, where that can be read.
    output: tokio::sync::Mutex<Option<Arc<Output>>>,
}

/// Will look for a Puma that serves releases of this location. `shifts`: a new release gets its traffic by shares.
///
/// # Errors
/// When its threads cannot be started.
pub fn start(
    section: config::Puma,
    mode: RestartMode,
    shifts: bool,
    location: Location,
) -> io::Result<Arc<dyn AppServer>> {
    let matching = section.r#match.clone();
    let puma = Puma {
        told: section.clone(),
        settings: Settings::new(mode, shifts, &location)?,
        control: ControlServer::start(section)?,
        loaded: Lane::one_at_a_time("loaded")?,
        starting: Mutex::default(),
        output: tokio::sync::Mutex::default(),
    };
    Driver::start(puma, matching.as_deref(), location)
}

/// What a Puma can do.
pub(crate) fn facts(section: &config::Puma) -> ServerFacts {
    driver::facts::<Puma>(section)
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// What the master's image was, and whether that was seen to be a cluster.
    image: Option<(Image, Option<bool>)>,
    /// The title that this image gave itself. An app may write another one into its place.
    titled: Option<(Image, title::Master)>,
    /// This image was seen to have a reactor.
    reactor: bool,
    /// The most workers that were seen to serve under this master.
    most_workers: usize,
    /// The workers that served at the last look.
    serving: Vec<ProcessId>,
    /// The release in which this master was last seen, and whether a restart of it was seen to move on.
    place: Option<ReleaseId>,
    moved: bool,
    /// What this master was started with.
    command_line: Option<String>,
    /// The longest time for which a request was seen in flight, in milliseconds.
    longest_request_ms: u64,
    /// How the image was set up, once that was read.
    setup: Option<Setup>,
    /// Puma's version in the bundle that runs and in that of the release that was planned last, where they differ.
    next_puma: Option<(String, String)>,
    /// Who called the image, once its control server said so.
    started_by: Option<StartedBy>,
    /// The same of the masters of the servers beside it.
    beside: HashMap<ProcessId, Self>,
    /// Whether another server could stand beside it.
    around: fit::Around,
    /// The last lines that the live server had written before it was told to restart.
    written: Option<Vec<String>>,
    /// What the app's middleware has counted in each of them, by the number of its run.
    counted: HashMap<u64, Served>,
}

impl Server for Puma {
    type Section = config::Puma;
    type Processes = Box<Found>;
    type Memory = Memory;
    type Snapshot = Snapshot;

    const KIND: ServerKind = ServerKind {
        name: "Puma",
        section: "puma",
        programs: &["puma", "ruby"],
        start: "start Puma in `current` (cd /srv/app/current && exec …)",
        masters: discovery::masters_of,
    };
    const PHASED: bool = true;
    const CUTS_REQUESTS: bool = true;
    const IN_PLACE: bool = true;
    const SIGNALLED: bool = true;

    fn stop_timeout(section: &config::Puma) -> Duration {
        section.worker_shutdown_timeout
    }

    fn discover(&self, search: &Search) -> Discovery<Box<Found>> {
        discovery::discover(search, |young| {
            let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
            starting.retain(|entry| entry.id.lives() && !young.contains(entry));
            starting.extend(young);
        })
    }

    async fn snapshot(
        &self,
        driver: &Driver<Self>,
        memory: &mut Memory,
        found: Box<Found>,
    ) -> Result<Snapshot, NotFound> {
        let Found { live: processes, beside, parent } = *found;
        let run = parent.iter().flat_map(List::runs).map(|(_, run)| run).find(|run| run.role == Role::Live);
        let whose = Whose { master: processes.image.process.pid, aside: Aside::of(run) };
        let (surroundings, control) = tokio::join!(
            driver.inspector.surroundings(processes.pids(), &processes.ports),
            self.control.ask(&whose),
        );
        let processes = self.take_in(memory, processes, &control, &surroundings);
        let master = processes.image.process;
        if let (None, Some(title)) = (&memory.setup, &processes.title) {
            let (pid, major, seen) = (master.pid, title.major(), memory.command_line.clone());
            // `None` when the volume does not answer.
            let read = move || Setup::of_process(pid, major, seen.as_deref());
            memory.setup = driver.inspector.files.look(LIMIT, read).await;
        }
        if memory.started_by.is_none() && matches!(control, Control::Stats(_)) {
            memory.started_by = self.control.started_by(&whose).await;
        }
        let neighbours = self.beside(driver, memory, beside, &surroundings.ports).await;
        if let Some(list) = &parent {
            memory.counted = self.settings.counted(driver, list).await;
            memory.around.look(driver, &self.settings.measuring, master.pid, list).await;
        }
        let (mode, told) = (self.settings.mode, self.told.clone());
        let memory_now = memory.clone();
        let mut snapshot = Snapshot {
            processes,
            surroundings,
            control,
            memory: memory_now,
            mode,
            told,
            shifts: self.settings.shifts,
            beside: neighbours,
            parent,
        };
        let oldest = snapshot.traffic().oldest_request_ms().unwrap_or(0);
        memory.longest_request_ms = memory.longest_request_ms.max(oldest);
        snapshot.memory.longest_request_ms = memory.longest_request_ms;
        Ok(snapshot)
    }

    fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        checks::of(snapshot)
    }

    async fn plan(
        &self,
        driver: &Driver<Self>,
        snapshot: &Snapshot,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Problem> {
        plan::restart(driver, snapshot, wanted).await
    }

    async fn order(
        &self,
        driver: &Driver<Self>,
        command: ServerCommand,
        on: GenerationKey,
    ) -> Result<(), Problem> {
        if let Some(order) = Order::of(command) {
            return slot_order::give(driver, order, on, self.shared_files(driver)).await;
        }
        let memory = driver.memory().await;
        let live = memory.parent.iter().flat_map(List::runs).find(|(_, run)| run.role == Role::Live);
        let written = live.map(|(_, run)| run.tail.clone());
        driver.remember(|own| own.written = written).await;
        let target = order::Target::of(&memory, command, on)?;
        *self.output.lock().await = match command {
            ServerCommand::Restart(_) => {
                let pid = target.master.pid;
                driver.inspector.files.look(LIMIT, move || Output::of(pid)).await.map(Arc::new)
            }
            _ => None,
        };
        driver.send(move |_| order::signals(command, &target)).await
    }

    async fn after_look(&self, _: &Driver<Self>, snapshot: &Snapshot) {
        self.settings.measuring.measure(beside::processes(snapshot)).await;
        let _ = self.output.lock().await.take_if(|output| output.is_old());
    }

    /// What a worker inherited from its master says nothing of the worker's own code.
    async fn files(&self, driver: &Driver<Self>) -> Option<BTreeMap<ProcessKey, Files>> {
        let memory = driver.memory().await.own;
        let mut all = BTreeMap::new();
        for one in [&memory].into_iter().chain(memory.beside.values()) {
            all.extend(self.files_of(driver, one).await?);
        }
        Some(all)
    }

    async fn raised(&self, driver: &Driver<Self>) -> Option<String> {
        let memory = driver.memory().await;
        let told = memory.parent.and_then(|parent| beside::raised(&parent, memory.own.written.as_deref()));
        if told.is_some() {
            return told;
        }
        let output = self.output.lock().await.clone()?;
        driver.inspector.files.look(LIMIT, move || output.raised()).await?
    }
}

impl Puma {
    /// Learns from a look at one master.
    fn take_in(
        &self,
        memory: &mut Memory,
        mut processes: ServerProcesses,
        control: &Control,
        surroundings: &Surroundings,
    ) -> ServerProcesses {
        let master = processes.image.process;
        if let Control::Stats(stats) = control {
            processes.adopt(stats.worker_status.iter().filter_map(|status| status.pid));
        }
        memory.remember_title(&mut processes);
        memory.follow(master, &self.starting.lock().unwrap_or_else(PoisonError::into_inner));
        memory.learn(&processes, control, &surroundings.cwd(master.pid));
        processes
    }

    /// The files that a second server would take from the live one.
    async fn shared_files(&self, driver: &Driver<Self>) -> Vec<PathBuf> {
        let memory = driver.memory().await;
        let Some(live) = memory.known.last().copied() else { return Vec::new() };
        let run =
            memory.parent.iter().flat_map(List::runs).map(|(_, run)| run).find(|run| run.role == Role::Live);
        let whose = Whose { master: live.pid, aside: Aside::of(run) };
        let mut files = self.control.shared_files(&whose).await;
        let names = memory.own.setup.map(|setup| setup.shared_files()).unwrap_or_default();
        let shared = move || -> Vec<_> {
            names.iter().filter_map(|name| aside::shared_name(live.pid, name.as_ref())).collect()
        };
        files.extend(driver.inspector.files.look(LIMIT, shared).await.unwrap_or_default());
        files
    }

    /// Looks at the servers beside the live one, which listens on these ports.
    async fn beside(
        &self,
        driver: &Driver<Self>,
        memory: &mut Memory,
        found: Vec<discovery::Neighbour>,
        ports: &[u16],
    ) -> Vec<Neighbour> {
        let mut seen = Vec::new();
        let mut known = std::mem::take(&mut memory.beside);
        for discovery::Neighbour { tree, processes } in found {
            let held = match tree.run.role {
                Role::Lingering => driver.inspector.held(ports.to_vec(), tree.pids.clone()).await,
                Role::Live | Role::Candidate => None,
            };
            let Some(processes) = processes else {
                seen.push(Neighbour { tree, snapshot: None, held });
                continue;
            };
            let master = processes.image.process;
            let mut own = known.remove(&master).unwrap_or_default();
            let whose = Whose { master: master.pid, aside: Aside::of(Some(&tree.run)) };
            let (cwds, control) =
                tokio::join!(driver.inspector.cwds(processes.pids()), self.control.ask(&whose));
            let surroundings = Surroundings { cwds, ports: ports.to_vec(), sockets: held.clone() };
            let processes = self.take_in(&mut own, processes, &control, &surroundings);
            memory.beside.insert(master, own.clone());
            let snapshot = Snapshot {
                processes,
                surroundings,
                control,
                memory: own,
                mode: self.settings.mode,
                told: self.told.clone(),
                shifts: false,
                beside: Vec::new(),
                parent: None,
            };
            seen.push(Neighbour { tree, snapshot: Some(snapshot), held });
        }
        // Between exec and title one looks like any other Ruby for a moment.
        memory.beside.extend(known.into_iter().filter(|(master, _)| master.lives()));
        seen
    }

    /// The files of releases that the processes have loaded which serve under one master.
    async fn files_of(&self, driver: &Driver<Self>, memory: &Memory) -> Option<BTreeMap<ProcessKey, Files>> {
        let (image, cluster) = memory.image?;
        let (releases, master) = (driver.releases.clone(), image.process.pid);
        let (parent, keys) = match cluster {
            Some(false) => (None, BTreeMap::from([(master, image.process_key())])),
            _ => (Some(master), memory.serving.iter().map(|worker| (worker.pid, worker.key())).collect()),
        };
        let pids: Vec<i32> = keys.keys().copied().collect();
        let looked = self.loaded.look(LIMIT, move || loaded::releases_of(&releases, parent, &pids)).await?;
        Some(looked.into_iter().filter_map(|(pid, files)| Some((*keys.get(&pid)?, files))).collect())
    }
}

impl Memory {
    /// An image that had its title once does not lose what that says.
    fn remember_title(&mut self, processes: &mut ServerProcesses) {
        let known = self.titled.take().filter(|(image, _)| *image == processes.image);
        processes.title = processes.title.take().or(known.map(|(_, title)| title));
        self.titled = processes.title.clone().map(|title| (processes.image, title));
    }

    /// Little of what was learned of another master holds for this one.
    fn follow(&mut self, master: ProcessId, starting: &[Entry]) {
        if self.image.is_none_or(|(image, _)| image.process != master) {
            let mut beside = std::mem::take(&mut self.beside);
            let seen = starting.iter().find(|entry| entry.id == master).map(|entry| entry.title.clone());
            let fresh = || Self { command_line: seen, titled: self.titled.take(), ..Self::default() };
            let known = beside.remove(&master);
            let next = known.unwrap_or_else(fresh);
            let before = std::mem::replace(self, next);
            self.longest_request_ms = self.longest_request_ms.max(before.longest_request_ms);
            if let Some((image, _)) = before.image {
                beside.insert(image.process, before);
            }
            self.beside = beside;
        }
    }

    fn learn(&mut self, processes: &ServerProcesses, control: &Control, cwd: &Cwd) {
        if let Cwd::Release(release) = cwd {
            self.moved |= self.place.as_ref().is_some_and(|place| place != release);
            self.place = Some(release.clone());
        }
        if processes.command_line.is_some() {
            self.command_line.clone_from(&processes.command_line);
        }
        if self.image.is_none_or(|(image, _)| image != processes.image) {
            (self.setup, self.started_by, self.next_puma) = (None, None, None);
            self.reactor = false;
        }
        self.reactor |= processes.server.reactor;
        let earlier =
            self.image.filter(|(image, _)| *image == processes.image).and_then(|(_, cluster)| cluster);
        let cluster = match control {
            Control::Stats(stats) => Some(stats.workers.is_some()),
            _ if processes.server.acceptor => Some(false),
            _ if !processes.workers.is_empty() => Some(true),
            _ => earlier,
        };
        self.image = Some((processes.image, cluster));
        let serving = processes.workers.iter().filter(|worker| worker.serves);
        self.serving = serving.map(|worker| worker.id).collect();
        self.most_workers = self.most_workers.max(self.serving.len());
    }

    /// Whether the image is known to be a cluster, or known not to be one.
    fn cluster(&self) -> Option<bool> {
        self.image.and_then(|(_, cluster)| cluster)
    }
}
