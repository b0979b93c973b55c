//! What the journals of all pods of a volume say about its releases: which proved themselves, which failed.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{READ_LIMIT_BYTES, lines, parse};
use crate::revision::{RecordEvent, ReleaseId};

/// The last verdict on a release, in whichever pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// When it was given, by the pod's wall clock (RFC 3339): orders releases, decides nothing else.
    pub at: String,
    /// It was proved to run; otherwise it failed.
    pub good: bool,
}

/// The last verdict on each release. Journals that cannot be read are left out: their pods' leases
/// protect what they need.
pub fn standings(deploy_to: &Path) -> HashMap<ReleaseId, Standing> {
    let mut known: HashMap<ReleaseId, Standing> = HashMap::new();
    for journal in journals(deploy_to) {
        let mut bytes = Vec::new();
        let read = File::open(&journal).and_then(|file| file.take(READ_LIMIT_BYTES).read_to_end(&mut bytes));
        if read.is_err() {
            continue;
        }
        for (release, standing) in lines(&bytes).filter_map(verdict) {
            let last = known.entry(release).or_insert_with(|| standing.clone());
            *last = standing.max(last.clone());
        }
    }
    known
}

/// The journals of all pods that ever used the volume.
pub fn journals(deploy_to: &Path) -> impl Iterator<Item = PathBuf> {
    let pods = fs::read_dir(deploy_to.join(".pitstop/pods")).into_iter().flatten().flatten();
    pods.map(|pod| pod.path().join("revisions.log"))
}

fn verdict(line: &[u8]) -> Option<(ReleaseId, Standing)> {
    let record = parse(line)?;
    let good = match record.event {
        RecordEvent::Verified | RecordEvent::Reverted => true,
        RecordEvent::Rejected => false,
        RecordEvent::Attempt | RecordEvent::Signalled => return None,
    };
    let line: Value = serde_json::from_slice(line).ok()?;
    let at = line.get("at").and_then(Value::as_str).unwrap_or_default().to_owned();
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
        ] {
            let home = dir.path().join(".pitstop/pods").join(pod);
            fs::create_dir_all(&home).unwrap();
            fs::write(home.join("revisions.log"), text).unwrap();
        }
        let known = standings(dir.path());
        let of = |release: &str| known.get(&release.parse().unwrap()).map(|standing| standing.good);
        assert_eq!((of("v1"), of("v2"), of("v3")), (Some(false), Some(false), None));
    }
}
