//! How Puma was started: what of it follows `current`, and who stands in front.

use super::{PUMA, RESTARTS};
use crate::{
    app_server::puma::{
        command_line::names,
        config_file::PumaConfig,
        restart_modes::{allows_phased, can_be_phased, loses_its_arguments},
        setup::{Pinned, RestartDir, Setup, Tmp},
        snapshot::Snapshot,
        started_by::StartedBy,
    },
    config::RestartMode,
    finding::{Check, Code, Finding},
};

/// Everything about it.
pub(super) fn of(snapshot: &Snapshot, setup: &Setup) -> Vec<Check> {
    let mut checks = vec![restart_dir(snapshot, setup)];
    checks.extend(setup.pinned().iter().map(pinned));
    checks.extend(setup.pinned_config().as_ref().map(pinned_config));
    checks.extend(in_front(setup));
    checks.extend(rackup(snapshot, setup));
    checks.extend(rails_pid_file(snapshot, setup));
    checks.extend(setup.config.as_ref().and_then(restart_command));
    checks.extend(bundle(snapshot, setup));
    checks.extend(setup.config.as_ref().filter(|config| config.tmp_restart).map(|_| tmp_restart(setup.tmp)));
    checks
}

const LITERAL: &str = "in config/puma.rb: directory '/srv/app/current', with the path of your link, as a literal; then restart the container once";

fn restart_dir(snapshot: &Snapshot, setup: &Setup) -> Check {
    match &setup.restart_dir {
        RestartDir::Follows => Check::fine(RESTARTS, "go to where `current` leads then"),
        _ if snapshot.memory.moved => Check::fine(RESTARTS, "were seen to go to where `current` leads"),
        RestartDir::Fixed(evidence) => may_not_follow(evidence),
        RestartDir::Never(evidence) => never_follows(evidence),
    }
}

pub(super) fn may_not_follow(evidence: &str) -> Check {
    let message = format!("a restart may not follow `current`: {evidence}");
    Check::found(RESTARTS, Finding::risky(Code::RestartDirUnproven, message, LITERAL))
}

pub(super) fn never_follows(evidence: &str) -> Check {
    let message =
        format!("no restart follows `current`: {evidence}; so nothing is deployed (restart_dir_pinned)");
    Check::found(RESTARTS, Finding::broken(Code::RestartDirPinned, message, LITERAL))
}

pub(super) fn pinned(pinned: &Pinned) -> Check {
    let Pinned { what, path } = pinned;
    Check::found(
        RESTARTS,
        Finding::risky(
            Code::PathNamesRelease,
            format!("{what} {path}, which names one release: restarts go on loading from there"),
            "name the link instead (/srv/app/current/…) or a relative path, then restart the container once",
        ),
    )
}

fn pinned_config(pinned: &Pinned) -> Check {
    let Pinned { what, path } = pinned;
    Check::found(
        RESTARTS,
        Finding::risky(
            Code::ConfigNamesRelease,
            format!("{what} {path}: every release runs with that release's configuration of Puma"),
            "start Puma with a relative path (-C config/puma.rb), or one through the link",
        ),
    )
}

/// Only Puma itself is ever signalled by pitstop; the kubelet's SIGTERM goes to the container's first process.
fn in_front(setup: &Setup) -> Option<Check> {
    let front = setup.command_line.in_front.as_ref()?;
    let (pid, title) = (front.pid, &front.title);
    if !front.is_shell {
        return Some(Check::fine(
            PUMA,
            format!("started by `{title}` ({pid}), which stays in front; only Puma is signalled"),
        ));
    }
    let finding = Finding::risky(
        Code::ShellInFront,
        format!(
            "the shell `{title}` ({pid}) stays in front of Puma; pitstop signals Puma alone, but at the end of the pod \
             SIGTERM goes to the shell: Puma is not told to stop, and is killed after the grace period"
        ),
        "start Puma with `exec` (sh -c 'exec bundle exec puma …'), or behind tini or dumb-init",
    );
    Some(Check::found(PUMA, finding))
}

fn rackup(snapshot: &Snapshot, setup: &Setup) -> Option<Check> {
    if !setup.command_line.by_rackup {
        return None;
    }
    let make = if loses_its_arguments(snapshot) { Finding::broken } else { Finding::risky };
    let message = "Puma was started by `rackup`, and a hot restart leaves out the arguments that it was given: it would come \
                   back on port 9292, with the defaults; where arguments are lost none is tried";
    let remedy = "start it with `puma` (bundle exec puma -C config/puma.rb)";
    Some(Check::found(RESTARTS, make(Code::StartedByRackup, message, remedy)))
}

/// Only `rails server` asks for it before it starts. Its hot restarts take it away first.
fn rails_pid_file(snapshot: &Snapshot, setup: &Setup) -> Option<Check> {
    let path = setup.pid_file.as_deref()?;
    let command = snapshot.memory.command_line.as_deref();
    let by_rails = snapshot.memory.started_by == Some(StartedBy::RailsServer)
        || command.is_some_and(|command| names(command, "rails") && !names(command, "puma"));
    let finding = Finding::risky(
        Code::RailsPidFileStays,
        format!(
            "`rails server` keeps its number in {path}, which outlives the container: after a kill, or in another pod \
             that has the same {path}, it finds that number taken by some other process and does not start (\"A \
             server is already running\"), again and again"
        ),
        "start it with `bundle exec puma -C config/puma.rb`, or take the file away first (rm -f, in the container's command)",
    );
    by_rails.then(|| Check::found(PUMA, finding))
}

pub(super) fn restart_command(config: &PumaConfig) -> Option<Check> {
    let command = config.restart_command.as_deref()?;
    let finding = Finding::note(
        Code::RestartCommandGiven,
        format!(
            "`restart_command` is {command}: a hot restart runs that, and not what Puma was started with"
        ),
        "see that it starts the same Puma from the link, or leave restart_command out",
    );
    Some(Check::found(RESTARTS, finding))
}

/// Only where a phased restart is a possibility.
fn bundle(snapshot: &Snapshot, setup: &Setup) -> Option<Check> {
    let possible = can_be_phased(snapshot) && allows_phased(setup);
    let through_link = setup.command_line.gemfile.is_some() && setup.pinned().is_empty();
    if !possible || !setup.command_line.by_bundler || !setup.keeps_bundle() || through_link {
        return None;
    }
    let (code, remedy) = (
        Code::BundleKeptByPhased,
        "BUNDLE_GEMFILE=/srv/app/current/Gemfile in Puma's environment, or `prune_bundler`",
    );
    let kept = "behind `bundle exec`, a phased restart keeps the bundle of the release that the master was started in";
    let finding = match snapshot.mode {
        RestartMode::Phased => {
            Finding::risky(code, format!("{kept}, also where the new release's is another"), remedy)
        }
        RestartMode::Auto | RestartMode::Hot => {
            Finding::note(code, format!("{kept}: where the bundle differs, the restart is a hot one"), remedy)
        }
    };
    Some(Check::found(RESTARTS, finding))
}

/// The plugin is there.
pub(super) fn tmp_restart(tmp: Tmp) -> Check {
    let (code, remedy) = (
        Code::TmpRestartShared,
        "leave `plugin :tmp_restart` out of config/puma.rb, or give each pod its own tmp (pod_dirs: [tmp])",
    );
    let finding = match tmp {
        Tmp::Own => return Check::fine(RESTARTS, "tmp/restart.txt is this pod's own"),
        Tmp::OnVolume => Finding::note(
            code,
            "the plugin tmp_restart restarts Puma when tmp/restart.txt is touched, and that lies in the release: \
             every pod that mounts this volume restarts then, at once",
            remedy,
        ),
        Tmp::OnNetwork => Finding::risky(
            code,
            "the plugin tmp_restart restarts Puma when tmp/restart.txt is touched, and that lies on a network volume: \
             all pods restart at once, and none of them serves meanwhile",
            remedy,
        ),
    };
    Check::found(RESTARTS, finding)
}
