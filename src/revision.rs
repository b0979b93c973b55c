//! Release ids, pointer values and the lines of `revisions.log`: the words that every part shares.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

mod canary;

pub(crate) use canary::{Aborted, Canary, Leader, PodCount};

/// The name of a release: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(Arc<str>);

/// In round brackets, which no id has.
const FALLBACK: &str = "(fallback_dir)";

/// A string that is no release id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no release id: 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
)]
pub struct InvalidReleaseId(pub(crate) String);

impl ReleaseId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for the code in `fallback_dir` wherever a release is named. No release can be
    /// called so, and no pointer may name it.
    pub(crate) fn fallback() -> Self {
        Self(FALLBACK.into())
    }

    /// Whether this is no release but the code in `fallback_dir`.
    pub(crate) fn is_fallback(&self) -> bool {
        *self.0 == *FALLBACK
    }
}

impl FromStr for ReleaseId {
    type Err = InvalidReleaseId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let tail_is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let valid = text.len() <= 128
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && text.as_bytes().iter().all(tail_is_plain);
        if valid { Ok(Self(text.into())) } else { Err(InvalidReleaseId(text.chars().take(200).collect())) }
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = InvalidReleaseId;

    /// Also what our own journal says of `fallback_dir`; a text of the user's is parsed instead.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == FALLBACK { Ok(Self::fallback()) } else { text.parse() }
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One move of the pointer: a release, and the number of the move. Two moves to the same release
/// differ by their sequence; a plain-text pointer has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision {
    /// What is to run.
    pub release: ReleaseId,
    /// The number of the move, counted by `promote` and `rollback`.
    #[serde(default)]
    pub sequence: Option<u64>,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sequence {
            Some(sequence) => write!(f, "{}#{sequence}", self.release),
            None => write!(f, "{}", self.release),
        }
    }
}

/// What a release pointer says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pointer {
    /// The move: release and sequence, at the top level of the JSON.
    #[serde(flatten)]
    pub revision: Revision,
    /// Where the pointer was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<ReleaseId>,
    /// Releases that somebody rolled back from, the latest first: none of them is a way back, until somebody
    /// promotes it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rolled_back: Vec<ReleaseId>,
    /// SHA-256 of the release's archive, in lower-case hexadecimal digits, as `promote` found it in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// No pod that follows the pointer starts a deploy, until this is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "note")]
    pub(crate) paused: Option<Note>,
    /// Since when its signature does not hold any more (RFC 3339): then no pod starts a deploy, either.
    #[serde(skip)]
    pub(crate) expired: Option<String>,
    /// Some pods are to run another release already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) canary: Option<Box<Canary>>,
    /// The last canary that was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "canary::aborted")]
    pub(crate) aborted: Option<Aborted>,
}

impl From<Revision> for Pointer {
    /// What nothing else is known of.
    fn from(revision: Revision) -> Self {
        Self {
            revision,
            previous: None,
            rolled_back: Vec::new(),
            sha256: None,
            paused: None,
            canary: None,
            aborted: None,
            expired: None,
        }
    }
}

impl Pointer {
    /// The move that its canary is, if it has one.
    pub(crate) fn canary(&self) -> Option<Revision> {
        Some(self.canary.as_ref()?.revision(self.revision.sequence))
    }

    /// What it says to a pod that is among its canaries, if this one is; else to all others. The canary's way back is
    /// the pointer's own release.
    pub(crate) fn named(&self) -> Self {
        let (Some(revision), Some(canary)) = (self.canary(), &self.canary) else { return self.clone() };
        if !canary.chosen {
            return self.clone();
        }
        let other = |release: &ReleaseId| *release != revision.release;
        Self {
            previous: Some(self.revision.release.clone()).filter(other),
            rolled_back: self.rolled_back.iter().filter(|release| other(release)).cloned().collect(),
            // The move has its number now; whoever reads it again must not count on from that.
            canary: Some(Box::new(Canary { sequence: revision.sequence, ..Canary::clone(canary) })),
            sha256: canary.sha256.clone(),
            revision,
            ..self.clone()
        }
    }

    /// Its move is that of a canary: only some pods follow it.
    pub(crate) fn is_canary(&self) -> bool {
        self.canary.as_ref().is_some_and(|canary| canary.chosen)
    }

    /// The highest number of a move that it knows.
    pub(crate) fn latest(&self) -> Option<u64> {
        let canary = self.canary().and_then(|canary| canary.sequence);
        let aborted = self.aborted.as_ref().and_then(|aborted| aborted.sequence);
        self.revision.sequence.max(canary).max(aborted)
    }
}

/// Who holds something up for everybody, since when and why, as far as they say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Note {
    /// For those who find it like that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// A person or a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// Since when (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("since ", &self.at), ("by ", &self.by)];
        let parts = parts.iter().filter_map(|(word, part)| Some(format!("{word}{}", part.as_ref()?)));
        let parts = parts.collect::<Vec<_>>().join(" ");
        match (&self.why, parts.is_empty()) {
            (Some(why), true) => f.write_str(why),
            (Some(why), false) => write!(f, "{parts}: {why}"),
            (None, true) => f.write_str("nobody says by whom or why"),
            (None, false) => f.write_str(&parts),
        }
    }
}

/// A note as people write one by hand, too: a text is the reason, `null` and `false` are none, and anything else
/// is one of which nothing is known.
///
/// # Errors
/// Those of the deserializer only.
pub(crate) fn note<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Note>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Whether(Option<bool>),
        Why(String),
        Note(Note),
        Other(IgnoredAny),
    }
    Ok(match Written::deserialize(from)? {
        Written::Whether(None | Some(false)) => None,
        Written::Whether(Some(true)) | Written::Other(_) => Some(Note::default()),
        Written::Why(why) => Some(Note { why: Some(why), ..Note::default() }),
        Written::Note(note) => Some(note),
    })
}

/// What happened to a release in this pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordEvent {
    /// `current` is about to move to the release.
    Attempt,
    /// The app server is about to be told to restart.
    Signalled,
    /// Every worker was proved to run the release.
    Verified,
    /// The move failed and will not be tried again.
    Rejected,
    /// The pod is back on the release.
    Reverted,
}
