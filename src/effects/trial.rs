//! The user's trial boot, on a lane of its own: it may take minutes, and its release may hang.

use super::{Effects, volume_work::on};
use crate::{
    core::{Outcome, Problem, Reason},
    hook::{HookError, Turn},
    revision::ReleaseId,
};

impl Effects {
    /// A trial is wanted; whichever is under way for an earlier check ends. `None` without a hook.
    pub(super) fn begin_trial(&self) -> Option<Turn> {
        self.tools.hook.as_ref().map(|hook| hook.begin())
    }

    /// Ends the trial boot that is under way, with everything it has started. Never waits.
    pub(crate) fn end_trial(&self) {
        if let Some(hook) = &self.tools.hook {
            hook.call_off();
        }
    }

    /// How long a check may take with it.
    pub(super) fn trial_limit(&self) -> std::time::Duration {
        self.tools.hook.as_ref().map(|hook| hook.limit()).unwrap_or_default()
    }

    /// Boots the release for trial. Whatever came of it, nothing was moved.
    pub(super) async fn try_release(
        &self,
        turn: Turn,
        release: &ReleaseId,
        running: Option<ReleaseId>,
        passed: Outcome,
    ) -> Result<Outcome, Problem> {
        let Some(hook) = self.tools.hook.clone() else { return Ok(passed) };
        let (dir, id) = (self.tools.releases.path(release), release.clone());
        tracing::info!(release = release.as_str(), "hooks.check tries the release");
        let tried = on(&self.trials, move || hook.run(&turn, &id, running.as_ref(), &dir)).await?;
        let problem = |message: String| Problem::new(Reason::HookFailed, message);
        match tried {
            Ok(()) => Ok(passed),
            Err(HookError::CalledOff) => {
                Err(Problem::new(Reason::Draining, "the trial boot was ended: something else comes first"))
            }
            Err(HookError::NotTried(why)) => {
                Err(problem(format!("{release} was not tried, so nothing is moved: {why}")))
            }
            Err(HookError::Failed(failed)) => Ok(Outcome::Condemned(problem(format!(
                "{release} failed its trial boot before anything was moved, and is not tried again: {failed}"
            )))),
        }
    }
}
