//! `pitstop releases`: what the store and the volume hold.

use std::fmt;

use serde::Serialize;

use super::{
    Console, Exit, Failure,
    publish::{failure, usage},
};
use crate::{
    config::Config,
    core::Trouble,
    releases::OnVolume,
    revision::ReleaseId,
    store::{self, archive},
};

#[derive(Debug, Serialize)]
struct Answer {
    store: Vec<ReleaseId>,
    volume: Vec<Held>,
    current: Option<ReleaseId>,
}

#[derive(Debug, Serialize)]
struct Held {
    release: ReleaseId,
    sha256: String,
    completed: String,
    bytes: u64,
}

impl From<OnVolume> for Held {
    fn from(found: OnVolume) -> Self {
        let completed = humantime::format_rfc3339_seconds(found.completed).to_string();
        let marker = found.marker;
        Self { release: marker.release, sha256: marker.sha256, completed, bytes: marker.bytes }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "in the store:")?;
        for id in &self.store {
            writeln!(f, "  {id}")?;
        }
        write!(f, "on the volume:")?;
        for held in &self.volume {
            let mark = if self.current.as_ref() == Some(&held.release) { "  (current)" } else { "" };
            write!(f, "\n  {}  {}  {} bytes{mark}", held.release, held.completed, held.bytes)?;
        }
        Ok(())
    }
}

/// Lists them.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(config: &Config, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let in_store = archive::list(store.as_ref()).await.map_err(failure)?;
    let releases = super::on_volume(config);
    let look = tokio::task::spawn_blocking(move || Ok::<_, Trouble>((releases.list()?, releases.current()?)));
    let (volume, current) = look.await.map_err(|e| Failure::failed(e.to_string()))??;
    let volume = volume.into_iter().map(Held::from).collect();
    console.print(&Answer { store: in_store, volume, current });
    Ok(Exit::Done)
}
