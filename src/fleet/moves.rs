//! The history of a pointer: one object for each move, and one for how it ended. Each is written once and never again.
//!
//! ```text
//! moves/<pointer>/<sequence>       JSON: the move, by who made it
//! moves/<pointer>/<sequence>.end   JSON: how it ended, by whoever knows first
//! ```

use std::{sync::Arc, time::SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{LIMIT_BYTES, Report};
use crate::{
    revision::{ReleaseId, Revision},
    store::{Body, Condition, Found, Store, StoreError},
};

/// So many moves are read at the same time.
const AT_ONCE: usize = 8;

/// One move of a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) v: u32,
    /// What it named.
    pub(crate) release: ReleaseId,
    /// Its number.
    pub(crate) sequence: u64,
    /// What the pointer named before.
    #[serde(default)]
    pub(crate) previous: Option<ReleaseId>,
    /// The archive's digest.
    #[serde(default)]
    pub(crate) sha256: Option<String>,
    /// The command that made it.
    #[serde(default)]
    pub(crate) how: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub(crate) moved_by: Option<String>,
    /// When, by their clock (RFC 3339).
    #[serde(default)]
    pub(crate) moved_at: Option<String>,
    /// For those who read it later.
    #[serde(default)]
    pub(crate) why: Option<String>,
}

impl Move {
    /// As reports name it.
    pub(crate) fn revision(&self) -> Revision {
        Revision { release: self.release.clone(), sequence: Some(self.sequence) }
    }
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) v: u32,
    pub(crate) result: Ended,
    /// The same for people.
    #[serde(default)]
    pub(crate) message: String,
    /// Who found it out.
    #[serde(default)]
    pub(crate) by: Option<String>,
    /// When, by their clock (RFC 3339).
    #[serde(default)]
    pub(crate) at: Option<String>,
}

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// The fleet ran the release, proven.
    Verified,
    /// A pod rejected it.
    Rejected,
    /// Another move came before most pods ran the release.
    Superseded,
    /// A word of a version to come.
    #[serde(other)]
    Unknown,
}

impl Ended {
    /// As in the object.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Rejected => "rejected",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        }
    }
}

/// What the history knows of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) made: Move,
    /// `None`: nobody has found out yet.
    pub(crate) end: Option<End>,
}

/// How far the pods have come with a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Live pods.
    pub(crate) pods: usize,
    /// Those that run the release, proven, whichever move named it to them.
    pub(crate) arrived: usize,
    /// Those that rejected it, with the reason.
    pub(crate) rejected: Vec<String>,
}

impl Tally {
    /// By the pods' reports.
    pub(crate) fn of<'a>(
        reports: impl Iterator<Item = &'a Report>,
        moved: &Revision,
        now: SystemTime,
    ) -> Self {
        let live: Vec<_> = reports.filter(|report| report.is_live(now)).collect();
        let rejected =
            live.iter().filter_map(|report| Some(format!("{}: {}", report.pod, report.rejection(moved)?)));
        Self {
            pods: live.len(),
            arrived: live.iter().filter(|report| report.running.as_ref() == Some(&moved.release)).count(),
            rejected: rejected.collect(),
        }
    }

    /// How the move has ended when another one takes its place; `None` where no pod can tell.
    pub(crate) fn end(&self) -> Option<(Ended, String)> {
        match self.pods {
            0 => None,
            _ if !self.rejected.is_empty() => Some((Ended::Rejected, self.rejected.join(", "))),
            // One pod that lags behind says nothing against the release.
            pods if 2 * self.arrived > pods => Some((Ended::Verified, self.ran())),
            _ => Some((Ended::Superseded, self.ran())),
        }
    }

    fn ran(&self) -> String {
        format!("{} of {} pods ran it", self.arrived, self.pods)
    }
}

/// The history of one pointer.
pub(crate) struct Moves {
    store: Arc<dyn Store>,
    pointer: String,
}

impl Moves {
    pub(crate) fn of(store: &Arc<dyn Store>, pointer: &str) -> Self {
        Self { store: store.clone(), pointer: pointer.into() }
    }

    fn key(&self, sequence: u64) -> String {
        format!("{}{sequence}", prefix(&self.pointer))
    }

    /// The first number from this one on that no move has. Where the history does not tell, this one.
    pub(crate) async fn unused(&self, from: u64) -> u64 {
        let mut sequence = from;
        while let Ok(Found::Object { .. }) = self.store.get(&self.key(sequence), None, LIMIT_BYTES).await {
            sequence = sequence.saturating_add(1);
        }
        sequence
    }

    /// Writes a move that is not there yet.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn write(&self, made: &Move) -> Result<(), StoreError> {
        self.create(&self.key(made.sequence), made).await
    }

    /// Writes how a move ended, if nobody has yet.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn write_end(&self, sequence: u64, end: &End) -> Result<(), StoreError> {
        self.create(&format!("{}.end", self.key(sequence)), end).await
    }

    async fn create(&self, key: &str, what: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_string(what).map_err(|e| StoreError::Source(e.to_string()))? + "\n";
        match self.store.put(key, Body::Bytes(text.into_bytes()), Condition::Absent).await {
            Ok(_) | Err(StoreError::Changed(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How a move ended, if somebody knows.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn end(&self, sequence: u64) -> Result<Option<End>, StoreError> {
        self.read(&format!("{}.end", self.key(sequence))).await
    }

    /// The moves of the `most` numbers up to `last`, the last one first. Those that nobody has written are left out.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn back_from(&self, last: u64, most: u64) -> Result<Vec<Entry>, StoreError> {
        let numbers = (1..=last).rev().take(usize::try_from(most).unwrap_or(usize::MAX));
        let entries = stream::iter(numbers).map(|sequence| self.entry(sequence)).buffered(AT_ONCE);
        let entries: Vec<_> = entries.try_collect().await?;
        Ok(entries.into_iter().flatten().collect())
    }

    async fn entry(&self, sequence: u64) -> Result<Option<Entry>, StoreError> {
        let made: Option<Move> = self.read(&self.key(sequence)).await?;
        let Some(made) = made.filter(|made| made.sequence == sequence && !made.release.is_fallback()) else {
            return Ok(None);
        };
        Ok(Some(Entry { made, end: self.end(sequence).await? }))
    }

    /// What cannot be read is of a version to come, or damaged: as if it were not there.
    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        match self.store.get(key, None, LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) => Ok(serde_json::from_slice(&bytes).ok()),
            Ok(Found::Absent | Found::NotModified) | Err(StoreError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The prefix of all moves of a pointer.
pub(crate) fn prefix(pointer: &str) -> String {
    format!("moves/{pointer}/")
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// One move of the history, or its end.
    pub(crate) fn moved(bytes: &[u8]) {
        if let Ok(made) = serde_json::from_slice::<Move>(bytes) {
            assert_eq!(made.revision().sequence, Some(made.sequence));
        }
        let _ = serde_json::from_slice::<End>(bytes).map(|end| serde_json::to_string(&end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(pods: usize, arrived: usize, rejected: &[&str]) -> Option<Ended> {
        let rejected = rejected.iter().map(|pod| (*pod).into()).collect();
        Tally { pods, arrived, rejected }.end().map(|(ended, _)| ended)
    }

    #[test]
    fn a_move_that_most_pods_ran_is_verified_and_one_that_a_pod_rejected_is_not() {
        assert_eq!(tally(0, 0, &[]), None, "nobody can tell");
        assert_eq!(tally(4, 3, &[]), Some(Ended::Verified));
        assert_eq!(tally(4, 2, &[]), Some(Ended::Superseded));
        assert_eq!(tally(4, 3, &["web-1: boot_failed"]), Some(Ended::Rejected));
    }

    #[test]
    fn what_later_versions_write_is_read_as_far_as_it_is_known() {
        let made: Move =
            serde_json::from_str(r#"{"v":2,"release":"v2","sequence":7,"approved_by":"bob"}"#).unwrap();
        assert_eq!(made.revision().to_string(), "v2#7");
        let end: End = serde_json::from_str(r#"{"v":2,"result":"bake_failed","message":"p95"}"#).unwrap();
        assert_eq!((end.result, end.message.as_str()), (Ended::Unknown, "p95"));
    }
}
