//! Whether Passenger could be moved to a release. There is one way to restart it.

use std::path::Path;

use super::{Passenger, Unseen, perform::not_seen, view::View};
use crate::{
    app_server::eyes::Patience,
    core::{Cwd, Detection, Mode, Plan, Problem, Reason},
    revision::ReleaseId,
};

impl Passenger {
    pub(super) async fn plan_restart(&self, release: &ReleaseId) -> Result<Plan, Problem> {
        let view = self.see_clearly().await?;
        // It runs there already, and only has to be proved.
        if view.home() == Cwd::Release(release.clone()) {
            return Ok(Plan { mode: Mode::Hot });
        }
        if let Some(release) = pinned_to(Path::new(&view.group.app_root)) {
            let message = format!(
                "Passenger was started in {}, and every restart goes there again: start it in the link `current`",
                view.group.app_root
            );
            tracing::debug!(%release, "a restart cannot leave this release");
            return Err(Problem::new(Reason::RestartDirPinned, message));
        }
        self.refuse_a_stranger(&view)?;
        Ok(Plan { mode: Mode::Hot })
    }

    /// An app that was never seen in a release of ours may be somebody else's.
    fn refuse_a_stranger(&self, view: &View) -> Result<(), Problem> {
        if view.proven_ours || self.narrow.is_some() || view.home() != Cwd::Elsewhere {
            return Ok(());
        }
        let message = format!(
            "the only app of this Passenger, {}, runs in no release of {}: start it in `current`, or name it in \
             passenger.match if it is meant",
            view.group.name,
            self.releases.display()
        );
        Err(Problem::new(Reason::WrongCwd, message))
    }

    async fn see_clearly(&self) -> Result<View, Problem> {
        let mut last = Unseen::from(Detection::Unclear);
        let mut patience = Patience::for_a_start();
        while patience.lasts().await {
            match self.see().await {
                Ok(view) => return Ok(view),
                Err(unseen) if unseen.detection == Detection::Unclear => last = unseen,
                Err(unseen) => return Err(not_seen(&unseen)),
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
