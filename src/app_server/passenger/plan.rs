//! Whether Passenger could be moved to a release. There is one way to restart it.

use std::path::Path;

use super::snapshot::Snapshot;
use crate::{
    core::{Cwd, Problem, Reason},
    revision::ReleaseId,
};

/// An app that every restart starts in the same release again.
pub(super) fn refuse_what_is_pinned(snapshot: &Snapshot, release: &ReleaseId) -> Result<(), Problem> {
    let root = &snapshot.group.app_root;
    // If it runs there already, it only has to be verified.
    if snapshot.home() == Cwd::Release(release.clone()) || pinned_to(Path::new(root)).is_none() {
        return Ok(());
    }
    let message = format!(
        "Passenger was started in {root}, and every restart goes there again: start it in the link `current`"
    );
    Err(Problem::new(Reason::RestartDirPinned, message))
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
