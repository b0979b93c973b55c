//! What stands in the slots of a parent, in the core's words and for /status, whatever kind of server it is.

use super::{
    SlotDescription,
    memory::Taken,
    trees::{Tree, key_of},
    trouble,
};
use crate::{
    core::{
        Cwd, Generation, Problem, Traffic,
        observation::{Beside, Candidate, Lingering, Served, Warmed},
    },
    revision::ReleaseId,
    slots::{List, Role, Run, SlotState},
};

/// What one look shows of a server.
#[derive(Default)]
pub(super) struct Seen {
    /// Its first process, and where that works; `None` of what is not such a server, or not yet.
    pub(crate) main: Option<(i32, Cwd)>,
    pub(crate) served: Option<Served>,
}

impl Seen {
    fn release(&self, run: &Run) -> Option<ReleaseId> {
        match &self.main {
            Some((_, Cwd::Release(release))) => Some(release.clone()),
            _ => run.release.parse().ok(),
        }
    }
}

/// A server that is not the live one.
pub(super) struct Other<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) seen: Seen,
    /// Of a candidate.
    pub(crate) generation: Option<Generation>,
    pub(crate) traffic: Traffic,
}

impl Other<'_> {
    /// `trouble`: that of the container.
    fn candidate(self, parent: &List, trouble: Option<&Problem>) -> Candidate {
        let run = &self.tree.run;
        Candidate {
            key: key_of(parent.pid, run),
            generation: self.generation.filter(|_| run.ended.is_none()),
            warm: Some(Warmed::default()),
            ended: run.ended.is_some(),
            trouble: trouble.cloned().or_else(|| trouble::of(run, &parent.addresses)),
            share: self.tree.weight,
            served: self.seen.served,
        }
    }

    fn lingering(&self, parent: i32) -> Lingering {
        let run = &self.tree.run;
        Lingering {
            key: key_of(parent, run),
            release: self.seen.release(run),
            queue_empty_ms: self.tree.queue_empty_ms,
            oldest_request_ms: self.traffic.oldest_request_ms(),
            told: run.told_to_stop,
        }
    }
}

/// For the core. `others`: in the order in which they were started.
pub(super) fn for_core(
    parent: &List,
    trouble: Option<&Problem>,
    served_by_live: Option<Served>,
    others: Vec<Other<'_>>,
) -> Beside {
    let lingers = |one: &&Other<'_>| one.tree.run.role == Role::Lingering && one.tree.run.ended.is_none();
    let lingering = others.iter().filter(lingers).rev().map(|one| one.lingering(parent.pid)).collect();
    let candidates = others.into_iter().filter(|one| one.tree.run.role == Role::Candidate);
    // What has ended is known until its slot is used again.
    let candidate = candidates.max_by_key(|one| (one.tree.run.ended.is_none(), one.tree.run.number));
    Beside { candidate: candidate.map(|one| one.candidate(parent, trouble)), lingering, served_by_live }
}

/// For /status.
pub(super) fn describe(
    parent: Option<&List>,
    taken: &Taken,
    seen: impl Fn(&Run) -> Seen,
) -> Vec<SlotDescription> {
    let describe = |(slot, run): (&SlotState, &Run)| {
        let seen = seen(run);
        SlotDescription {
            slot: slot.slot,
            role: run.role,
            release: seen.release(run),
            pid: seen.main.as_ref().map_or(run.pid, |(main, _)| *main),
            weight: slot.weight,
            memory_bytes: taken.get(&run.number).copied(),
            requests: seen.served.map(|served| served.requests),
            errors: seen.served.and_then(|served| served.errors),
            p95_ms: seen.served.and_then(|served| served.p95_ms),
        }
    };
    parent.into_iter().flat_map(List::runs).map(describe).collect()
}

/// The processes of each server, by the number of its run. `live`: those of the live one.
pub(super) fn processes<'a>(
    parent: Option<&List>,
    live: Vec<i32>,
    others: impl Iterator<Item = &'a Tree>,
) -> Vec<(u64, Vec<i32>)> {
    let run = parent.into_iter().flat_map(List::runs).find(|(_, run)| run.role == Role::Live);
    let live = run.map(|(_, run)| (run.number, live));
    live.into_iter().chain(others.map(|tree| (tree.run.number, tree.pids.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{procs, slots::Ended};

    fn tree(number: u64, role: Role, ended: bool) -> Tree {
        let raw = serde_json::json!({
            "number": number, "pid": 7, "start_time": number, "release": "v1", "role": role, "started_ms": 0,
        });
        let mut run: Run = serde_json::from_value(raw).unwrap();
        run.ended = ended.then_some(Ended::Code(1));
        Tree { run, weight: 0, queue_empty_ms: 40, pids: vec![] }
    }

    fn told(trees: &[Tree]) -> Beside {
        let parent = serde_json::json!({"pid": 1, "version": "1", "addresses": [], "slots": []});
        let other =
            |tree| Other { tree, seen: Seen::default(), generation: None, traffic: Traffic::default() };
        for_core(&serde_json::from_value(parent).unwrap(), None, None, trees.iter().map(other).collect())
    }

    #[test]
    fn the_candidate_that_lives_counts_and_who_was_live_last_lingers_first() {
        let found = told(&[
            tree(1, Role::Lingering, true),
            tree(2, Role::Lingering, false),
            tree(3, Role::Lingering, false),
            tree(4, Role::Candidate, true),
        ]);
        let candidate = found.candidate.unwrap();
        assert_eq!((candidate.ended, candidate.key), (true, procs::run_key(1, 4, 4)));
        let keys: Vec<_> = found.lingering.iter().map(|one| one.key).collect();
        assert_eq!(keys, [procs::run_key(1, 3, 3), procs::run_key(1, 2, 2)]);
        assert_eq!(found.lingering[0].release, "v1".parse().ok());
        let next = told(&[tree(4, Role::Candidate, false), tree(5, Role::Candidate, true)]);
        assert!(!next.candidate.unwrap().ended);
    }
}
