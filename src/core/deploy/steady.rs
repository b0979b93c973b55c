//! While no deploy is under way: what runs, is it what `current` says, and has anybody else restarted it?

use std::collections::BTreeSet;

use super::*;
use crate::core::{
    observation::ProcessKey,
    proof::{Proof, ReleaseEvidence},
};

/// The server as it stood when it was last seen whole, in one release.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Proven {
    release: ReleaseId,
    image: GenerationKey,
    master: ProcessKey,
    processes: BTreeSet<ProcessKey>,
    evidence: ReleaseEvidence,
    /// A generation that was seen to come up beside it, where a server can have two.
    second_master: Option<GenerationKey>,
    /// As long as this, and no longer, the app is asked to name its release.
    until: Option<Moment>,
}

impl Proven {
    /// Proved just now, as well as this.
    pub(crate) fn proved(release: &ReleaseId, look: &Observation, evidence: ReleaseEvidence) -> Option<Self> {
        let Detection::Seen(server) = &look.detection else { return None };
        let newest = server.generations.last()?;
        Some(Self {
            release: release.clone(),
            image: newest.key,
            master: newest.master,
            processes: verdict::keys(newest),
            evidence,
            second_master: None,
            until: None,
        })
    }

    pub(crate) fn release(&self) -> ReleaseId {
        self.release.clone()
    }

    /// How many processes serve it.
    pub(crate) fn processes(&self) -> usize {
        self.processes.len()
    }

    /// Until when more is to be heard.
    pub(crate) fn until(&self) -> Option<Moment> {
        self.until
    }

    fn same(&self, other: &Self) -> bool {
        (self.image, &self.processes, &self.release) == (other.image, &other.processes, &other.release)
    }

    /// While no deploy is under way, only others have a second generation come up.
    fn look_for_second_master(&mut self, detection: &Detection) {
        let Detection::Seen(server) = detection else { return };
        let is_there = server.generations.iter().any(|generation| generation.key == self.image);
        let newest = server.generations.last().map(|generation| generation.key);
        if is_there {
            self.second_master = newest.filter(|key| *key != self.image);
        }
    }

    /// How others have restarted it since; `None` for what may come of itself: a container that starts
    /// again, a worker that is replaced, `fork_worker`, which keeps one.
    fn restarted_since(&self, before: &Self) -> Option<Mode> {
        let all_new = self.processes.is_disjoint(&before.processes) && self.processes.len() > 1;
        match (self.image == before.image, self.master == before.master) {
            (true, _) => all_new.then_some(Mode::Phased),
            (false, true) => Some(Mode::Hot),
            // A second master took over. One that nobody saw beside the first is a new container's.
            (false, false) => (before.second_master == Some(self.image)).then_some(Mode::Hot),
        }
    }
}

impl Deploy {
    /// While no deploy is under way: what runs, and is it what `current` says?
    pub(super) fn watch_at_rest(&mut self, turn: &mut Turn<'_>, look: &Observation) {
        let (now, rest) = (turn.now, self.state.at_rest());
        let untouched = rest || self.untouched();
        if !untouched || look.detection == Detection::Unclear {
            return;
        }
        let settled = match &look.detection {
            Detection::Seen(server) => verdict::settled_on(server),
            _ => None,
        };
        self.stand(turn, look, settled.as_ref());
        self.prove_what_stands(now, look, settled.as_ref());
        if !rest {
            let trusted = |r: &ReleaseId| self.releases.is_current(r) && self.releases.is_verified(r);
            self.releases.running = settled.filter(trusted).or(self.releases.running.take());
            return;
        }
        self.releases.last_seen.clone_from(&settled);
        let stranded = matches!(self.state, State::Stranded(_));
        let trusted =
            |r: &ReleaseId| self.releases.is_verified(r) || (stranded && !self.releases.history.distrusts(r));
        let good = settled.filter(|r| self.releases.is_current(r) && trusted(r));
        let whole = matches!(&look.detection, Detection::Seen(s) if matches!(&s.generations[..], [only] if verdict::whole(only)) && !s.old_workers);
        let drifts = good.is_none() && whole;
        self.drift_since = drifts.then(|| self.drift_since.unwrap_or(now));
        if let (true, Some(release)) = (stranded, &good) {
            self.releases.history.verify(release);
            (self.state, self.problem, self.restart_in_flight) = (State::Steady, None, None);
        }
        if self.state == State::Steady {
            let denied = self.denied > 0;
            let known = self.problem.take().filter(|t| denied || !from_detection(t.reason));
            self.problem = detection_problem(&look.detection).or(known);
        }
        // The app itself says otherwise. Nothing is done about it: a wrong header is no reason to restart.
        let contradicted = self.contradicted();
        self.releases.running = good.filter(|_| !contradicted);
    }

    /// While something else is waited for (a release that cannot be had, an operator who holds deploys), what
    /// stands is proved all the same: it runs. Only what never came to be well has to be well for that.
    fn prove_what_stands(&mut self, now: Moment, look: &Observation, settled: Option<&ReleaseId>) {
        let taken_up = matches!(self.state.step(), Some(MoveStep::TakenUp { .. }));
        let desired = self.desired.as_ref().map(|pointer| &pointer.revision.release);
        let told = desired.is_some() || self.pointer_problem.is_some();
        let unproved = |r: &&ReleaseId| {
            let elsewhere = desired != Some(*r) || self.pauses();
            let known = self.releases.is_verified(r) || self.releases.history.distrusts(r);
            told && elsewhere && !known && !taken_up && self.releases.is_current(r)
        };
        let Some(release) = settled.filter(unproved) else {
            self.proving = None;
            return;
        };
        let mut watch = match self.proving.take() {
            Some(watch) if watch.target() == release => watch,
            _ => Watch::new(release.clone(), None, None),
        };
        let probing = self.policy.probing && self.releases.unwell.contains(release);
        match watch.observe(now, look, &Policy { probing, ..self.policy.clone() }) {
            Verdict::Undecided => self.proving = Some(watch),
            Verdict::Failed(_) => {}
            Verdict::Proven => self.releases.history.verify(release),
        }
    }

    /// What stands there now, and what was heard of it. Processes that are new have to be heard anew.
    fn stand(&mut self, turn: &mut Turn<'_>, look: &Observation, settled: Option<&ReleaseId>) {
        if let Some(proven) = &mut self.releases.proven {
            proven.look_for_second_master(&look.detection);
        }
        let new = settled.and_then(|release| Proven::proved(release, look, ReleaseEvidence::default()));
        let Some(mut new) = new else { return };
        match self.releases.proven.take() {
            Some(old) if old.same(&new) => new = old,
            Some(old) => {
                let theirs = new.restarted_since(&old);
                let notice = |mode| Effect::Notice(Notice::RestartedByOthers { mode, amid_ours: false });
                turn.out.extend(theirs.map(notice));
                let known = old.evidence.of_those_still_there(&new.processes);
                new.evidence = if old.release == new.release { known } else { ReleaseEvidence::default() };
                new.until = Some(turn.now.plus(self.policy.evidence_ms));
            }
            None => new.until = Some(turn.now.plus(self.policy.evidence_ms)),
        }
        if let Some(until) = new.until {
            new.evidence.take(look, &new.release, &self.policy);
            let enough = new.evidence.complete(&new.processes)
                || new.evidence.contradicted() >= self.policy.successes
                || turn.now >= until;
            new.until = new.until.filter(|_| !enough);
        }
        self.releases.proven = Some(new);
    }

    /// Until something is moved, what ran goes on running.
    pub(super) fn untouched(&self) -> bool {
        matches!(self.state.stage(), Stage::Fetching | Stage::Checking)
    }

    /// The app names another release than the one that it works in.
    pub(super) fn contradicted(&self) -> bool {
        let enough = self.policy.successes;
        self.releases.proven.as_ref().is_some_and(|proven| proven.evidence.contradicted() >= enough)
    }

    /// How well it is proved that the release runs which does.
    pub(super) fn proof(&self) -> Option<Proof> {
        let proven =
            self.releases.proven.as_ref().filter(|s| Some(&s.release) == self.releases.running.as_ref())?;
        Some(proven.evidence.proof(&proven.processes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::observation::{AppServer, Cwd, Generation, Process, Traffic};

    fn generation(image: u64, pid: u64) -> Generation {
        let cwd = || Cwd::Release("v1".parse().unwrap());
        let process = |number| Process { key: ProcessKey(pid + number), cwd: cwd(), booted: true };
        Generation {
            key: GenerationKey(image),
            master: ProcessKey(pid),
            signalable: true,
            cwd: cwd(),
            expected: 2,
            processes: vec![process(1), process(2)],
        }
    }

    fn seen(generations: Vec<Generation>) -> Detection {
        Detection::Seen(AppServer { generations, old_workers: false, ..Default::default() })
    }

    fn proven(generation: Generation) -> Proven {
        let look = Observation::new(Moment(0), seen(vec![generation]), Traffic::default());
        Proven::proved(&"v1".parse().unwrap(), &look, ReleaseEvidence::default()).unwrap()
    }

    #[test]
    fn a_master_that_took_over_from_another_was_restarted_and_a_new_container_was_not() {
        let (old, new) = (generation(1, 100), generation(2, 200));
        let mut before = proven(old.clone());
        assert_eq!(proven(new.clone()).restarted_since(&before), None);
        before.look_for_second_master(&seen(vec![old, new.clone()]));
        before.look_for_second_master(&seen(vec![new.clone()]));
        assert_eq!(proven(new).restarted_since(&before), Some(Mode::Hot));
        assert_eq!(
            proven(generation(3, 300)).restarted_since(&before),
            None,
            "it is not the one that was seen"
        );
    }
}
