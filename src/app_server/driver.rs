//! What all app servers have in common, once: looking, choosing among several, saying why none is found, refusing
//! strangers, and sending each signal at most once.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{self, Arc, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio::sync::Mutex;

use super::{
    AppServer, Description, Look, Wanted, image,
    inspector::{Inspector, LIMIT, Location, Retries},
    not_found::{self, NotFound},
    server::{Discovery, Search, Server, Snapshot},
    signaller::{Signaller, Target},
};
use crate::{
    config::ServerFacts,
    core::{
        Cwd, Detection, Files, GenerationKey, Plan, Problem, ProcessKey, Reason, ServerCommand, Traffic,
        requirement::Requirement,
    },
    finding::{self, Check, Code, Finding},
    procs::{Image, ProcessId},
    slots::{Client, List, NoList},
};

/// A plan is made from the look that led to it, if that is no older than this.
const JUST_NOW: Duration = Duration::from_millis(250);

/// One app server of this pod.
pub(super) struct Driver<S: Server> {
    pub(crate) server: Arc<S>,
    pub(crate) inspector: Inspector,
    signaller: Signaller,
    /// A text that tells it from others of its kind, where the user gives one.
    pub(crate) matching: Option<Arc<str>>,
    pub(crate) releases: PathBuf,
    /// The link that it is started from.
    pub(crate) current: PathBuf,
    pub(crate) parent: Client,
    memory: Mutex<Memory<S::Memory>>,
    /// What the last look saw, and when that began.
    seen: sync::Mutex<Option<(Instant, S::Snapshot)>>,
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory<Own> {
    /// The masters of the server that is followed, oldest first.
    pub(crate) known: Vec<ProcessId>,
    /// This server, or one before it, was seen to run a release of ours.
    pub(crate) proven_ours: bool,
    /// The last process that was seen of the app's image.
    app: Option<i32>,
    /// What the parent said last.
    pub(crate) parent: Option<List>,
    pub(crate) own: Own,
}

/// What this kind of server can do, for the rest of the agent.
pub(super) fn facts<S: Server>(section: &S::Section) -> ServerFacts {
    ServerFacts {
        stop_timeout: S::stop_timeout(section),
        restart_timeout: S::restart_timeout(section),
        phased: S::PHASED,
        cuts_requests: S::CUTS_REQUESTS,
        second_master: S::SECOND_MASTER,
        in_place: S::IN_PLACE,
        advice: S::advice(),
    }
}

impl<S: Server> Driver<S> {
    /// Starts the threads for it.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(
        server: S,
        matching: Option<&str>,
        location: Location,
    ) -> io::Result<Arc<dyn AppServer>> {
        Ok(Arc::new(Self::open(server, matching, location)?))
    }

    fn open(server: S, matching: Option<&str>, location: Location) -> io::Result<Self> {
        Ok(Self {
            server: Arc::new(server),
            matching: matching.map(Into::into),
            releases: location.releases(),
            parent: Client::new(&location.state_dir),
            current: location.current.clone(),
            memory: Mutex::default(),
            seen: sync::Mutex::default(),
            inspector: Inspector::open(location)?,
            signaller: Signaller::start()?,
        })
    }

    pub(crate) async fn memory(&self) -> Memory<S::Memory> {
        self.memory.lock().await.clone()
    }

    /// Changes what is remembered.
    pub(crate) async fn remember(&self, change: impl FnOnce(&mut S::Memory)) {
        change(&mut self.memory.lock().await.own);
    }

    pub(crate) async fn see(&self) -> Result<S::Snapshot, NotFound> {
        let mut memory = self.memory.lock().await;
        memory.parent = match self.ask_parent(memory.parent.take()).await {
            Ok(parent) => parent,
            Err(known) => {
                memory.parent = Some(known);
                return Err(Detection::Unclear.into());
            }
        };
        let processes = match self.find(&memory).await {
            Discovery::One(processes) => processes,
            Discovery::Nothing => return Err(Detection::Missing.into()),
            Discovery::Ambiguous | Discovery::Candidates(_) => return Err(Detection::Ambiguous.into()),
            // The socket table belongs to the pod: its end can be seen all the same.
            Discovery::NotPermitted(ports) => {
                return Err(NotFound { ports, ..Detection::NotPermitted.into() });
            }
            Discovery::Starting | Discovery::Torn => return Err(Detection::Unclear.into()),
        };
        let snapshot = self.server.snapshot(self, &mut memory.own, processes).await?;
        memory.learn(&snapshot);
        Ok(snapshot)
    }

    /// What the parent says. It fails when the parent has several servers, by what it said last, and does not answer:
    /// nobody else knows which of them is meant.
    async fn ask_parent(&self, known: Option<List>) -> Result<Option<List>, List> {
        match (self.parent.list().await, known) {
            (Ok(list), _) => Ok(Some(list)),
            (Err(NoList::Absent(_)), _) => Ok(None),
            (Err(NoList::Silent(_)), Some(known)) if known.runs().count() > 1 => Err(known),
            (Err(error), _) => Ok(Some(List::unfit(error.to_string()))),
        }
    }

    async fn find(&self, memory: &Memory<S::Memory>) -> Discovery<S::Processes> {
        match self.discover(memory, None).await {
            Discovery::Candidates(servers) => match self.choose(servers, memory).await {
                Discovery::Candidates(chosen) => {
                    let master = chosen.first().and_then(|masters| masters.last()).copied();
                    self.discover(memory, master).await
                }
                other => other,
            },
            found => found,
        }
    }

    async fn discover(
        &self,
        memory: &Memory<S::Memory>,
        chosen: Option<ProcessId>,
    ) -> Discovery<S::Processes> {
        let server = self.server.clone();
        let search = Search {
            known: memory.known.clone(),
            matching: self.matching.clone(),
            chosen,
            parent: memory.parent.clone(),
        };
        let look = move || server.discover(&search);
        self.inspector.processes.look(LIMIT, look).await.unwrap_or(Discovery::Torn)
    }

    /// The only server that runs a release of ours, else the one that is followed. A stranger is adopted only if it
    /// is alone and ours was never seen: when our container restarts, a sidecar's server must not take its place.
    async fn choose(
        &self,
        servers: Vec<Vec<ProcessId>>,
        memory: &Memory<S::Memory>,
    ) -> Discovery<S::Processes> {
        let named = self.matching.is_some();
        if named && servers.len() == 1 {
            return Discovery::Candidates(servers);
        }
        let cwds =
            self.inspector.cwds_of_candidates(servers.iter().flatten().map(|id| id.pid).collect()).await;
        let is_ours = |master: &ProcessId| matches!(cwds.get(&master.pid), Some(Cwd::Release(_)));
        let with = |test: &dyn Fn(&ProcessId) -> bool| -> Vec<Vec<ProcessId>> {
            servers.iter().filter(|masters| masters.iter().any(test)).cloned().collect()
        };
        let (ours, known) = (with(&is_ours), with(&|master| memory.known.contains(master)));
        match (ours.len(), known.len(), servers.len()) {
            (1, ..) => Discovery::Candidates(ours),
            (0, 1, _) => Discovery::Candidates(known),
            (0, 0, 1) if !memory.proven_ours => Discovery::Candidates(servers),
            (0, 0, _) if memory.proven_ours && !named => Discovery::Nothing,
            _ => Discovery::Ambiguous,
        }
    }

    /// A look that does not fall into a start or a restart.
    async fn see_settled(&self) -> Result<S::Snapshot, NotFound> {
        let mut last = NotFound::from(Detection::Unclear);
        let mut retries = Retries::default();
        while retries.next().await {
            match self.see().await {
                Ok(snapshot) if snapshot.is_settled() => return Ok(snapshot),
                Ok(_) => {}
                Err(not_found) if not_found.detection == Detection::Unclear => last = not_found,
                Err(not_found) => return Err(not_found),
            }
        }
        Err(last)
    }

    async fn look(&self) -> Look {
        let began = Instant::now();
        self.note(None);
        match self.see().await {
            Ok(snapshot) => {
                self.server.after_look(self, &snapshot).await;
                let look = Look {
                    detection: Detection::Seen(snapshot.app_server()),
                    traffic: snapshot.traffic(),
                    description: Description {
                        kind: S::KIND.section.into(),
                        pid: Some(snapshot.image().process.pid),
                        mode: snapshot.mode().map(Into::into),
                        workers: snapshot.workers(),
                        candidate: snapshot.candidate(),
                        slots: snapshot.slots(),
                        warmup: None,
                    },
                    findings: finding::findings(&self.checks(&snapshot).await),
                };
                self.note(Some((began, snapshot)));
                look
            }
            Err(not_found) => {
                let ports = self.inspector.watched(&not_found.ports);
                Look {
                    findings: finding::findings(&self.why_not_found(&not_found).await),
                    traffic: Traffic { workers: None, sockets: self.inspector.connections(ports).await },
                    detection: not_found.detection,
                    description: Description { kind: S::KIND.section.into(), ..Description::default() },
                }
            }
        }
    }

    async fn checks(&self, snapshot: &S::Snapshot) -> Vec<Check> {
        let mut checks = self.server.checks(snapshot);
        checks.insert(checks.len().min(1), self.runs_from_current(snapshot).await);
        checks.extend(self.server.checks_without_it());
        checks
    }

    async fn examine_set_up(&self) -> Vec<Check> {
        match self.see_settled().await {
            Ok(snapshot) => {
                let mut checks = self.checks(&snapshot).await;
                checks.extend(
                    self.try_signal(snapshot.image())
                        .await
                        .err()
                        .map(|problem| not_found::denied(S::KIND.name, problem.message)),
                );
                checks
            }
            Err(not_found) => self.why_not_found(&not_found).await,
        }
    }

    async fn why_not_found(&self, not_found: &NotFound) -> Vec<Check> {
        let why = match &not_found.why {
            Some(why) => Some(why.clone()),
            None => {
                let (server, detection) = (self.server.clone(), not_found.detection.clone());
                let matching = self.matching.clone();
                let look = move || server.why_not_found(&detection, matching.as_deref());
                self.inspector.processes.look(LIMIT, look).await
            }
        };
        why.into_iter().chain(self.server.checks_without_it()).collect()
    }

    /// The same rule as a plan's: one that was never seen in a release of ours may be a sidecar's.
    async fn runs_from_current(&self, snapshot: &S::Snapshot) -> Check {
        let (name, section) = (S::KIND.name, S::KIND.section);
        let message = match home(snapshot) {
            Cwd::Release(release) => return Check::fine(name, format!("runs in release {release}")),
            Cwd::Unknown => {
                return Check::unknown(
                    name,
                    "its working directory is not known: /proc or the volume does not answer, or its processes differ",
                );
            }
            Cwd::Elsewhere if self.memory.lock().await.proven_ours => {
                return Check::unknown(name, "it ran in a release of this volume that was deleted since");
            }
            Cwd::Elsewhere => format!(
                "{} does not run in a release of {}: no deploy can be verified",
                snapshot.name(),
                self.releases.display()
            ),
        };
        let message = match self.matching {
            Some(_) => message,
            None => format!("{message}, and none is tried unless {section}.match selects it"),
        };
        let remedy = format!("{}, with deploy_to on the same volume in both containers", S::KIND.start);
        Check::found(name, Finding::broken(Code::NotFromCurrent, message, remedy))
    }

    fn note(&self, seen: Option<(Instant, S::Snapshot)>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// What a look saw that has just ended.
    fn just_seen(&self) -> Option<S::Snapshot> {
        let (began, snapshot) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        (began.elapsed() < JUST_NOW && snapshot.is_settled()).then_some(snapshot)
    }

    async fn plan_restart(&self, wanted: Wanted<'_>) -> Result<Plan, Problem> {
        let snapshot = match self.just_seen() {
            Some(snapshot) => snapshot,
            None => self.see_settled().await.map_err(|not_found| not_found.problem(&S::KIND))?,
        };
        self.refuse_a_stranger(&snapshot).await?;
        let plan = self.server.plan(self, &snapshot, wanted).await?;
        self.try_signal(snapshot.image()).await?;
        Ok(plan)
    }

    /// One that was never seen in a release of ours may be a sidecar's.
    async fn refuse_a_stranger(&self, snapshot: &S::Snapshot) -> Result<(), Problem> {
        let known = self.matching.is_some() || self.memory.lock().await.proven_ours;
        if known || home(snapshot) != Cwd::Elsewhere {
            return Ok(());
        }
        Err(not_found::stranger(&S::KIND, &snapshot.name(), &self.releases))
    }

    async fn try_signal(&self, image: Image) -> Result<(), Problem> {
        if S::SIGNALLED { self.signaller.try_signal(S::KIND.name, image).await } else { Ok(()) }
    }

    /// Sends signals, decided on just before on the thread that sends them; nothing once the caller was told that
    /// nothing was sent.
    pub(crate) async fn send(
        &self,
        signals: impl FnOnce(&S) -> Result<Vec<(Target, Signal)>, Problem> + Send + 'static,
    ) -> Result<(), Problem> {
        let server = self.server.clone();
        self.signaller.send(S::KIND.name, move || signals(&server)).await
    }

    /// Reads files of releases, on the thread for files.
    ///
    /// # Errors
    /// When the volume does not answer within `limit`, or a file cannot be read.
    pub(crate) async fn read_releases<T: Send + 'static>(
        &self,
        limit: Duration,
        read: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let read = self.inspector.files.look(limit, read).await.unwrap_or_else(|| {
            let message = format!("{} did not answer within {}s", self.releases.display(), limit.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        });
        read.map_err(|error| Problem::new(Reason::VolumeUnavailable, error.to_string()))
    }

    async fn told(&self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        // Where one generation runs at a time, there is no old one to be ended.
        if command == ServerCommand::Commit && !S::SECOND_MASTER {
            return Ok(());
        }
        self.server.order(self, command, on).await
    }

    /// Why nothing can be sent to a server that is not found.
    pub(crate) fn nothing_sent(&self, not_found: &NotFound) -> Problem {
        not_found.problem(&S::KIND)
    }
}

impl<Own> Memory<Own> {
    fn learn(&mut self, snapshot: &impl Snapshot) {
        self.known = snapshot.masters();
        let runs_ours = |cwd: &Cwd| matches!(cwd, Cwd::Release(_));
        self.proven_ours |=
            snapshot.app_server().generations.iter().any(|generation| runs_ours(&generation.cwd));
        self.app = snapshot.app_pid().or(self.app);
    }
}

/// Where the newest generation works.
fn home(snapshot: &impl Snapshot) -> Cwd {
    snapshot.app_server().generations.pop().map_or(Cwd::Unknown, |newest| newest.cwd)
}

impl<S: Server> AppServer for Driver<S> {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(self.look())
    }

    fn files(&self) -> BoxFuture<'_, Option<BTreeMap<ProcessKey, Files>>> {
        Box::pin(self.server.files(self))
    }

    fn raised(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(self.server.raised(self))
    }

    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(self.examine_set_up())
    }

    fn plan<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(self.plan_restart(wanted))
    }

    fn lacks(&self, requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        Box::pin(async move {
            let Some(pid) = self.memory.lock().await.app else { return Ok(Vec::new()) };
            image::lacks(&S::KIND, &self.inspector.files, pid, requires).await
        })
    }

    fn perform_limit(&self) -> Duration {
        self.server.order_limit()
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.told(command, on))
    }
}

#[cfg(test)]
mod tests;
