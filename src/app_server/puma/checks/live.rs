//! What only a running Puma shows of its start: who started it, and who stands in front.

use std::path::Path;

use super::{PUMA, RESTARTS};
use crate::{
    app_server::puma::{
        command_line::names,
        restart_modes::{allows_phased, can_be_phased, loses_its_arguments},
        setup::Setup,
        snapshot::Snapshot,
        started_by::StartedBy,
    },
    config::RestartMode,
    finding::{Check, Code, Finding, Severity},
};

pub(super) fn of(snapshot: &Snapshot, setup: &Setup) -> Vec<Check> {
    let found =
        [in_front(setup), rackup(snapshot, setup), rails_pid_file(snapshot, setup), bundle(snapshot, setup)];
    found.into_iter().flatten().collect()
}

/// Only Puma itself is ever signalled by pitstop; the kubelet's SIGTERM goes to the container's first process.
fn in_front(setup: &Setup) -> Option<Check> {
    let front = setup.command_line.in_front.as_ref()?;
    let (pid, title) = (front.pid, &front.title);
    if !front.is_shell {
        let message =
            format!("`{title}` ({pid}) started Puma and stays in front of it; pitstop signals only Puma");
        return Some(Check::fine(PUMA, message));
    }
    let finding = Finding::risky(
        Code::ShellInFront,
        format!(
            "the shell `{title}` ({pid}) stays in front of Puma. At the end of the pod SIGTERM goes to the shell: Puma \
             does not stop by itself, and is killed after the grace period. (pitstop signals Puma itself)"
        ),
        "start Puma with `exec` (sh -c 'exec bundle exec puma …'), or behind tini or dumb-init",
    );
    Some(finding.about(PUMA))
}

fn rackup(snapshot: &Snapshot, setup: &Setup) -> Option<Check> {
    if !setup.command_line.by_rackup {
        return None;
    }
    let severity = if loses_its_arguments(snapshot) { Severity::Broken } else { Severity::Risky };
    let message = "Puma was started by `rackup`. A hot restart drops the arguments it was given: Puma would come back on \
                   port 9292, with the defaults. Where arguments would be lost, there is no hot restart";
    let fix = "start it with `puma` (bundle exec puma -C config/puma.rb)";
    Some(Finding::of(severity, Code::StartedByRackup, message, fix).about(RESTARTS))
}

/// Only `rails server` asks for it before it starts. Its hot restarts take it away first.
fn rails_pid_file(snapshot: &Snapshot, setup: &Setup) -> Option<Check> {
    // An absolute path leads out of what containers have in common.
    let path = setup.pid_files.iter().find(|path| Path::new(path).is_relative())?;
    let command = snapshot.memory.command_line.as_deref();
    let by_rails = snapshot.memory.started_by == Some(StartedBy::RailsServer)
        || command.is_some_and(|command| names(command, "rails") && !names(command, "puma"));
    let finding = Finding::risky(
        Code::RailsPidFileStays,
        format!(
            "`rails server` keeps its pid in {path}, which outlives the container. After a kill, or in another pod with \
             the same {path}, some other process may have that pid: then `rails server` fails to start (\"A server is \
             already running\"), each time the container starts"
        ),
        "start it with `bundle exec puma -C config/puma.rb`, or delete the file first (rm -f, in the container's command)",
    );
    by_rails.then(|| finding.about(PUMA))
}

/// Only where a phased restart is a possibility.
fn bundle(snapshot: &Snapshot, setup: &Setup) -> Option<Check> {
    let possible = can_be_phased(snapshot) && allows_phased(setup);
    let through_link = setup.command_line.gemfile.is_some() && setup.pinned().is_empty();
    if !possible || !setup.command_line.by_bundler || !setup.keeps_bundle() || through_link {
        return None;
    }
    let (severity, or_else) = match snapshot.mode {
        RestartMode::Phased => (Severity::Risky, "even if the new release has another"),
        RestartMode::Auto | RestartMode::Beside | RestartMode::Hot => {
            (Severity::Note, "so a hot one is chosen if the bundle differs")
        }
    };
    let finding = Finding::of(
        severity,
        Code::BundleKeptByPhased,
        format!(
            "behind `bundle exec`, a phased restart keeps the bundle of the release that the master was started in, {or_else}"
        ),
        "BUNDLE_GEMFILE=/srv/app/current/Gemfile in Puma's environment, or `prune_bundler`",
    );
    Some(finding.about(RESTARTS))
}
