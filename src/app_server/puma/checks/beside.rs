//! Whether deploys here are beside: by a second server that is checked before a client meets it.

use super::RESTARTS;
use crate::{
    app_server::{
        fit::{Misfit, unavailable},
        puma::{fit, setup::Setup},
    },
    config::RestartMode,
    finding::{Check, Code, Finding, Outcome},
};

#[cfg(test)]
mod tests;

const MATTERS_NOT: &str = "This matters only where a second server cannot be started beside this one";

/// Where only the files are there.
pub(super) fn of_files(setup: &Setup, mode: RestartMode) -> Option<Check> {
    Some(match (fit::of_files(setup), mode) {
        (_, RestartMode::Hot | RestartMode::Phased) => return None,
        (Some(misfit), RestartMode::Beside) => unavailable(&misfit, mode),
        // Whether anybody could start a second server is not known here.
        (Some(Misfit { why, fix, .. }), RestartMode::Auto) => {
            Check::fine(RESTARTS, format!("beside: not possible, as {why} ({fix})"))
        }
        (None, _) => Check::fine(
            RESTARTS,
            "beside: possible as far as the files tell, where the container's command starts with `pitstop exec`",
        ),
    })
}

/// What is left of a check where deploys are beside: what they do not need is no trap.
pub(super) fn weighed(check: Check) -> Option<Check> {
    let Outcome::Found(finding) = &check.outcome else { return Some(check) };
    match finding.code {
        Code::PhasedRestartUnavailable | Code::ChildKeptByPhased | Code::BundleKeptByPhased => None,
        Code::RestartDirPinned
        | Code::RestartDirUnproven
        | Code::StartedByRackup
        | Code::HotRestartUnavailable
        | Code::RestartCommandGiven => {
            let message = format!("{}. {MATTERS_NOT}", finding.message);
            Some(Finding::note(finding.code, message, finding.fix.as_str()).about(check.about))
        }
        _ => Some(check),
    }
}
