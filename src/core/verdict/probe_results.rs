//! What the app's answers add up to, where a master that is to go may answer in the new one's place.

use std::{borrow::Cow, collections::BTreeSet};

use crate::core::{
    Policy,
    observation::{Answer, Observation, Probe, ProcessKey},
    reason::Reason,
};

/// Results in a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct ProbeResults {
    healthy: u32,
    unhealthy: u32,
    /// How often nobody but the older master was heard, as far as could be told.
    missed: u32,
}

impl ProbeResults {
    /// Takes in those of one look. `processes` are the newest master's; `several`: an older one serves as well.
    pub(crate) fn take(
        &mut self,
        look: &Observation,
        processes: &BTreeSet<ProcessKey>,
        several: bool,
        policy: &Policy,
    ) {
        let thresholds = Thresholds::of(policy, several);
        let up = |count: u32, enough: u32| (count + 1).min(enough);
        let of_others = |answer: &&Answer| several && is_of_others(answer, processes);
        let said = |probe| {
            let mut counts = look.answers.iter().filter(|answer| !of_others(answer));
            counts.any(|answer| answer.probe == probe)
        };
        if look.answers.is_empty() {
            return;
        }
        if said(Probe::Unhealthy) {
            (self.healthy, self.unhealthy) = (0, up(self.unhealthy, thresholds.unhealthy));
        } else if !several && said(Probe::OtherRelease) {
            (self.healthy, self.unhealthy) = (0, 0);
        } else if said(Probe::Healthy) {
            let healthy = up(self.healthy, thresholds.healthy);
            // Where two masters answer, only so many in a row are no accident any more.
            let outweighed = !several || healthy == thresholds.healthy;
            *self = Self { healthy, unhealthy: if outweighed { 0 } else { self.unhealthy }, missed: 0 };
        } else {
            self.missed = up(self.missed, thresholds.missed);
        }
    }

    /// Some did not come, or not well.
    pub(crate) fn doubtful(&self) -> bool {
        self.unhealthy > 0
    }

    /// What they prove against the release.
    pub(crate) fn condemn(&self, several: bool, policy: &Policy) -> Option<Reason> {
        let thresholds = Thresholds::of(policy, several);
        match (self.missed >= thresholds.missed, self.unhealthy >= thresholds.unhealthy) {
            (true, _) => Some(Reason::ReleaseMismatch),
            (false, true) => Some(Reason::ProbeFailed),
            (false, false) => None,
        }
    }

    /// There were enough good ones.
    pub(crate) fn suffice(&self, several: bool, policy: &Policy) -> bool {
        self.healthy >= Thresholds::of(policy, several).healthy && self.unhealthy == 0
    }
}

/// The look without the answers that say nothing of these processes. Beside another master, an answer that
/// names another release is most often that one's, unless it is known to be theirs.
pub(super) fn of_theirs<'a>(
    look: &'a Observation,
    processes: &BTreeSet<ProcessKey>,
    several: bool,
) -> Cow<'a, Observation> {
    if !several {
        return Cow::Borrowed(look);
    }
    let mut look = look.clone();
    look.answers.retain(|answer| !is_of_others(answer, processes));
    Cow::Owned(look)
}

fn is_of_others(answer: &Answer, processes: &BTreeSet<ProcessKey>) -> bool {
    match answer.by {
        Some(key) => !processes.contains(&key),
        None => answer.probe == Probe::OtherRelease,
    }
}

/// How many looks with answers decide.
struct Thresholds {
    healthy: u32,
    unhealthy: u32,
    missed: u32,
}

impl Thresholds {
    /// Beside another master that serves as well, only an answer with the release's name is surely the new one's:
    /// without names it takes more of them, until chance is ruled out.
    fn of(policy: &Policy, several: bool) -> Self {
        let enough = policy.successes;
        let healthy = if several && !policy.naming { enough.saturating_mul(4) } else { enough };
        Self { healthy, unhealthy: enough, missed: enough.saturating_mul(40) }
    }
}
