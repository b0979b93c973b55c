//! Whether deploys here are beside: by a second server that is checked before a client meets it.

use super::RESTARTS;
use crate::{
    app_server::puma::{
        fit::{self, Fit, Misfit},
        setup::Setup,
    },
    config::RestartMode,
    core::Reason,
    finding::{Check, Code, Finding, Outcome, Severity},
};

#[cfg(test)]
mod tests;

const MATTERS_NOT: &str = "This matters only where a second server cannot be started beside this one";

pub(super) fn check(fit: &Result<Fit, Misfit>, mode: RestartMode) -> Check {
    let wanted = matches!(mode, RestartMode::Auto | RestartMode::Beside);
    match fit {
        Ok(Fit { memory, .. }) => {
            let memory = memory.as_ref().map_or(String::new(), |memory| format!("; {memory}"));
            let unused = if wanted { "" } else { ", but restart.mode is another" };
            Check::fine(RESTARTS, format!("beside: possible{unused}{memory}"))
        }
        Err(Misfit { why, fix, not_offered: true, .. }) if mode != RestartMode::Beside => {
            let message = format!("beside: not possible, as {why} ({fix}): then no client waits for a boot");
            Check::fine(RESTARTS, message)
        }
        Err(Misfit { why, .. }) if !wanted => {
            Check::fine(RESTARTS, format!("beside: not possible, as {why}; restart.mode is another"))
        }
        Err(misfit) => unavailable(misfit, mode),
    }
}

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

fn unavailable(Misfit { reason, why, fix, .. }: &Misfit, mode: RestartMode) -> Check {
    let (severity, so) = match mode {
        RestartMode::Beside => {
            (Severity::Broken, format!("restart.mode is beside, so nothing is deployed ({reason})"))
        }
        _ => (
            Severity::Note,
            "deploys are phased where that is possible, else hot, and clients wait while the app boots"
                .to_owned(),
        ),
    };
    let code = match reason {
        Reason::NoMemory => Code::BesideNoMemory,
        _ => Code::BesideUnavailable,
    };
    let message = format!("no second server can be started beside this Puma: {why}. So {so}");
    Finding::of(severity, code, message, fix).about(RESTARTS)
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
