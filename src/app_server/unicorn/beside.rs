//! The servers that stand beside the live one, in the core's words.

use super::{
    discovery,
    snapshot::{Snapshot, newest_of},
};
use crate::{
    app_server::{SlotDescription, raised, trees::key_of, trouble},
    core::{
        Cwd, Generation, ProcessKey, Sockets, Traffic,
        observation::{Beside, Candidate, Lingering, Warmed},
    },
    revision::ReleaseId,
    slots::{List, Role, Run, SlotState},
};

/// A server that is not the live one.
pub(super) struct Neighbour {
    pub(crate) seen: discovery::Neighbour,
    /// The connections that it holds; `None` when that cannot be seen.
    pub(crate) held: Option<Sockets>,
}

impl Neighbour {
    fn run(&self) -> &Run {
        &self.seen.tree.run
    }

    fn generation(&self, snapshot: &Snapshot) -> Option<Generation> {
        let processes = self.seen.processes.as_ref().filter(|_| self.run().ended.is_none())?;
        Some(snapshot.generation(processes.newest(), false))
    }

    fn candidate(&self, snapshot: &Snapshot, parent: &List) -> Candidate {
        Candidate {
            key: key_of(parent.pid, self.run()),
            generation: self.generation(snapshot),
            warm: Some(Warmed::default()),
            ended: self.run().ended.is_some(),
            trouble: trouble::of(self.run(), &parent.addresses),
            share: self.seen.tree.weight,
            served: snapshot.counted.get(&self.run().number).copied(),
        }
    }

    fn lingering(&self, snapshot: &Snapshot, parent: &List) -> Lingering {
        let all = snapshot.surroundings.sockets.as_ref();
        let traffic = Traffic { workers: None, sockets: self.held.as_ref().or(all).cloned() };
        Lingering {
            key: key_of(parent.pid, self.run()),
            release: snapshot.release_of(self.run()),
            queue_empty_ms: self.seen.tree.queue_empty_ms,
            oldest_request_ms: traffic.oldest_request_ms(),
            told: self.run().told_to_stop,
        }
    }
}

pub(super) fn of(snapshot: &Snapshot) -> Beside {
    let Some(parent) = &snapshot.parent else { return Beside::default() };
    let with = |role: Role| snapshot.beside.iter().filter(move |one| one.run().role == role);
    // What has ended is known until its slot is used again.
    let candidate = with(Role::Candidate).max_by_key(|one| (one.run().ended.is_none(), one.run().number));
    let lingering = with(Role::Lingering).filter(|one| one.run().ended.is_none()).rev();
    let live = parent.runs().find(|(_, run)| run.role == Role::Live);
    Beside {
        candidate: candidate.map(|one| one.candidate(snapshot, parent)),
        lingering: lingering.map(|one| one.lingering(snapshot, parent)).collect(),
        served_by_live: live.and_then(|(_, run)| snapshot.counted.get(&run.number).copied()),
    }
}

/// The workers of a candidate.
pub(super) fn workers(snapshot: &Snapshot) -> Vec<(i32, ProcessKey)> {
    let mut candidates = snapshot.beside.iter().filter(|one| one.run().role == Role::Candidate);
    let processes = candidates.find_map(|one| one.seen.processes.as_ref());
    let workers = processes.map(|processes| &processes.newest().workers[..]).unwrap_or_default();
    workers.iter().map(|worker| (worker.id.pid, worker.id.key())).collect()
}

/// The last exception in what the candidate wrote.
pub(super) fn raised(parent: &List) -> Option<String> {
    let runs = parent.slots.iter().filter_map(|slot| slot.run.as_ref());
    let candidate = runs.filter(|run| run.role == Role::Candidate).max_by_key(|run| run.number)?;
    raised::exception(&candidate.tail.join("\n"))
}

impl Snapshot {
    /// The newest master of a run of the parent's.
    fn master_of(&self, run: &Run) -> Option<i32> {
        let beside = || {
            let one = self.beside.iter().find(|one| one.run().number == run.number)?;
            Some(newest_of(one.seen.processes.as_ref()?))
        };
        if run.role == Role::Live { Some(newest_of(&self.processes)) } else { beside() }
    }

    fn release_of(&self, run: &Run) -> Option<ReleaseId> {
        match self.master_of(run).map(|master| self.surroundings.cwd(master)) {
            Some(Cwd::Release(release)) => Some(release),
            _ => run.release.parse().ok(),
        }
    }
}

/// For /status.
pub(super) fn describe(snapshot: &Snapshot) -> Vec<SlotDescription> {
    let describe = |(slot, run): (&SlotState, &Run)| {
        let served = snapshot.counted.get(&run.number);
        SlotDescription {
            slot: slot.slot,
            role: run.role,
            release: snapshot.release_of(run),
            pid: snapshot.master_of(run).unwrap_or(run.pid),
            weight: slot.weight,
            memory_bytes: None,
            requests: served.map(|served| served.requests),
            errors: served.and_then(|served| served.errors),
            p95_ms: served.and_then(|served| served.p95_ms),
        }
    };
    snapshot.parent.iter().flat_map(List::runs).map(describe).collect()
}
