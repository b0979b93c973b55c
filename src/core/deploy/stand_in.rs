//! A pod that is born in bad times: the desired release cannot be had, and nothing is in place yet.
//! Then another release is put there, so that the pod serves; the desired one is tried for all the while.

use super::*;

/// Who may stand in for a release that cannot be had for this reason, best first: what was proved in
/// this pod, what the pointer named before, what was proved in another pod of the volume, the
/// image's own code. Never a release that failed, or that somebody rolled back from.
pub(crate) fn stand_ins(
    why: Reason,
    pointer: Option<&Pointer>,
    history: &History,
    neighbours: &Neighbours,
    fallback: bool,
) -> Vec<ReleaseId> {
    // The volume or this agent are to blame: no other release helps.
    if matches!(why, Reason::VolumeUnavailable | Reason::Internal | Reason::ConfigInvalid) {
        return Vec::new();
    }
    let store_works = matches!(
        why,
        Reason::ReleaseUnknown
            | Reason::ReleaseCorrupt
            | Reason::Rejected
            | Reason::SignatureMissing
            | Reason::SignatureInvalid
    );
    let previous = pointer.and_then(|pointer| pointer.previous.as_ref());
    let rolled_back = |release| pointer.is_some_and(|pointer| pointer.rolled_back.contains(release));
    let here = [history.verified.as_ref(), history.previous.as_ref(), previous.filter(|_| store_works)];
    let fallback = fallback.then(ReleaseId::fallback);
    let all = here.into_iter().flatten().chain(&neighbours.verified).chain(&fallback);
    let mut found: Vec<ReleaseId> = Vec::new();
    for release in all {
        let proved_here = history.verified.as_ref() == Some(release);
        let failed = history.distrusts(release) || (!proved_here && neighbours.failed.contains(release));
        if !failed && !rolled_back(release) && !found.contains(release) {
            found.push(release.clone());
        }
    }
    found
}

impl Deploy {
    /// At rest with nothing in place, and with no move to be made: the pointer cannot be read, or
    /// what it names was rejected.
    pub(super) fn stand_in_at_rest(&self) -> Option<Target> {
        if self.releases.current.is_some() || self.paused || self.state != State::Steady {
            return None;
        }
        let why = match &self.desired {
            None => self.pointer_problem.clone()?,
            Some(desired) => self.rejected_problem(&desired.revision)?,
        };
        let desired = self.desired.as_ref().map(|pointer| pointer.revision.clone());
        self.stand_in(StandIn { why, desired, instead_of: None, tried: Vec::new() })
    }

    fn stand_in(&self, stand_in: StandIn) -> Option<Target> {
        let pointer = self.desired.as_ref();
        let Policy { fallback, .. } = self.policy;
        let desired = stand_in.desired.as_ref().map(|revision| &revision.release);
        let release = stand_ins(
            stand_in.why.reason,
            pointer,
            &self.releases.history,
            &self.releases.neighbours,
            fallback,
        )
        .into_iter()
        .filter(|release| {
            self.releases.history.verified.as_ref() == Some(release) || !self.rejected_elsewhere(release)
        })
        .find(|release| Some(release) != desired && !stand_in.tried.contains(release))?;
        let revision = Revision { release, sequence: None };
        Some(Target { stand_in: Some(stand_in), ..Target::new(revision, None) })
    }

    /// A release could not be fetched. With nothing in place another one stands in for it.
    pub(super) fn not_fetched(&mut self, now: Moment, target: Target, problem: &Problem) -> State {
        let stand_in = match target.stand_in.clone() {
            Some(mut earlier) => {
                earlier.tried.push(target.revision.release.clone());
                Some(earlier)
            }
            None if self.releases.current.is_none() => Some(StandIn {
                why: problem.clone(),
                desired: Some(target.revision.clone()),
                instead_of: Some(Box::new(target.clone())),
                tried: Vec::new(),
            }),
            None => None,
        };
        if let Some(next) = stand_in.and_then(|stand_in| self.stand_in(stand_in)) {
            self.attempt = Attempt(self.attempt.0 + 1);
            return State::Moving(Move::forward(next, MoveStep::Fetch));
        }
        self.retry(now, problem);
        self.without_stand_in(target)
    }

    /// Back to the move that waits.
    pub(super) fn without_stand_in(&mut self, target: Target) -> State {
        let fetch = |target| State::Moving(Move::forward(target, MoveStep::Fetch));
        let Some(stand_in) = target.stand_in else { return fetch(target) };
        self.problem = Some(stand_in.why);
        stand_in.instead_of.map_or(State::Steady, |target| fetch(*target))
    }

    /// A stand-in is put in place only where nothing serves.
    pub(super) fn check_stand_in(&mut self, now: Moment, m: Move, detection: &Detection) -> State {
        match detection {
            Detection::Seen(_) if verdict::any_booted(detection) => {
                self.retry_at = Some(now.plus(self.policy.retry_ms));
                self.without_stand_in(m.target)
            }
            Detection::Seen(_) | Detection::Missing => m.then(MoveStep::RecordAttempt),
            detection if self.only_strangers(detection) => m.then(MoveStep::RecordAttempt),
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => State::Moving(m),
        }
    }
}
