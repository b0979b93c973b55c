use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    AppServer, Description, Look,
    connections::Connections,
    image,
    inspector::{LIMIT, Retries},
    not_found::{self, ServerKind},
    signaller::Signaller,
    working_dir::CwdResolver,
};
use crate::{
    config,
    core::{
        Cwd, Detection, Files, GenerationKey, Plan, Problem, ProcessKey, ServerCommand, Sockets, Traffic,
        requirement::Requirement,
    },
    finding::{self, Check},
    lane::Lane,
    procs::{Entry, Image, ProcessId, loaded},
    revision::ReleaseId,
};

mod checks;
pub(super) mod command_line;
pub(super) mod config_file;
mod control;
mod discovery;
mod evidence;
mod loads;
mod perform;
mod plan;
mod raised;
mod release_diff;
mod restart_modes;
pub(super) mod setup;
mod snapshot;
/// What the files of an app tell of its Puma, without one.
pub mod source_tree;
mod started_by;
mod statements;
mod title;

use control::{Control, ControlServer};
use discovery::{Discovery, ServerProcesses};
use raised::Output;
pub(crate) use release_diff::not_loaded_by_phased;
use setup::Setup;
use snapshot::Snapshot;
use started_by::StartedBy;

/// How it is called where it cannot be seen.
const KIND: ServerKind =
    ServerKind { name: "Puma", section: "puma", programs: &["puma", "ruby"], masters: discovery::masters_of };

/// A Puma in this pod.
#[derive(Debug)]
pub struct Puma {
    narrow: Option<Arc<str>>,
    /// The ports to be watched, where they are not its own.
    ports: Vec<u16>,
    told: config::Puma,
    mode: config::RestartMode,
    releases: PathBuf,
    memory: Mutex<Memory>,
    processes: Lane,
    cwds: CwdResolver,
    /// A stranger on a volume that hangs must not hide where our own processes are.
    candidates: CwdResolver,
    control: ControlServer,
    connections: Connections,
    /// The files that a plan compares.
    files: Lane,
    /// The files that processes have loaded.
    loaded: Lane,
    /// Signals: never behind a look that hangs.
    signaller: Signaller,
    /// What it writes since it was told to restart, where that can be read.
    output: Mutex<Option<Arc<Output>>>,
}

/// Which of several masters is meant.
enum Choice {
    One(ProcessId),
    Nobody,
    Several(Vec<ProcessId>),
}

/// There is no app server that could be looked into; what its traffic tells all the same.
struct NotFound {
    detection: Detection,
    traffic: Traffic,
}

impl From<Detection> for NotFound {
    fn from(detection: Detection) -> Self {
        Self { detection, traffic: Traffic::default() }
    }
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The master.
    followed: Option<ProcessId>,
    /// This master, or one before it, was seen to run a release of ours.
    proven_ours: bool,
    /// What its image was, and whether that was seen to be a cluster.
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
    /// Processes that looked as if they would become a Puma.
    starting: Vec<Entry>,
    /// The longest time for which a request was seen in flight, in milliseconds.
    longest_request_ms: u64,
    /// How the image was set up, once that was read.
    setup: Option<Setup>,
    /// Puma's version in the bundle that runs and in that of the release that was planned last, where they differ.
    next_puma: Option<(String, String)>,
    /// Who called the image, once its control server said so.
    started_by: Option<StartedBy>,
}

impl Puma {
    /// Will look for a Puma that serves releases of `deploy_to/releases`.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(section: config::Puma, mode: config::RestartMode, deploy_to: PathBuf) -> io::Result<Self> {
        let releases = deploy_to.join("releases");
        Ok(Self {
            narrow: section.r#match.as_deref().map(Into::into),
            told: section.clone(),
            ports: Vec::new(),
            mode,
            memory: Mutex::default(),
            processes: Lane::one_at_a_time("processes")?,
            cwds: CwdResolver::start(releases.clone())?,
            candidates: CwdResolver::start(releases.clone())?,
            control: ControlServer::start(section)?,
            connections: Connections::start()?,
            files: Lane::one_at_a_time("files")?,
            loaded: Lane::one_at_a_time("loaded")?,
            signaller: Signaller::start()?,
            output: Mutex::default(),
            releases,
        })
    }

    /// With code in the image that counts as ours as well ([`ReleaseId::fallback`]).
    #[must_use]
    pub fn with_fallback(mut self, fallback: Option<PathBuf>) -> Self {
        self.candidates.fallback.clone_from(&fallback);
        self.cwds.fallback = fallback;
        self
    }

    /// Where these ports are some, their connections count in place of those of its own: a proxy's in front of it.
    #[must_use]
    pub fn watching(self, ports: Vec<u16>) -> Self {
        Self { ports, ..self }
    }

    async fn connections(&self, own: Vec<u16>) -> Option<Sockets> {
        self.connections.on(if self.ports.is_empty() { own } else { self.ports.clone() }).await
    }

    async fn look(&self) -> Look {
        let _ = self.output.lock().await.take_if(|output| output.is_old());
        match self.see().await {
            Ok(snapshot) => Look {
                detection: Detection::Seen(snapshot.app_server()),
                traffic: snapshot.traffic(),
                description: snapshot.description(),
                findings: finding::findings(&checks::of(&snapshot)),
            },
            Err(NotFound { detection, traffic }) => Look {
                findings: finding::findings(&self.why_not_found(&detection).await),
                detection,
                traffic,
                description: nameless(),
            },
        }
    }

    /// A look may fall into a restart, or find what was not found yet.
    async fn examine_set_up(&self) -> Vec<Check> {
        let mut retries = Retries::for_a_start();
        while retries.lasts().await {
            match self.see().await {
                Ok(snapshot) if snapshot.processes.title.is_some() => {
                    let denied = self.signaller.try_signal(KIND.name, snapshot.processes.image).await.err();
                    let denied = denied.map(|problem| not_found::denied(KIND.name, problem.message));
                    return checks::of(&snapshot).into_iter().chain(denied).collect();
                }
                Ok(_) | Err(NotFound { detection: Detection::Unclear, .. }) => {}
                Err(NotFound { detection, .. }) => return self.why_not_found(&detection).await,
            }
        }
        self.why_not_found(&Detection::Unclear).await
    }

    async fn why_not_found(&self, detection: &Detection) -> Vec<Check> {
        let (detection, narrow) = (detection.clone(), self.narrow.clone());
        let told = self
            .processes
            .look(LIMIT, move || not_found::diagnose(&KIND, &detection, narrow.as_deref()))
            .await;
        told.into_iter().collect()
    }

    async fn see(&self) -> Result<Snapshot, NotFound> {
        let mut memory = self.memory.lock().await;
        match self.find(&memory).await {
            Discovery::One(processes) => Ok(self.ask_around(&mut memory, *processes).await),
            Discovery::Nothing => Err(Detection::Missing.into()),
            Discovery::Candidates(_) => Err(Detection::Ambiguous.into()),
            // The socket table belongs to the pod: its end can be seen all the same.
            Discovery::NotPermitted(ports) => {
                let traffic = Traffic { workers: None, sockets: self.connections(ports).await };
                Err(NotFound { detection: Detection::NotPermitted, traffic })
            }
            Discovery::Starting(processes) => {
                memory.starting = processes;
                Err(Detection::Unclear.into())
            }
            Discovery::Torn => Err(Detection::Unclear.into()),
        }
    }

    async fn find(&self, memory: &Memory) -> Discovery {
        let (followed, narrow) = (memory.followed, self.narrow.clone());
        let found =
            self.processes.look(LIMIT, move || discovery::discover(followed, narrow.as_deref())).await;
        match found.unwrap_or(Discovery::Torn) {
            Discovery::Candidates(masters) => match self.choose(masters, memory).await {
                Choice::One(one) => self
                    .processes
                    .look(LIMIT, move || discovery::look_at(one))
                    .await
                    .unwrap_or(Discovery::Torn),
                Choice::Nobody => Discovery::Nothing,
                Choice::Several(masters) => Discovery::Candidates(masters),
            },
            found => found,
        }
    }

    /// The only master that runs a release of ours, else the one that is followed. A stranger is
    /// adopted only if it is alone and ours was never seen: when our container restarts, a sidecar's
    /// Puma must not take its place.
    async fn choose(&self, masters: Vec<ProcessId>, memory: &Memory) -> Choice {
        let named = self.narrow.is_some();
        if let ([one], true) = (&masters[..], named) {
            return Choice::One(*one);
        }
        let cwds = self.candidates.of(masters.iter().map(|master| master.pid).collect()).await;
        let serves_us = |master: &ProcessId| matches!(cwds.get(&master.pid), Some(Cwd::Release(_)));
        let ours: Vec<ProcessId> = masters.iter().copied().filter(serves_us).collect();
        let followed = memory.followed.filter(|known| masters.contains(known));
        match (&ours[..], followed, &masters[..]) {
            ([one], ..) => Choice::One(*one),
            ([], Some(known), _) => Choice::One(known),
            ([], None, [one]) if !memory.proven_ours => Choice::One(*one),
            ([], None, _) if memory.proven_ours && !named => Choice::Nobody,
            _ => Choice::Several(masters),
        }
    }

    async fn ask_around(&self, memory: &mut Memory, mut processes: ServerProcesses) -> Snapshot {
        let master = processes.image.process;
        let below = processes.workers.iter().map(|worker| worker.id.pid);
        let pids =
            below.chain(processes.others.iter().map(|other| other.id.pid)).chain([master.pid]).collect();
        let (cwds, control, sockets) = tokio::join!(
            self.cwds.of(pids),
            self.control.ask(master.pid),
            self.connections(processes.ports.clone()),
        );
        if let Control::Stats(stats) = &control {
            processes.adopt(stats.worker_status.iter().filter_map(|status| status.pid));
        }
        memory.remember_title(&mut processes);
        memory.learn(&processes, &control, cwds.get(&master.pid));
        if memory.setup.is_none() && processes.title.is_some() {
            memory.setup = self.setup(&processes, memory.command_line.clone()).await;
        }
        if memory.started_by.is_none() && matches!(control, Control::Stats(_)) {
            memory.started_by = self.control.started_by(master.pid).await;
        }
        let (mode, told) = (self.mode, self.told.clone());
        let mut snapshot = Snapshot { processes, cwds, control, sockets, memory: memory.clone(), mode, told };
        memory.longest_request_ms =
            memory.longest_request_ms.max(snapshot.traffic().oldest_request_ms().unwrap_or(0));
        snapshot.memory.longest_request_ms = memory.longest_request_ms;
        snapshot
    }

    /// What a worker inherited from its master says nothing of the worker's own code.
    async fn loaded_files(&self) -> Option<BTreeMap<ProcessKey, Files>> {
        let memory = self.memory.lock().await.clone();
        let (image, cluster) = memory.image?;
        let (releases, master) = (self.releases.clone(), image.process.pid);
        let (parent, keys) = match cluster {
            Some(false) => (None, BTreeMap::from([(master, image.process_key())])),
            _ => (Some(master), memory.serving.iter().map(|worker| (worker.pid, worker.key())).collect()),
        };
        let pids: Vec<i32> = keys.keys().copied().collect();
        let looked = self.loaded.look(LIMIT, move || loaded::releases_of(&releases, parent, &pids)).await?;
        Some(looked.into_iter().filter_map(|(pid, files)| Some((*keys.get(&pid)?, files))).collect())
    }

    /// How this Puma was set up; `None` when the volume does not answer.
    async fn setup(&self, processes: &ServerProcesses, seen: Option<String>) -> Option<Setup> {
        let (pid, major) =
            (processes.image.process.pid, processes.title.as_ref().and_then(title::Master::major));
        self.files.look(LIMIT, move || Setup::of_process(pid, major, seen.as_deref())).await
    }
}

impl Memory {
    /// An image that had its title once does not lose what that says.
    fn remember_title(&mut self, processes: &mut ServerProcesses) {
        let known = self.titled.take().filter(|(image, _)| *image == processes.image);
        processes.title = processes.title.take().or(known.map(|(_, title)| title));
        self.titled = processes.title.clone().map(|title| (processes.image, title));
    }

    fn learn(&mut self, processes: &ServerProcesses, control: &Control, cwd: Option<&Cwd>) {
        let master = processes.image.process;
        if self.followed != Some(master) {
            let seen = self.starting.iter().find(|entry| entry.id == master).map(|entry| entry.title.clone());
            *self = Self {
                followed: Some(master),
                proven_ours: self.proven_ours,
                command_line: seen,
                titled: self.titled.take(),
                longest_request_ms: self.longest_request_ms,
                ..Self::default()
            };
        }
        if let Some(Cwd::Release(release)) = cwd {
            self.proven_ours = true;
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

fn nameless() -> Description {
    Description { kind: "puma".into(), ..Description::default() }
}

impl AppServer for Puma {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(self.look())
    }

    fn files(&self) -> BoxFuture<'_, Option<BTreeMap<ProcessKey, Files>>> {
        Box::pin(self.loaded_files())
    }

    fn raised(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(async {
            let output = self.output.lock().await.clone()?;
            self.files.look(LIMIT, move || output.raised()).await?
        })
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
            let Some(master) = self.memory.lock().await.followed else { return Ok(Vec::new()) };
            image::lacks(&KIND, &self.files, master.pid, requires).await
        })
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.act(command, on))
    }
}
