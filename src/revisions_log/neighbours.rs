//! What the other pods of a shared volume have found out, by their journals.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{dated_records, standings::journals_in};
use crate::{
    core::history::{History, Neighbours},
    revision::{RecordEvent, ReleaseId},
};

/// Pods come and go, and their journals stay: so many of the newest are read.
const PODS_AT_MOST: usize = 100;

/// Reads the journals beside `own`. One that cannot be read is left out: all this is only a help.
pub fn neighbours(own: &Path) -> Neighbours {
    let mut verified: Vec<(String, ReleaseId)> = Vec::new();
    let mut failed = BTreeSet::new();
    for path in newest_journals(own) {
        let records = dated_records(path);
        let folded: Vec<_> = records.iter().map(|(_, record)| record.clone()).collect();
        let (history, _) = History::fold(&folded);
        failed.extend(history.failed().iter().cloned());
        let proved = records.iter().filter(|(_, record)| {
            record.event == RecordEvent::Verified && !record.revision.release.is_fallback()
        });
        verified.extend(proved.map(|(at, record)| (at.clone(), record.revision.release.clone())));
    }
    verified.sort_by(|a, b| b.cmp(a));
    let mut newest: Vec<ReleaseId> = Vec::new();
    for (_, release) in verified {
        if !failed.contains(&release) && !newest.contains(&release) {
            newest.push(release);
        }
    }
    Neighbours { verified: newest, failed }
}

fn newest_journals(own: &Path) -> Vec<PathBuf> {
    let Some(pods) = own.ancestors().nth(2) else { return Vec::new() };
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let others = journals_in(pods).filter(|path| path != own);
    let mut found: Vec<(SystemTime, PathBuf)> =
        others.filter_map(|path| Some((changed(&path)?, path))).collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().take(PODS_AT_MOST).map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revisions_log::path;

    fn journal(deploy_to: &Path, pod: &str, lines: &[(&str, &str, &str)]) {
        let path = path(deploy_to, pod);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let line = |(at, event, release): &(&str, &str, &str)| {
            format!(r#"{{"v":1,"at":"{at}","event":"{event}","release":"{release}","sequence":1}}"#) + "\n"
        };
        fs::write(path, lines.iter().map(line).collect::<String>()).unwrap();
    }

    #[test]
    fn the_newest_proof_of_any_other_pod_comes_first_and_nothing_that_failed_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let own = path(dir.path(), "web-0");
        assert_eq!(neighbours(&own), Neighbours::default());
        journal(dir.path(), "web-0", &[("2026-01-09", "verified", "own")]);
        journal(dir.path(), "web-1", &[("2026-01-01", "verified", "v1"), ("2026-01-05", "verified", "v3")]);
        journal(
            dir.path(),
            "web-2",
            &[("2026-01-02", "verified", "v2"), ("2026-01-06", "rejected", "v3"), ("x", "nonsense", "v9")],
        );
        let found = neighbours(&own);
        let names: Vec<_> = found.verified.iter().map(ReleaseId::as_str).collect();
        assert_eq!(names, ["v2", "v1"]);
        assert_eq!(found.failed.iter().map(ReleaseId::as_str).collect::<Vec<_>>(), ["v3"]);
    }
}
