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
    acts::Acts,
    crew::Crew,
    eyes::{Eyes, LIMIT, Patience, Place},
    unseen::Kind,
};
use crate::{
    config,
    core::{Cwd, Detection, GenerationKey, Plan, Problem, ServerCommand, requirement::Requirement},
    finding::{self, Check},
    procs::{Image, ProcessId},
    revision::ReleaseId,
};

mod census;
mod checks;
mod perform;
mod plan;
mod setting;
mod title;
mod view;

use census::{Family, Found, Master};
use setting::Setting;
use view::View;

/// How it is called where it cannot be seen.
const KIND: Kind =
    Kind { name: "Unicorn", section: "unicorn", programs: &["unicorn", "ruby"], masters: census::masters_of };

/// A holder that stays alone for so long will stay so.
const ALONE: Duration = Duration::from_secs(3);

/// A Unicorn in this pod.
#[derive(Debug)]
pub struct Unicorn {
    narrow: Option<Arc<str>>,
    releases: PathBuf,
    memory: Mutex<Memory>,
    eyes: Eyes,
    acts: Acts,
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
    crews: HashMap<GenerationKey, Crew>,
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
    pub fn new(section: &config::Unicorn, place: Place) -> io::Result<Self> {
        Ok(Self {
            narrow: section.r#match.as_deref().map(Into::into),
            releases: place.releases(),
            memory: Mutex::default(),
            eyes: Eyes::open(&KIND, place)?,
            acts: Acts::start()?,
        })
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(view) => {
                self.mind_the_holder(&view).await;
                Look {
                    detection: Detection::Seen(view.app_server()),
                    traffic: view.traffic(),
                    description: view.description(),
                    findings: finding::findings(&checks::of(&view)),
                }
            }
            Err(detection) => {
                let why = self.why_unseen(&detection).await;
                self.eyes.without(detection, &why).await
            }
        }
    }

    async fn mind_the_holder(&self, view: &View) {
        let alone = view.memory.alone_since.is_some_and(|since| since.elapsed() >= ALONE);
        if let (Some(holder), true) = (view.memory.holder, alone) {
            self.give_up_container(holder).await;
        }
    }

    async fn examine_set_up(&self) -> Vec<Check> {
        let mut patience = Patience::for_a_start();
        while patience.lasts().await {
            match self.see().await {
                Ok(view) if view.family.newest().title.is_some() => return checks::of(&view),
                Ok(_) | Err(Detection::Unclear) => {}
                Err(detection) => return self.why_unseen(&detection).await,
            }
        }
        self.why_unseen(&Detection::Unclear).await
    }

    async fn why_unseen(&self, detection: &Detection) -> Vec<Check> {
        self.eyes.why_unseen(detection, self.narrow.as_deref()).await
    }

    async fn see(&self) -> Result<View, Detection> {
        let mut memory = self.memory.lock().await;
        let (known, narrow) = (memory.known.clone(), self.narrow.clone());
        let found = self.eyes.census.run(LIMIT, move || census::take(&known, narrow.as_deref())).await;
        match found.unwrap_or(Found::Torn) {
            Found::Servers(families) => {
                let family = self.choose(families, &memory).await?;
                Ok(self.ask_around(&mut memory, family).await)
            }
            Found::Nothing => Err(Detection::Missing),
            Found::NotPermitted => Err(Detection::NotPermitted),
            Found::Starting | Found::Torn => Err(Detection::Unclear),
        }
    }

    /// The one that is followed, else the only one that runs a release of ours. A stranger is adopted only if
    /// it is alone and ours was never seen: when our container restarts, a sidecar's must not take its place.
    async fn choose(&self, mut families: Vec<Family>, memory: &Memory) -> Result<Family, Detection> {
        let pids = families.iter().flat_map(|family| &family.masters).map(|master| master.image.process.pid);
        let cwds = self.eyes.cwds(pids.collect()).await;
        let is_ours = |master: &Master| matches!(cwds.get(&master.image.process.pid), Some(Cwd::Release(_)));
        let is_known = |master: &Master| memory.known.contains(&master.image.process);
        let known = families.iter().position(|family| family.masters.iter().any(is_known));
        let ours: Vec<usize> =
            (0..families.len()).filter(|at| families[*at].masters.iter().any(is_ours)).collect();
        let stranger_is_meant = !memory.proven_ours || self.narrow.is_some();
        match (known, &ours[..], families.len()) {
            (Some(at), ..) => Ok(families.swap_remove(at)),
            (None, [at], _) => Ok(families.swap_remove(*at)),
            (None, [], 1) if stranger_is_meant => Ok(families.swap_remove(0)),
            (None, [], _) if memory.proven_ours => Err(Detection::Missing),
            _ => Err(Detection::Ambiguous),
        }
    }

    async fn ask_around(&self, memory: &mut Memory, family: Family) -> View {
        let ports = self.eyes.watched(family.ports());
        let workers = family.masters.iter().flat_map(|master| &master.workers).map(|worker| worker.id.pid);
        let masters = family.masters.iter().map(|master| master.image.process.pid);
        let (cwds, sockets) =
            tokio::join!(self.eyes.cwds(workers.chain(masters).collect()), self.eyes.connections(&ports),);
        let runs_ours = cwds.values().any(|cwd| matches!(cwd, Cwd::Release(_)));
        memory.learn(&family, runs_ours);
        if memory.setting.is_none() && family.newest().title.is_some() {
            memory.setting = self.setting(family.newest()).await;
        }
        View { family, cwds, ports, sockets, memory: memory.clone() }
    }

    /// How this Unicorn was set up; `None` when the volume does not answer.
    async fn setting(&self, master: &Master) -> Option<Setting> {
        let config = master.title.as_ref().and_then(title::Master::config_file).map(str::to_owned);
        let pid = master.image.process.pid;
        self.eyes.files.run(LIMIT, move || Setting::read(pid, config.as_deref())).await
    }
}

impl Memory {
    fn learn(&mut self, family: &Family, runs_ours: bool) {
        self.known = family.masters.iter().map(|master| master.image.process).collect();
        self.proven_ours |= runs_ours;
        let newest = family.newest().image;
        if self.image != Some(newest) {
            (self.image, self.setting) = (Some(newest), None);
        }
        let now = Instant::now();
        let crews = family.masters.iter().map(|master| {
            let key = master.image.generation_key();
            let crew = self.crews.get(&key).copied().unwrap_or_else(|| Crew::new(now));
            let all_serve = master.workers.iter().all(|worker| worker.booted);
            (key, crew.after(master.workers.len(), all_serve, now))
        });
        self.crews = crews.collect();
        self.mind_the_first(family, now);
    }

    fn mind_the_first(&mut self, family: &Family, now: Instant) {
        let first = family.masters.first().filter(|master| master.holds_container());
        let idle = first.filter(|master| master.workers.is_empty()).map(|master| master.image);
        match (idle, family.masters.len()) {
            (Some(image), 2..) => (self.holder, self.alone_since) = (Some(image), None),
            (Some(image), _) if self.holder == Some(image) => {
                self.alone_since = self.alone_since.or(Some(now));
            }
            _ => (self.holder, self.alone_since) = (None, None),
        }
    }

    /// How many workers a master should have.
    fn expected(&self, master: &Master) -> usize {
        self.crews.get(&master.image.generation_key()).map_or(1, Crew::expected)
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
            self.eyes.lacks(newest, requires).await
        })
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.act(command, on))
    }
}
