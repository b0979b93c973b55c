//! What a look tells of this Puma's set-up: what is fine, and each trap with the line that mends it.

use std::time::Duration;

use super::{
    control::Control,
    plan::can_be_phased,
    setting::{RestartDir, Setting},
    view::View,
};
use crate::{
    config::RestartMode,
    core::Cwd,
    finding::{Check, Code, Finding},
};

const PUMA: &str = "Puma";
const CONTROL: &str = "control server";
const RESTARTS: &str = "restarts";

/// Puma's own default.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that one look tells.
pub(super) fn of(view: &View) -> Vec<Check> {
    let mut checks = vec![seen(view), control(view), from_current(view)];
    match &view.memory.setting {
        Some(setting) => {
            checks.push(restart_dir(setting));
            checks.extend(setting.pinned.iter().map(|what| pinned(what)));
            checks.extend(shutdown_timeout(view, setting));
        }
        None => checks.push(Check::unknown(RESTARTS, "Puma's configuration could not be read")),
    }
    checks.push(hot(view));
    checks.extend(phased(view));
    checks.push(random_addresses());
    checks
}

fn seen(view: &View) -> Check {
    let version = view.family.title.as_ref().map_or("", |title| title.version.as_str());
    let mode = match view.cluster() {
        Some(true) => format!("a cluster of {}", view.expected()),
        Some(false) => "single mode".into(),
        None => "not yet known whether single or cluster".into(),
    };
    let pid = view.master();
    Check::fine(PUMA, format!("{version} found: pid {pid}, {mode}; it may be looked into and signalled"))
}

fn control(view: &View) -> Check {
    let why =
        "without its numbers, requests in flight and workers of an ended phase are known from outside only";
    let found = match &view.control {
        Control::Stats(_) => return Check::fine(CONTROL, "answers with Puma's own numbers"),
        Control::Absent => Finding::risky(
            Code::ControlServerAbsent,
            format!("Puma has no control server that could be found: {why}"),
            "in config/puma.rb: activate_control_app 'unix:///run/puma/control.sock', and state_path; \
             then puma.state_file for the agent",
        ),
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
        Control::Silent(what) if serves(view) => Finding::risky(
            Code::ControlServerSilent,
            format!("Puma's control server does not answer ({what}): {why}"),
            "see that its address is reachable from the agent: a shared emptyDir, or shareProcessNamespace",
        ),
        Control::Silent(what) => return Check::unknown(CONTROL, format!("silent while Puma starts: {what}")),
    };
    Check::found(CONTROL, found)
}

fn serves(view: &View) -> bool {
    view.family.serves || view.family.workers.iter().any(|worker| worker.serves)
}

/// The same rule as a plan's: a Puma that was never seen in a release of ours may be a sidecar's.
fn from_current(view: &View) -> Check {
    let pid = view.master();
    match view.cwd(pid) {
        Cwd::Release(release) => Check::fine(PUMA, format!("runs in release {release}")),
        Cwd::Unknown => Check::unknown(PUMA, "where it runs: the volume, or /proc, does not answer in time"),
        Cwd::Elsewhere if view.memory.proven_ours => {
            Check::unknown(PUMA, "it ran in a release of ours, which was deleted since")
        }
        Cwd::Elsewhere => Check::found(PUMA, stranger(view)),
    }
}

fn stranger(view: &View) -> Finding {
    Finding::broken(
        Code::NotFromCurrent,
        format!(
            "Puma {} runs in no release of this volume's `releases` directory: no deploy can be proved, \
             and without puma.match none is tried",
            view.master()
        ),
        "start Puma in `current` (cd /srv/app/current && exec …), with deploy_to on the same volume in both containers",
    )
}

fn restart_dir(setting: &Setting) -> Check {
    match &setting.restart_dir {
        RestartDir::Follows => Check::fine(RESTARTS, "go to where `current` leads then"),
        RestartDir::Fixed(evidence) => Check::found(
            RESTARTS,
            Finding::risky(
                Code::RestartDirUnproven,
                format!("a restart may not follow `current`: {evidence}"),
                "in config/puma.rb: directory '/srv/app/current', with the path of your link, as a literal",
            ),
        ),
    }
}

fn pinned(what: &str) -> Check {
    Check::found(
        RESTARTS,
        Finding::risky(
            Code::PathNamesRelease,
            format!("{what}, which names one release: restarts go on loading from there"),
            "name the link instead (/srv/app/current/…) or a relative path, then restart the container once",
        ),
    )
}

/// A single process has none: it waits for its requests.
fn shutdown_timeout(view: &View, setting: &Setting) -> Option<Check> {
    let puma = setting.shutdown_timeout.filter(|_| view.cluster() == Some(true))?;
    let puma = puma.unwrap_or(SHUTDOWN_TIMEOUT);
    let (told, shown) = (view.told.worker_shutdown_timeout, humantime::format_duration(puma));
    if told == puma {
        return Some(Check::fine(RESTARTS, format!("requests get {shown} to end, in Puma as for the agent")));
    }
    let ours = humantime::format_duration(told);
    let (code, remedy) =
        (Code::ShutdownTimeoutDiffers, format!("set puma.worker_shutdown_timeout to {shown}, for the agent"));
    let found = if told > puma {
        let message = format!(
            "Puma kills a worker {shown} after it was told to stop, and the agent takes that for {ours}: a \
             request between the two is cut by a restart"
        );
        Finding::risky(code, message, remedy)
    } else {
        let message = format!(
            "Puma gives requests {shown} to end, and the agent takes that for {ours}: it waits for requests \
             that would survive a restart"
        );
        Finding::note(code, message, remedy)
    };
    Some(Check::found(RESTARTS, found))
}

fn hot(view: &View) -> Check {
    match (&view.family.title, view.family.takes_hot()) {
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

fn phased(view: &View) -> Option<Check> {
    let preloads = view.memory.setting.as_ref().is_some_and(|setting| setting.preloads);
    let cause = match view.cluster()? {
        false => "Puma runs in single mode",
        true if !can_be_phased(view) => "Puma has one worker",
        true if preloads => "Puma preloads its app",
        true => return Some(Check::fine(RESTARTS, "phased: possible, as far as the configuration tells")),
    };
    let message = format!("{cause}: every restart is a hot one, in which clients wait while the app boots");
    let make = if view.mode == RestartMode::Phased { Finding::risky } else { Finding::note };
    let remedy = "run two workers or more, with `preload_app! false`";
    Some(Check::found(RESTARTS, make(Code::PhasedRestartUnavailable, message.as_str(), remedy)))
}

/// An exec is told from none by a random address.
fn random_addresses() -> Check {
    let setting = std::fs::read_to_string("/proc/sys/kernel/randomize_va_space");
    match setting.as_deref().map(str::trim) {
        Ok("0") => Check::found(
            RESTARTS,
            Finding::broken(
                Code::AddressSpaceNotRandom,
                "the kernel places every image at the same addresses: whether Puma has restarted cannot be told",
                "set kernel.randomize_va_space to 2 on the node",
            ),
        ),
        Ok(_) => Check::fine(RESTARTS, "can be recognised: the kernel gives each image addresses of its own"),
        Err(error) => Check::unknown(RESTARTS, format!("/proc/sys/kernel/randomize_va_space: {error}")),
    }
}
