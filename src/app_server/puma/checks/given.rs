//! The rules on what Puma was given on its command line, in its environment and in its configuration.

use super::RESTARTS;
use crate::{
    app_server::puma::{
        evidence::{Evidence, Place},
        restart_modes::Phased,
        setup::{RestartDir, Setup, Tmp},
    },
    config::RestartMode,
    finding::{Check, Code, Finding, Severity},
};

const LITERAL: &str = "in config/puma.rb: directory '/srv/app/current', with the path of your link, as a literal; then restart the container once";

/// `moved`: a restart was seen to follow, whatever the evidence says.
pub(super) fn restart_dir(setup: &Setup, moved: bool) -> Check {
    let found = match (&setup.restart_dir, &setup.settings.directory) {
        (Some(RestartDir::Follows), _) => return Check::fine(RESTARTS, "follow `current`"),
        (Some(_), _) if moved => return Check::fine(RESTARTS, "were seen to follow `current`"),
        (Some(RestartDir::Fixed(evidence)), _) => Finding::risky(
            Code::RestartDirUnproven,
            format!("a restart may not follow `current`: {evidence}"),
            LITERAL,
        ),
        (Some(RestartDir::Never(evidence)), _) => Finding::broken(
            Code::RestartDirPinned,
            format!("no restart follows `current`: {evidence}. So nothing is deployed (restart_dir_pinned)"),
            LITERAL,
        ),
        (None, Evidence::Known(_, place) | Evidence::Unclear(_, place)) => {
            return unclear(RESTARTS, "which directory they go to", place);
        }
        (None, Evidence::Default) => {
            let why = "which directory they go to is known only where Puma runs: without `directory` it is PWD, if Puma is \
                       started with PWD set to the link. Set `directory` to the link, as a literal";
            return Check::unknown(RESTARTS, why);
        }
    };
    found.about(RESTARTS)
}

/// Paths of one release, the command of a hot restart, and the plugin that restarts Puma by a file.
pub(super) fn paths(setup: &Setup) -> Vec<Check> {
    let settings = &setup.settings;
    let mut checks: Vec<Check> = setup.pinned().into_iter().map(|(what, path)| pinned(what, path)).collect();
    checks.extend(setup.pinned_config().map(pinned_config));
    if let Evidence::Unclear(_, place) = &settings.rackup {
        checks.push(unclear(RESTARTS, "which rackup file they load", place));
    }
    match &settings.restart_command {
        Evidence::Known(command, _) => checks.push(restart_command(command)),
        Evidence::Unclear(_, place) => checks.push(unclear(RESTARTS, "what a hot one runs", place)),
        Evidence::Default => {}
    }
    match (&settings.tmp_restart, setup.tmp) {
        (Evidence::Default, _) => {}
        (Evidence::Unclear(_, place), Tmp::OnVolume | Tmp::OnNetwork) => {
            checks.push(unclear(RESTARTS, "whether the plugin tmp_restart is used", place));
        }
        (_, tmp) => checks.push(tmp_restart(tmp)),
    }
    checks
}

/// What only the running Puma shows.
pub(super) fn unclear(about: &'static str, what: &str, place: &Place) -> Check {
    Check::unknown(about, format!("{what} is known only where Puma runs ({place})"))
}

fn pinned(what: &str, path: &str) -> Check {
    Finding::risky(
        Code::PathNamesRelease,
        format!("{what} is {path}, in one release: every restart loads it from there"),
        "name the link instead (/srv/app/current/…) or a relative path, then restart the container once",
    )
    .about(RESTARTS)
}

fn pinned_config(path: &str) -> Check {
    Finding::risky(
        Code::ConfigNamesRelease,
        format!("`-C` is {path}: every release runs with that release's configuration of Puma"),
        "start Puma with a relative path (-C config/puma.rb), or one through the link",
    )
    .about(RESTARTS)
}

fn restart_command(command: &str) -> Check {
    Finding::note(
        Code::RestartCommandGiven,
        format!("a hot restart runs `restart_command` ({command}) instead of the command that started Puma"),
        "check that it starts the same Puma from the link, or remove restart_command",
    )
    .about(RESTARTS)
}

/// The plugin is there.
fn tmp_restart(tmp: Tmp) -> Check {
    let (severity, shared) = match tmp {
        Tmp::Own => return Check::fine(RESTARTS, "tmp/restart.txt is this pod's own"),
        Tmp::OnVolume => {
            (Severity::Note, "is in the release: all pods that mount this volume restart at once")
        }
        Tmp::OnNetwork => (
            Severity::Risky,
            "is on a network volume: all pods restart at once, and none of them serves meanwhile",
        ),
    };
    Finding::of(
        severity,
        Code::TmpRestartShared,
        format!("the plugin tmp_restart restarts Puma when tmp/restart.txt is touched. That file {shared}"),
        "remove `plugin :tmp_restart` from config/puma.rb, or give each pod its own tmp (pod_dirs: [tmp])",
    )
    .about(RESTARTS)
}

pub(super) fn phased(found: Phased, mode: RestartMode) -> Check {
    let cause = match found {
        Phased::Possible => {
            return Check::fine(RESTARTS, "phased: possible, as far as the configuration tells");
        }
        Phased::Unknown(why) => return Check::unknown(RESTARTS, format!("phased: {why}")),
        Phased::Unavailable(cause) => cause,
    };
    let message = format!("{cause}: every restart is a hot one, and clients wait while the app boots");
    let severity = if mode == RestartMode::Phased { Severity::Risky } else { Severity::Note };
    let fix = "run two workers or more, with `preload_app! false`, started by `bundle exec puma`";
    Finding::of(severity, Code::PhasedRestartUnavailable, message, fix).about(RESTARTS)
}
