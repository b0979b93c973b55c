use super::{Reason, Watch};

/// What a failure means, for people.
pub(super) fn failure(watch: &Watch, reason: Reason) -> &'static str {
    match reason {
        Reason::BootTimeout if watch.signalled() && watch.unchanged() => {
            "the app server was told to restart and has not begun to within restart.timeout: the release was never \
             loaded"
        }
        Reason::MasterGone if watch.ended_after_boot() => {
            "the app server's master ended twice after workers of the release had booted: a plugin of Puma's (Solid \
             Queue's ends Puma when its own process ends), a person, or a lack of memory. See its log"
        }
        Reason::MasterGone => "the app server's master ended during the restart: see its log",
        Reason::BootLoop => {
            "workers of the release end before they have booted, again and again: the exception is in the log of the app's \
             container, from the beginning of this deploy on (kubectl logs POD -c CONTAINER --since=10m)"
        }
        Reason::BootFailed => "no worker of the release came up: see the app server's log",
        Reason::BootTimeout => "the release did not boot within restart.timeout",
        Reason::WrongCwd => "the app server came back in another directory than the release's",
        Reason::RestartDirPinned => {
            "the restart did not leave the old directory: set `directory` to the current link in Puma's config"
        }
        Reason::ProbeFailed => "verify.url does not answer well from the release",
        Reason::ReleaseMismatch => {
            "a worker names another release in verify.url's answers, or has files of another release loaded only"
        }
        _ => "the restart failed",
    }
}
