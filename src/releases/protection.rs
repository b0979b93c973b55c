//! Which releases must stay, as of now: what the caller knows, what `current` leads to, and every lease.

use std::collections::BTreeMap;

use super::{
    Releases,
    leases::{Lease, Leases},
};
use crate::{core::Problem, revision::ReleaseId};

/// What the caller itself knows to be needed, each with the reason; asked anew before each step.
pub(crate) type Protection<'a> = &'a dyn Fn() -> BTreeMap<ReleaseId, String>;

/// Everything that must stay, as of now.
pub(super) struct Protected {
    own: BTreeMap<ReleaseId, String>,
    current: Option<ReleaseId>,
    leases: Leases,
}

impl Protected {
    pub(crate) fn why(&self, id: &ReleaseId) -> Option<String> {
        let leased = |lease: &Lease| lease.role(id).map(|role| format!("{role} in pod {}", lease.pod));
        let doubtful =
            || Some(format!("a lease cannot be read and may name it: {}", self.leases.unreadable.first()?));
        let current = || (self.current.as_ref() == Some(id)).then(|| "current points to it".to_owned());
        let by_lease = || self.leases.live.iter().find_map(leased);
        self.own.get(id).cloned().or_else(current).or_else(by_lease).or_else(doubtful)
    }
}

impl Releases {
    pub(super) fn protected(&self, protection: Protection<'_>) -> Result<Protected, Problem> {
        Ok(Protected { own: protection(), current: self.current()?, leases: self.leases()? })
    }
}
