//! The user's check: run once for each set of processes, and again until it passes.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{procs::Image, user_command::UserCommand};

/// Between two runs.
const PAUSE: Duration = Duration::from_secs(1);

/// The check and its results.
#[derive(Debug, Clone)]
pub(super) struct CheckCommand {
    command: Option<UserCommand>,
    dir: PathBuf,
    state: Arc<Mutex<CheckState>>,
}

#[derive(Debug, Default)]
struct CheckState {
    passed: HashSet<Image>,
    running: bool,
    last: Option<Instant>,
    failed: Option<String>,
}

impl CheckCommand {
    pub(crate) fn new(command: Option<UserCommand>, dir: &Path) -> Self {
        Self { command, dir: dir.to_owned(), state: Arc::default() }
    }

    /// Whether there is a check at all.
    pub(crate) fn exists(&self) -> bool {
        self.command.is_some()
    }

    /// Whether this process was running when the check passed. Without a check, running is enough.
    pub(crate) fn passed(&self, image: Image) -> bool {
        self.command.is_none() || self.locked().passed.contains(&image)
    }

    /// These have served beside the ones that were checked, and have passed there.
    pub(crate) fn accept(&self, images: &[Image]) {
        self.locked().passed.extend(images);
    }

    /// Whether all of them were.
    pub(crate) fn passed_all(&self, images: &[Image]) -> bool {
        images.iter().all(|image| self.passed(*image))
    }

    /// Why the check last failed, unless it has passed since.
    pub(crate) fn failed(&self) -> Option<String> {
        self.locked().failed.clone()
    }

    /// Sees to it that processes that were not there before are checked. Waits for nothing.
    pub(crate) fn see_to(&self, serving: &[Image]) {
        let Some(command) = self.command.clone() else { return };
        let mut state = self.locked();
        let known = serving.iter().all(|image| state.passed.contains(image));
        let early = state.last.is_some_and(|last| last.elapsed() < PAUSE);
        if known || early || state.running {
            return;
        }
        state.running = true;
        drop(state);
        let (this, asked) = (self.clone(), serving.to_vec());
        tokio::spawn(async move {
            let _over = Over(this.clone());
            let result = command.run(&this.dir, Vec::new).await;
            let mut state = this.locked();
            state.failed = result.as_ref().err().map(ToString::to_string);
            if result.is_ok() {
                let beside: Vec<Image> =
                    state.passed.iter().copied().filter(|image| image.process.lives()).collect();
                state.passed = asked.into_iter().chain(beside).collect();
            }
        });
    }

    fn locked(&self) -> MutexGuard<'_, CheckState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the run also when it panics.
struct Over(CheckCommand);

impl Drop for Over {
    fn drop(&mut self) {
        let mut state = self.0.locked();
        (state.running, state.last) = (false, Some(Instant::now()));
    }
}
