//! `pitstop promote ID`: moves the pointer.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    Console, Exit, Failure,
    converge::{self, Progress, Wait},
    publish::{failure, usage},
};
use crate::{
    config::Config,
    pointer,
    revision::{Pointer, ReleaseId, Revision},
    store::{self, Body, Condition, Found, Store, StoreError, archive},
};

/// A move that began at the same time is written by then.
const OTHERS_WRITE: Duration = Duration::from_secs(1);

/// Where the pointer went.
#[derive(Debug, Serialize)]
struct Answer {
    pointer: String,
    release: ReleaseId,
    sequence: u64,
    previous: Option<ReleaseId>,
    /// How far the fleet has come, where that was waited for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    fleet: Option<Progress>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} now names {} (move {})", self.pointer, self.release, self.sequence)?;
        if let Some(previous) = &self.previous {
            write!(f, ", before {previous}")?;
        }
        match &self.fleet {
            Some(Progress { failed: Some(why), .. }) => write!(f, "\nfailed: {why}"),
            Some(Progress { arrived, .. }) => write!(f, "\nall {arrived} pods run it"),
            None => Ok(()),
        }
    }
}

/// Moves it by compare-and-swap; [`Exit::Failed`] when somebody else was faster.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(
    config: &Config,
    id: ReleaseId,
    wait: Option<Wait>,
    console: Console,
) -> Result<Exit, Failure> {
    let moving = Moving::begin(config, Some(&id)).await?;
    moving.to(id, wait, console).await
}

/// A pointer that is about to move.
pub(super) struct Moving {
    store: std::sync::Arc<dyn Store>,
    /// Whether the store may be one that takes no notice of conditions.
    doubtful: bool,
    name: String,
    condition: Condition,
    /// What it says; `None` when it is absent or garbage.
    pub now: Option<Pointer>,
    sequence: u64,
}

impl Moving {
    /// Reads it. `id` is for the advice only, when the pointer is not ours to move.
    pub(super) async fn begin(config: &Config, id: Option<&ReleaseId>) -> Result<Self, Failure> {
        if let Some(path) = pointer::file_path(&config.pointer) {
            return Err(file_advice(&path.display().to_string(), id));
        }
        let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
        let key = store::pointer_key(&config.pointer);
        let (condition, bytes) = match store.get(&key, None, pointer::LIMIT_BYTES).await.map_err(failure)? {
            Found::Object { version, bytes } => (Condition::Matches(version), Some(bytes)),
            Found::Absent | Found::NotModified => (Condition::Absent, None),
        };
        let now = bytes.as_deref().and_then(|bytes| pointer::parse(bytes).ok());
        let sequence = next_sequence(now.as_ref(), bytes.as_deref());
        let doubtful = config.s3.endpoint.is_some();
        Ok(Self { store, doubtful, name: config.pointer.clone(), condition, now, sequence })
    }

    /// Moves it, if the store has the release and nobody else was faster. Then waits for the fleet, if asked.
    pub(super) async fn to(
        self,
        id: ReleaseId,
        wait: Option<Wait>,
        console: Console,
    ) -> Result<Exit, Failure> {
        let published = archive::require(self.store.as_ref(), &id).await?;
        let previous = self.previous(&id);
        let revision = Revision { release: id.clone(), sequence: Some(self.sequence) };
        let sha256 = Some(published.sha256);
        let value = Pointer { previous: previous.clone(), sha256, ..revision.clone().into() };
        let text = serde_json::to_string(&value).map_err(|e| Failure::failed(e.to_string()))? + "\n";
        let key = store::pointer_key(&self.name);
        let condition = self.condition.clone();
        match self.store.put(&key, Body::Bytes(text.clone().into_bytes()), condition).await {
            Ok(_) => self.read_back(&key, &text).await?,
            Err(StoreError::Changed(_)) => return Err(lost(&self.name)),
            Err(e) => return Err(failure(e)),
        }
        let (exit, fleet) = match wait {
            None => (Exit::Done, None),
            Some(wait) => {
                let (exit, fleet) = converge::wait(&self.store, &self.name, &revision, wait, console).await?;
                (exit, Some(fleet))
            }
        };
        console.print(&Answer { pointer: self.name, release: id, sequence: self.sequence, previous, fleet });
        Ok(exit)
    }

    /// A store may answer that it did what it was asked, and have dropped the condition: then two moves can have the
    /// same number, and only one of them is there in the end.
    async fn read_back(&self, key: &str, written: &str) -> Result<(), Failure> {
        if self.doubtful {
            tokio::time::sleep(OTHERS_WRITE).await;
        }
        // What cannot be read back was written all the same.
        let Ok(Found::Object { bytes, .. }) = self.store.get(key, None, pointer::LIMIT_BYTES).await else {
            return Ok(());
        };
        let there = pointer::parse(&bytes).ok().map(|there| there.revision);
        let later = there.as_ref().and_then(|there| there.sequence) > Some(self.sequence);
        if bytes == written.as_bytes() || later {
            return Ok(());
        }
        let there = there.map_or_else(|| "is no pointer now".into(), |there| format!("names {there} now"));
        let name = &self.name;
        Err(Failure::failed(format!(
            "somebody else moved {name} at the same time, and {name} {there}: the store ignores the condition of a write \
             (If-Match), so let only one person or job promote at a time; look at {name} and decide again"
        )))
    }

    /// Where a rollback would go: the same release again keeps the way back that there was.
    fn previous(&self, id: &ReleaseId) -> Option<ReleaseId> {
        let now = self.now.as_ref()?;
        if now.revision.release == *id { now.previous.clone() } else { Some(now.revision.release.clone()) }
    }
}

/// One more than the last; for garbage whatever number can be saved, so that no move looks like an old one.
fn next_sequence(now: Option<&Pointer>, bytes: Option<&[u8]>) -> u64 {
    let saved = || serde_json::from_slice::<serde_json::Value>(bytes?).ok()?.get("sequence")?.as_u64();
    now.and_then(|now| now.revision.sequence).or_else(saved).unwrap_or(0).saturating_add(1)
}

fn lost(name: &str) -> Failure {
    Failure::failed(format!(
        "somebody else moved {name} at the same time, so it was left alone; look at it and decide again"
    ))
}

fn file_advice(path: &str, id: Option<&ReleaseId>) -> Failure {
    let id = id.map_or("<ID>", ReleaseId::as_str);
    Failure::usage(format!(
        "the pointer is the file {path}, which pitstop does not write. Change the release to {id} where the file comes \
         from: in git, commit and push it; with a ConfigMap, `kubectl patch configmap <NAME> --type merge -p \
         '{{\"data\":{{\"<KEY>\":\"{id}\"}}}}'`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_move_always_grows() {
        let next =
            |text: &str| next_sequence(pointer::parse(text.as_bytes()).ok().as_ref(), Some(text.as_bytes()));
        assert_eq!(next(r#"{"release":"v1","sequence":7}"#), 8);
        assert_eq!(next("v1"), 1);
        assert_eq!(next(r#"{"release":"no id","sequence":7}"#), 8);
        assert_eq!(next_sequence(None, None), 1);
    }
}
