//! Whether there is memory for a second server. In a container with control groups of version 2 the kernel ends the
//! first one as well when there is none.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::inspector::LIMIT;
use crate::{
    core::{Problem, Reason},
    lane::Lane,
    plain_file,
};

/// So much of the limit may be taken, in percent.
const PERCENT: u64 = 90;
const MIB: u64 = 1 << 20;

/// What the last candidate took, in `state_dir`.
const LAST_NAME: &str = "candidate_memory.json";
/// It is one number.
const LAST_BYTES: u64 = 4 << 10;

/// A container's memory and its servers', in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(crate) limit: u64,
    /// By all that is there now.
    pub(crate) taken: u64,
    /// Of that by servers that have had their last new connection.
    pub(crate) lingering: u64,
    /// By a further server, once it has booted.
    pub(crate) next: u64,
}

/// What comes of comparing them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Enough,
    /// It is enough without the servers that linger.
    WithoutLingering,
    Short,
}

impl Room {
    pub(crate) fn verdict(self) -> Verdict {
        let fits = |taken: u64| taken.saturating_add(self.next) <= usable(self.limit);
        match (fits(self.taken), fits(self.taken.saturating_sub(self.lingering))) {
            (true, _) => Verdict::Enough,
            (false, true) => Verdict::WithoutLingering,
            (false, false) => Verdict::Short,
        }
    }

    /// The least limit that would do.
    fn needed(self) -> u64 {
        let taken = self.taken.saturating_sub(self.lingering);
        taken.saturating_add(self.next).saturating_mul(100).div_ceil(PERCENT)
    }

    /// What there is, in words.
    pub(crate) fn shown(self) -> String {
        format!(
            "the container may take {}, {} are taken, and a second server takes about {}",
            mib(self.limit),
            mib(self.taken),
            mib(self.next)
        )
    }

    pub(crate) fn fix(self) -> String {
        format!("raise the memory limit of the app's container to {}Mi", self.needed().div_ceil(MIB))
    }
}

/// The memory of the container is about to be used up while a candidate boots: the candidate has to go.
pub(super) fn exceeds(limit: u64, taken: u64) -> Option<Problem> {
    let message = format!(
        "{} of the container's {} were taken while the second server booted, so it was ended before the kernel ends the \
         first one: raise the memory limit of the app's container",
        mib(taken),
        mib(limit)
    );
    (taken > usable(limit)).then(|| Problem::new(Reason::NoMemory, message))
}

fn usable(limit: u64) -> u64 {
    limit / 100 * PERCENT
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// What the last candidate took that became the live server, across agents.
#[derive(Debug)]
pub(super) struct Last {
    file: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    bytes: u64,
}

impl Last {
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { file: state_dir.join(LAST_NAME) }
    }

    pub(super) async fn bytes(&self, lane: &Lane) -> Option<u64> {
        let file = self.file.clone();
        lane.look(LIMIT, move || read(&file)).await?
    }

    /// Without it the next one counts as large as the live server.
    pub(super) async fn keep(&self, lane: &Lane, bytes: u64) {
        let file = self.file.clone();
        if let Some(Err(error)) = lane.look(LIMIT, move || write(&file, bytes)).await {
            tracing::warn!(path = %self.file.display(), %error, "what the last server took cannot be written down");
        }
    }
}

fn read(file: &Path) -> Option<u64> {
    let text = plain_file::read(file, LAST_BYTES).ok()?;
    serde_json::from_slice(&text).ok().map(|Kept { bytes }| bytes)
}

fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(&serde_json::to_vec(&Kept { bytes })?)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// How much the last server took.
    pub(crate) fn taken(bytes: &[u8]) {
        let _ = serde_json::from_slice::<Kept>(bytes).map(|Kept { bytes }| bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(limit: u64, taken: u64, lingering: u64, next: u64) -> Room {
        let [limit, taken, lingering, next] = [limit, taken, lingering, next].map(|mib| mib * MIB);
        Room { limit, taken, lingering, next }
    }

    #[test]
    fn a_second_server_has_to_fit_into_nine_tenths_of_the_limit() {
        assert_eq!(room(1000, 500, 0, 400).verdict(), Verdict::Enough);
        assert_eq!(room(1000, 500, 0, 401).verdict(), Verdict::Short);
        assert_eq!(room(1000, 700, 200, 400).verdict(), Verdict::WithoutLingering);
        assert_eq!(room(1000, 700, 100, 400).verdict(), Verdict::Short);
    }

    #[test]
    fn the_limit_that_it_names_would_do() {
        let short = room(512, 300, 40, 280);
        assert_eq!(short.verdict(), Verdict::Short);
        assert_eq!(short.fix(), "raise the memory limit of the app's container to 600Mi");
        let raised = |mib: u64| Room { limit: mib * MIB, ..short }.verdict();
        assert_eq!((raised(600), raised(599)), (Verdict::WithoutLingering, Verdict::Short));
        assert_eq!(
            short.shown(),
            "the container may take 512 MiB, 300 MiB are taken, and a second server takes about 280 MiB"
        );
    }

    #[test]
    fn a_candidate_has_to_go_before_the_kernel_ends_the_first_server() {
        assert_eq!(exceeds(1000 * MIB, 900 * MIB), None);
        let found = exceeds(1000 * MIB, 901 * MIB).unwrap();
        assert!(found.reason == Reason::NoMemory && found.message.contains("901 MiB"), "{found:?}");
        assert_eq!(usable(u64::MAX) / 9, u64::MAX / 100 * 10, "no limit is too large to be reckoned with");
    }

    #[tokio::test]
    async fn what_the_last_candidate_took_is_known_to_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (last, lane) = (Last::of(dir.path()), Lane::start("test").unwrap());
        assert_eq!(last.bytes(&lane).await, None);
        last.keep(&lane, 7).await;
        last.keep(&lane, 4711).await;
        assert_eq!(Last::of(dir.path()).bytes(&lane).await, Some(4711));
        std::fs::write(&last.file, "{").unwrap();
        assert_eq!(last.bytes(&lane).await, None);
    }
}
