//! Unicorn, observed through /proc, restarted by signals: a second master beside the first.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AppServer, Wanted, aside,
    driver::{self, Driver},
    fit::{Fit, decide},
    inspector::{LIMIT, Location},
    memory,
    not_found::{NotFound, ServerKind},
    server::{Discovery, Search, Server},
    sides::{self, Processes, Settings, Sides},
    slot_order::{self, Order},
    worker_count::WorkerCount,
};
use crate::{
    config::{self, RestartMode, ServerFacts},
    core::{GenerationKey, Mode, Plan, Problem, ServerCommand},
    finding::{Check, Code, Finding},
    procs::Image,
};

mod checks;
mod discovery;
mod order;
mod plan;
mod setup;
mod snapshot;
pub(crate) mod title;

use discovery::{Found, Master, ServerProcesses};
use setup::Setup;
use snapshot::Snapshot;
pub(crate) use title::is_master;

/// A holder that stays alone for so long will stay so.
const ALONE: Duration = Duration::from_secs(3);

/// A Unicorn in this pod.
struct Unicorn {
    settings: Settings,
}

/// Will look for a Unicorn that serves releases of this location. `shifts`: a new release gets its traffic by shares.
///
/// # Errors
/// When its threads cannot be started.
pub(crate) fn start(
    section: &config::Unicorn,
    mode: RestartMode,
    shifts: bool,
    location: Location,
) -> io::Result<Arc<dyn AppServer>> {
    let unicorn = Unicorn { settings: Settings::new(mode, shifts, &location)? };
    Driver::start(unicorn, section.r#match.as_deref(), location)
}

/// What a Unicorn can do.
pub(crate) fn facts(section: &config::Unicorn) -> ServerFacts {
    driver::facts::<Unicorn>(section)
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// How many workers each master should have: it forks all of them before it has a title, and replaces
    /// those that end.
    worker_counts: HashMap<GenerationKey, WorkerCount>,
    /// The first master, kept without workers while another served.
    holder: Option<Image>,
    /// Since when that one is alone.
    alone_since: Option<Instant>,
    /// How the newest image was set up, once that was read.
    setup: Option<Setup>,
    image: Option<Image>,
    /// What the servers of the parent take.
    taken: memory::Memory,
}

impl Server for Unicorn {
    type Section = config::Unicorn;
    type Processes = Box<Found>;
    type Memory = Memory;
    type Snapshot = Snapshot;

    const KIND: ServerKind = ServerKind {
        name: "Unicorn",
        section: "unicorn",
        programs: &["unicorn", "ruby"],
        start: "start Unicorn in `current` (cd /srv/app/current && exec …)",
        masters: discovery::masters_of,
    };
    const SECOND_MASTER: bool = true;
    const SIGNALLED: bool = true;

    /// It kills a worker that takes longer at any time, so a restart cuts nothing besides.
    fn stop_timeout(section: &config::Unicorn) -> Duration {
        section.timeout
    }

    /// What the kubelet sends is in the image, and cannot be seen before it comes.
    fn advice() -> Vec<Check> {
        vec![Check::found(
            "drain budget",
            Finding::note(
                Code::UnicornTermCuts,
                "SIGTERM makes Unicorn drop its requests: what is in flight when a drain reaches its deadline \
                 is lost. With SIGQUIT, Unicorn finishes them",
                "set STOPSIGNAL SIGQUIT in the app's image or lifecycle.stopSignal: SIGQUIT, and a \
                 grace_period long enough for drains",
            ),
        )]
    }

    fn discover(&self, search: &Search) -> Discovery<Box<Found>> {
        discovery::discover(search)
    }

    async fn snapshot(
        &self,
        driver: &Driver<Self>,
        memory: &mut Memory,
        found: Box<Found>,
    ) -> Result<Snapshot, NotFound> {
        let Found { live: processes, beside, parent } = *found;
        let others = || beside.iter().filter_map(|one| one.processes.as_ref());
        let pids = others().flat_map(ServerProcesses::pids).chain(processes.pids()).collect();
        let surroundings = driver.inspector.surroundings(pids, &processes.ports()).await;
        memory.learn(&processes, others());
        let newest = processes.newest();
        if let (None, Some(title)) = (&memory.setup, &newest.title) {
            let (pid, config) = (newest.image.process.pid, title.config_file().map(str::to_owned));
            // `None` when the volume does not answer.
            let read = move || Setup::read(pid, config.as_deref());
            memory.setup = driver.inspector.files.look(LIMIT, read).await;
        }
        let live = (newest.image.process.pid, &surroundings.ports[..]);
        let sides = Sides::look(driver, &self.settings, &mut memory.taken, (beside, parent), live).await;
        Ok(Snapshot { processes, surroundings, memory: memory.clone(), sides })
    }

    fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        let mut checks = checks::of(snapshot);
        checks.extend(snapshot.sides.checks(&plan::beside(snapshot, None), &self.settings));
        checks
    }

    async fn plan(
        &self,
        driver: &Driver<Self>,
        snapshot: &Snapshot,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Problem> {
        let beside = || plan::beside(snapshot, Some(wanted.release));
        if let Some(Fit { make_room, .. }) = decide(self.settings.mode, wanted.beside, beside)? {
            return Ok(Plan { mode: Mode::Beside, make_room });
        }
        plan::refuse_what_cannot_work(driver, snapshot, wanted.running, wanted.release).await?;
        Ok(Plan::new(Mode::Hot))
    }

    async fn order(
        &self,
        driver: &Driver<Self>,
        command: ServerCommand,
        on: GenerationKey,
    ) -> Result<(), Problem> {
        if let Some(order) = Order::of(command) {
            return slot_order::give(driver, order, on, shared_files(driver)).await;
        }
        let search =
            Search { known: driver.memory().await.known, matching: None, chosen: None, parent: None };
        driver.send(move |_| order::signals(command, on, &search.known)).await
    }

    async fn raised(&self, driver: &Driver<Self>) -> Option<String> {
        sides::raised(&driver.memory().await.parent?)
    }

    /// The first master was kept because its container ends with it, and the one that served is gone. A container
    /// whose only master ends is restarted; so it is here.
    async fn after_look(&self, driver: &Driver<Self>, snapshot: &Snapshot) {
        self.settings.measuring.measure(snapshot.sides.servers(&snapshot.processes)).await;
        let alone = snapshot.memory.alone_since.is_some_and(|since| since.elapsed() >= ALONE);
        if let Some(holder) = snapshot.memory.holder.filter(|_| alone) {
            order::end_container(driver, holder).await;
        }
    }
}

/// The pid file: Unicorn does not start beside one that names it.
async fn shared_files(driver: &Driver<Unicorn>) -> Vec<PathBuf> {
    let memory = driver.memory().await;
    let live = memory.known.last().copied();
    let Some((live, name)) = live.zip(memory.own.setup.and_then(|setup| setup.config.pid_file)) else {
        return Vec::new();
    };
    let shared = move || aside::shared_name(live.pid, name.as_ref());
    driver.inspector.files.look(LIMIT, shared).await.flatten().into_iter().collect()
}

impl Memory {
    fn learn<'a>(&mut self, processes: &ServerProcesses, beside: impl Iterator<Item = &'a ServerProcesses>) {
        let newest = processes.newest().image;
        if self.image != Some(newest) {
            (self.image, self.setup) = (Some(newest), None);
        }
        let now = Instant::now();
        let masters = processes.masters.iter().chain(beside.flat_map(|one| &one.masters));
        let counts = masters.map(|master| {
            let key = master.image.generation_key();
            let count = self.worker_counts.get(&key).copied().unwrap_or_else(|| WorkerCount::new(now));
            let all_serve = master.workers.iter().all(|worker| worker.booted);
            (key, count.after(master.workers.len(), all_serve, now))
        });
        self.worker_counts = counts.collect();
        self.watch_the_holder(processes, now);
    }

    fn watch_the_holder(&mut self, processes: &ServerProcesses, now: Instant) {
        let first = processes.masters.first().filter(|master| master.holds_container());
        let idle = first.filter(|master| master.workers.is_empty()).map(|master| master.image);
        match (idle, processes.masters.len()) {
            (Some(image), 2..) => (self.holder, self.alone_since) = (Some(image), None),
            (Some(image), _) if self.holder == Some(image) => {
                self.alone_since = self.alone_since.or(Some(now));
            }
            _ => (self.holder, self.alone_since) = (None, None),
        }
    }

    /// How many workers a master should have.
    fn expected(&self, master: &Master) -> usize {
        self.worker_counts.get(&master.image.generation_key()).map_or(1, WorkerCount::expected)
    }
}
