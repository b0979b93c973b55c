//! The user's trial boot: `hooks.check`, run in the directory of a release before anything is moved.
//!
//! It runs in a process group of its own, which is ended as a whole: after its time, when it is called
//! off, and when it is over, so that nothing of it stays behind. Each call blocks its thread.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    config,
    finding::{Check, Code, Finding},
    revision::ReleaseId,
    user_command::{CommandError, Leftovers, Stop, UserCommand},
};

mod runtime;

const ABOUT: &str = "hooks";
/// Stands in the environment of whatever a trial starts.
pub(crate) const MARK: &str = "PITSTOP_TRIAL";

/// Why a release has not passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HookError {
    /// It could not be tried: this says nothing about the release.
    #[error("{0}")]
    NotTried(String),
    /// Nobody wants to know any more.
    #[error("the trial boot was called off")]
    CalledOff,
    /// It was tried, and failed.
    #[error("{0}")]
    Failed(CommandError),
}

/// One trial. A later one, or a call-off, takes its place.
#[derive(Debug, Clone)]
pub(crate) struct Turn(Stop);

/// The user's trial boot.
#[derive(Debug)]
pub struct Hook {
    command: UserCommand,
    /// The trial that is wanted.
    now: Mutex<Stop>,
}

impl Hook {
    /// `None` where the user has given no command.
    pub(crate) fn new(section: &config::Hooks) -> Option<Self> {
        let (line, limit) = (section.check.clone()?, section.check_timeout);
        let command = UserCommand { key: "hooks.check", line, limit };
        Some(Self { command, now: Mutex::default() })
    }

    /// How long a trial may take.
    pub(crate) fn limit(&self) -> Duration {
        self.command.limit
    }

    /// What is wanted from now on: any earlier trial ends.
    pub(crate) fn begin(&self) -> Turn {
        let mut now = self.locked();
        now.now();
        *now = Stop::default();
        Turn(now.clone())
    }

    /// Ends the trial that is under way, and whichever waits for its turn. Does not wait.
    pub(crate) fn call_off(&self) {
        self.locked().now();
    }

    /// Whether it could be run in this container; where `current` is known, in that. Asks the disk.
    pub(crate) fn check(&self, current: Option<&Path>) -> Check {
        match runtime::missing(&self.command.line, current) {
            None => Check::fine(ABOUT, "a release is tried by hooks.check before anything is moved"),
            Some(what) => Check::found(
                ABOUT,
                Finding::broken(
                    Code::HookNoRuntime,
                    format!("hooks.check cannot be run: {what}; no release is deployed untried"),
                    "run the agent inside the app's image (`pitstop install`, or `pitstop exec`), or leave hooks.check out",
                ),
            ),
        }
    }

    /// Tries the release in `dir`. Blocks until that has ended, which is when its time is over at the latest.
    ///
    /// # Errors
    /// [`HookError`]: the release failed, or was not tried at all.
    pub(crate) fn run(
        &self,
        turn: &Turn,
        release: &ReleaseId,
        running: Option<&ReleaseId>,
        dir: &Path,
    ) -> Result<(), HookError> {
        if let Some(what) = runtime::missing(&self.command.line, Some(dir)) {
            return Err(HookError::NotTried(format!("hooks.check cannot be run: {what} (HOOK_NO_RUNTIME)")));
        }
        let mut variables = vec![(MARK, "1"), ("PITSTOP_RELEASE", release.as_str())];
        variables.extend(running.map(|running| ("PITSTOP_RUNNING", running.as_str())));
        let tried = self.command.run_here(dir, &variables, &turn.0, Leftovers::End);
        if let Ok(said) | Err(CommandError::Failed { said, .. } | CommandError::TooLong { said, .. }) = &tried
            && !said.is_empty()
        {
            tracing::info!(output = said, "hooks.check said");
        }
        tried.map(drop).map_err(verdict)
    }

    fn locked(&self) -> MutexGuard<'_, Stop> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shell's own codes for what it cannot run, and the kernel's way to make room, are no verdict.
fn verdict(error: CommandError) -> HookError {
    match &error {
        CommandError::NotRun { .. } => HookError::NotTried(error.to_string()),
        CommandError::CalledOff { .. } => HookError::CalledOff,
        CommandError::TooLong { .. } => HookError::Failed(error),
        CommandError::Failed { status, .. } => match (status.code(), status.signal()) {
            (Some(126 | 127), _) => {
                HookError::NotTried(format!("it names what cannot be run here (HOOK_NO_RUNTIME): {error}"))
            }
            (Some(137), _) | (_, Some(9)) => HookError::NotTried(format!(
                "it was killed by somebody else; has its container too little memory? {error}"
            )),
            _ => HookError::Failed(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(command: &str, limit_ms: u64) -> Hook {
        let check_timeout = Duration::from_millis(limit_ms);
        Hook::new(&config::Hooks { check: Some(command.into()), check_timeout }).unwrap()
    }

    struct Release(tempfile::TempDir);

    impl Release {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn try_with(&self, hook: &Hook) -> Result<(), HookError> {
            let (v1, v2) = ("v1".parse().unwrap(), "v2".parse().unwrap());
            hook.run(&hook.begin(), &v2, Some(&v1), self.0.path())
        }

        fn pid_in(&self, file: &str) -> Option<i32> {
            std::fs::read_to_string(self.0.path().join(file)).ok()?.trim().parse().ok()
        }
    }

    #[track_caller]
    fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
        for _ in 0..3000 {
            if let Some(found) = condition() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited in vain");
    }

    /// A zombie is gone as well: nobody may be there to reap it.
    #[track_caller]
    fn until_gone(pid: i32) {
        until(|| crate::procs::ProcessId::of(pid).is_err().then_some(()));
    }

    const LONG: u64 = 60_000;
    const WITH_GRANDCHILD: &str = "sleep 600 & echo $! > grandchild; echo waiting; wait";

    #[test]
    fn it_passes_in_the_directory_of_the_release_and_knows_which_one_that_is() {
        let release = Release::new();
        let hook = hook("test \"$PITSTOP_RELEASE/$PITSTOP_RUNNING\" = v2/v1 && echo \"$PWD\" > where", LONG);
        assert_eq!(release.try_with(&hook), Ok(()));
        let wrote = std::fs::read_to_string(release.0.path().join("where")).unwrap();
        assert_eq!(Path::new(wrote.trim()), release.0.path());
    }

    #[test]
    fn a_failure_has_the_end_of_what_was_said_on_both_channels() {
        let release = Release::new();
        let failing = hook("for i in 1 2 3 4 5 6; do echo line $i; done; echo oops >&2; exit 3", LONG);
        let error = release.try_with(&failing).unwrap_err();
        assert_eq!(
            error.to_string(),
            "hooks.check ended with exit code 3: line 3 | line 4 | line 5 | line 6 | oops"
        );
        let endless = hook("head -c 200000 /dev/zero | tr '\\0' x; exit 1", LONG);
        let HookError::Failed(CommandError::Failed { said, .. }) = release.try_with(&endless).unwrap_err()
        else {
            panic!()
        };
        assert_eq!(said.len(), 16 * 1024, "a hook that says much is not kept as a whole");
    }

    #[test]
    fn one_that_hangs_is_ended_with_everything_it_has_started() {
        let release = Release::new();
        let error = release.try_with(&hook(WITH_GRANDCHILD, 500)).unwrap_err();
        assert_eq!(error.to_string(), "hooks.check took longer than 500ms and was ended: waiting");
        until_gone(release.pid_in("grandchild").unwrap());
    }

    #[test]
    fn what_a_passing_hook_leaves_running_is_ended_as_well() {
        let release = Release::new();
        let hook = hook("sleep 600 & echo $! > grandchild", LONG);
        assert_eq!(release.try_with(&hook), Ok(()));
        until_gone(release.pid_in("grandchild").unwrap());
    }

    #[test]
    fn called_off_it_ends_at_once_with_everything_it_has_started() {
        let release = Release::new();
        let hook = hook(WITH_GRANDCHILD, LONG);
        std::thread::scope(|scope| {
            let trial = scope.spawn(|| release.try_with(&hook));
            let grandchild = until(|| release.pid_in("grandchild"));
            hook.call_off();
            assert_eq!(trial.join().unwrap(), Err(HookError::CalledOff));
            until_gone(grandchild);
        });
        // One that waits for its turn when it is called off never begins.
        let late = hook.begin();
        hook.call_off();
        let v2 = "v2".parse().unwrap();
        assert_eq!(hook.run(&late, &v2, None, release.0.path()), Err(HookError::CalledOff));
    }

    #[test]
    fn what_cannot_be_run_is_no_verdict_on_the_release() {
        let release = Release::new();
        for command in
            ["/no/such/program --check", "no-such-program", "true && no-such-program", "./config.ru"]
        {
            let result = release.try_with(&hook(command, LONG));
            let Err(HookError::NotTried(why)) = result else { panic!("{command}: {result:?}") };
            assert!(why.contains("HOOK_NO_RUNTIME"), "{why}");
        }
        let nowhere = hook("true", LONG);
        let v2 = "v2".parse().unwrap();
        let result = nowhere.run(&nowhere.begin(), &v2, None, &release.0.path().join("absent"));
        assert!(matches!(result, Err(HookError::NotTried(_))), "{result:?}");
    }

    #[test]
    fn a_kill_from_elsewhere_is_no_verdict_and_any_other_end_by_a_signal_is() {
        let release = Release::new();
        assert!(matches!(release.try_with(&hook("kill -KILL $$", LONG)), Err(HookError::NotTried(_))));
        assert!(matches!(release.try_with(&hook("kill -SEGV $$", LONG)), Err(HookError::Failed(_))));
    }

    #[test]
    fn a_missing_runtime_is_broken_and_says_what_is_missing() {
        let check = hook("no-such-program exec puma", LONG).check(None);
        let finding = check.finding().unwrap();
        assert_eq!(finding.code.code(), "HOOK_NO_RUNTIME");
        assert!(finding.message.contains("no-such-program"), "{}", finding.message);
        assert!(hook("sh -n config.ru", LONG).check(None).finding().is_none());
        assert!(Hook::new(&config::Hooks::default()).is_none());
    }
}
