//! What a look tells of this Puma's set-up: what is fine, and each trap with the line that mends it.

pub(super) mod in_files;
mod live;
#[cfg(test)]
mod tests;
mod time_outs;

use super::{control::Control, restart_modes::can_be_phased, snapshot::Snapshot};
use crate::{
    app_server::addresses::random_addresses,
    config::RestartMode,
    core::Cwd,
    finding::{Check, Code, Finding},
};

const PUMA: &str = "Puma";
const CONTROL: &str = "control server";
const RESTARTS: &str = "restarts";

/// Everything that one look tells.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Check> {
    let mut checks = vec![seen(snapshot), control(snapshot), from_current(snapshot)];
    match &snapshot.memory.setup {
        Some(setup) => {
            checks.extend(live::of(snapshot, setup));
            checks.extend(time_outs::of(snapshot, setup));
        }
        None => checks.push(Check::unknown(RESTARTS, "Puma's configuration could not be read")),
    }
    checks.push(hot(snapshot));
    checks.extend(phased(snapshot));
    checks.extend(kept_child(snapshot));
    checks.extend(next_puma(snapshot));
    checks.push(random_addresses(PUMA));
    checks
}

fn seen(snapshot: &Snapshot) -> Check {
    let version = snapshot.processes.title.as_ref().map_or("", |title| title.version.as_str());
    let mode = match snapshot.cluster() {
        Some(true) => format!("a cluster of {}", snapshot.expected()),
        Some(false) => "single mode".into(),
        None => "not yet known whether single or cluster".into(),
    };
    let pid = snapshot.master();
    Check::fine(PUMA, format!("{version} found: pid {pid}, {mode}; it may be looked into and signalled"))
}

fn control(snapshot: &Snapshot) -> Check {
    let why = WITHOUT_NUMBERS;
    let found = match &snapshot.control {
        Control::Stats(_) => return Check::fine(CONTROL, "answers with Puma's own numbers"),
        Control::Absent => control_absent("Puma has no control server that could be found"),
        Control::Denied => Finding::risky(
            Code::ControlServerDenied,
            format!("Puma's control server does not accept the token: {why}"),
            "set puma.control_token to the auth_token of activate_control_app",
        ),
        Control::StaleStateFile(path) => Finding::risky(
            Code::StateFileStale,
            format!("{} is of another process than this Puma: {why}", path.display()),
            "keep the state file in the pod (an emptyDir), never on a shared volume",
        ),
        // In a restart it is silent for a moment; beside serving processes it is a fault.
        Control::Silent(what) if serves(snapshot) => Finding::risky(
            Code::ControlServerSilent,
            format!("Puma's control server does not answer ({what}): {why}"),
            "see that its address is reachable from the agent: a shared emptyDir, or shareProcessNamespace",
        ),
        Control::Silent(what) => return Check::unknown(CONTROL, format!("silent while Puma starts: {what}")),
    };
    Check::found(CONTROL, found)
}

const WITHOUT_NUMBERS: &str =
    "without its numbers, requests in flight and workers of an ended phase are known from outside only";

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

/// The same rule as a plan's: a Puma that was never seen in a release of ours may be a sidecar's.
fn from_current(snapshot: &Snapshot) -> Check {
    let pid = snapshot.master();
    match snapshot.cwd(pid) {
        Cwd::Release(release) => Check::fine(PUMA, format!("runs in release {release}")),
        Cwd::Unknown => Check::unknown(PUMA, "where it runs: the volume, or /proc, does not answer in time"),
        Cwd::Elsewhere if snapshot.memory.proven_ours => {
            Check::unknown(PUMA, "it ran in a release of ours, which was deleted since")
        }
        Cwd::Elsewhere => Check::found(PUMA, stranger(snapshot)),
    }
}

fn stranger(snapshot: &Snapshot) -> Finding {
    Finding::broken(
        Code::NotFromCurrent,
        format!(
            "Puma {} runs in no release of this volume's `releases` directory: no deploy can be proved, \
             and without puma.match none is tried",
            snapshot.master()
        ),
        "start Puma in `current` (cd /srv/app/current && exec …), with deploy_to on the same volume in both containers",
    )
}

fn hot(snapshot: &Snapshot) -> Check {
    match (&snapshot.processes.title, snapshot.processes.takes_hot()) {
        (None, _) => Check::unknown(RESTARTS, "hot: Puma is between two images"),
        (Some(_), true) => Check::fine(RESTARTS, "hot: possible"),
        (Some(_), false) => Check::found(
            RESTARTS,
            Finding::broken(
                Code::HotRestartUnavailable,
                "Puma has no handler for SIGUSR2: the signal of a hot restart would end it",
                "start Puma without PUMA_SKIP_SIGUSR2",
            ),
        ),
    }
}

fn phased(snapshot: &Snapshot) -> Option<Check> {
    let preloads = snapshot.memory.setup.as_ref().is_some_and(|setup| setup.preloads);
    let unclear = snapshot.memory.setup.as_ref().and_then(|setup| setup.unclear.as_deref());
    let cause = match (snapshot.cluster()?, snapshot.app_in_master()) {
        (false, _) => "Puma runs in single mode".to_owned(),
        (true, _) if !can_be_phased(snapshot) => "Puma has one worker".to_owned(),
        (true, Some(why)) => why,
        (true, None) if preloads => "Puma preloads its app".to_owned(),
        (true, None) if snapshot.mode == RestartMode::Auto && unclear.is_some() => {
            format!("what Puma's configuration loads cannot be told ({})", unclear.unwrap_or_default())
        }
        (true, None) => {
            return Some(Check::fine(RESTARTS, "phased: possible, as far as the configuration tells"));
        }
    };
    Some(phased_unavailable(&cause, snapshot.mode))
}

fn phased_unavailable(cause: &str, mode: RestartMode) -> Check {
    let message = format!("{cause}: every restart is a hot one, in which clients wait while the app boots");
    let make = if mode == RestartMode::Phased { Finding::risky } else { Finding::note };
    let remedy = "run two workers or more, with `preload_app! false`, started by `bundle exec puma`";
    Check::found(RESTARTS, make(Code::PhasedRestartUnavailable, message.as_str(), remedy))
}

/// A job process of a plugin's, most often: only a hot restart renews it.
fn kept_child(snapshot: &Snapshot) -> Option<Check> {
    let child = snapshot.processes.long_lived_child().filter(|_| can_be_phased(snapshot))?;
    let title: String = child.title.chars().take(80).collect();
    let is = format!("Puma's master has a child that is no worker: process {} `{title}`", child.id.pid);
    let finding = match snapshot.mode {
        RestartMode::Phased => Finding::risky(
            Code::ChildKeptByPhased,
            format!("{is}. Phased restarts leave it as it is, so it keeps the code of an earlier release"),
            "restart.mode: auto or hot, if it runs code of the release",
        ),
        RestartMode::Auto => Finding::note(
            Code::ChildKeptByPhased,
            format!("{is}. Only a hot restart renews it, so every restart is a hot one"),
            "run it in a container of its own (docs/job-workers.md), or set restart.mode: phased if its code may be old",
        ),
        RestartMode::Hot => return None,
    };
    Some(Check::found(RESTARTS, finding))
}

/// What the plan of a restart has found in the bundles.
fn next_puma(snapshot: &Snapshot) -> Option<Check> {
    let (old, new) = snapshot.memory.next_puma.as_ref()?;
    let differs = format!("the next release's bundle has Puma {new}, and the one that runs has {old}");
    let code = Code::PumaVersionDiffers;
    let finding = match snapshot.mode {
        RestartMode::Phased => Finding::risky(
            code,
            format!("{differs}: a phased restart goes on with {old}, whatever the workers load besides"),
            "restart.mode: auto, which restarts hot where the bundle differs",
        ),
        RestartMode::Auto | RestartMode::Hot => Finding::note(
            code,
            format!("{differs}: the restart is a hot one, and the new Puma has defaults of its own"),
            "read Puma's upgrade notes first: from 7.0 on a cluster preloads unless `preload_app! false`",
        ),
    };
    Some(Check::found(RESTARTS, finding))
}
