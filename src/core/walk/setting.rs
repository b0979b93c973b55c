//! How a walk is set up.

use super::pod::{Kind, Nature};
use crate::core::drain::Budget;
use crate::core::{Mode, Policy, Shift};

/// How a walk is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Setting {
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) second: Nature,
    /// The pod is born on an empty volume, with the pointer on v2 and v1 named as the one before.
    pub(crate) birth: Option<Birth>,
}

/// What a pod is born into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Birth {
    /// What the health path depends on is away, and comes back at any moment.
    pub(crate) sick: bool,
    /// v1 is no way back.
    pub(crate) barred: Option<Barred>,
    /// v2 is in place and runs, and three agents have ended before they could prove it.
    pub(crate) deaths: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Barred {
    /// Somebody rolled back from it.
    RolledBack,
    /// The other pods have rejected it.
    ByFleet,
}

impl Setting {
    pub(crate) fn policy(&self) -> Policy {
        let second_master = self.kind.second_master;
        // One step, which one look at what was served ends.
        let step = Shift { steps: vec![500], bake_ms: 0, requests: 1, timeout_ms: 30 };
        let shift = if self.kind.shares { step } else { Shift::default() };
        Policy { second_master, in_place: !second_master, shift, ..policy() }
    }
}

fn policy() -> Policy {
    Policy {
        hot_timeout_ms: 100,
        phased_timeout_ms: 200,
        phased_worker_ms: 0,
        second_master: false,
        beside_only: false,
        shift: Shift::default(),
        in_place: true,
        settle_ms: 20,
        soak_ms: 5,
        probing: true,
        successes: 1,
        naming: true,
        evidence_ms: 0,
        long_request_ms: Some(1000),
        wait_in_flight_ms: 1_000,
        spread_ms: None,
        reports: false,
        wave: 0,
        fallback: false,
        unwell_ms: 10,
        unwell_max_ms: 20,
        retry_ms: 10,
        drain: Budget { min_ms: 0, quiet_min_ms: 0, quiet_max_ms: 1, max_ms: 5_000, ..Budget::default() },
    }
}
