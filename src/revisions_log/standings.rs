//! What the journals of all pods of a volume say about its releases: which proved themselves, which failed.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    path::{Path, PathBuf},
};

use super::{FILE, PODS, dated_records};
use crate::{
    core::Record,
    revision::{RecordEvent, ReleaseId},
};

/// The last verdict on a release, in whichever pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// When it was given, by the pod's wall clock (RFC 3339): orders releases, decides nothing else.
    pub(crate) at: String,
    /// It was proved to run; otherwise it failed.
    pub(crate) good: bool,
}

impl Standing {
    fn is_after(&self, other: &Self) -> bool {
        (&self.at, !self.good) > (&other.at, !other.good)
    }
}

/// The last verdict on each release: the last line of each pod's journal, and of those the latest. Of verdicts of
/// the same millisecond the bad one counts. Journals that cannot be read are left out: their pods' leases protect
/// what they need.
pub(crate) fn standings(deploy_to: &Path) -> HashMap<ReleaseId, Standing> {
    let mut known: HashMap<ReleaseId, Standing> = HashMap::new();
    for journal in journals(deploy_to) {
        let of_this_pod: HashMap<ReleaseId, Standing> =
            dated_records(journal).into_iter().filter_map(verdict).collect();
        for (release, standing) in of_this_pod {
            match known.entry(release) {
                Entry::Vacant(first) => drop(first.insert(standing)),
                Entry::Occupied(mut last) if standing.is_after(last.get()) => drop(last.insert(standing)),
                Entry::Occupied(_) => {}
            }
        }
    }
    known
}

/// The journals of all pods that ever used the volume.
pub(crate) fn journals(deploy_to: &Path) -> impl Iterator<Item = PathBuf> {
    journals_in(&deploy_to.join(PODS))
}

pub(super) fn journals_in(pods: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(pods).into_iter().flatten().flatten().map(|pod| pod.path().join(FILE))
}

fn verdict((at, record): (String, Record)) -> Option<(ReleaseId, Standing)> {
    let good = match record.event {
        RecordEvent::Verified | RecordEvent::Reverted => true,
        RecordEvent::Rejected => false,
        RecordEvent::Attempt | RecordEvent::Signalled => return None,
    };
    Some((record.revision.release, Standing { at, good }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_verdict_of_any_pod_counts() {
        let dir = tempfile::tempdir().unwrap();
        let line = |at: u32, event: &str, release: &str| {
            format!(
                "{{\"v\":1,\"at\":\"2026-11-21T10:00:{at:02}.000Z\",\"event\":\"{event}\",\"release\":\"{release}\"}}\n"
            )
        };
        for (pod, text) in [
            ("a", line(1, "verified", "v1") + &line(5, "rejected", "v2") + &line(6, "attempt", "v3")),
            ("b", line(3, "rejected", "v1") + &line(4, "verified", "v2") + "torn"),
            // Within a millisecond, and by a clock that was set back.
            ("c", line(7, "verified", "v4") + &line(7, "rejected", "v4") + &line(7, "verified", "v6")),
            ("d", line(9, "rejected", "v5") + &line(8, "verified", "v5") + &line(7, "rejected", "v6")),
        ] {
            let home = dir.path().join(".pitstop/pods").join(pod);
            fs::create_dir_all(&home).unwrap();
            fs::write(home.join("revisions.log"), text).unwrap();
        }
        let known = standings(dir.path());
        let of = |release: &str| known.get(&release.parse().unwrap()).map(|standing| standing.good);
        assert_eq!((of("v1"), of("v2"), of("v3")), (Some(false), Some(false), None));
        assert_eq!((of("v4"), of("v5"), of("v6")), (Some(false), Some(true), Some(false)));
    }
}
