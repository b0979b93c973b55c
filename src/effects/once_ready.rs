//! A note in `state_dir`: this pod was ready once. The next agent of the pod does not make it wait for a warm-up.

use std::{fs, io, path::Path, time::Duration};

use crate::{lane::Lane, plain_file, revisions_log::boot_id};

const FILE: &str = "ready";
const LIMIT_BYTES: u64 = 4096;
/// A disk that hangs is one on which nothing was noted.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// It was, as far as the note tells. One of another pod, which had the directory before, means nothing.
pub(super) async fn was(state_dir: &Path) -> bool {
    let path = state_dir.join(FILE);
    let read = move || plain_file::read(&path, LIMIT_BYTES).is_ok_and(|noted| noted == boot_id().as_bytes());
    let Ok(lane) = Lane::start("ready-note") else { return false };
    lane.run(READ_LIMIT, read).await.unwrap_or(false)
}

/// It is. Without the note the next agent warms the server up once more.
pub(super) fn note(state_dir: &Path) {
    let write = || -> io::Result<()> {
        fs::create_dir_all(state_dir)?;
        let file = tempfile::Builder::new().prefix(".ready").tempfile_in(state_dir)?;
        fs::write(file.path(), boot_id())?;
        file.persist(state_dir.join(FILE)).map(drop).map_err(|error| error.error)
    };
    if let Err(error) = write() {
        tracing::debug!(path = %state_dir.join(FILE).display(), %error, "the note that this pod was ready is not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pod_that_was_ready_is_known_and_another_one_in_its_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        assert!(!was(&state_dir).await);
        note(&state_dir);
        assert!(was(&state_dir).await);
        fs::write(state_dir.join(FILE), "another boot/1").unwrap();
        assert!(!was(&state_dir).await);
    }
}
