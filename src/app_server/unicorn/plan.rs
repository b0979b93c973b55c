//! Whether this Unicorn can be moved to a release.

use std::{io, path::Path, time::Duration};

use super::{
    Unicorn,
    setup::{Lines, Setup},
    snapshot::Snapshot,
    title,
};
use crate::{
    app_server::{
        driver::Driver,
        files::differ,
        fit::{Fit, Misfit},
    },
    core::{Problem, Reason},
    revision::ReleaseId,
};

/// Files of a few kilobytes, on a volume that may be slow.
const LIMIT: Duration = Duration::from_secs(5);

/// What the files of both releases say.
struct Evidence {
    setup: Setup,
    next: Lines,
    same_bundle: bool,
}

/// Whether the parent of this Unicorn can start a second one beside it, which takes nothing over from the first but
/// its sockets.
pub(super) fn beside(snapshot: &Snapshot, release: Option<&ReleaseId>) -> Result<Fit, Misfit> {
    let set_up = || {
        let setup = snapshot.memory.setup.as_ref();
        let setup = setup.ok_or_else(|| Misfit::unanswered("Unicorn's configuration"))?;
        let pinned = setup.pinned.first().map(|what| format!("{what}, which names one release"));
        match setup.may_not_follow.clone().or(pinned) {
            None => Ok(()),
            Some(why) => {
                let why = format!("a second Unicorn may not boot from `current`: {why}");
                Err(Misfit::new(
                    why,
                    "in Unicorn's configuration: working_directory '/srv/app/current'; name no release",
                ))
            }
        }
    };
    snapshot.sides.fit(set_up, release)
}

/// A release that a restart could not bring, or not without an outage.
pub(super) async fn refuse_what_cannot_work(
    driver: &Driver<Unicorn>,
    snapshot: &Snapshot,
    running: Option<&ReleaseId>,
    release: &ReleaseId,
) -> Result<(), Problem> {
    if snapshot.processes.generations().len() > 1 {
        let message = "two Unicorn masters are running, and not by a deploy: stop one of them with SIGQUIT";
        return Err(Problem::new(Reason::AppServerAmbiguous, message));
    }
    let evidence = evidence(driver, snapshot, running, release).await?;
    what_cannot_work(snapshot, &evidence)
        .map_or(Ok(()), |wrong| Err(Problem::new(Reason::ConfigInvalid, wrong)))
}

async fn evidence(
    driver: &Driver<Unicorn>,
    snapshot: &Snapshot,
    running: Option<&ReleaseId>,
    release: &ReleaseId,
) -> Result<Evidence, Problem> {
    let newest = snapshot.processes.newest();
    let pid = newest.image.process.pid;
    let config = newest.title.as_ref().and_then(title::Master::config_file).map(str::to_owned);
    let next = driver.releases.join(release.as_str());
    let before = running.map(|running| driver.releases.join(running.as_str()));
    let read = move || -> io::Result<Evidence> {
        Ok(Evidence {
            setup: Setup::read(pid, config.as_deref()),
            next: Lines::of_release(pid, &next, config.as_deref()),
            same_bundle: before.map_or(Ok(true), |before| same_bundle(&before, &next))?,
        })
    };
    driver.read_releases(LIMIT, read).await
}

fn what_cannot_work(snapshot: &Snapshot, evidence: &Evidence) -> Option<String> {
    let newest = snapshot.processes.newest();
    if evidence.next.ends_old_master {
        return Some(
            "a hook in the new release's Unicorn configuration ends the old master (`.oldbin`) before the new one is \
             verified: remove the hook, pitstop ends the old master itself"
                .into(),
        );
    }
    if newest.holds_container() && newest.on_terminal {
        return Some(
            "the container's input is a terminal, so the old workers could not be ended without the container: remove \
             `tty: true` from its spec"
                .into(),
        );
    }
    let gemfile = evidence.setup.bundle.as_ref().filter(|_| !evidence.same_bundle)?;
    Some(format!(
        "the new master would load the old bundle, {gemfile}: in Unicorn's configuration, set before_exec {{ |_| \
         ENV['BUNDLE_GEMFILE'] = '…/current/Gemfile' }}, then restart the container once"
    ))
}

fn same_bundle(before: &Path, next: &Path) -> io::Result<bool> {
    Ok(!differ(&before.join("Gemfile.lock"), &next.join("Gemfile.lock"))?)
}
