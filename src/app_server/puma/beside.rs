//! The servers that stand beside the live one, in the core's words.

use super::snapshot::Snapshot;
use crate::{
    app_server::{
        SlotDescription,
        in_slots::{self, Other, Seen},
        raised,
        server::Snapshot as _,
        trees::Tree,
    },
    core::{Sockets, Traffic, observation::Beside},
    slots::{List, Role, Run},
};

/// A server that is not the live one.
pub(super) struct Neighbour {
    pub(crate) tree: Tree,
    /// A look at its Puma, where there is one.
    pub(crate) snapshot: Option<Snapshot>,
    /// The connections that it holds; `None` when that cannot be seen.
    pub(crate) held: Option<Sockets>,
}

/// The servers beside this one.
pub(super) fn of(snapshot: &Snapshot) -> Beside {
    let Some(parent) = &snapshot.parent else { return Beside::default() };
    let live = parent.runs().find(|(_, run)| run.role == Role::Live);
    let served = live.and_then(|(_, run)| seen(snapshot, run).served);
    let others = snapshot.beside.iter().map(|one| {
        let puma = one.snapshot.as_ref();
        // Its own cannot always be told from those of others.
        let sockets = one.held.as_ref().or(snapshot.surroundings.sockets.as_ref());
        let candidate = puma.filter(|_| one.tree.run.role == Role::Candidate);
        Other {
            tree: &one.tree,
            seen: seen(snapshot, &one.tree.run),
            generation: candidate.and_then(|puma| puma.app_server().generations.pop()),
            traffic: Traffic { workers: puma.and_then(Snapshot::loads), sockets: sockets.cloned() },
        }
    });
    in_slots::for_core(parent, snapshot.memory.around.memory.trouble.as_ref(), served, others.collect())
}

fn seen(snapshot: &Snapshot, run: &Run) -> Seen {
    let counted = &snapshot.memory.counted;
    let puma = match run.role {
        Role::Live => Some(snapshot),
        _ => {
            let one = snapshot.beside.iter().find(|one| one.tree.run.number == run.number);
            one.and_then(|one| one.snapshot.as_ref())
        }
    };
    Seen {
        main: puma.map(|puma| (puma.master(), puma.surroundings.cwd(puma.master()))),
        served: match puma {
            Some(puma) => puma.served(run.number, counted),
            None => counted.get(&run.number).copied(),
        },
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
    let taken = &snapshot.memory.around.memory.taken;
    in_slots::describe(snapshot.parent.as_ref(), taken, |run| seen(snapshot, run))
}

/// Those of each server of the parent that has some, by the number of its run.
pub(super) fn processes(snapshot: &Snapshot) -> Vec<(u64, Vec<i32>)> {
    let others = snapshot.beside.iter().map(|one| &one.tree);
    in_slots::processes(snapshot.parent.as_ref(), snapshot.processes.pids(), others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn list(slots: serde_json::Value) -> List {
        let raw = serde_json::json!({"pid": 1, "version": "1", "addresses": [], "slots": slots});
        serde_json::from_value(raw).unwrap()
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
