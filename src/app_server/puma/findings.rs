//! Traps in this Puma's set-up, each with the line that mends it.

use super::{control::Control, plan::can_be_phased, setting::RestartDir, view::View};
use crate::{
    app_server::{Finding, Severity},
    config::RestartMode,
};

/// What is noticed in one look.
pub(super) fn of(view: &View) -> Vec<Finding> {
    let about = [control(view), restart_dir(view), hot(view), phased(view), same_addresses()];
    about.into_iter().flatten().collect()
}

fn finding(code: &str, severity: Severity, message: impl Into<String>, remedy: &str) -> Finding {
    Finding { code: code.into(), severity, message: message.into(), remedy: remedy.into() }
}

fn control(view: &View) -> Option<Finding> {
    let why =
        "without its numbers, requests in flight and workers of an ended phase are known from outside only";
    match &view.control {
        Control::Stats(_) => None,
        Control::Absent => Some(finding(
            "control_server_absent",
            Severity::Risky,
            format!("Puma has no control server that could be found: {why}"),
            "in config/puma.rb: activate_control_app 'unix:///run/puma/control.sock', and state_path; \
             then puma.state_file for the agent",
        )),
        Control::Denied => Some(finding(
            "control_server_denied",
            Severity::Risky,
            format!("Puma's control server does not accept the token: {why}"),
            "set puma.control_token to the auth_token of activate_control_app",
        )),
        Control::StaleStateFile(path) => Some(finding(
            "state_file_stale",
            Severity::Risky,
            format!("{} is of another process than this Puma: {why}", path.display()),
            "keep the state file in the pod (an emptyDir), never on a shared volume",
        )),
        // In a restart it is silent for a moment; beside serving processes it is a fault.
        Control::Silent(what) => serves(view).then(|| {
            finding(
                "control_server_silent",
                Severity::Risky,
                format!("Puma's control server does not answer ({what}): {why}"),
                "see that its address is reachable from the agent: a shared emptyDir, or shareProcessNamespace",
            )
        }),
    }
}

fn serves(view: &View) -> bool {
    view.family.serves || view.family.workers.iter().any(|worker| worker.serves)
}

fn restart_dir(view: &View) -> Option<Finding> {
    match &view.memory.setting.as_ref()?.restart_dir {
        RestartDir::Follows => None,
        RestartDir::Fixed(evidence) => Some(finding(
            "restart_dir_unproven",
            Severity::Risky,
            format!("a restart may not follow `current`: {evidence}"),
            "in config/puma.rb: directory '/srv/app/current', with the path of your link, as a literal",
        )),
    }
}

fn hot(view: &View) -> Option<Finding> {
    let deaf = view.family.title.is_some() && !view.family.catches_hot;
    deaf.then(|| {
        finding(
            "hot_restart_unavailable",
            Severity::Broken,
            "Puma has no handler for SIGUSR2: the signal of a hot restart would end it",
            "start Puma without PUMA_SKIP_SIGUSR2",
        )
    })
}

fn phased(view: &View) -> Option<Finding> {
    let preloads = view.memory.setting.as_ref().is_some_and(|setting| setting.preloads);
    let cause = match view.cluster()? {
        false => "Puma runs in single mode",
        true if !can_be_phased(view) => "Puma has one worker",
        true if preloads => "Puma preloads its app",
        true => return None,
    };
    let severity = if view.mode == RestartMode::Phased { Severity::Risky } else { Severity::Note };
    Some(finding(
        "phased_restart_unavailable",
        severity,
        format!("{cause}: every restart is a hot one, in which clients wait while the app boots"),
        "run two workers or more, with `preload_app! false`",
    ))
}

/// An exec is told from none by a random address.
fn same_addresses() -> Option<Finding> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/randomize_va_space").ok()?;
    (setting.trim() == "0").then(|| {
        finding(
            "address_space_not_random",
            Severity::Broken,
            "the kernel places every image at the same addresses: whether Puma has restarted cannot be told",
            "set kernel.randomize_va_space to 2 on the node",
        )
    })
}
