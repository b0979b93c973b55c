use std::{io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{AppServer, Description, Look};
use crate::{
    config,
    core::{Act, Cwd, GenerationKey, Plan, Sight, Sockets, Traffic, Trouble, requirement::Requirement},
    finding::{self, Check},
    procs::{Image, ProcessId},
    revision::ReleaseId,
    sockets::{self, Ends},
    volume::{Lane, OneAtATime},
};

mod census;
mod checks;
mod control;
mod image;
mod perform;
mod plan;
mod setting;
mod title;
mod unseen;
mod view;
mod whereabouts;

use census::{Family, Found};
use control::{Control, ControlServer};
use setting::Setting;
use view::View;
use whereabouts::Whereabouts;

/// /proc answers at once, unless a process hangs in the kernel with its memory locked.
const LIMIT: Duration = Duration::from_secs(1);

/// Who is between two images gets this long to come back, for an examination.
const TRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(200);

/// A Puma in this pod.
#[derive(Debug)]
pub struct Puma {
    narrow: Option<Arc<str>>,
    told: config::Puma,
    mode: config::RestartMode,
    releases: PathBuf,
    memory: Mutex<Memory>,
    census: OneAtATime,
    whereabouts: Whereabouts,
    /// A stranger on a volume that hangs must not hide where our own processes are.
    candidates: Whereabouts,
    control: ControlServer,
    sockets: OneAtATime,
    /// `None` where the kernel does not tell of connections that end.
    ends: Option<Arc<Ends>>,
    /// The files that a plan compares.
    files: OneAtATime,
    /// Signals: never behind a look that hangs.
    acts: Lane,
}

/// Which of several masters is meant.
enum Choice {
    One(ProcessId),
    Nobody,
    Several(Vec<ProcessId>),
}

/// There is no app server that could be looked into; what its traffic tells all the same.
struct Unseen {
    sight: Sight,
    traffic: Traffic,
}

impl From<Sight> for Unseen {
    fn from(sight: Sight) -> Self {
        Self { sight, traffic: Traffic::default() }
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
    /// The most workers that were seen to serve under this master.
    most_workers: usize,
    /// How the image was set up, once that was read.
    setting: Option<Setting>,
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
            mode,
            memory: Mutex::default(),
            census: OneAtATime::start("processes")?,
            whereabouts: Whereabouts::start(releases.clone())?,
            candidates: Whereabouts::start(releases.clone())?,
            control: ControlServer::start(section)?,
            sockets: OneAtATime::start("sockets")?,
            ends: listen_for_ends(),
            files: OneAtATime::start("files")?,
            acts: Lane::start("acts")?,
            releases,
        })
    }

    /// With code in the image that counts as ours as well ([`ReleaseId::fallback`]).
    #[must_use]
    pub fn with_fallback(mut self, fallback: Option<PathBuf>) -> Self {
        self.candidates.fallback.clone_from(&fallback);
        self.whereabouts.fallback = fallback;
        self
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(view) => Look {
                sight: Sight::Seen(view.app_server()),
                traffic: view.traffic(),
                description: view.description(),
                findings: finding::findings(&checks::of(&view)),
            },
            Err(Unseen { sight, traffic }) => Look {
                findings: finding::findings(&self.why_unseen(&sight).await),
                sight,
                traffic,
                description: nameless(),
            },
        }
    }

    /// A look may fall into a restart, or find what was not found yet.
    async fn examine_set_up(&self) -> Vec<Check> {
        for _ in 0..TRIES {
            match self.see().await {
                Ok(view) if view.family.title.is_some() => return checks::of(&view),
                Ok(_) | Err(Unseen { sight: Sight::Unclear, .. }) => tokio::time::sleep(PAUSE).await,
                Err(Unseen { sight, .. }) => return self.why_unseen(&sight).await,
            }
        }
        self.why_unseen(&Sight::Unclear).await
    }

    async fn why_unseen(&self, sight: &Sight) -> Vec<Check> {
        let (sight, narrow) = (sight.clone(), self.narrow.clone());
        let told = self.census.run(LIMIT, move || unseen::of(&sight, narrow.as_deref())).await;
        told.into_iter().collect()
    }

    async fn see(&self) -> Result<View, Unseen> {
        let mut memory = self.memory.lock().await;
        match self.find(&memory).await {
            Found::One(family) => Ok(self.ask_around(&mut memory, *family).await),
            Found::Nothing => Err(Sight::Missing.into()),
            Found::Candidates(_) => Err(Sight::Ambiguous.into()),
            // The socket table belongs to the pod: its end can be seen all the same.
            Found::NotPermitted(ports) => {
                let traffic = Traffic { workers: None, sockets: self.socket_table(ports).await };
                Err(Unseen { sight: Sight::NotPermitted, traffic })
            }
            Found::Starting | Found::Torn => Err(Sight::Unclear.into()),
        }
    }

    async fn find(&self, memory: &Memory) -> Found {
        let (followed, narrow) = (memory.followed, self.narrow.clone());
        let found = self.census.run(LIMIT, move || census::take(followed, narrow.as_deref())).await;
        match found.unwrap_or(Found::Torn) {
            Found::Candidates(masters) => match self.choose(masters, memory).await {
                Choice::One(one) => {
                    self.census.run(LIMIT, move || census::of(one)).await.unwrap_or(Found::Torn)
                }
                Choice::Nobody => Found::Nothing,
                Choice::Several(masters) => Found::Candidates(masters),
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

    async fn ask_around(&self, memory: &mut Memory, family: Family) -> View {
        let master = family.image.process;
        let pids = family.workers.iter().map(|worker| worker.id.pid).chain([master.pid]).collect();
        let (cwds, control, sockets) = tokio::join!(
            self.whereabouts.of(pids),
            self.control.ask(master.pid),
            self.socket_table(family.ports.clone()),
        );
        let runs_ours = matches!(cwds.get(&master.pid), Some(Cwd::Release(_)));
        memory.learn(&family, &control, runs_ours);
        if memory.setting.is_none() && family.title.is_some() {
            memory.setting = self.setting(&family).await;
        }
        View {
            family,
            cwds,
            control,
            sockets,
            memory: memory.clone(),
            mode: self.mode,
            told: self.told.clone(),
        }
    }

    async fn socket_table(&self, ports: Vec<u16>) -> Option<Sockets> {
        if ports.is_empty() {
            return None;
        }
        let ends = self.ends.clone();
        let look = move || {
            let table = sockets::observe(&ports).ok()?;
            // After the table: what ended since it was read is in both.
            let ended = ends.and_then(|ends| ends.take(&ports));
            Some(Sockets { ended, ..table })
        };
        self.sockets.run(LIMIT, look).await.flatten()
    }

    /// How this Puma was set up; `None` when the volume does not answer.
    async fn setting(&self, family: &Family) -> Option<Setting> {
        let (pid, major) = (family.image.process.pid, family.title.as_ref().and_then(title::Master::major));
        self.files.run(LIMIT, move || Setting::read(pid, major)).await
    }
}

impl Memory {
    fn learn(&mut self, family: &Family, control: &Control, runs_ours: bool) {
        let master = family.image.process;
        if self.followed != Some(master) {
            *self = Self { followed: Some(master), proven_ours: self.proven_ours, ..Self::default() };
        }
        self.proven_ours |= runs_ours;
        if self.image.is_none_or(|(image, _)| image != family.image) {
            self.setting = None;
        }
        let earlier = self.image.filter(|(image, _)| *image == family.image).and_then(|(_, cluster)| cluster);
        let cluster = match control {
            Control::Stats(stats) => Some(stats.workers.is_some()),
            _ if family.serves => Some(false),
            _ if !family.workers.is_empty() => Some(true),
            _ => earlier,
        };
        self.image = Some((family.image, cluster));
        let serving = family.workers.iter().filter(|worker| worker.serves).count();
        self.most_workers = self.most_workers.max(serving);
    }

    /// Whether the image is known to be a cluster, or known not to be one.
    fn cluster(&self) -> Option<bool> {
        self.image.and_then(|(_, cluster)| cluster)
    }
}

fn listen_for_ends() -> Option<Arc<Ends>> {
    Ends::listen()
        .inspect_err(|error| tracing::warn!(%error, "short connections are known by samples only"))
        .ok()
        .map(Arc::new)
}

fn nameless() -> Description {
    Description { kind: "puma".into(), ..Description::default() }
}

impl AppServer for Puma {
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
    ) -> BoxFuture<'a, Result<Plan, Trouble>> {
        Box::pin(self.plan_restart(running, release))
    }

    fn lacks(&self, requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Trouble>> {
        Box::pin(self.look_into_image(requires))
    }

    fn perform(&self, act: Act, on: GenerationKey) -> BoxFuture<'_, Result<(), Trouble>> {
        Box::pin(self.act(act, on))
    }
}
