//! Whether Passenger could be moved to a release. There is one way to restart it.

use std::path::Path;

use super::{NotFound, Passenger, perform::not_seen, snapshot::Snapshot};
use crate::{
    app_server::inspector::Retries,
    core::{Cwd, Detection, Mode, Plan, Problem, Reason},
    revision::ReleaseId,
};

impl Passenger {
    pub(super) async fn plan_restart(&self, release: &ReleaseId) -> Result<Plan, Problem> {
        let snapshot = self.see_clearly().await?;
        // It runs there already, and only has to be proved.
        if snapshot.home() == Cwd::Release(release.clone()) {
            return Ok(Plan { mode: Mode::Hot });
        }
        if let Some(release) = pinned_to(Path::new(&snapshot.group.app_root)) {
            let message = format!(
                "Passenger was started in {}, and every restart goes there again: start it in the link `current`",
                snapshot.group.app_root
            );
            tracing::debug!(%release, "a restart cannot leave this release");
            return Err(Problem::new(Reason::RestartDirPinned, message));
        }
        self.refuse_a_stranger(&snapshot)?;
        Ok(Plan { mode: Mode::Hot })
    }

    /// An app that was never seen in a release of ours may be somebody else's.
    fn refuse_a_stranger(&self, snapshot: &Snapshot) -> Result<(), Problem> {
        if snapshot.proven_ours || self.narrow.is_some() || snapshot.home() != Cwd::Elsewhere {
            return Ok(());
        }
        let message = format!(
            "the only app of this Passenger, {}, runs in no release of {}: start it in `current`, or name it in \
             passenger.match if it is meant",
            snapshot.group.name,
            self.releases.display()
        );
        Err(Problem::new(Reason::WrongCwd, message))
    }

    async fn see_clearly(&self) -> Result<Snapshot, Problem> {
        let mut last = NotFound::from(Detection::Unclear);
        let mut retries = Retries::for_a_start();
        while retries.lasts().await {
            match self.see().await {
                Ok(snapshot) => return Ok(snapshot),
                Err(not_found) if not_found.detection == Detection::Unclear => last = not_found,
                Err(not_found) => return Err(not_seen(&not_found)),
            }
        }
        Err(not_seen(&last))
    }
}

/// The release that an app's root names, instead of a link that moves. The app may live deeper in it.
pub(super) fn pinned_to(app_root: &Path) -> Option<ReleaseId> {
    app_root.ancestors().find_map(|path| {
        let below_releases = path.parent()?.file_name()? == "releases";
        path.file_name()?.to_str()?.parse().ok().filter(|_| below_releases)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_names_a_release_is_known() {
        let pinned = |path: &str| pinned_to(Path::new(path)).map(|release| release.to_string());
        assert_eq!(pinned("/srv/app/releases/v1").as_deref(), Some("v1"));
        assert_eq!(pinned("/srv/app/releases/v1/backend").as_deref(), Some("v1"));
        assert_eq!(pinned("/srv/app/current"), None);
        assert_eq!(pinned("/srv/releases"), None);
    }
}
