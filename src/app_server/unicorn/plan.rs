//! Whether this Unicorn can be moved to a release.

use std::{io, path::Path, time::Duration};

use super::{
    KIND, Unicorn,
    setting::{Lines, Setting},
    snapshot::Snapshot,
    title,
};
use crate::{
    app_server::{files::differ, inspector::Retries, not_found},
    core::{Cwd, Detection, Mode, Plan, Problem, Reason},
    revision::ReleaseId,
};

/// Files of a few kilobytes, on a volume that may be slow.
const LIMIT: Duration = Duration::from_secs(5);

/// What the files of both releases say.
struct Evidence {
    setting: Setting,
    next: Lines,
    same_bundle: bool,
}

impl Unicorn {
    pub(super) async fn plan_restart(
        &self,
        running: Option<&ReleaseId>,
        release: &ReleaseId,
    ) -> Result<Plan, Problem> {
        let snapshot = self.see_clearly().await?;
        self.refuse_a_stranger(&snapshot)?;
        if snapshot.processes.generations().len() > 1 {
            let message = "two masters of Unicorn run side by side, by somebody else's hand: end one of them with SIGQUIT";
            return Err(Problem::new(Reason::AppServerAmbiguous, message));
        }
        let evidence = self.evidence(&snapshot, running, release).await?;
        refuse_what_cannot_work(&snapshot, &evidence)?;
        Ok(Plan { mode: Mode::Hot })
    }

    async fn see_clearly(&self) -> Result<Snapshot, Problem> {
        let mut retries = Retries::for_a_restart();
        while retries.lasts().await {
            match self.see().await {
                Ok(snapshot) if snapshot.processes.newest().title.is_some() => return Ok(snapshot),
                Ok(_) | Err(Detection::Unclear | Detection::Seen(_)) => {}
                Err(detection) => return Err(not_found::problem(&KIND, &detection)),
            }
        }
        Err(not_found::problem(&KIND, &Detection::Unclear))
    }

    /// One that was never seen in a release of ours may be a sidecar's.
    fn refuse_a_stranger(&self, snapshot: &Snapshot) -> Result<(), Problem> {
        let known = snapshot.memory.proven_ours || self.narrow.is_some();
        if known || snapshot.cwd(snapshot.pid()) != Cwd::Elsewhere {
            return Ok(());
        }
        Err(not_found::stranger(&KIND, snapshot.pid(), &self.releases))
    }

    async fn evidence(
        &self,
        snapshot: &Snapshot,
        running: Option<&ReleaseId>,
        release: &ReleaseId,
    ) -> Result<Evidence, Problem> {
        let pid = snapshot.pid();
        let config = snapshot
            .processes
            .newest()
            .title
            .as_ref()
            .and_then(title::Master::config_file)
            .map(str::to_owned);
        let next = self.releases.join(release.as_str());
        let before = running.map(|running| self.releases.join(running.as_str()));
        let read = move || -> io::Result<Evidence> {
            Ok(Evidence {
                setting: Setting::read(pid, config.as_deref()),
                next: Lines::of_release(pid, &next, config.as_deref()),
                same_bundle: before.map_or(Ok(true), |before| same_bundle(&before, &next))?,
            })
        };
        let releases = self.releases.display();
        let late =
            || Problem::new(Reason::VolumeUnavailable, format!("{releases} did not answer within {LIMIT:?}"));
        let read = self.inspector.files.look(LIMIT, read).await.ok_or_else(late)?;
        read.map_err(|error| Problem::new(Reason::VolumeUnavailable, error.to_string()))
    }
}

fn refuse_what_cannot_work(snapshot: &Snapshot, evidence: &Evidence) -> Result<(), Problem> {
    let newest = snapshot.processes.newest();
    let wrong = if evidence.next.ends_old_master {
        "a hook of the new release's Unicorn configuration ends the old master (`.oldbin`) before the new one is \
         proven: take it out, pitstop ends the old master itself"
            .to_owned()
    } else if newest.holds_container() && newest.on_terminal {
        "the container's input is a terminal: leave `tty: true` out of its spec, or the old workers could not be ended \
         without the container"
            .to_owned()
    } else if let (Some(gemfile), false) = (&evidence.setting.bundle, evidence.same_bundle) {
        format!(
            "the new master would get the old bundle, {gemfile}: in Unicorn's configuration, \
             before_exec {{ |_| ENV['BUNDLE_GEMFILE'] = '…/current/Gemfile' }}, then restart the container once"
        )
    } else {
        return Ok(());
    };
    Err(Problem::new(Reason::ConfigInvalid, wrong))
}

fn same_bundle(before: &Path, next: &Path) -> io::Result<bool> {
    Ok(!differ(&before.join("Gemfile.lock"), &next.join("Gemfile.lock"))?)
}
