//! What a look shows of this Puma's set-up: what is fine, and each trap with the line that fixes it.
//!
//! The rules on what Puma was given stand in `given` and `time_outs`, for a running Puma as for an app's files in CI.
//! `live` has what only a running Puma shows, `files` what only the files and pitstop's own configuration say.

mod beside;
pub(super) mod files;
mod given;
mod live;
#[cfg(test)]
mod tests;
mod time_outs;

use std::time::Duration;

use super::{
    control::Control,
    evidence::{Evidence, Place},
    fit,
    restart_modes::{self, Phased, can_be_phased},
    snapshot::Snapshot,
};
use crate::{
    app_server::{addresses::random_addresses, error_counts, fit as second},
    config::RestartMode,
    finding::{Check, Code, Finding, Severity},
};

pub(super) const PUMA: &str = "Puma";
const CONTROL: &str = "control server";
const RESTARTS: &str = "restarts";

/// Everything that one look shows.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Check> {
    let mut checks = vec![seen(snapshot), control(snapshot)];
    match &snapshot.memory.setup {
        Some(setup) => {
            checks.push(given::restart_dir(setup, snapshot.memory.moved));
            checks.extend(given::paths(setup));
            checks.extend(live::of(snapshot, setup));
            let longest = Duration::from_millis(snapshot.memory.longest_request_ms);
            let cluster = snapshot.cluster() == Some(true);
            checks.extend(time_outs::of(setup, snapshot.told.worker_shutdown_timeout, cluster, longest));
        }
        None => checks.push(Check::unknown(RESTARTS, "Puma's configuration could not be read in time")),
    }
    checks.push(hot(snapshot));
    checks.extend(phased(snapshot));
    checks.extend(kept_child(snapshot));
    let known = fit::known_trouble(snapshot).filter(|_| snapshot.mode == RestartMode::Auto);
    let fit = fit::of(snapshot, None).and_then(|fit| known.map_or(Ok(fit), Err));
    let goes_beside = fit.is_ok() && matches!(snapshot.mode, RestartMode::Auto | RestartMode::Beside);
    checks.extend(next_puma(snapshot, goes_beside));
    if goes_beside {
        checks = checks.into_iter().filter_map(beside::weighed).collect();
    }
    checks.push(second::check(&fit, snapshot.mode));
    let errors = snapshot.live_errors().filter(|_| snapshot.shifts && goes_beside);
    checks.extend(errors.map(error_counts::check));
    let shifts = snapshot.parent.as_ref().filter(|_| snapshot.shifts && goes_beside);
    checks.extend(shifts.and_then(second::no_shares));
    checks.push(random_addresses(PUMA));
    checks
}

fn seen(snapshot: &Snapshot) -> Check {
    let version = snapshot.processes.title.as_ref().map_or("", |title| title.version.as_str());
    let mode = match snapshot.cluster() {
        Some(true) => format!("cluster mode, workers: {}", snapshot.expected()),
        Some(false) => "single mode".into(),
        None => "single or cluster mode: not yet known".into(),
    };
    let pid = snapshot.master();
    Check::fine(PUMA, format!("{version} found: pid {pid}, {mode}; pitstop can inspect and signal it"))
}

fn control(snapshot: &Snapshot) -> Check {
    let why = WITHOUT_NUMBERS;
    let found = match &snapshot.control {
        Control::Stats(_) => return Check::fine(CONTROL, "answers with Puma's own numbers"),
        Control::Absent => control_absent("pitstop found no control server of Puma"),
        Control::Denied => Finding::risky(
            Code::ControlServerDenied,
            format!("Puma's control server refuses the token: {why}"),
            "set puma.control_token to the auth_token of activate_control_app",
        ),
        Control::StaleStateFile(path) => Finding::risky(
            Code::StateFileStale,
            format!("{} names another process than this Puma: {why}", path.display()),
            "keep the state file in the pod (an emptyDir), never on a shared volume",
        ),
        // In a restart it is silent for a moment; beside serving processes it is a fault.
        Control::Silent(what) if serves(snapshot) => Finding::risky(
            Code::ControlServerSilent,
            format!("Puma's control server does not answer ({what}): {why}"),
            "make its address reachable from the agent: a shared emptyDir, or shareProcessNamespace",
        ),
        Control::Silent(what) => {
            return Check::unknown(CONTROL, format!("no answer yet, while Puma starts: {what}"));
        }
    };
    found.about(CONTROL)
}

const WITHOUT_NUMBERS: &str =
    "without it, pitstop sees requests in flight and workers of an earlier phase only from outside";

fn control_absent(what: &str) -> Finding {
    Finding::risky(
        Code::ControlServerAbsent,
        format!("{what}: {WITHOUT_NUMBERS}"),
        "in config/puma.rb: activate_control_app 'unix:///run/puma/control.sock', and state_path; \
         then puma.state_file for the agent",
    )
}

fn serves(snapshot: &Snapshot) -> bool {
    snapshot.serves() || snapshot.processes.workers.iter().any(|worker| worker.serves)
}

fn hot(snapshot: &Snapshot) -> Check {
    match (&snapshot.processes.title, snapshot.processes.takes_hot()) {
        (None, _) => Check::unknown(RESTARTS, "hot: not known while Puma restarts"),
        (Some(_), true) => Check::fine(RESTARTS, "hot: possible"),
        (Some(_), false) => Finding::broken(
            Code::HotRestartUnavailable,
            "Puma has no handler for SIGUSR2: the signal of a hot restart would end it",
            "start Puma without PUMA_SKIP_SIGUSR2",
        )
        .about(RESTARTS),
    }
}

fn phased(snapshot: &Snapshot) -> Option<Check> {
    let setup = snapshot.memory.setup.as_ref();
    let workers = if snapshot.cluster()? { snapshot.expected() as u64 } else { 0 };
    let workers = Evidence::Known(workers, Place::Process);
    let unclear =
        setup.and_then(|setup| setup.unclear.as_ref()).filter(|_| snapshot.mode == RestartMode::Auto);
    let found = match restart_modes::phased(setup, &workers, snapshot.app_in_master()) {
        Phased::Possible => unclear.map_or(Phased::Possible, |what| {
            Phased::Unavailable(format!("pitstop cannot tell what Puma's configuration loads ({what})"))
        }),
        found => found,
    };
    Some(given::phased(found, snapshot.mode))
}

/// A job process of a plugin's, most often: only a hot restart renews it.
fn kept_child(snapshot: &Snapshot) -> Option<Check> {
    let child = snapshot.processes.long_lived_child().filter(|_| can_be_phased(snapshot))?;
    let title: String = child.title.chars().take(80).collect();
    let (severity, kept, fix) = match snapshot.mode {
        RestartMode::Phased => (
            Severity::Risky,
            "Phased restarts do not restart it: it keeps the code of an earlier release",
            "restart.mode: auto or hot, if it runs code of the release",
        ),
        RestartMode::Auto => (
            Severity::Note,
            "Only a hot restart restarts it, so every restart is a hot one",
            "run it in a container of its own (docs/job-workers.md), or set restart.mode: phased if its code may be old",
        ),
        RestartMode::Beside | RestartMode::Hot => return None,
    };
    let pid = child.id.pid;
    let message = format!("Puma's master has a child that is no worker: process {pid} `{title}`. {kept}");
    Some(Finding::of(severity, Code::ChildKeptByPhased, message, fix).about(RESTARTS))
}

/// What the plan of a restart has found in the bundles.
fn next_puma(snapshot: &Snapshot, goes_beside: bool) -> Option<Check> {
    let (old, new) = snapshot.memory.next_puma.as_ref()?;
    let (severity, so, fix) = match snapshot.mode {
        RestartMode::Phased => (
            Severity::Risky,
            format!("a phased restart keeps {old}, whatever else the workers load"),
            "restart.mode: auto, which restarts hot where the bundle differs",
        ),
        RestartMode::Auto | RestartMode::Beside | RestartMode::Hot => (
            Severity::Note,
            if goes_beside { "the new Puma" } else { "the restart is a hot one, and the new Puma" }
                .to_owned()
                + " has other defaults",
            "read Puma's upgrade notes first: from 7.0 on a cluster preloads unless `preload_app! false`",
        ),
    };
    let message = format!("Puma {old} runs, and the bundle of the next release has Puma {new}: {so}");
    Some(Finding::of(severity, Code::PumaVersionDiffers, message, fix).about(RESTARTS))
}
