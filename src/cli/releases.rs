//! `pitstop releases`: what the store and the volume hold.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{Console, Exit, Failure, publish::usage};
use crate::{
    config::Config,
    core::Problem,
    releases::{
        Releases,
        leases::Lease,
        prune::{Class, Judged},
    },
    revision::ReleaseId,
    store::{self, inventory},
};

/// All of them: those on the volume first, in the order in which they stay.
#[derive(Debug, Serialize)]
struct Answer {
    releases: Vec<Listed>,
    current: Option<ReleaseId>,
    /// Why the store could not be listed.
    store_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    release: ReleaseId,
    in_store: bool,
    on_volume: Option<Held>,
    /// `current` points to it.
    current: bool,
    /// What pods need it for, by their leases.
    leased: Vec<Leased>,
}

/// A complete release on the volume.
#[derive(Debug, Serialize)]
struct Held {
    completed: String,
    bytes: u64,
    class: Class,
}

#[derive(Debug, Serialize)]
struct Leased {
    pod: String,
    role: &'static str,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.store_error {
            writeln!(f, "the store could not be listed: {error}")?;
        }
        let width = self.releases.iter().map(|one| one.release.as_str().len()).max().unwrap_or(0).max(7);
        write!(f, "{:<width$}  STORE  VOLUME                STATE", "RELEASE")?;
        for one in &self.releases {
            let store = if one.in_store { "yes" } else { "-" };
            let volume = one.on_volume.as_ref().map_or("-", |held| held.completed.as_str());
            write!(f, "\n{:<width$}  {store:<5}  {volume:<20}  {}", one.release.as_str(), one.state())?;
        }
        Ok(())
    }
}

impl Listed {
    fn state(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.current.then(|| "current".into()));
        words.extend(
            self.on_volume.iter().filter(|held| held.class != Class::Good).map(|h| h.class.word().into()),
        );
        words.extend(self.leased.iter().map(|leased| format!("{} in {}", leased.role, leased.pod)));
        words.join(", ")
    }
}

/// Lists them; [`Exit::Failed`] when the store could not be asked.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: &Config, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let in_store = inventory::releases(store.as_ref()).await.map_err(|e| Problem::from(e).message);
    let releases = super::on_volume(config);
    let look = tokio::task::spawn_blocking(move || look(&releases));
    let (judged, leases, current) = look.await.map_err(|e| Failure::failed(e.to_string()))??;
    let (in_store, store_error) = match in_store {
        Ok(ids) => (ids, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let exit = if store_error.is_none() { Exit::Done } else { Exit::Failed };
    console.print(&Answer {
        releases: merged(in_store, judged, &leases, current.as_ref()),
        current,
        store_error,
    });
    Ok(exit)
}

type OnVolume = (Vec<Judged>, Vec<Lease>, Option<ReleaseId>);

/// There need not be a volume where an operator sits.
fn look(releases: &Releases) -> Result<OnVolume, Problem> {
    if releases.check_volume().is_err() {
        return Ok((Vec::new(), Vec::new(), None));
    }
    Ok((releases.judge(&BTreeMap::new)?, releases.leases()?.live, releases.current()?))
}

fn merged(
    in_store: Vec<ReleaseId>,
    judged: Vec<Judged>,
    leases: &[Lease],
    current: Option<&ReleaseId>,
) -> Vec<Listed> {
    let listed = |release: ReleaseId, in_store, on_volume| {
        let leased = |lease: &Lease| Some(Leased { pod: lease.pod.clone(), role: lease.role(&release)? });
        let leased = leases.iter().filter_map(leased).collect();
        Listed { current: current == Some(&release), leased, release, in_store, on_volume }
    };
    let only_store = in_store.iter().filter(|id| judged.iter().all(|one| one.release != **id)).cloned();
    let only_store: Vec<_> = only_store.collect();
    let held = |one: &Judged| Held {
        completed: humantime::format_rfc3339_seconds(one.completed).to_string(),
        bytes: one.bytes,
        class: one.class,
    };
    let volume = judged.into_iter().map(|one| {
        let (held, in_store) = (held(&one), in_store.contains(&one.release));
        listed(one.release, in_store, Some(held))
    });
    let mut all: Vec<_> = volume.collect();
    all.extend(only_store.into_iter().rev().map(|id| listed(id, true, None)));
    all
}
