//! The drain's journal: `state_dir/drain.json`, so that a restarted agent holds /prestop for the time
//! that is left. Best effort, and never on the volume.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{config::DRAIN_FILE, core::drain::Journal, lane::Lane, plain_file, revisions_log::boot_id};

const FILE: &str = "drain.json";
/// It is some hundred bytes.
const LIMIT_BYTES: u64 = 64 << 10;
/// Nothing begins before it was read, or this is over.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// The file's content: moments mean nothing on another boot of the kernel.
#[derive(Serialize, Deserialize)]
struct Content {
    boot_id: String,
    journal: Journal,
}

/// The journal of a drain of this boot, if there is one that can be read in time.
pub(crate) async fn read(state_dir: &Path) -> Option<Journal> {
    let dir = state_dir.to_owned();
    let read = Lane::start("drain-journal").ok()?.run(READ_LIMIT, move || read_now(&dir)).await;
    read.unwrap_or_else(|_| {
        tracing::warn!(path = %state_dir.join(FILE).display(), "reading the drain journal timed out");
        None
    })
}

/// Where nothing drains, the app must not think so.
fn read_now(state_dir: &Path) -> Option<Journal> {
    let journal = journal_in(state_dir);
    if journal.is_none()
        && let Err(error) = tell_the_app(state_dir, false)
    {
        tracing::warn!(path = %state_dir.join(DRAIN_FILE).display(), %error, "the file that tells the app of a drain cannot be removed");
    }
    journal
}

fn journal_in(state_dir: &Path) -> Option<Journal> {
    let path = state_dir.join(FILE);
    let text = match plain_file::read(&path, LIMIT_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the drain journal cannot be read");
            return None;
        }
    };
    let content: Content = serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "the drain journal is damaged and ignored"))
        .ok()?;
    (content.boot_id == boot_id()).then_some(content.journal)
}

/// Starts the thread that writes whatever journal is the latest. A disk that hangs holds up nothing
/// but the journal.
pub(crate) fn keep(
    state_dir: PathBuf,
    mut pending: watch::Receiver<Option<Option<Journal>>>,
) -> io::Result<()> {
    let keep = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
        while runtime.block_on(pending.changed()).is_ok() {
            let Some(journal) = pending.borrow_and_update().clone() else { continue };
            if let Err(error) = write(&state_dir, journal) {
                tracing::warn!(path = %state_dir.join(FILE).display(), %error, "the drain journal cannot be written");
            }
        }
    };
    std::thread::Builder::new().name("drain-journal".into()).spawn(keep).map(drop)
}

fn write(state_dir: &Path, journal: Option<Journal>) -> io::Result<()> {
    let path = state_dir.join(FILE);
    let Some(journal) = journal else {
        return removed(&path).and(tell_the_app(state_dir, false));
    };
    fs::create_dir_all(state_dir)?;
    tell_the_app(state_dir, true)?;
    let mut file = tempfile::Builder::new().prefix(".drain").tempfile_in(state_dir)?;
    file.write_all(&serde_json::to_vec(&Content { boot_id: boot_id(), journal })?)?;
    file.persist(&path).map(drop).map_err(|error| error.error)
}

fn tell_the_app(state_dir: &Path, draining: bool) -> io::Result<()> {
    let path = state_dir.join(DRAIN_FILE);
    if !draining {
        return removed(&path);
    }
    // Whatever lies there already says the same, and is not followed.
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn removed(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// The state of a drain is one of this boot, or none.
    pub(crate) fn drain(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE), bytes).expect("it is written");
        assert!(journal_in(dir.path()).is_none() || String::from_utf8_lossy(bytes).contains(&boot_id()));
        let boot = boot_id();
        // So that the rest of it is read, too.
        let text = String::from_utf8_lossy(bytes).replace("BOOT", &boot);
        let _ = serde_json::from_str::<Content>(&text).map(|content| serde_json::to_string(&content));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::core::{Moment, drain::Origin};

    fn journal() -> Journal {
        Journal {
            drain_id: 5,
            began: Moment(5),
            deadline: Moment(9),
            origin: Origin::PreStop,
            generation: None,
            answer: None,
        }
    }

    #[test]
    fn what_was_written_is_read_back_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Some(journal())).unwrap();
        assert!(dir.path().join(DRAIN_FILE).exists(), "the app can know");
        assert_eq!(read_now(dir.path()), Some(journal()));
        write(dir.path(), None).unwrap();
        write(dir.path(), None).unwrap();
        assert_eq!(read_now(dir.path()), None);
    }

    #[test]
    fn an_agent_that_drains_nothing_leaves_no_app_in_a_drain() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Some(journal())).unwrap();
        write(dir.path(), None).unwrap();
        assert!(!dir.path().join(DRAIN_FILE).exists());
        tell_the_app(dir.path(), true).unwrap();
        tell_the_app(dir.path(), true).unwrap();
        assert_eq!(read_now(dir.path()), None);
        assert!(!dir.path().join(DRAIN_FILE).exists());
    }

    #[test]
    fn a_journal_of_another_boot_or_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let other = Content { boot_id: "another".into(), journal: journal() };
        fs::write(dir.path().join(FILE), serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(read_now(dir.path()), None);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(read_now(dir.path()), None);
    }

    #[test]
    fn a_pipe_or_a_file_without_end_in_its_place_holds_up_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_now(dir.path()), None);
        write(dir.path(), Some(journal())).unwrap();
        assert_eq!(read_now(dir.path()), Some(journal()), "it was replaced");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_now(dir.path()), None);
    }
}
