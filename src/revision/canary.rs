//! A release that some pods run before the others: what a pointer says of it, and of the last one that was aborted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use super::{ReleaseId, Revision};

/// Some of a fleet's pods: so many, or so many of a hundred. Written `3` or `25%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Number", into = "String")]
pub(crate) enum PodCount {
    /// So many.
    Pods(u32),
    /// So many of a hundred, 0 to 100.
    Percent(u8),
}

impl PodCount {
    /// Of so many pods, rounded up; never more than there are.
    pub(crate) fn up(self, of: usize) -> usize {
        match self {
            Self::Pods(pods) => usize::try_from(pods).unwrap_or(usize::MAX).min(of),
            Self::Percent(percent) => (of * usize::from(percent)).div_ceil(100).min(of),
        }
    }

    /// Of so many pods, rounded down; at least one.
    pub(crate) fn down(self, of: usize) -> usize {
        match self {
            Self::Pods(_) => self.up(of).max(1),
            Self::Percent(percent) => (of * usize::from(percent) / 100).clamp(1, of.max(1)),
        }
    }
}

impl FromStr for PodCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = match text.trim().strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.trim().parse().ok().map(Self::Pods),
        };
        count.ok_or_else(|| format!("\"{text}\" is neither a number of pods nor a percentage like 25%"))
    }
}

impl fmt::Display for PodCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(pods) => write!(f, "{pods}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl From<PodCount> for String {
    fn from(count: PodCount) -> Self {
        count.to_string()
    }
}

/// As people and tools write one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Count(u32),
    Text(String),
}

impl TryFrom<Number> for PodCount {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        match number {
            Number::Count(pods) => Ok(Self::Pods(pods)),
            Number::Text(text) => text.parse(),
        }
    }
}

/// A release that some pods are to run already. In a pointer: `"canary":{"release":"v42","sequence":8,"pods":1}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct Canary {
    /// What they are to run.
    pub(crate) release: ReleaseId,
    /// The number of this move. Where somebody wrote none by hand it follows the pointer's own.
    pub(crate) sequence: Option<u64>,
    /// SHA-256 of the release's archive, in lower-case hexadecimal digits.
    pub(crate) sha256: Option<String>,
    /// How many pods.
    pub(crate) share: PodCount,
    /// So many pods at once in a restart that exposes or stalls, whatever their configuration says.
    pub(crate) max_unavailable: Option<PodCount>,
    /// Who leads it; `None` when it was written by hand.
    pub(crate) rollout: Option<Leader>,
    /// This pod is one of them. Not part of the object: the agent finds it out.
    pub(crate) chosen: bool,
}

impl Canary {
    /// The move, beside a pointer with this number.
    pub(crate) fn revision(&self, pointer: Option<u64>) -> Revision {
        let sequence = self.sequence.or_else(|| Some(pointer?.saturating_add(1)));
        Revision { release: self.release.clone(), sequence }
    }
}

/// The rollout that a canary belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Leader {
    /// Its name.
    pub(crate) id: String,
    /// Grows with every takeover: who has a lower one writes no more.
    pub(crate) fence: u64,
}

/// A canary that was taken back. In a pointer: `"aborted":{"release":"v42","sequence":8,"why":"…","at":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Aborted {
    /// What some pods were to run.
    pub(crate) release: ReleaseId,
    /// The number of that move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<u64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// When (RFC 3339), by the clock of who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

/// One that cannot be read is none.
///
/// # Errors
/// Those of the deserializer only.
pub(super) fn aborted<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Aborted>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Aborted(Aborted),
        Other(IgnoredAny),
    }
    Ok(match Written::deserialize(from)? {
        Written::Aborted(aborted) => Some(aborted),
        Written::Other(_) => None,
    })
}

/// A canary as it stands in the object.
#[derive(Serialize, Deserialize)]
struct Written {
    release: ReleaseId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pods: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_unavailable: Option<PodCount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollout: Option<Leader>,
}

impl TryFrom<Written> for Canary {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { release, sequence, sha256, pods, percent, max_unavailable, rollout } = written;
        let share = match (pods, percent) {
            (Some(pods), None) => PodCount::Pods(pods),
            (None, Some(percent @ 0..=100)) => PodCount::Percent(percent),
            _ => return Err("needs either \"pods\" (a number) or \"percent\" (0 to 100)"),
        };
        if release.is_fallback() {
            return Err("names no release");
        }
        Ok(Self { release, sequence, sha256, share, max_unavailable, rollout, chosen: false })
    }
}

impl From<Canary> for Written {
    fn from(canary: Canary) -> Self {
        let Canary { release, sequence, sha256, share, max_unavailable, rollout, chosen: _ } = canary;
        let (pods, percent) = match share {
            PodCount::Pods(pods) => (Some(pods), None),
            PodCount::Percent(percent) => (None, Some(percent)),
        };
        Self { release, sequence, sha256, pods, percent, max_unavailable, rollout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Canary, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_canary_is_written_as_it_was_read() {
        let whole = r#"{"release":"v42","sequence":8,"sha256":"ab","percent":25,"max_unavailable":"2","rollout":{"id":"x","fence":3}}"#;
        assert_eq!(serde_json::to_string(&read(whole).unwrap()).unwrap(), whole);
        let by_hand = read(r#"{"release":"v42","pods":1,"ticket":7}"#).unwrap();
        assert_eq!((by_hand.share, by_hand.rollout.is_none()), (PodCount::Pods(1), true));
        assert_eq!(by_hand.revision(Some(7)).to_string(), "v42#8");
        assert_eq!(by_hand.revision(None).to_string(), "v42");
        assert_eq!(serde_json::to_string(&by_hand).unwrap(), r#"{"release":"v42","pods":1}"#);
    }

    #[test]
    fn a_share_is_one_number_of_one_kind() {
        for wrong in [
            r#"{"release":"v42"}"#,
            r#"{"release":"v42","pods":1,"percent":25}"#,
            r#"{"release":"v42","percent":101}"#,
            r#"{"release":"v42","pods":-1}"#,
            r#"{"release":"(fallback_dir)","pods":1}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for (text, count) in [("25%", PodCount::Percent(25)), ("3", PodCount::Pods(3))] {
            assert_eq!((text.parse(), count.to_string().as_str()), (Ok(count), text));
            assert_eq!(serde_json::from_str::<PodCount>(&format!("\"{text}\"")).unwrap(), count);
        }
        for wrong in ["", "101%", "-1", "a%", "2.5"] {
            assert!(wrong.parse::<PodCount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_rounded_up_and_limits_down() {
        let (quarter, three) = (PodCount::Percent(25), PodCount::Pods(3));
        assert_eq!([0, 1, 4, 5, 100].map(|of| quarter.up(of)), [0, 1, 1, 2, 25]);
        assert_eq!([0, 1, 4, 7, 8, 100].map(|of| quarter.down(of)), [1, 1, 1, 1, 2, 25]);
        assert_eq!([0, 1, 4].map(|of| three.up(of)), [0, 1, 3]);
        assert_eq!([0, 1, 4].map(|of| three.down(of)), [1, 1, 3]);
        assert_eq!(PodCount::Percent(0).down(9), 1, "somebody has to begin");
    }
}
