//! A pointer whose second move is a canary's, which is then taken back.

use super::world::{Disturbance, World, revision};
use crate::revision::{Aborted, Canary, PodCount, Pointer, Revision};

impl World {
    /// Before v2 moves for all pods, it is the canary's, and then it is aborted.
    pub(super) fn canary(&self) -> Pointer {
        let Revision { release, sequence } = revision(2);
        let all = Pointer::from(revision(1));
        if self.pointer == 3 {
            let aborted = Aborted { release: release.clone(), sequence, why: None, at: None };
            return Pointer { aborted: Some(aborted), rolled_back: vec![release], ..all };
        }
        // An agent that is started anew may not be told again whether it is among the canaries.
        let chosen = !self.disturbed.contains(&Disturbance::Crash);
        let share = PodCount::Pods(1);
        let canary =
            Canary { release, sequence, sha256: None, share, max_unavailable: None, rollout: None, chosen };
        Pointer { canary: Some(Box::new(canary)), ..all }
    }
}
