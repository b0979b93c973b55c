//! Questions to the app that are under way. They may take long, and looks at it go on meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    app_server::WarmupDescription,
    core::{Answer, GenerationKey, Moment, Probe, ProcessKey, observation::Warmed},
    probe::{Prober, Said, Whom},
    revision::ReleaseId,
    slots::Role,
    warmup::Warmup,
};

/// What a probe that panicked is taken for.
pub(super) const UNHEALTHY: Said =
    Said { answer: Answer { by: None, probe: Probe::Unhealthy }, failure: None, astray: false };

/// Who is asked, how often at once, and who may answer.
pub(super) struct Questions {
    pub(crate) whom: Whom,
    pub(crate) count: usize,
    pub(crate) workers: Arc<[(i32, ProcessKey)]>,
}

/// The last probes.
pub(super) struct Asking {
    pub(crate) release: ReleaseId,
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

impl Asking {
    pub(crate) fn begin(began: Moment, prober: Prober, release: ReleaseId, questions: Questions) -> Self {
        // The image's code names whatever release it was built as.
        let named = Some(release.clone()).filter(|release| !release.is_fallback());
        let Questions { whom, count, workers } = questions;
        let answers = tokio::spawn(async move {
            let mut probes = JoinSet::new();
            for _ in 0..count {
                let (prober, named, workers) = (prober.clone(), named.clone(), workers.clone());
                probes.spawn(async move { prober.probe(whom, named.as_ref(), &workers).await });
            }
            probes.join_all().await
        });
        Self { release, began, since: Instant::now(), answers: Answers::Awaited(answers) }
    }

    /// The answers, once they are there, and when they were asked for.
    pub(crate) async fn take(&mut self) -> Option<(Moment, Vec<Said>)> {
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

    /// The next may be asked, so long after these.
    pub(crate) fn is_over(&self, pause: Duration) -> bool {
        matches!(self.answers, Answers::Seen) && self.since.elapsed() >= pause
    }
}

pub(super) async fn answered(asking: &mut Option<Asking>) {
    match asking {
        Some(asking) => asking.answered().await,
        None => std::future::pending().await,
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Answers::Awaited(task) = &self.answers {
            task.abort();
        }
    }
}

/// A warm-up.
pub(super) struct Warming {
    /// The run of the candidate; `None`: the live server is asked.
    pub(crate) of: Option<GenerationKey>,
    task: JoinHandle<Result<Warmed, String>>,
    ended: Option<Result<Warmed, String>>,
}

impl Warming {
    /// Begins to ask a server that has so many workers.
    pub(crate) fn begin(of: Option<GenerationKey>, warmup: Warmup, workers: usize) -> Self {
        let whom = if of.is_some() { Whom::Candidate } else { Whom::Live };
        let task = tokio::spawn(async move { warmup.run(whom, workers).await });
        Self { of, task, ended: None }
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&mut self) -> Option<Result<Warmed, String>> {
        if self.ended.is_none() && self.task.is_finished() {
            self.wait().await;
        }
        self.ended.clone()
    }

    /// For /status, as it was known to stand at the last look.
    pub(crate) fn described(&self) -> WarmupDescription {
        let of = if self.of.is_some() { Role::Candidate } else { Role::Live };
        let (state, warmed, message) = match &self.ended {
            None => ("running", None, None),
            Some(Ok(warmed)) => ("done", Some(warmed), None),
            Some(Err(why)) => ("failed", None, Some(why.clone())),
        };
        let (requests, p95_ms) = (warmed.map(|of| of.requests), warmed.map(|of| of.p95_ms));
        WarmupDescription { of, state, requests, p95_ms, message }
    }

    async fn wait(&mut self) {
        let ended = (&mut self.task).await;
        let lost = |_| Err("the warm-up broke off: a defect in pitstop, please report it".to_owned());
        self.ended = Some(ended.unwrap_or_else(lost));
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for the end of a warm-up; for ever, where none is under way.
pub(super) async fn warmed(warming: &mut Option<Warming>) {
    match warming {
        Some(warming) if warming.ended.is_none() => warming.wait().await,
        _ => std::future::pending().await,
    }
}
