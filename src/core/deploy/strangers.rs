//! Processes that are not ours, or that the kernel keeps from us.

use super::*;

/// A pause grows to so many doublings.
const DOUBLINGS: u32 = 6;

impl Deploy {
    /// Whoever is there and cannot be told or may not be looked into: as long as nothing is in place, it runs nothing
    /// of ours, and what is put in place disturbs it in nothing.
    pub(super) fn only_strangers(&self, detection: &Detection) -> bool {
        matches!(detection, Detection::Ambiguous | Detection::NotPermitted) && self.releases.current.is_none()
    }

    /// The same once the first release is in place, and nothing was seen to run it.
    pub(super) fn strangers_so_far(&self, detection: &Detection) -> bool {
        let nothing_yet = self.releases.history.verified.is_none() && self.releases.last_seen.is_none();
        matches!(detection, Detection::Ambiguous | Detection::NotPermitted) && nothing_yet
    }

    /// How long to wait before the next try. What the kernel refuses it goes on refusing until somebody changes the
    /// pod, and each try may move `current` to and fro.
    pub(super) fn pause(&mut self, why: Reason) -> u64 {
        let denied = if why == Reason::NotPermitted { self.denied } else { 0 };
        self.denied = if why == Reason::NotPermitted { (denied + 1).min(DOUBLINGS) } else { 0 };
        self.policy.retry_ms << denied
    }
}
