//! A look, put into the core's words.

use std::collections::HashMap;

use super::{
    Memory,
    beside::{self, Neighbour},
    control::{Control, Stats, WorkerStatus},
    discovery::{ServerProcesses, Worker},
    started_by::StartedBy,
};
use crate::{
    app_server::{SlotDescription, WorkerDescription, inspector::Surroundings, server},
    config::{self, RestartMode},
    core::{AppServer, Generation, Process, ProcessKey, WorkerLoad, observation::Served},
    procs::Image,
    slots::{List, Role},
};

/// Everything that one look gave.
pub(super) struct Snapshot {
    pub(crate) processes: ServerProcesses,
    pub(crate) surroundings: Surroundings,
    pub(crate) control: Control,
    pub(crate) memory: Memory,
    pub(crate) mode: RestartMode,
    pub(crate) told: config::Puma,
    /// A new release gets its traffic by shares.
    pub(crate) shifts: bool,
    /// The parent's other servers.
    pub(crate) beside: Vec<Neighbour>,
    /// What its parent says, where it has one that speaks.
    pub(crate) parent: Option<List>,
}

impl server::Snapshot for Snapshot {
    fn app_server(&self) -> AppServer {
        let generation = Generation {
            key: self.processes.image.generation_key(),
            master: self.processes.image.process.key(),
            signalable: self.signalable(),
            cwd: self.surroundings.cwd(self.master()),
            expected: self.expected(),
            processes: self.processes(),
        };
        let old_workers = self.stats().is_some_and(|stats| stats.old_workers > 0);
        let beside = beside::of(self);
        AppServer { generations: vec![generation], old_workers, beside }
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    fn image(&self) -> Image {
        self.processes.image
    }

    fn is_settled(&self) -> bool {
        self.processes.title.is_some()
    }

    fn name(&self) -> String {
        format!("Puma {}", self.master())
    }

    fn mode(&self) -> Option<&'static str> {
        self.cluster().map(|cluster| if cluster { "cluster" } else { "single" })
    }

    fn workers(&self) -> Vec<WorkerDescription> {
        let describe = |worker: &Worker| self.surroundings.describe(worker.id, self.booted(worker));
        self.processes.workers.iter().map(describe).collect()
    }

    fn candidate(&self) -> Vec<(i32, ProcessKey)> {
        let mut beside = self.beside.iter().filter(|one| one.tree.run.role == Role::Candidate);
        beside.find_map(|one| one.snapshot.as_ref()).map(Self::serving).unwrap_or_default()
    }

    fn slots(&self) -> Vec<SlotDescription> {
        beside::describe(self)
    }

    /// Of a server that lingers as well: its requests are this pod's. A worker that has not reported yet is left out:
    /// it is not known to be idle.
    fn loads(&self) -> Option<Vec<WorkerLoad>> {
        let lingers = |one: &&Neighbour| one.tree.run.role == Role::Lingering && !one.tree.pids.is_empty();
        let mut all = self.own_loads()?;
        for one in self.beside.iter().filter(lingers) {
            all.extend(one.snapshot.as_ref()?.own_loads()?);
        }
        Some(all)
    }
}

impl Snapshot {
    fn serving(&self) -> Vec<(i32, ProcessKey)> {
        if self.cluster() == Some(false) {
            return vec![(self.master(), self.processes.image.process_key())];
        }
        self.processes.workers.iter().map(|worker| (worker.id.pid, worker.id.key())).collect()
    }

    fn own_loads(&self) -> Option<Vec<WorkerLoad>> {
        self.stats().map(|stats| match stats.workers {
            Some(_) => self.processes.workers.iter().filter_map(|worker| load(worker, stats)).collect(),
            None => single_load(self.processes.image.process_key(), stats).into_iter().collect(),
        })
    }

    /// By the app's middleware, which counts errors; else by Puma, whose count starts anew with each worker. `counted`:
    /// of each run.
    pub(crate) fn served(&self, run: u64, counted: &HashMap<u64, Served>) -> Option<Served> {
        let by_puma = || {
            let requests = self.own_loads()?.iter().map(|load| load.requests).sum();
            Some(Served { requests, errors: None, p95_ms: None })
        };
        counted.get(&run).copied().or_else(by_puma)
    }

    /// Of the live server in its slot, once it serves.
    pub(crate) fn live_errors(&self) -> Option<Option<u64>> {
        let mut runs = self.parent.iter().flat_map(List::runs);
        let (_, live) = runs.find(|(_, run)| run.role == Role::Live)?;
        let serves = self.serves() || self.processes.workers.iter().any(|worker| worker.serves);
        serves.then(|| self.memory.counted.get(&live.number).and_then(|served| served.errors))
    }

    pub(crate) fn master(&self) -> i32 {
        self.processes.image.process.pid
    }

    pub(crate) fn cluster(&self) -> Option<bool> {
        self.memory.cluster()
    }

    /// Why a phased restart would fork the old code once more, though Puma offers it; `None` when
    /// nothing says so.
    pub(crate) fn app_in_master(&self) -> Option<String> {
        let loads_first = self.memory.started_by.and_then(StartedBy::loads_first).map(str::to_owned);
        let mapped = || {
            let extension = self.memory.setup.as_ref()?.app_in_master?;
            Some(format!("the app is loaded in Puma's master ({extension} is)"))
        };
        loads_first.or_else(mapped)
    }

    pub(crate) fn stats(&self) -> Option<&Stats> {
        match &self.control {
            Control::Stats(stats) => Some(stats),
            _ => None,
        }
    }

    /// The title stands, the hot restart's handler too, and an app that is loading would not be cut
    /// off: in single mode SIGUSR2 ends Puma 5.6 then, and 6.6 and 8.0 lose it until they accept. (The
    /// control server tells numbers a moment too early.) As long as it is unknown whether this is a
    /// cluster, it counts as single mode.
    fn signalable(&self) -> bool {
        let loaded = match self.cluster() {
            Some(true) => true,
            Some(false) => self.serves(),
            None => false,
        };
        self.processes.title.is_some() && self.processes.catches_hot && loaded
    }

    /// It accepts requests itself: single mode, its app loaded, and not told to stop or to restart.
    pub(crate) fn serves(&self) -> bool {
        self.processes.server.accepts(self.memory.reactor)
    }

    pub(crate) fn expected(&self) -> usize {
        match (self.cluster(), self.stats()) {
            (Some(false), _) => 1,
            (_, Some(stats)) => stats.workers.unwrap_or(1),
            (_, None) if self.memory.most_workers > 0 => self.memory.most_workers,
            (_, None) => self.processes.workers.len().max(1),
        }
    }

    fn processes(&self) -> Vec<Process> {
        if self.cluster() == Some(false) {
            let key = self.processes.image.process_key();
            return vec![Process { key, cwd: self.surroundings.cwd(self.master()), booted: self.serves() }];
        }
        let process = |worker: &Worker| Process {
            key: worker.id.key(),
            cwd: self.surroundings.cwd(worker.id.pid),
            booted: self.booted(worker),
        };
        self.processes.workers.iter().map(process).collect()
    }

    fn booted(&self, worker: &Worker) -> bool {
        match self.stats() {
            Some(stats) => stats.of(worker.id.pid).is_some_and(|status| status.booted),
            None => worker.serves,
        }
    }
}

impl Stats {
    fn of(&self, pid: i32) -> Option<&WorkerStatus> {
        self.worker_status.iter().find(|status| status.pid == Some(pid))
    }
}

fn load(worker: &Worker, stats: &Stats) -> Option<WorkerLoad> {
    let status = stats.of(worker.id.pid)?;
    Some(WorkerLoad {
        key: worker.id.key(),
        requests: status.last_status.requests_count.unwrap_or(0),
        busy: status.last_status.busy()?,
        backlog: status.last_status.backlog.unwrap_or(0),
        checkin: status.checkin(),
    })
}

/// Single mode's numbers are live: each answer is a check-in of its own.
fn single_load(key: ProcessKey, stats: &Stats) -> Option<WorkerLoad> {
    let checkin = server::live_checkin();
    Some(WorkerLoad {
        key,
        requests: stats.single.requests_count.unwrap_or(0),
        busy: stats.single.busy()?,
        backlog: stats.single.backlog.unwrap_or(0),
        checkin,
    })
}
