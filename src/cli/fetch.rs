//! `pitstop fetch`: once, for init containers. A pod is born on what the pointer names, or, where that
//! cannot be had, on the best that is left; it is refused its birth only when there is nothing.

use std::{
    fmt,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use serde::Serialize;
use tokio::runtime::Handle;

use super::{Console, Exit, Failure, console::BETWEEN_LINES, publish::usage};
use crate::{
    config::Config,
    core::{Problem, Reason, deploy::stand_ins, history::History},
    fleet::{Chooser, Reader},
    pointer::{self, Source},
    releases::{Releases, fetch::Fetched, leases::Lease, prune::Need},
    revision::{Pointer, ReleaseId, Revision},
    revisions_log::{self, Log},
    store::{self, Blocking, Store},
    trust::{Noted, Trust},
};

/// How long the store may be silent.
const IDLE: Duration = Duration::from_secs(30);
/// What killed processes have left is cleared away for so long; the rest is for another time.
const TIDYING: Duration = Duration::from_secs(2);

/// What to fetch.
#[derive(Debug, Args)]
pub struct Fetch {
    /// This release, whatever the pointer names, and no other in its place: for a job that runs before the pointer moves.
    #[arg(long, value_name = "ID")]
    release: Option<ReleaseId>,
}

/// What `current` leads to now.
#[derive(Debug, Serialize)]
struct Answer {
    release: ReleaseId,
    downloaded_bytes: u64,
    was_there: bool,
    /// What the pointer names, where that could be read and is something else.
    instead_of: Option<Revision>,
    reason: Option<Reason>,
    message: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.was_there { "was on the volume" } else { "fetched" };
        write!(f, "current is {} ({how}, {} bytes downloaded)", self.release, self.downloaded_bytes)?;
        let Some(message) = &self.message else { return Ok(()) };
        write!(f, "\nit serves until the desired release can be fetched: {message}")
    }
}

/// Fetches and publishes what the pointer names, or what may stand in for it.
///
/// # Errors
/// [`Failure`] with the message for the user; then `current` leads to nothing that may run.
pub(crate) async fn run(config: &Config, asked: Fetch, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let trust = super::trust_with_memory(config, Noted::default());
    let wanted = match asked.release {
        Some(release) => Wanted::Exactly(release),
        None => Wanted::Pointed(Box::new(pointed(config, &store, &trust).await)),
    };
    let store = Blocking::new(store, Handle::current(), IDLE);
    let came = store.came();
    let birth = Birth {
        releases: super::on_volume(config).trusting(trust),
        store,
        fallback: config.fallback_dir.is_some(),
        pod: config.pod(),
    };
    let journal = revisions_log::path(&config.deploy_to, &config.pod());
    let mut work = tokio::task::spawn_blocking(move || birth.of(wanted, &journal));
    let done = loop {
        console.pulse(&came.to_string());
        if let Ok(done) = tokio::time::timeout(BETWEEN_LINES, &mut work).await {
            break done;
        }
    };
    console.pulse("");
    let answer = done.map_err(|e| Failure::failed(e.to_string()))??;
    console.print(&answer);
    Ok(Exit::Done)
}

enum Wanted {
    Exactly(ReleaseId),
    Pointed(Box<Result<Pointer, Problem>>),
}

/// What the pointer names for this pod.
async fn pointed(config: &Config, store: &Arc<dyn Store>, trust: &Arc<Trust>) -> Result<Pointer, Problem> {
    let source = match pointer::file_path(&config.pointer) {
        Some(path) => Source::File(path),
        None => Source::Store(store.clone(), config.pointer.clone()),
    };
    let mut pointer = pointer::read(&source, trust).await?;
    let fleet = matches!(source, Source::Store(..)).then(|| Reader {
        store: store.clone(),
        pointer: config.pointer.clone(),
        pod: config.pod(),
        max_unavailable: config.restart.max_unavailable,
    });
    Chooser::new(config.pod(), fleet).choose(&mut pointer, false).await;
    Ok(pointer.named())
}

struct Birth {
    releases: Releases,
    store: Blocking,
    fallback: bool,
    pod: String,
}

impl Birth {
    fn of(&self, wanted: Wanted, journal: &Path) -> Result<Answer, Problem> {
        let answer = match wanted {
            Wanted::Exactly(release) => {
                self.fetch(&release, None).and_then(|fetched| self.publish(release, fetched))
            }
            Wanted::Pointed(pointer) => self.pointed(*pointer, journal),
        };
        tidy(&self.releases);
        answer
    }

    fn pointed(&self, pointer: Result<Pointer, Problem>, journal: &Path) -> Result<Answer, Problem> {
        let history = History::fold(&Log::open(journal.to_owned())?.1).0;
        let desired = pointer.as_ref().ok().cloned();
        let fetched = pointer.and_then(|pointer| {
            let fetched = self.desired(&pointer, &history)?;
            Ok((pointer.revision.release, fetched))
        });
        match fetched {
            Ok((release, fetched)) => self.publish(release, fetched),
            Err(why) => self.stand_in(why, desired, &history, journal),
        }
    }

    fn desired(&self, pointer: &Pointer, history: &History) -> Result<Fetched, Problem> {
        let desired = &pointer.revision;
        match history.rejection(desired) {
            None => self.fetch(&desired.release, pointer.sha256.as_deref()),
            Some(why) => {
                let message = format!("{desired} failed in this pod ({why}) and is not retried");
                Err(Problem::new(Reason::Rejected, message))
            }
        }
    }

    fn fetch(&self, id: &ReleaseId, sha256: Option<&str>) -> Result<Fetched, Problem> {
        if id.is_fallback() {
            return Ok(Fetched { was_there: true, ..Fetched::default() });
        }
        loop {
            let leased = lease(&self.releases, &self.pod, id);
            let failed = match leased.and_then(|()| self.releases.fetch(&self.store, id, sha256)) {
                Ok(fetched) => return Ok(fetched),
                Err(problem) => problem,
            };
            if failed.reason != Reason::NoSpace || !make_room(&self.releases, id)? {
                return Err(failed);
            }
        }
    }

    fn publish(&self, release: ReleaseId, fetched: Fetched) -> Result<Answer, Problem> {
        self.releases.publish(&release)?;
        let Fetched { downloaded_bytes, was_there, .. } = fetched;
        Ok(Answer { release, downloaded_bytes, was_there, instead_of: None, reason: None, message: None })
    }

    /// What is in place stays, unless it failed; else the best that can be had.
    fn stand_in(
        &self,
        why: Problem,
        desired: Option<Pointer>,
        history: &History,
        journal: &Path,
    ) -> Result<Answer, Problem> {
        let current = self.releases.current()?.filter(|release| !history.distrusts(release));
        let mut neighbours = revisions_log::neighbours(journal);
        neighbours.verified.retain(|release| self.releases.is_complete(release).unwrap_or(false));
        let others = stand_ins(why.reason, desired.as_ref(), history, &neighbours, self.fallback);
        let named = desired.as_ref().map(|pointer| &pointer.revision.release);
        for release in current.into_iter().chain(others).filter(|release| Some(release) != named) {
            let put = self.fetch(&release, None).and_then(|fetched| self.publish(release.clone(), fetched));
            match put {
                Ok(answer) => {
                    let instead_of = desired.map(|pointer| pointer.revision);
                    let (reason, message) = (Some(why.reason), Some(why.message));
                    return Ok(Answer { instead_of, reason, message, ..answer });
                }
                Err(problem) => tracing::warn!(%release, "cannot stand in: {}", problem.message),
            }
        }
        Err(why)
    }
}

/// Leftovers are in nobody's way: they are no reason to keep a pod from starting.
fn tidy(releases: &Releases) {
    let began = Instant::now();
    let pace = |_| if began.elapsed() < TIDYING { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    if let Err(problem) = releases.clean_leftovers(&pace) {
        tracing::warn!(reason = %problem.reason, "leftovers stay: {}", problem.message);
    }
}

/// Names the release for this pod, beside what its agent may have named.
fn lease(releases: &Releases, pod: &str, id: &ReleaseId) -> Result<(), Problem> {
    let by_agent = releases.own_lease().filter(|lease| lease.desired.is_some());
    let mut lease = by_agent.unwrap_or_default();
    lease.also.extend([id.clone()].into_iter().chain(releases.current()?));
    let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    releases.write_lease(&Lease { v: 1, pod: pod.into(), ended: false, at, ..lease })
}

fn make_room(releases: &Releases, id: &ReleaseId) -> Result<bool, Problem> {
    let needed = || [(id.clone(), "it is being fetched".to_owned())].into();
    let at_once = |_| ControlFlow::Continue(());
    let cleaned = releases.clean_leftovers(&at_once);
    let pruned = releases.prune(usize::MAX, Need::Room, &needed, &at_once)?;
    // One is what the fetch without room has left itself.
    Ok(cleaned? > 1 || pruned.emptied > 0 || !pruned.deleted.is_empty())
}
