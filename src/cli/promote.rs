//! `pitstop promote ID`: moves the pointer.

use std::fmt;

use serde::Serialize;

use super::{
    Console, Exit, Failure,
    converge::{self, Progress, Wait},
    publish::{failure, usage},
};
use crate::{
    config::Config,
    core::{Reason, Trouble},
    pointer,
    revision::{Pointer, ReleaseId, Revision},
    store::{self, Body, Condition, Found, Store, StoreError, archive},
};

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
        Ok(Self { store, name: config.pointer.clone(), condition, now, sequence })
    }

    /// Moves it, if the store has the release and nobody else was faster. Then waits for the fleet, if asked.
    pub(super) async fn to(
        self,
        id: ReleaseId,
        wait: Option<Wait>,
        console: Console,
    ) -> Result<Exit, Failure> {
        if archive::find(self.store.as_ref(), &id).await.map_err(failure)?.is_none() {
            let message = format!("the store has no release {id}; see `pitstop releases`, or publish it");
            return Err(Trouble::new(Reason::ReleaseUnknown, message).into());
        }
        let previous = self.previous(&id);
        let revision = Revision { release: id.clone(), sequence: Some(self.sequence) };
        let value = Pointer { previous: previous.clone(), ..revision.clone().into() };
        let text = serde_json::to_string(&value).map_err(|e| Failure::failed(e.to_string()))? + "\n";
        let key = store::pointer_key(&self.name);
        match self.store.put(&key, Body::Bytes(text.into_bytes()), self.condition).await {
            Ok(_) => {}
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
