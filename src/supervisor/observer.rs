//! Looking at the app server, again and again: calmly, or closely while something goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    app_server::{AppServer, Description, Look},
    core::{
        Answer, Detection, Files, Moment, Observation, Probe, ProcessKey, Traffic, Watchfulness, pace::Pace,
    },
    finding::Finding,
    probe::{Prober, Said, Whom},
    revision::ReleaseId,
};

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
/// An adapter that takes longer has a defect; the drain must not wait for it.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// What the core wants looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attention {
    pub(crate) watchfulness: Watchfulness,
    /// Which release the app should be when it is probed; `None`: no probe.
    pub(crate) probe_for: Option<ReleaseId>,
    /// Another master may serve beside the one that is proved.
    pub(crate) second_master: bool,
    /// Whether the files that processes have loaded are wanted.
    pub(crate) wants_files: bool,
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
}

/// The task that looks.
pub(crate) struct Observer {
    /// Who is looked at.
    pub(crate) app_server: Arc<dyn AppServer>,
    /// How the app is asked, where it can be.
    pub(crate) prober: Option<Prober>,
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
    /// When files were last looked at.
    files: Option<Instant>,
}

/// The last probes. They may take long, and looks go on meanwhile.
struct Asking {
    release: ReleaseId,
    began: Moment,
    since: Instant,
    answers: Answers,
}

enum Answers {
    Awaited(JoinHandle<Vec<Said>>),
    There(Vec<Said>),
    /// Part of a look.
    Seen,
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
                () = answered(&mut ongoing.asking), if watchfulness == Watchfulness::Close => {}
                changed = self.attention.changed() => if changed.is_err() { return },
            }
        }
    }

    /// A look in the very millisecond of what came before it would not count.
    async fn until_fresh(&self) {
        let ahead = self.attention.borrow().awaited.since((self.clock)());
        if ahead > 0 {
            tokio::time::sleep(Duration::from_millis(ahead.min(LONGEST_AHEAD_MS))).await;
        }
    }

    async fn look(&self, ongoing: &mut Ongoing) -> Seen {
        let began = (self.clock)();
        let look = self.observe().await;
        let probed = self.probe(&mut ongoing.asking, &look.description).await;
        let files = self.files(&mut ongoing.files).await;
        let verifying = self.attention.borrow().probe_for.is_some();
        let raised = if verifying { self.app_server.raised().await } else { None };
        // Nothing in an observation may be older than its beginning.
        let (began, probed) = match probed {
            Some((since, probed)) => (began.min(since), probed),
            None => (began, Vec::new()),
        };
        let said = probed.iter().find_map(|probed| probed.failure.clone());
        let answers = probed.into_iter().map(|probed| probed.answer).collect();
        Seen {
            observation: Observation {
                began,
                detection: look.detection,
                answers,
                candidate_answers: Vec::new(),
                said,
                raised,
                files,
                traffic: look.traffic,
            },
            description: Arc::new(look.description),
            findings: look.findings,
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
    async fn probe(&self, asking: &mut Option<Asking>, server: &Description) -> Option<(Moment, Vec<Said>)> {
        let (wanted, second_master) = {
            let attention = self.attention.borrow();
            (attention.probe_for.clone(), attention.second_master)
        };
        if asking.as_ref().is_some_and(|asking| Some(&asking.release) != wanted.as_ref()) {
            *asking = None;
        }
        let ended = match asking {
            Some(asking) => asking.take().await,
            None => None,
        };
        let due = asking.as_ref().is_none_or(Asking::is_over);
        if let (true, Some(release), Some(prober)) = (due, wanted, &self.prober) {
            *asking = Some(self.ask(prober.clone(), release, server, second_master));
        }
        ended
    }

    /// One request tells whether the app is healthy; to hear each worker takes more. Where two masters share a
    /// socket, an idle one may never get to answer a single question: the worker that was awake last takes it.
    fn ask(&self, prober: Prober, release: ReleaseId, server: &Description, second_master: bool) -> Asking {
        let began = (self.clock)();
        // The image's code names whatever release it was built as.
        let named = Some(release.clone()).filter(|release| !release.is_fallback());
        let workers: Arc<[_]> = server.workers.iter().map(|worker| (worker.pid, worker.key)).collect();
        let count = match second_master {
            true => workers.len().clamp(1, PROBES_OF_TWO),
            false if prober.names_release() => workers.len().clamp(1, PROBES_AT_ONCE),
            false => 1,
        };
        let answers = tokio::spawn(async move {
            let mut probes = JoinSet::new();
            for _ in 0..count {
                let (prober, named, workers) = (prober.clone(), named.clone(), workers.clone());
                probes.spawn(async move { prober.probe(Whom::Live, named.as_ref(), &workers).await });
            }
            probes.join_all().await
        });
        Asking { release, began, since: Instant::now(), answers: Answers::Awaited(answers) }
    }
}

impl Asking {
    /// The answers, once they are there, and when they were asked for.
    async fn take(&mut self) -> Option<(Moment, Vec<Said>)> {
        if matches!(&self.answers, Answers::Awaited(task) if task.is_finished()) {
            self.answered().await;
        }
        match std::mem::replace(&mut self.answers, Answers::Seen) {
            Answers::There(said) => Some((self.began, said)),
            other => {
                self.answers = other;
                None
            }
        }
    }

    /// Waits for answers that nobody has seen yet; for ever, where there are none to come.
    async fn answered(&mut self) {
        match &mut self.answers {
            Answers::Awaited(task) => {
                self.answers = Answers::There(task.await.unwrap_or_else(|_| vec![UNHEALTHY]));
            }
            Answers::There(_) => {}
            Answers::Seen => std::future::pending().await,
        }
    }

    /// The next may be asked.
    fn is_over(&self) -> bool {
        matches!(self.answers, Answers::Seen) && self.since.elapsed() >= BETWEEN_PROBES
    }
}

async fn answered(asking: &mut Option<Asking>) {
    match asking {
        Some(asking) => asking.answered().await,
        None => std::future::pending().await,
    }
}

/// What a probe that panicked is taken for.
const UNHEALTHY: Said = Said { answer: Answer { by: None, probe: Probe::Unhealthy }, failure: None };

impl Drop for Asking {
    fn drop(&mut self) {
        if let Answers::Awaited(task) = &self.answers {
            task.abort();
        }
    }
}
