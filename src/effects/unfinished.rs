//! What ends the agent each time that it is tried: a note in `state_dir` while a release is fetched or checked.
//!
//! The journal counts attempts from the moment on when something may have been moved. What kills the agent before that
//! (an archive, or a file of a release, that takes all its memory) would be tried for ever, and each time the pod's
//! drain is out of order.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    core::{Problem, Reason},
    plain_file,
    revision::ReleaseId,
};

const FILE: &str = "unfinished.json";
/// So many starts without an end are no accident.
const MOST: u32 = 3;
/// The note has three words.
const LARGEST: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    step: String,
    release: ReleaseId,
    /// How often in a row, without an end.
    starts: u32,
}

/// Work that has begun. The note goes when it has ended, however it did; it stays when the process is killed.
#[derive(Debug)]
pub(super) struct Begun {
    path: PathBuf,
    note: Note,
}

impl Drop for Begun {
    fn drop(&mut self) {
        // A later piece of work may have written its own.
        if read(&self.path).as_ref() == Some(&self.note) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Notes that it begins; `None` where that cannot be written, which keeps nothing from being done.
///
/// # Errors
/// When the agent has ended in it three times. The next try counts from the beginning.
pub(super) fn begin(
    state_dir: &Path,
    step: &'static str,
    release: &ReleaseId,
) -> Result<Option<Begun>, Problem> {
    let path = state_dir.join(FILE);
    let before = read(&path).filter(|note| note.step == step && note.release == *release);
    let starts = before.map_or(0, |note| note.starts);
    if starts >= MOST {
        let _ = fs::remove_file(&path);
        let message = format!(
            "the agent was killed {MOST} times during the {step} of {release}, most likely because it ran out of memory: see \
             the last state of its container. The release is not tried again: publish it again without what is too \
             large, or raise the memory limit and run `pitstop sync --retry`"
        );
        return Err(Problem::new(Reason::Internal, message));
    }
    let note = Note { step: step.into(), release: release.clone(), starts: starts + 1 };
    match write(state_dir, &path, &note) {
        Ok(()) => Ok(Some(Begun { path, note })),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the note on unfinished work is not written");
            Ok(None)
        }
    }
}

fn read(path: &Path) -> Option<Note> {
    serde_json::from_slice(&plain_file::read(path, LARGEST).ok()?).ok()
}

fn write(state_dir: &Path, path: &Path, note: &Note) -> io::Result<()> {
    fs::create_dir_all(state_dir)?;
    let mut file = tempfile::Builder::new().prefix(".unfinished").tempfile_in(state_dir)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// Whatever is noted of unfinished work, other work is not refused.
    pub(crate) fn note(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE), bytes).expect("it is written");
        let release = "v2".parse().expect("an id");
        assert!(begin(dir.path(), "another step", &release).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2() -> ReleaseId {
        "v2".parse().unwrap()
    }

    /// As a process that is killed.
    fn killed(begun: Option<Begun>) {
        std::mem::forget(begun.unwrap());
    }

    #[test]
    fn three_ends_of_the_agent_in_the_same_work_refuse_it_once() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            killed(begin(dir.path(), "check", &v2()).unwrap());
        }
        let refused = begin(dir.path(), "check", &v2()).unwrap_err();
        assert_eq!(refused.reason, Reason::Internal);
        assert!(refused.message.contains("killed 3 times during the check of v2"), "{}", refused.message);
        assert!(begin(dir.path(), "check", &v2()).is_ok(), "asked for again, it is tried again");
    }

    #[test]
    fn what_ends_by_itself_and_what_is_something_else_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..9 {
            drop(begin(dir.path(), "fetch", &v2()).unwrap());
        }
        assert!(!dir.path().join(FILE).exists());
        for _ in 0..9 {
            killed(begin(dir.path(), "fetch", &v2()).unwrap());
            killed(begin(dir.path(), "check", &v2()).unwrap());
        }
        // The end of an older piece of work leaves the note of the newer one.
        let older = begin(dir.path(), "fetch", &v2()).unwrap();
        let newer = begin(dir.path(), "fetch", &"v3".parse().unwrap()).unwrap();
        drop(older);
        assert!(dir.path().join(FILE).exists());
        drop(newer);
        assert!(!dir.path().join(FILE).exists());
        fs::write(dir.path().join(FILE), "{ torn").unwrap();
        assert!(begin(dir.path(), "fetch", &v2()).unwrap().is_some());
        assert!(begin(Path::new("/proc/none"), "fetch", &v2()).unwrap().is_none());
    }
}
