//! Which releases of a store somebody needs. What cannot be read may need any of them, so then nothing is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::StoreClock;
use crate::{
    cli::{Failure, publish::failure, rollout, swap},
    fleet::{self, moves, moves::Moves},
    pointer::{
        self,
        document::{Document, FROZEN, PAUSED},
    },
    revision::ReleaseId,
    store::{self, Found, Listed, Store, StoreError},
};

/// So many objects are read at the same time; a directory's thread takes few.
const AT_ONCE: usize = 4;
/// A pod that has reported within this time counts in any case: others delete the reports of those that are gone.
const HEARD_OF: Duration = Duration::from_secs(24 * 3600);

/// Releases, and what each is needed for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needed(BTreeMap<ReleaseId, String>);

impl Needed {
    /// What it is needed for.
    pub(super) fn why(&self, release: &ReleaseId) -> Option<&str> {
        self.0.get(release).map(String::as_str)
    }

    fn add(&mut self, release: Option<ReleaseId>, why: impl FnOnce() -> String) {
        if let Some(release) = release {
            self.0.entry(release).or_insert_with(why);
        }
    }
}

/// A pointer as it was read.
struct Read {
    name: String,
    document: Document,
}

/// By pointers and by rollouts that have not ended: what can change from one moment to the next.
///
/// # Errors
/// [`Failure`] when one of them cannot be read, or there is none.
pub(super) async fn at_once(store: &Arc<dyn Store>) -> Result<Needed, Failure> {
    let mut needed = Needed::default();
    named(&pointers(store).await?, &mut needed);
    rolling_out(store, &mut needed).await?;
    Ok(needed)
}

/// By anybody: also by the last `moves` moves of each pointer, all of them where a pointer is frozen or paused, and by
/// pods that have reported within `within`, or a day, by the store's clock.
///
/// # Errors
/// [`Failure`] when something of it cannot be read.
pub(super) async fn by_anybody(
    store: &Arc<dyn Store>,
    moves: u64,
    within: Duration,
    clock: &mut StoreClock,
) -> Result<Needed, Failure> {
    let mut needed = Needed::default();
    let pointers = pointers(store).await?;
    named(&pointers, &mut needed);
    rolling_out(store, &mut needed).await?;
    let mut reports = Vec::new();
    for pointer in &pointers {
        let prefix = fleet::prefix(&pointer.name);
        let listed = store.list_dated(&prefix).await.map_err(failure)?;
        listed.iter().for_each(|one| clock.see(one.written_s));
        reports.push((prefix, listed));
    }
    let since_s = clock.now_s().saturating_sub(within.max(HEARD_OF).as_secs());
    for (prefix, mut listed) in reports {
        listed.retain(|one| one.written_s == 0 || one.written_s >= since_s);
        run_by_pods(store, &prefix, listed, &mut needed).await?;
    }
    for pointer in &pointers {
        moved_to(store, pointer, moves, &mut needed).await?;
    }
    Ok(needed)
}

async fn pointers(store: &Arc<dyn Store>) -> Result<Vec<Read>, Failure> {
    let names = swap::names(store.as_ref()).await.map_err(failure)?;
    if names.is_empty() {
        return Err(Failure::failed(
            "the store has no pointer, so which releases are needed is unknown: \
             pointers in files and in other stores are not seen",
        ));
    }
    let read = stream::iter(names).map(|name| async move {
        let found = store.get(&store::pointer_key(&name), None, pointer::LIMIT_BYTES).await;
        let bytes = match found.map_err(|error| unread(&format!("the pointer {name}"), &error))? {
            Found::Object { bytes, .. } => bytes,
            Found::Absent | Found::NotModified => return Ok(None),
        };
        let document = Document::of(&bytes);
        if document.pointer.is_none() {
            return Err(Failure::failed(format!(
                "{name} is not a valid pointer, so which releases its pods need is unknown: `pitstop promote \
                 ID` writes it anew"
            )));
        }
        Ok(Some(Read { name, document }))
    });
    let read: Vec<_> = read.buffered(AT_ONCE).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

fn named(pointers: &[Read], needed: &mut Needed) {
    for Read { name, document } in pointers {
        let Some(pointer) = &document.pointer else { continue };
        needed.add(Some(pointer.revision.release.clone()), || format!("{name} points to it"));
        let canary = pointer.canary.as_ref().map(|canary| canary.release.clone());
        needed.add(canary, || format!("it is the canary of {name}"));
    }
    for Read { name, document } in pointers {
        let previous = document.pointer.as_ref().and_then(|pointer| pointer.previous.clone());
        needed.add(previous, || format!("{name} pointed to it before"));
    }
}

async fn rolling_out(store: &Arc<dyn Store>, needed: &mut Needed) -> Result<(), Failure> {
    let all = store.list(rollout::PREFIX).await.map_err(failure)?;
    for name in all.iter().filter_map(|key| key.strip_prefix(rollout::PREFIX)) {
        let read = rollout::needs(store, name).await;
        for release in read.map_err(|error| unread(&format!("the rollout of {name}"), &error))? {
            needed.add(Some(release), || format!("a rollout of {name} has not ended"));
        }
    }
    Ok(())
}

/// By the pods' own word, as far as it can be read, of whatever version: what is not there needs nothing.
async fn run_by_pods(
    store: &Arc<dyn Store>,
    prefix: &str,
    listed: Vec<Listed>,
    needed: &mut Needed,
) -> Result<(), Failure> {
    let reports = stream::iter(listed).map(|one| async move {
        let found = store.get(&one.key, None, fleet::LIMIT_BYTES).await;
        let bytes = match found.map_err(|error| unread(&one.key, &error))? {
            Found::Object { bytes, .. } => bytes,
            Found::Absent | Found::NotModified => return Ok(None),
        };
        let report: Value = serde_json::from_slice(&bytes).map_err(|_| {
            Failure::failed(format!(
                "{} is no report of a pod, so which releases the pod needs is unknown: \
                 delete it if there is no such pod",
                one.key
            ))
        })?;
        Ok::<_, Failure>(Some((one.key, report)))
    });
    let reports: Vec<_> = reports.buffered(AT_ONCE).try_collect().await?;
    for (key, report) in reports.into_iter().flatten() {
        let pod = key.strip_prefix(prefix).unwrap_or(&key);
        let release = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        needed.add(release(&report["running"]), || format!("pod {pod} runs it"));
        needed.add(release(&report["desired"]["release"]), || format!("pod {pod} is to run it"));
    }
    Ok(())
}

async fn moved_to(
    store: &Arc<dyn Store>,
    pointer: &Read,
    most: u64,
    needed: &mut Needed,
) -> Result<(), Failure> {
    let Read { name, document } = pointer;
    let held = document.note(FROZEN).is_some() || document.note(PAUSED).is_some();
    let folder = moves::prefix(name);
    let keys = store.list(&folder).await.map_err(failure)?;
    let numbers: BTreeSet<u64> =
        keys.iter().filter_map(|key| key.strip_prefix(&folder)?.parse().ok()).collect();
    let Some(last) = numbers.last() else { return Ok(()) };
    let most = if held { u64::MAX } else { most };
    let entries = Moves::of(store, name).back_from(*last, most).await;
    for entry in entries.map_err(|error| unread(&format!("the history of {name}"), &error))? {
        let why = || match held {
            true => format!("move {} of {name}, which is frozen or paused", entry.made.sequence),
            false => format!("move {} of {name}", entry.made.sequence),
        };
        needed.add(Some(entry.made.release.clone()), why);
        needed.add(entry.made.previous.clone(), why);
    }
    Ok(())
}

fn unread(what: &str, error: &StoreError) -> Failure {
    Failure {
        reason: Some(error.reason()),
        ..Failure::failed(format!("{what} cannot be read, so which releases are needed is unknown: {error}"))
    }
}
