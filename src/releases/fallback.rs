//! `fallback_dir`: code in the app's image, for when no release can be had. It is none of the volume's: the
//! app's container sees it, this one may not, so `current` just gets its path.

use std::{fs, path::Path};

use super::{Releases, disk_problem};
use crate::core::{Problem, Reason};

impl Releases {
    /// Whether a link leads to the image's code.
    pub(super) fn is_fallback_link(&self, target: &Path) -> bool {
        self.fallback.as_deref() == Some(target)
    }

    /// Points `current` to the image's code.
    pub(super) fn publish_fallback(&self) -> Result<(), Problem> {
        let Some(target) = &self.fallback else {
            return Err(Problem::new(Reason::ReleaseUnknown, "fallback_dir is not set"));
        };
        self.link_before()?;
        let dir = self.current_dir()?;
        self.swap(&dir, target)?;
        dir.sync().map_err(|e| disk_problem(dir.name(), &e))?;
        match fs::read_link(&self.current) {
            Ok(found) if found == *target => Ok(()),
            Ok(found) => Err(Problem::new(
                Reason::VolumeUnavailable,
                format!(
                    "{} leads to {} though it was just moved to {}; does something else move it?",
                    self.current.display(),
                    found.display(),
                    target.display()
                ),
            )),
            Err(e) => Err(disk_problem(&self.current, &e)),
        }
    }
}
