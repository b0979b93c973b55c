use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    AppServer, Look,
    inspector::{Inspector, LIMIT, Location, Retries},
    not_found::ServerKind,
    signaller::Signaller,
    worker_count::WorkerCount,
};
use crate::{
    config,
    core::{Cwd, Detection, GenerationKey, Plan, Problem, ServerCommand, requirement::Requirement},
    finding::{self, Check},
    procs::{Image, ProcessId},
    revision::ReleaseId,
};

mod checks;
mod discovery;
mod perform;
mod plan;
mod setting;
mod snapshot;
mod title;

use discovery::{Discovery, Master, ServerProcesses};
use setting::Setting;
use snapshot::Snapshot;

/// How it is called where it cannot be seen.
const KIND: ServerKind = ServerKind {
    name: "Unicorn",
    section: "unicorn",
    programs: &["unicorn", "ruby"],
    masters: discovery::masters_of,
};

/// A holder that stays alone for so long will stay so.
const ALONE: Duration = Duration::from_secs(3);

/// A Unicorn in this pod.
#[derive(Debug)]
pub struct Unicorn {
    narrow: Option<Arc<str>>,
    releases: PathBuf,
    memory: Mutex<Memory>,
    inspector: Inspector,
    signaller: Signaller,
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The masters of the server that is followed.
    known: Vec<ProcessId>,
    /// This server was seen to run a release of ours.
    proven_ours: bool,
    /// How many workers each master should have: it forks all of them before it has a title, and replaces
    /// those that end.
    worker_counts: HashMap<GenerationKey, WorkerCount>,
    /// The first master, kept without workers while another served.
    holder: Option<Image>,
    /// Since when that one is alone.
    alone_since: Option<Instant>,
    /// How the newest image was set up, once that was read.
    setting: Option<Setting>,
    image: Option<Image>,
}

impl Unicorn {
    /// Will look for a Unicorn that serves releases of this place.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(section: &config::Unicorn, place: Location) -> io::Result<Self> {
        Ok(Self {
            narrow: section.r#match.as_deref().map(Into::into),
            releases: place.releases(),
            memory: Mutex::default(),
            inspector: Inspector::open(&KIND, place)?,
            signaller: Signaller::start()?,
        })
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(snapshot) => {
                self.mind_the_holder(&snapshot).await;
                Look {
                    detection: Detection::Seen(snapshot.app_server()),
                    traffic: snapshot.traffic(),
                    description: snapshot.description(),
                    findings: finding::findings(&checks::of(&snapshot)),
                }
            }
            Err(detection) => {
                let why = self.why_not_found(&detection).await;
                self.inspector.without(detection, &why).await
            }
        }
    }

    async fn mind_the_holder(&self, snapshot: &Snapshot) {
        let alone = snapshot.memory.alone_since.is_some_and(|since| since.elapsed() >= ALONE);
        if let (Some(holder), true) = (snapshot.memory.holder, alone) {
            self.give_up_container(holder).await;
        }
    }

    async fn examine_set_up(&self) -> Vec<Check> {
        let mut retries = Retries::for_a_start();
        while retries.lasts().await {
            match self.see().await {
                Ok(snapshot) if snapshot.processes.newest().title.is_some() => return checks::of(&snapshot),
                Ok(_) | Err(Detection::Unclear) => {}
                Err(detection) => return self.why_not_found(&detection).await,
            }
        }
        self.why_not_found(&Detection::Unclear).await
    }

    async fn why_not_found(&self, detection: &Detection) -> Vec<Check> {
        self.inspector.why_not_found(detection, self.narrow.as_deref()).await
    }

    async fn see(&self) -> Result<Snapshot, Detection> {
        let mut memory = self.memory.lock().await;
        let (known, narrow) = (memory.known.clone(), self.narrow.clone());
        let found = self
            .inspector
            .processes
            .look(LIMIT, move || discovery::discover(&known, narrow.as_deref()))
            .await;
        match found.unwrap_or(Discovery::Torn) {
            Discovery::Servers(servers) => {
                let processes = self.choose(servers, &memory).await?;
                Ok(self.ask_around(&mut memory, processes).await)
            }
            Discovery::Nothing => Err(Detection::Missing),
            Discovery::NotPermitted => Err(Detection::NotPermitted),
            Discovery::Starting | Discovery::Torn => Err(Detection::Unclear),
        }
    }

    /// The one that is followed, else the only one that runs a release of ours. A stranger is adopted only if
    /// it is alone and ours was never seen: when our container restarts, a sidecar's must not take its place.
    async fn choose(
        &self,
        mut servers: Vec<ServerProcesses>,
        memory: &Memory,
    ) -> Result<ServerProcesses, Detection> {
        let pids =
            servers.iter().flat_map(|processes| &processes.masters).map(|master| master.image.process.pid);
        let cwds = self.inspector.cwds(pids.collect()).await;
        let is_ours = |master: &Master| matches!(cwds.get(&master.image.process.pid), Some(Cwd::Release(_)));
        let is_known = |master: &Master| memory.known.contains(&master.image.process);
        let known = servers.iter().position(|processes| processes.masters.iter().any(is_known));
        let ours: Vec<usize> =
            (0..servers.len()).filter(|at| servers[*at].masters.iter().any(is_ours)).collect();
        let stranger_is_meant = !memory.proven_ours || self.narrow.is_some();
        match (known, &ours[..], servers.len()) {
            (Some(at), ..) => Ok(servers.swap_remove(at)),
            (None, [at], _) => Ok(servers.swap_remove(*at)),
            (None, [], 1) if stranger_is_meant => Ok(servers.swap_remove(0)),
            (None, [], _) if memory.proven_ours => Err(Detection::Missing),
            _ => Err(Detection::Ambiguous),
        }
    }

    async fn ask_around(&self, memory: &mut Memory, processes: ServerProcesses) -> Snapshot {
        let ports = self.inspector.watched(processes.ports());
        let workers = processes.masters.iter().flat_map(|master| &master.workers).map(|worker| worker.id.pid);
        let masters = processes.masters.iter().map(|master| master.image.process.pid);
        let (cwds, sockets) = tokio::join!(
            self.inspector.cwds(workers.chain(masters).collect()),
            self.inspector.connections(&ports),
        );
        let runs_ours = cwds.values().any(|cwd| matches!(cwd, Cwd::Release(_)));
        memory.learn(&processes, runs_ours);
        if memory.setting.is_none() && processes.newest().title.is_some() {
            memory.setting = self.setting(processes.newest()).await;
        }
        Snapshot { processes, cwds, ports, sockets, memory: memory.clone() }
    }

    /// How this Unicorn was set up; `None` when the volume does not answer.
    async fn setting(&self, master: &Master) -> Option<Setting> {
        let config = master.title.as_ref().and_then(title::Master::config_file).map(str::to_owned);
        let pid = master.image.process.pid;
        self.inspector.files.look(LIMIT, move || Setting::read(pid, config.as_deref())).await
    }
}

impl Memory {
    fn learn(&mut self, processes: &ServerProcesses, runs_ours: bool) {
        self.known = processes.masters.iter().map(|master| master.image.process).collect();
        self.proven_ours |= runs_ours;
        let newest = processes.newest().image;
        if self.image != Some(newest) {
            (self.image, self.setting) = (Some(newest), None);
        }
        let now = Instant::now();
        let worker_counts = processes.masters.iter().map(|master| {
            let key = master.image.generation_key();
            let worker_count = self.worker_counts.get(&key).copied().unwrap_or_else(|| WorkerCount::new(now));
            let all_serve = master.workers.iter().all(|worker| worker.booted);
            (key, worker_count.after(master.workers.len(), all_serve, now))
        });
        self.worker_counts = worker_counts.collect();
        self.mind_the_first(processes, now);
    }

    fn mind_the_first(&mut self, processes: &ServerProcesses, now: Instant) {
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

impl AppServer for Unicorn {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(self.look())
    }

    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(self.examine_set_up())
    }

    fn plan<'a>(
        &'a self,
        running: Option<&'a ReleaseId>,
        release: &'a ReleaseId,
    ) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(self.plan_restart(running, release))
    }

    fn lacks(&self, requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        Box::pin(async move {
            let newest = self.memory.lock().await.known.last().map(|newest| newest.pid);
            self.inspector.lacks(newest, requires).await
        })
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.act(command, on))
    }
}
