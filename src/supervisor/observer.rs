//! Looking at the app server, again and again: calmly, or closely while something goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::asking::{Asking, Questions, UNHEALTHY, Warming, answered, warmed};
use crate::{
    app_server::{AppServer, Description, Look, WarmupDescription},
    core::{
        Detection, Files, Generation, GenerationKey, Moment, Observation, ProcessKey, Traffic, Watchfulness,
        observation::{Candidate, Warmed},
        pace::Pace,
        verdict::any_booted,
    },
    finding::Finding,
    probe::{Prober, Said, Whom},
    revision::ReleaseId,
    warmup::Warmup,
};

/// Between two probes of the live server while a candidate stands beside it.
const BETWEEN_PROBES_BESIDE: Duration = Duration::from_secs(1);
/// Between two probes: an app's health path is no place for a load.
const BETWEEN_PROBES: Duration = Duration::from_millis(250);
/// Asked together, so many requests go to different workers; a larger cluster is heard in several turns.
const PROBES_AT_ONCE: usize = 4;
/// Where another master serves as well, each worker is asked; a large server has more of them than a
/// health path can bear at once.
const PROBES_OF_TWO: usize = 32;
/// Between two looks at the files that processes have loaded.
const BETWEEN_FILES: Duration = Duration::from_secs(1);
/// The core's clock counts milliseconds: it never waits longer than this for a look to be fresh.
const LONGEST_AHEAD_MS: u64 = 10;
const PARTS_OF_A_MILLISECOND: u32 = 8;
/// An adapter that takes longer has a defect; the drain must not wait for it.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// What the core wants looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attention {
    pub(crate) watchfulness: Watchfulness,
    /// Which release the app should be when it is probed; `None`: no probe.
    pub(crate) probe_for: Option<ReleaseId>,
    /// Which release the candidate should be when it is probed; `None`: no probe.
    pub(crate) candidate_for: Option<ReleaseId>,
    /// Another master may serve beside the one that is proved.
    pub(crate) second_master: bool,
    /// Whether the files that processes have loaded are wanted.
    pub(crate) wants_files: bool,
    /// The pod waits for the warm-up of its first server.
    pub(crate) warms: bool,
    /// A look that begins then, or later, is waited for: no pause comes before it.
    pub(crate) awaited: Moment,
}

/// A look: for the core, and for people.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) observation: Observation,
    pub(crate) description: Arc<Description>,
    /// Traps in this set-up.
    pub(crate) findings: Vec<Finding>,
    /// How the warm-up ended that the pod waits for.
    pub(crate) warmed: Option<Result<Warmed, String>>,
}

/// The task that looks.
pub(crate) struct Observer {
    /// Who is looked at.
    pub(crate) app_server: Arc<dyn AppServer>,
    /// How the app is asked, where it can be.
    pub(crate) prober: Option<Prober>,
    /// What a server is asked before clients reach it, where there is anything.
    pub(crate) warmup: Option<Warmup>,
    /// What the core wants.
    pub(crate) attention: watch::Receiver<Attention>,
    /// Where the looks go; one that is not taken yet holds the next back.
    pub(crate) looks: mpsc::Sender<Seen>,
    pub(crate) clock: fn() -> Moment,
}

/// What goes on from look to look.
#[derive(Default)]
struct Ongoing {
    asking: Option<Asking>,
    /// The same of the candidate, and its warm-up.
    candidate: Option<Asking>,
    warming: Option<Warming>,
    /// The warm-up of the pod's first server.
    first: First,
    /// The warm-up that was begun last, for people.
    warmup: Option<WarmupDescription>,
    /// When files were last looked at.
    files: Option<Instant>,
    /// The live server's workers, as the last look showed them.
    workers: Arc<[(i32, ProcessKey)]>,
}

/// The first server of a pod.
#[derive(Default)]
struct First {
    /// Since when some of it serves.
    serves: Option<Instant>,
    warming: Option<Warming>,
}

impl Observer {
    /// Looks until nobody wants to know any more.
    pub(crate) async fn run(mut self) {
        let mut ongoing = Ongoing::default();
        let mut pace = Pace::default();
        loop {
            self.until_fresh().await;
            let seen = self.look(&mut ongoing).await;
            let began = seen.observation.began;
            pace.take(&seen.observation);
            if self.looks.send(seen).await.is_err() {
                return;
            }
            let Attention { watchfulness, awaited, .. } = *self.attention.borrow_and_update();
            let pause = Duration::from_millis(pace.pause_ms(watchfulness, began < awaited));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = news(&mut ongoing, watchfulness != Watchfulness::Calm) => {}
                changed = self.attention.changed() => if changed.is_err() { return },
            }
        }
    }

    /// A look in the very millisecond of what came before it would not count. The runtime's own timer is late by up to
    /// two milliseconds, which a deploy would pay at each of its steps.
    async fn until_fresh(&self) {
        let awaited = self.attention.borrow().awaited;
        let ahead = awaited.since((self.clock)());
        if ahead > 1 {
            tokio::time::sleep(Duration::from_millis(ahead.min(LONGEST_AHEAD_MS))).await;
        }
        let clock = self.clock;
        let wait = move || {
            for _ in 0..PARTS_OF_A_MILLISECOND {
                if awaited.since(clock()) != 1 {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1) / PARTS_OF_A_MILLISECOND);
            }
        };
        if awaited.since(clock()) == 1 {
            // Not on the runtime's own thread.
            let _ = tokio::task::spawn_blocking(wait).await;
        }
    }

    async fn look(&self, ongoing: &mut Ongoing) -> Seen {
        let began = (self.clock)();
        // The first questions need not wait for the end of the look that they are a part of.
        if ongoing.asking.is_none() {
            self.probe(ongoing).await;
        }
        let mut look = self.observe().await;
        let workers = look.description.workers.iter().map(|worker| (worker.pid, worker.key));
        ongoing.workers = workers.collect();
        let of_candidate = self.probe_candidate(ongoing, &mut look).await;
        let probed = self.probe(ongoing).await;
        let warmed = self.warm_first(&mut ongoing.first, &look.detection).await;
        if let Some(warming) = ongoing.warming.as_ref().or(ongoing.first.warming.as_ref()) {
            ongoing.warmup = Some(warming.described());
        }
        look.description.warmup.clone_from(&ongoing.warmup);
        let files = self.files(&mut ongoing.files).await;
        let verifying = {
            let attention = self.attention.borrow();
            attention.probe_for.is_some() || attention.candidate_for.is_some()
        };
        let raised = if verifying { self.app_server.raised().await } else { None };
        // Nothing in an observation may be older than its beginning.
        let since = [&probed, &of_candidate].into_iter().flatten().map(|(since, _)| *since);
        let began = since.fold(began, Moment::min);
        let heard = |of: Option<(Moment, Vec<Said>)>| of.map(|(_, said)| said).unwrap_or_default();
        let (probed, of_candidate) = (heard(probed), heard(of_candidate));
        let said = of_candidate.iter().chain(&probed).find_map(|probed| probed.failure.clone());
        let answers =
            |said: Vec<Said>| said.into_iter().filter(|one| !one.astray).map(|one| one.answer).collect();
        Seen {
            observation: Observation {
                began,
                detection: look.detection,
                answers: answers(probed),
                candidate_answers: answers(of_candidate),
                said,
                raised,
                files,
                traffic: look.traffic,
            },
            description: Arc::new(look.description),
            findings: look.findings,
            warmed,
        }
    }

    async fn files(&self, last: &mut Option<Instant>) -> Option<BTreeMap<ProcessKey, Files>> {
        let wanted = self.attention.borrow().wants_files;
        if !wanted || last.is_some_and(|last| last.elapsed() < BETWEEN_FILES) {
            return None;
        }
        *last = Some(Instant::now());
        self.app_server.files().await
    }

    /// A look that panics or hangs proves nothing, and ends nothing.
    async fn observe(&self) -> Look {
        let app_server = self.app_server.clone();
        let mut look = tokio::spawn(async move { app_server.observe().await });
        match tokio::time::timeout(LONGEST_LOOK, &mut look).await {
            Ok(Ok(look)) => return look,
            Ok(Err(panic)) => tracing::error!(%panic, "bug in pitstop: inspecting the app server panicked"),
            Err(_) => tracing::error!(
                "inspecting the app server took longer than {}",
                humantime::format_duration(LONGEST_LOOK)
            ),
        }
        look.abort();
        Look {
            detection: Detection::Unclear,
            traffic: Traffic::default(),
            description: Description::default(),
            findings: Vec::new(),
        }
    }

    /// The answers of probes that have ended, and when they began. Sees to it that some are under way
    /// while the core wants to know.
    async fn probe(&self, ongoing: &mut Ongoing) -> Option<(Moment, Vec<Said>)> {
        let (wanted, candidate, second_master) = {
            let attention = self.attention.borrow();
            (attention.probe_for.clone(), attention.candidate_for.is_some(), attention.second_master)
        };
        let Some(prober) = &self.prober else { return None };
        let workers = ongoing.workers.clone();
        // One request tells whether the app is healthy; to hear each worker takes more. Where two masters share a
        // socket, an idle one may never get to answer a single question: the worker that was awake last takes it.
        let count = match second_master {
            true => workers.len().clamp(1, PROBES_OF_TWO),
            false if prober.names_release() => workers.len().clamp(1, PROBES_AT_ONCE),
            false => 1,
        };
        // Beside a candidate only the live server's health is asked for.
        let (whom, pause) = match candidate {
            true => (Whom::LiveBeside, BETWEEN_PROBES_BESIDE),
            false => (Whom::Live, BETWEEN_PROBES),
        };
        let questions = Questions { whom, count, workers };
        self.keep_asking(&mut ongoing.asking, wanted, questions, pause).await
    }

    /// The same of the candidate, once it is warm. A warm-up that failed counts as an answer.
    async fn probe_candidate(&self, ongoing: &mut Ongoing, look: &mut Look) -> Option<(Moment, Vec<Said>)> {
        let wanted = self.attention.borrow().candidate_for.clone();
        let (key, warm, share, generation) = match standing(&mut look.detection) {
            Standing::There { key, warm, share, generation } if wanted.is_some() => {
                (key, warm, share, generation)
            }
            // One that is between two images, or not seen this time, is still the same.
            Standing::Unseen if wanted.is_some() => return None,
            _ => {
                (ongoing.candidate, ongoing.warming) = (None, None);
                return None;
            }
        };
        // One with a share that an agent before this one gave it needs no warm-up any more.
        if let Some(warmup) = self.warmup.as_ref().filter(|_| share == 0) {
            let known = ongoing.warming.as_ref().is_some_and(|warming| warming.of == Some(key));
            if !known {
                let workers = generation.all_booted();
                let begin = |workers| Warming::begin(Some(key), warmup.clone(), workers);
                ongoing.warming = workers.map(begin);
            }
            let warmed = match &mut ongoing.warming {
                Some(warming) => warming.ended().await,
                None => None,
            };
            *warm = None;
            match warmed {
                Some(Ok(warmed)) => *warm = Some(warmed),
                Some(Err(why)) => {
                    let failed = Said { failure: Some(why), ..UNHEALTHY };
                    return Some(((self.clock)(), vec![failed]));
                }
                None => return None,
            }
        }
        let workers: Arc<[_]> = look.description.candidate.clone().into();
        // With a share it serves clients, and has passed its check.
        let (count, pause) = match share {
            0 => ((workers.len() * 2).clamp(1, PROBES_OF_TWO), BETWEEN_PROBES),
            _ => (workers.len().clamp(1, PROBES_AT_ONCE), BETWEEN_PROBES_BESIDE),
        };
        let questions = Questions { whom: Whom::Candidate, count, workers };
        self.keep_asking(&mut ongoing.candidate, wanted, questions, pause).await
    }

    /// The warm-up that the pod waits for: once all workers have booted. Where some never do, or nobody can tell, it is
    /// begun all the same: each of its two waits has a limit.
    async fn warm_first(&self, first: &mut First, detection: &Detection) -> Option<Result<Warmed, String>> {
        let wanted = self.attention.borrow().warms;
        let Some(warmup) = self.warmup.as_ref().filter(|_| wanted && any_booted(detection)) else {
            *first = First::default();
            return None;
        };
        let serves = first.serves.get_or_insert_with(Instant::now).elapsed();
        if first.warming.is_none() {
            let newest = match detection {
                Detection::Seen(server) => server.generations.last(),
                _ => None,
            };
            let all = newest.and_then(Generation::all_booted);
            if all.is_some() || serves >= warmup.timeout() {
                first.warming = Some(Warming::begin(None, warmup.clone(), all.unwrap_or(1)));
            }
        }
        first.warming.as_mut()?.ended().await
    }

    async fn keep_asking(
        &self,
        asking: &mut Option<Asking>,
        wanted: Option<ReleaseId>,
        questions: Questions,
        pause: Duration,
    ) -> Option<(Moment, Vec<Said>)> {
        if asking.as_ref().is_some_and(|asking| Some(&asking.release) != wanted.as_ref()) {
            *asking = None;
        }
        let ended = match asking {
            Some(asking) => asking.take().await,
            None => None,
        };
        let due = asking.as_ref().is_none_or(|asking| asking.is_over(pause));
        if let (true, Some(release), Some(prober)) = (due, wanted, &self.prober) {
            *asking = Some(Asking::begin((self.clock)(), prober.clone(), release, questions));
        }
        ended
    }
}

/// The candidate that could be asked.
enum Standing<'a> {
    There {
        /// Its run.
        key: GenerationKey,
        warm: &'a mut Option<Warmed>,
        /// Of 1000 new connections.
        share: u32,
        generation: &'a Generation,
    },
    Unseen,
    Nobody,
}

fn standing(detection: &mut Detection) -> Standing<'_> {
    let Detection::Seen(server) = detection else { return Standing::Unseen };
    match server.beside.candidate.as_mut().filter(|candidate| !candidate.ended) {
        Some(Candidate { key, warm, share, generation: Some(generation), .. }) => {
            Standing::There { key: *key, warm, share: *share, generation }
        }
        Some(_) => Standing::Unseen,
        None => Standing::Nobody,
    }
}

/// Waits for answers, or for the end of a warm-up, that nobody has seen yet. `all`: for each of them, and not only for
/// what the pod waits for.
async fn news(ongoing: &mut Ongoing, all: bool) {
    tokio::select! {
        () = answered(&mut ongoing.asking), if all => {}
        () = answered(&mut ongoing.candidate), if all => {}
        () = warmed(&mut ongoing.warming), if all => {}
        () = warmed(&mut ongoing.first.warming) => {}
    }
}
