//! `pitstop fetch`: once, for init containers.

use std::{
    fmt,
    ops::ControlFlow,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio::runtime::Handle;

use super::{Console, Exit, Failure, publish::usage};
use crate::{
    config::Config,
    core::{Reason, Trouble},
    pointer::{self, Source},
    releases::{Releases, fetch::Fetched, leases::Lease, prune::Need},
    revision::ReleaseId,
    store::{self, Blocking},
};

/// How long the store may be silent.
const IDLE: Duration = Duration::from_secs(30);
/// What killed processes have left is cleared away for so long; the rest is for another time.
const TIDYING: Duration = Duration::from_secs(10);

/// What `current` leads to now.
#[derive(Debug, Serialize)]
struct Answer {
    release: ReleaseId,
    downloaded_bytes: u64,
    was_there: bool,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.was_there { "was on the volume" } else { "fetched" };
        write!(f, "current is {} ({how}, {} bytes downloaded)", self.release, self.downloaded_bytes)
    }
}

/// Fetches and publishes what the pointer names.
///
/// # Errors
/// [`Failure`] with the message for the user; then nothing was published.
pub async fn run(config: &Config, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let source = match pointer::file_path(&config.pointer) {
        Some(path) => Source::File(path),
        None => Source::Store(store.clone(), config.pointer.clone()),
    };
    let release = pointer::read(&source).await?.revision.release;
    let releases = super::on_volume(config);
    let store = Blocking::new(store, Handle::current(), IDLE);
    let (id, pod) = (release.clone(), config.pod());
    let work = tokio::task::spawn_blocking(move || fetch_and_publish(&releases, &store, &id, &pod));
    let fetched = work.await.map_err(|e| Failure::failed(e.to_string()))??;
    console.print(&Answer {
        release,
        downloaded_bytes: fetched.downloaded_bytes,
        was_there: fetched.was_there,
    });
    Ok(Exit::Done)
}

fn fetch_and_publish(
    releases: &Releases,
    store: &Blocking,
    id: &ReleaseId,
    pod: &str,
) -> Result<Fetched, Trouble> {
    let fetched = loop {
        let failed = match lease(releases, pod, id).and_then(|()| releases.fetch(store, id)) {
            Ok(fetched) => break fetched,
            Err(trouble) => trouble,
        };
        if failed.reason != Reason::NoSpace || !make_room(releases, id)? {
            return Err(failed);
        }
    };
    releases.publish(id)?;
    // Leftovers are in nobody's way: they are no reason to keep a pod from starting.
    let began = Instant::now();
    let pace = |_| if began.elapsed() < TIDYING { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    if let Err(trouble) = releases.clean_leftovers(&pace) {
        tracing::warn!(reason = %trouble.reason, "leftovers stay: {}", trouble.message);
    }
    Ok(fetched)
}

/// Names the release for this pod, beside what its agent may have named.
fn lease(releases: &Releases, pod: &str, id: &ReleaseId) -> Result<(), Trouble> {
    let by_agent = releases.own_lease().filter(|lease| lease.desired.is_some());
    let mut lease = by_agent.unwrap_or_default();
    lease.also.extend([id.clone()].into_iter().chain(releases.current()?));
    let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    releases.write_lease(&Lease { v: 1, pod: pod.into(), ended: false, at, ..lease })
}

fn make_room(releases: &Releases, id: &ReleaseId) -> Result<bool, Trouble> {
    let needed = || [(id.clone(), "it is being fetched".to_owned())].into();
    let at_once = |_| ControlFlow::Continue(());
    let cleaned = releases.clean_leftovers(&at_once);
    let pruned = releases.prune(usize::MAX, Need::Room, &needed, &at_once)?;
    cleaned.map(|()| pruned.emptied > 0 || !pruned.deleted.is_empty())
}
