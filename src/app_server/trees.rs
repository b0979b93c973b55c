//! Which processes are whose, where a parent has several servers side by side: by descent, since a shell, Bundler or an
//! init may stand in front of each. Titles and working directories do not tell them apart.

use crate::{
    core::GenerationKey,
    procs::{self, Descent, Entry, ProcessId},
    slots::{List, Role, Run},
};

/// What commands to a server call it.
pub(super) fn key_of(parent: i32, run: &Run) -> GenerationKey {
    procs::run_key(parent, run.number, run.start_time)
}

/// A server of the parent's, and what descends from the process that was started.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(crate) run: Run,
    /// So many of 1000 new connections go to it.
    pub(crate) weight: u32,
    /// For how long nobody has waited in its queues, in milliseconds.
    pub(crate) queue_empty_ms: u64,
    pub(crate) pids: Vec<i32>,
}

/// Those that the parent has, with their processes.
#[derive(Debug, Default)]
pub(super) struct Trees {
    pub(crate) live: Option<Tree>,
    /// In the order in which they were started. Of those that have ended, what the parent still knows.
    pub(crate) others: Vec<Tree>,
}

impl Trees {
    /// As they are now; none where the parent has no servers.
    pub(crate) fn read(list: Option<&List>) -> Self {
        let Some(list) = list.filter(|list| list.runs().next().is_some()) else { return Self::default() };
        let all = procs::list(|_| true).unwrap_or_default();
        Self::of(Some(list), &all, &Descent::of(&all))
    }

    pub(crate) fn of(list: Option<&List>, entries: &[Entry], descent: &Descent) -> Self {
        let mut trees: Vec<Tree> = list
            .iter()
            .flat_map(|list| &list.slots)
            .filter_map(|slot| {
                let run = slot.run.clone()?;
                let pids = processes(&run, entries, descent);
                Some(Tree { run, weight: slot.weight, queue_empty_ms: slot.queue_empty_ms, pids })
            })
            .collect();
        trees.sort_by_key(|tree| tree.run.number);
        let live = trees.iter().position(|tree| tree.run.role == Role::Live);
        Self { live: live.map(|at| trees.remove(at)), others: trees }
    }

    /// It belongs to a server that is not the live one.
    pub(crate) fn is_beside(&self, pid: i32) -> bool {
        self.others.iter().any(|tree| tree.pids.contains(&pid))
    }

    pub(crate) fn is_live(&self, pid: i32) -> bool {
        self.live.as_ref().is_some_and(|tree| tree.pids.contains(&pid))
    }
}

/// The process that was started, where it is still that one, and all that comes from it.
fn processes(run: &Run, entries: &[Entry], descent: &Descent) -> Vec<i32> {
    let first = ProcessId { pid: run.pid, start: run.start_time };
    if run.ended.is_some() || !entries.iter().any(|entry| entry.id == first) {
        return Vec::new();
    }
    let pids = entries.iter().map(|entry| entry.id.pid);
    pids.filter(|pid| *pid == run.pid || descent.descends(*pid, run.pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::{Slot, SlotState};

    fn entry(pid: i32, parent: i32) -> Entry {
        Entry { id: ProcessId { pid, start: 1 }, parent, title: String::new() }
    }

    fn slot(slot: Slot, number: u64, pid: i32, role: Role) -> SlotState {
        let raw = serde_json::json!({
            "number": number, "pid": pid, "start_time": 1, "release": "v1", "role": role, "started_ms": 0,
        });
        let run = Some(serde_json::from_value(raw).unwrap());
        SlotState { slot, weight: 0, queue_empty_ms: number, run }
    }

    #[test]
    fn processes_belong_to_the_run_that_they_descend_from_whatever_stands_in_front() {
        // `pitstop exec` (1); a shell (10) and its Puma (11, 12); a Puma (20, 21) without one; a stranger (30).
        let entries =
            [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20), (30, 0)].map(|(pid, up)| entry(pid, up));
        let raw = r#"{"pid":1,"version":"1","addresses":[],"slots":[]}"#;
        let mut list: List = serde_json::from_str(raw).unwrap();
        let mut ended = slot(Slot::C, 3, 30, Role::Candidate);
        ended.run.as_mut().unwrap().ended = Some(crate::slots::Ended::Code(1));
        list.slots = vec![slot(Slot::A, 2, 20, Role::Candidate), slot(Slot::B, 1, 10, Role::Live), ended];
        let of = |list: &List| Trees::of(Some(list), &entries, &Descent::of(&entries));
        let trees = of(&list);
        assert_eq!(trees.live.as_ref().unwrap().pids, [10, 11, 12]);
        assert_eq!(
            trees.others.iter().map(|tree| tree.pids.clone()).collect::<Vec<_>>(),
            [vec![20, 21], vec![]]
        );
        assert!(trees.is_live(12) && trees.is_beside(21) && !trees.is_beside(30) && !trees.is_live(30));
        // The pid is another process's by now.
        list.slots[0].run.as_mut().unwrap().start_time = 2;
        assert!(!of(&list).is_beside(20));
        assert!(Trees::of(None, &entries, &Descent::of(&entries)).live.is_none());
    }
}
