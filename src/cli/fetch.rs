//! `pitstop fetch`: once, for init containers.

use std::{fmt, time::Duration};

use serde::Serialize;
use tokio::runtime::Handle;

use super::{Console, Exit, Failure, publish::usage};
use crate::{
    config::Config,
    core::Trouble,
    pointer::{self, Source},
    releases::{Releases, fetch::Fetched},
    revision::ReleaseId,
    store::{self, Blocking},
};

/// How long the store may be silent.
const IDLE: Duration = Duration::from_secs(30);

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
    let id = release.clone();
    let work = tokio::task::spawn_blocking(move || fetch_and_publish(&releases, &store, &id));
    let fetched = work.await.map_err(|e| Failure::failed(e.to_string()))??;
    console.print(&Answer {
        release,
        downloaded_bytes: fetched.downloaded_bytes,
        was_there: fetched.was_there,
    });
    Ok(Exit::Done)
}

fn fetch_and_publish(releases: &Releases, store: &Blocking, id: &ReleaseId) -> Result<Fetched, Trouble> {
    // Leftovers are in nobody's way: a failure here is no reason not to deploy.
    if let Err(trouble) = releases.clean_leftovers() {
        tracing::warn!(reason = %trouble.reason, "leftovers stay: {}", trouble.message);
    }
    let fetched = releases.fetch(store, id)?;
    releases.publish(id)?;
    Ok(fetched)
}
