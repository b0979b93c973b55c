//! Looking at the app server, again and again: calmly, or closely while something goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    app_server::{AppServer, Description, Finding, Look},
    core::{Moment, Observation, Probe, Sight, Traffic, Watchfulness},
    probe::Prober,
    revision::ReleaseId,
};

const CALM: Duration = Duration::from_secs(1);
const CLOSE: Duration = Duration::from_millis(100);
/// Between two probes: an app's health path is no place for a load.
const BETWEEN_PROBES: Duration = Duration::from_millis(250);
/// An adapter that takes longer has a defect; the drain must not wait for it.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// What the core wants looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// How often.
    pub watchfulness: Watchfulness,
    /// Which release the app should be when it is probed; `None`: no probe.
    pub probe_for: Option<ReleaseId>,
}

/// A look: for the core, and for people.
#[derive(Debug)]
pub struct Seen {
    /// For the core.
    pub observation: Observation,
    /// For /status.
    pub description: Arc<Description>,
    /// Traps in this set-up.
    pub findings: Vec<Finding>,
}

/// The task that looks.
pub struct Observer {
    /// Who is looked at.
    pub app_server: Arc<dyn AppServer>,
    /// How the app is asked, where it can be.
    pub prober: Option<Prober>,
    /// What the core wants.
    pub attention: watch::Receiver<Attention>,
    /// Where the looks go; one that is not taken yet holds the next back.
    pub looks: mpsc::Sender<Seen>,
    /// The core's clock.
    pub clock: fn() -> Moment,
}

/// A probe under way. It may take long, and looks go on meanwhile.
struct Asking {
    release: ReleaseId,
    began: Moment,
    since: Instant,
    answer: JoinHandle<Probe>,
}

impl Observer {
    /// Looks until nobody wants to know any more.
    pub async fn run(mut self) {
        let mut asking = None;
        loop {
            let seen = self.look(&mut asking).await;
            if self.looks.send(seen).await.is_err() {
                return;
            }
            let pause = match self.attention.borrow_and_update().watchfulness {
                Watchfulness::Calm => CALM,
                Watchfulness::Close => CLOSE,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.attention.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn look(&self, asking: &mut Option<Asking>) -> Seen {
        let began = (self.clock)();
        let look = self.observe().await;
        let probe = self.probe(asking).await;
        // Nothing in an observation may be older than its beginning.
        let began = probe.as_ref().map_or(began, |(since, _)| began.min(*since));
        Seen {
            observation: Observation {
                began,
                sight: look.sight,
                probe: probe.map(|(_, probe)| probe),
                traffic: look.traffic,
            },
            description: Arc::new(look.description),
            findings: look.findings,
        }
    }

    /// A look that panics or hangs proves nothing, and ends nothing.
    async fn observe(&self) -> Look {
        let app_server = self.app_server.clone();
        let mut look = tokio::spawn(async move { app_server.observe().await });
        match tokio::time::timeout(LONGEST_LOOK, &mut look).await {
            Ok(Ok(look)) => return look,
            Ok(Err(panic)) => tracing::error!(%panic, "a defect in pitstop: a look at the app server failed"),
            Err(_) => tracing::error!(limit = ?LONGEST_LOOK, "looking at the app server took too long"),
        }
        look.abort();
        Look {
            sight: Sight::Unclear,
            traffic: Traffic::default(),
            description: Description::default(),
            findings: Vec::new(),
        }
    }

    /// The answer of a probe that has ended, and when it began. Sees to it that one is under way
    /// while the core wants to know.
    async fn probe(&self, asking: &mut Option<Asking>) -> Option<(Moment, Probe)> {
        let wanted = self.attention.borrow().probe_for.clone();
        if asking.as_ref().is_some_and(|asking| Some(&asking.release) != wanted.as_ref()) {
            *asking = None;
        }
        let mut ended = None;
        if let Some(asked) =
            asking.as_mut().filter(|a| a.answer.is_finished() && a.since.elapsed() >= BETWEEN_PROBES)
        {
            let answer = (&mut asked.answer).await.unwrap_or(Probe::Unhealthy);
            ended = Some((asked.began, answer));
            *asking = None;
        }
        if let (None, Some(release), Some(prober)) = (&asking, wanted, &self.prober) {
            *asking = Some(self.ask(prober.clone(), release));
        }
        ended
    }

    fn ask(&self, prober: Prober, release: ReleaseId) -> Asking {
        let began = (self.clock)();
        let named = release.clone();
        let answer = tokio::spawn(async move { prober.probe(Some(&named)).await });
        Asking { release, began, since: Instant::now(), answer }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.answer.abort();
    }
}
