//! The servers that stand beside the live one, in the core's words.

use std::collections::HashMap;

use super::{Memory, snapshot::Snapshot};
use crate::{
    app_server::{
        SlotDescription, raised,
        server::Snapshot as _,
        trees::{Tree, key_of},
        trouble,
    },
    core::{
        Cwd, Sockets, Traffic,
        observation::{Beside, Candidate, Lingering, Served, Warmed},
    },
    slots::{List, Role, Run, SlotState},
};

/// A server that is not the live one.
pub(super) struct Neighbour {
    pub(crate) tree: Tree,
    /// A look at its Puma, where there is one.
    pub(crate) snapshot: Option<Snapshot>,
    /// The connections that it holds; `None` when that cannot be seen.
    pub(crate) held: Option<Sockets>,
}

impl Neighbour {
    fn run(&self) -> &Run {
        &self.tree.run
    }

    /// `memory`: that of the look, by which the container may be in trouble.
    fn candidate(&self, parent: &List, memory: &Memory) -> Candidate {
        let ended = self.run().ended.is_some();
        let seen = self.snapshot.as_ref().filter(|_| !ended);
        Candidate {
            key: key_of(parent.pid, self.run()),
            generation: seen.and_then(|snapshot| snapshot.app_server().generations.pop()),
            warm: Some(Warmed::default()),
            ended,
            trouble: memory.around.trouble.clone().or_else(|| trouble::of(self.run(), &parent.addresses)),
            share: self.tree.weight,
            served: self.served(&memory.counted),
        }
    }

    fn served(&self, counted: &HashMap<u64, Served>) -> Option<Served> {
        let run = self.run().number;
        counted.get(&run).copied().or_else(|| self.snapshot.as_ref()?.served(run, counted))
    }

    /// `all`: the connections of all servers, for when its own cannot be told from those of others.
    fn lingering(&self, parent: i32, all: Option<&Sockets>) -> Lingering {
        let works_in = self.snapshot.as_ref().map(|seen| seen.surroundings.cwd(seen.master()));
        let release = match works_in {
            Some(Cwd::Release(release)) => Some(release),
            _ => self.run().release.parse().ok(),
        };
        let workers = self.snapshot.as_ref().and_then(Snapshot::loads);
        let traffic = Traffic { workers, sockets: self.held.as_ref().or(all).cloned() };
        Lingering {
            key: key_of(parent, self.run()),
            release,
            queue_empty_ms: self.tree.queue_empty_ms,
            oldest_request_ms: traffic.oldest_request_ms(),
            told: self.run().told_to_stop,
        }
    }
}

/// The servers beside this one.
pub(super) fn of(snapshot: &Snapshot) -> Beside {
    let Some(parent) = &snapshot.parent else { return Beside::default() };
    let (memory, all) = (&snapshot.memory, snapshot.surroundings.sockets.as_ref());
    let live = parent.runs().find(|(_, run)| run.role == Role::Live).map(|(_, run)| run.number);
    Beside {
        served_by_live: live.and_then(|run| snapshot.served(run, &memory.counted)),
        ..around(parent, &snapshot.beside, all, memory)
    }
}

fn around(parent: &List, beside: &[Neighbour], all: Option<&Sockets>, memory: &Memory) -> Beside {
    let with = |role: Role| beside.iter().filter(move |one| one.run().role == role);
    // What has ended is known until its slot is used again.
    let candidate = with(Role::Candidate).max_by_key(|one| (one.run().ended.is_none(), one.run().number));
    let lingering = with(Role::Lingering).filter(|one| one.run().ended.is_none()).rev();
    Beside {
        candidate: candidate.map(|one| one.candidate(parent, memory)),
        lingering: lingering.map(|one| one.lingering(parent.pid, all)).collect(),
        served_by_live: None,
    }
}

/// The last exception in what the candidate wrote, if there is a candidate; else in what the live server wrote since
/// then.
pub(super) fn raised(parent: &List, live_before: Option<&[String]>) -> Option<String> {
    let runs = || parent.slots.iter().filter_map(|slot| slot.run.as_ref());
    let candidate = runs().filter(|run| run.role == Role::Candidate).max_by_key(|run| run.number);
    match (candidate, live_before) {
        (Some(run), _) => raised::exception(&run.tail.join("\n")),
        (None, Some(before)) => {
            let live = runs().find(|run| run.role == Role::Live)?;
            raised::exception(&new_lines(before, &live.tail).join("\n"))
        }
        (None, None) => None,
    }
}

/// The lines that came after those known, where only the last ones are kept.
fn new_lines<'a>(known: &[String], now: &'a [String]) -> &'a [String] {
    let starts = 0..=known.len();
    let kept = starts.map(|from| &known[from..]).find(|kept| now.starts_with(kept));
    &now[kept.map_or(0, <[String]>::len)..]
}

/// For /status.
pub(super) fn describe(snapshot: &Snapshot) -> Vec<SlotDescription> {
    let counted = &snapshot.memory.counted;
    let seen = |run: &Run| match run.role {
        Role::Live => Some(snapshot),
        _ => snapshot.beside.iter().find(|one| one.run().number == run.number)?.snapshot.as_ref(),
    };
    let describe = |(slot, run): (&SlotState, &Run)| {
        let works_in = seen(run).map(|seen| seen.surroundings.cwd(seen.master()));
        let served = seen(run).and_then(|seen| seen.served(run.number, counted));
        SlotDescription {
            slot: slot.slot,
            role: run.role,
            release: match works_in {
                Some(Cwd::Release(release)) => Some(release),
                _ => run.release.parse().ok(),
            },
            pid: seen(run).map_or(run.pid, Snapshot::master),
            weight: slot.weight,
            memory_bytes: snapshot.memory.taken.get(&run.number).copied(),
            requests: served.map(|served| served.requests),
            errors: served.and_then(|served| served.errors),
            p95_ms: served.and_then(|served| served.p95_ms),
        }
    };
    snapshot.parent.iter().flat_map(List::runs).map(describe).collect()
}

/// Those of each server of the parent that has some, by the number of its run.
pub(super) fn processes(snapshot: &Snapshot) -> Vec<(u64, Vec<i32>)> {
    let live = snapshot.parent.iter().flat_map(List::runs).find(|(_, run)| run.role == Role::Live);
    let live = live.map(|(_, run)| (run.number, snapshot.processes.pids()));
    let beside = snapshot.beside.iter().map(|one| (one.run().number, one.tree.pids.clone()));
    live.into_iter().chain(beside).filter(|(_, pids)| !pids.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{procs, slots::Ended};

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn neighbour(number: u64, role: Role, ended: bool) -> Neighbour {
        let raw = serde_json::json!({
            "number": number, "pid": 7, "start_time": number, "release": "v1", "role": role, "started_ms": 0,
        });
        let mut run: Run = serde_json::from_value(raw).unwrap();
        run.ended = ended.then_some(Ended::Code(1));
        let tree = Tree { run, weight: 0, queue_empty_ms: 40, pids: vec![] };
        Neighbour { tree, snapshot: None, held: None }
    }

    fn list(slots: serde_json::Value) -> List {
        let raw = serde_json::json!({"pid": 1, "version": "1", "addresses": [], "slots": slots});
        serde_json::from_value(raw).unwrap()
    }

    #[test]
    fn the_candidate_that_lives_counts_and_who_was_live_last_lingers_first() {
        let beside = [
            neighbour(1, Role::Lingering, true),
            neighbour(2, Role::Lingering, false),
            neighbour(3, Role::Lingering, false),
            neighbour(4, Role::Candidate, true),
        ];
        let list = list(serde_json::json!([]));
        let found = around(&list, &beside, None, &Memory::default());
        let candidate = found.candidate.unwrap();
        assert_eq!((candidate.ended, candidate.key), (true, procs::run_key(1, 4, 4)));
        let keys: Vec<_> = found.lingering.iter().map(|one| one.key).collect();
        assert_eq!(keys, [procs::run_key(1, 3, 3), procs::run_key(1, 2, 2)]);
        assert_eq!(found.lingering[0].release, "v1".parse().ok());
        let next = [neighbour(4, Role::Candidate, false), neighbour(5, Role::Candidate, true)];
        assert!(!around(&list, &next, None, &Memory::default()).candidate.unwrap().ended);
    }

    #[test]
    fn only_lines_that_are_new_count() {
        for (known, now, new) in [
            ("", "a b", "a b"),
            ("a b", "a b", ""),
            ("a b", "a b c", "c"),
            ("a b c", "b c d", "d"),
            ("a a b a a", "a a c", "c"),
            ("a b", "c d", "c d"),
        ] {
            assert_eq!(new_lines(&lines(known), &lines(now)), lines(new), "{known} | {now}");
        }
    }

    #[test]
    fn the_exception_of_the_candidate_is_in_what_it_wrote() {
        let run = |number: u64, role: &str, tail: &[&str]| {
            serde_json::json!({"slot": "a", "weight": 0, "queue_empty_ms": 0, "run": {
                "number": number, "pid": 8, "start_time": 1, "release": "v2", "role": role, "started_ms": 0,
                "tail": tail}})
        };
        let old = "config.ru:1: an old one (RuntimeError)";
        let new = "config.ru:3: cannot load such file -- a_gem (LoadError)";
        let live = run(1, "live", &[old]);
        let told = |list: &List, before: Option<&[String]>| raised(list, before);
        let alone = list(serde_json::json!([live]));
        assert_eq!(told(&alone, None), None);
        assert_eq!(told(&alone, Some(&[old.to_owned()])), None, "it was written before");
        assert_eq!(told(&alone, Some(&[])).as_deref(), Some("RuntimeError: an old one (config.ru:1)"));
        let both = list(serde_json::json!([live, run(2, "candidate", &[new])]));
        let wanted = Some("LoadError: cannot load such file -- a_gem (config.ru:3)".to_owned());
        assert_eq!(told(&both, Some(&[])), wanted);
        assert_eq!(told(&both, None), wanted);
    }
}
