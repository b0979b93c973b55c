//! Moving a pointer: read, decided on, and written only if nobody else has moved it in between.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Console, Exit, Failure,
    converge::{self, Progress, Wait},
    publish::{failure, usage},
};
use crate::{
    config::{self, Config},
    pointer,
    revision::{Pointer, ReleaseId, Revision},
    store::{self, Body, Condition, Found, Store, StoreError, archive},
};

/// So many releases that somebody rolled back from are remembered.
const ROLLED_BACK_MAX: usize = 20;
/// A move that began at the same time is written by then.
const OTHERS_WRITE: Duration = Duration::from_secs(1);
/// So many other pointers are named where one is missing.
const NAMES_SHOWN: usize = 8;

/// A pointer that is about to move.
pub(super) struct Moving {
    /// Where it is.
    pub(crate) store: Arc<dyn Store>,
    /// Whether the store may be one that takes no notice of conditions.
    doubtful: bool,
    /// How it is called.
    pub(crate) name: String,
    condition: Condition,
    /// What it says; `None` when it is absent or garbage.
    pub(crate) now: Option<Pointer>,
    sequence: u64,
    rolled_back: Vec<ReleaseId>,
}

/// Where the pointer went.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Moved {
    pointer: String,
    release: ReleaseId,
    sequence: u64,
    previous: Option<ReleaseId>,
    rolled_back: Vec<ReleaseId>,
    /// The pointer is new.
    created: bool,
    /// How far the fleet has come, where that was waited for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    fleet: Option<Progress>,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} now points to {} (move {})", self.pointer, self.release, self.sequence)?;
        match &self.previous {
            _ if self.created => write!(f, ", a new pointer"),
            Some(previous) => write!(f, ", was {previous}"),
            None => Ok(()),
        }
    }
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
            Found::Object { version, bytes } => (Condition::Matches(version), bytes),
            Found::Absent | Found::NotModified => (Condition::Absent, Vec::new()),
        };
        if let Some(frozen) = saved::<Value>(&bytes, "frozen").filter(|frozen| !frozen.is_null()) {
            let message = format!("{} is frozen and was not moved: {frozen}", config.pointer);
            return Err(Failure::lost(message));
        }
        let now = pointer::parse(&bytes).ok();
        let rolled_back = saved(&bytes, "rolled_back").unwrap_or_default();
        let sequence = next_sequence(now.as_ref(), &bytes);
        let doubtful = config.s3.endpoint.is_some();
        Ok(Self { store, doubtful, name: config.pointer.clone(), condition, now, sequence, rolled_back })
    }

    /// Whether nobody has ever moved it.
    pub(super) fn is_new(&self) -> bool {
        self.condition == Condition::Absent
    }

    /// What nobody rolled back from, or promoted since.
    pub(super) fn rolled_back(&self) -> &[ReleaseId] {
        &self.rolled_back
    }

    /// What it names is rolled back from, if that is another release.
    pub(super) fn leave(&mut self, to: &ReleaseId) {
        let left = self.now.as_ref().map(|now| now.revision.release.clone()).filter(|left| left != to);
        if let Some(left) = left {
            self.rolled_back.retain(|release| *release != left);
            self.rolled_back.insert(0, left);
            self.rolled_back.truncate(ROLLED_BACK_MAX);
        }
    }

    /// Moves it, if the store has the release and nobody else was faster. Then waits for the fleet, if asked.
    pub(super) async fn to(
        mut self,
        id: ReleaseId,
        create: bool,
        wait: Option<Wait>,
        console: Console,
    ) -> Result<Exit, Failure> {
        let sha256 = archive::require(self.store.as_ref(), &id).await?.sha256;
        if self.is_new() && !create {
            self.refuse_a_mistake(&id).await?;
        }
        // Whoever names it wants it again.
        self.rolled_back.retain(|release| *release != id);
        let value = self.value(id, sha256);
        self.write(&value).await?;
        let mut moved = Moved {
            pointer: self.name.clone(),
            release: value.revision.release.clone(),
            sequence: self.sequence,
            previous: value.previous,
            rolled_back: value.rolled_back,
            created: self.is_new(),
            fleet: None,
        };
        let Some(wait) = wait else {
            console.print(&moved);
            return Ok(Exit::Done);
        };
        // Before the wait: whoever is interrupted in it has to know that the pointer has moved.
        if console.json {
            console.tell(&moved)
        } else {
            console.print(&moved)
        }
        let (exit, fleet) = converge::wait(&self.store, &self.name, &value.revision, wait, console).await;
        if console.json {
            moved.fleet = Some(fleet);
            console.print(&moved);
        } else {
            console.print(&fleet.result(&value.revision.release));
        }
        Ok(exit)
    }

    fn value(&self, id: ReleaseId, sha256: String) -> Pointer {
        let previous = self.previous(&id);
        let revision = Revision { release: id, sequence: Some(self.sequence) };
        Pointer { revision, previous, rolled_back: self.rolled_back.clone(), sha256: Some(sha256) }
    }

    /// Where it was before: the same release again keeps the way back that there was.
    fn previous(&self, id: &ReleaseId) -> Option<ReleaseId> {
        let now = self.now.as_ref()?;
        if now.revision.release == *id { now.previous.clone() } else { Some(now.revision.release.clone()) }
    }

    async fn write(&self, value: &Pointer) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|e| Failure::failed(e.to_string()))? + "\n";
        let key = store::pointer_key(&self.name);
        match self.store.put(&key, Body::Bytes(text.clone().into_bytes()), self.condition.clone()).await {
            Ok(_) => self.read_back(&key, &text).await,
            Err(StoreError::Changed(_)) => Err(self.refused(&key).await),
            Err(error) => self.after_all(&key, &text, error).await,
        }
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
        Err(Failure::lost(format!(
            "somebody else moved {name} at the same time, and {name} {there}. The store ignores conditional \
             writes (If-Match), so only one person or job may promote at a time. Check {name} and decide again"
        )))
    }

    /// An answer that is lost may have been a yes: who is told that nothing was moved must be able to rely on it.
    async fn after_all(&self, key: &str, written: &str, error: StoreError) -> Result<(), Failure> {
        match self.store.get(key, None, pointer::LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) if bytes == written.as_bytes() => Ok(()),
            Ok(_) => Err(failure(error)),
            Err(_) => {
                let failure = failure(error);
                let message = format!(
                    "{}; it is unknown whether {} was moved, so check it",
                    failure.message, self.name
                );
                Err(Failure { message, ..failure })
            }
        }
    }

    /// Somebody else was faster; or the store does not know the version again that it gave itself.
    async fn refused(&self, key: &str) -> Failure {
        let there = self.store.get(key, None, pointer::LIMIT_BYTES).await;
        match (&self.condition, there) {
            (Condition::Matches(known), Ok(Found::Object { version, .. })) if version == *known => {
                Failure::failed(format!(
                    "the store refuses to move {0}, though nobody else has moved it: its ETags do not hold for \
                     If-Match. Let no proxy in between change them (compression does), or move {0} by hand (docs/s3.md)",
                    self.name
                ))
            }
            _ => self.lost(),
        }
    }

    fn lost(&self) -> Failure {
        Failure::lost(format!(
            "somebody else moved {} at the same time, so nothing was changed; check it and decide again",
            self.name
        ))
    }

    /// A name that no pointer has, beside others that there are, is a slip more often than a wish.
    async fn refuse_a_mistake(&self, id: &ReleaseId) -> Result<(), Failure> {
        match self.others().await? {
            Some(others) if others.is_empty() => Ok(()),
            Some(others) if others.contains(&self.name) => Err(self.lost()),
            others => Err(Failure::failed(format!(
                "there is no pointer {}, so nothing was moved{}; `pitstop promote {id} --create` creates it",
                self.name,
                others.map(|others| among(&self.name, &others)).unwrap_or_default()
            ))),
        }
    }

    /// That it is not there, beside which others.
    pub(super) async fn missing(&self) -> Failure {
        let others = self.others().await.ok().flatten().unwrap_or_default();
        Failure::failed(format!("there is no pointer {}{}", self.name, among(&self.name, &others)))
    }

    /// The names of the pointers that there are; `None` where the store does not let us look.
    async fn others(&self) -> Result<Option<Vec<String>>, Failure> {
        let folder = store::pointer_key("");
        match self.store.list(&folder).await {
            Ok(keys) => {
                Ok(Some(keys.iter().filter_map(|key| key.strip_prefix(&folder)).map(Into::into).collect()))
            }
            Err(StoreError::Denied(_)) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }
}

/// `: did you mean staging? There are production, staging`.
fn among(name: &str, others: &[String]) -> String {
    if others.is_empty() {
        return "; the store has none".into();
    }
    let near = config::nearest(name, others.iter().map(String::as_str));
    let near = near.map_or_else(String::new, |near| format!(": did you mean {near}?"));
    let more = others.len().saturating_sub(NAMES_SHOWN);
    let shown = others.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{near} (the store has {shown}{more})")
}

/// What can be saved of a pointer that is garbage otherwise.
fn saved<T: DeserializeOwned>(bytes: &[u8], field: &str) -> Option<T> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    serde_json::from_value(value.get(field)?.clone()).ok()
}

/// One more than the last; for garbage whatever number can be saved, so that no move looks like an old one.
fn next_sequence(now: Option<&Pointer>, bytes: &[u8]) -> u64 {
    let last = now.and_then(|now| now.revision.sequence).or_else(|| saved(bytes, "sequence"));
    last.unwrap_or(0).saturating_add(1)
}

fn file_advice(path: &str, id: Option<&ReleaseId>) -> Failure {
    let id = id.map_or("<ID>", ReleaseId::as_str);
    Failure::usage(format!(
        "the pointer is the file {path}, which pitstop does not write. Change the release to {id} at the \
         file's origin: in git, commit and push; with a ConfigMap, `kubectl patch configmap <NAME> --type \
         merge -p '{{\"data\":{{\"<KEY>\":\"{id}\"}}}}'`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_move_always_grows() {
        let next = |text: &str| next_sequence(pointer::parse(text.as_bytes()).ok().as_ref(), text.as_bytes());
        assert_eq!(next(r#"{"release":"v1","sequence":7}"#), 8);
        assert_eq!(next("v1"), 1);
        assert_eq!(next(r#"{"release":"no id","sequence":7}"#), 8);
        assert_eq!(next(""), 1);
    }

    #[test]
    fn a_missing_pointer_is_told_beside_those_that_there_are() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let said = among("stagging", &names(&["production", "staging"]));
        assert_eq!(said, ": did you mean staging? (the store has production, staging)");
        assert_eq!(among("x", &names(&["production"])), " (the store has production)");
        assert_eq!(among("x", &[]), "; the store has none");
        let many: Vec<_> = (0..10).map(|n| format!("app-{n}")).collect();
        assert!(among("x", &many).ends_with("app-7 and 2 more)"));
    }
}
