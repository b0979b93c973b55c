//! What the servers of a parent take of their container's memory, and whether there is room for one more.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    inspector::LIMIT,
    room::{self, Last, Room},
};
use crate::{
    core::Problem,
    lane::Lane,
    procs::{self, memory::Container},
    revision::ReleaseId,
    slots::{List, Role, Run},
};

/// The kernel walks through all of a process's memory to tell what it takes.
const BETWEEN_MEASUREMENTS: Duration = Duration::from_secs(10);
const WITH_A_SECOND_SERVER: Duration = Duration::from_secs(2);

/// What each server took when that was asked last, by the number of its run, in bytes.
pub(super) type Taken = HashMap<u64, u64>;

/// Asks the kernel what the servers take, across looks.
#[derive(Debug)]
pub(super) struct Measuring {
    lane: Lane,
    taken: Arc<Mutex<Taken>>,
    asked: Mutex<Option<Instant>>,
    last: Last,
}

impl Measuring {
    /// # Errors
    /// When its thread cannot be started.
    pub(crate) fn start(state_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            lane: Lane::one_at_a_time("memory")?,
            taken: Arc::default(),
            asked: Mutex::default(),
            last: Last::of(state_dir),
        })
    }

    fn taken(&self) -> Taken {
        locked(&self.taken).clone()
    }

    /// Asks now and then what these servers take: runs, and their processes. Nobody waits for the answer.
    pub(crate) async fn measure(&self, mut servers: Vec<(u64, Vec<i32>)>) {
        servers.retain(|(_, pids)| !pids.is_empty());
        let pause = if servers.len() > 1 { WITH_A_SECOND_SERVER } else { BETWEEN_MEASUREMENTS };
        let due = locked(&self.asked).is_none_or(|last| last.elapsed() >= pause);
        if !due || servers.is_empty() {
            return;
        }
        *locked(&self.asked) = Some(Instant::now());
        let taken = self.taken.clone();
        let measure = move || {
            let bytes = |(run, pids): (u64, Vec<i32>)| Some((run, procs::memory::taken_by(&pids)?));
            let now = servers.into_iter().filter_map(bytes).collect();
            *locked(&taken) = now;
        };
        let _ = self.lane.look(Duration::ZERO, measure).await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a look knows of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(crate) taken: Taken,
    container: Option<Container>,
    /// The most that each candidate took, by the number of its run, in bytes.
    peaks: Taken,
    /// What the last candidate took that became the live server, once that was looked for.
    last: Option<Option<u64>>,
    /// A release that used up the memory, and what its server took then.
    too_large: Option<(String, u64)>,
    /// Why the candidate has to go.
    pub(crate) trouble: Option<Problem>,
}

impl Memory {
    /// Looks again at what may have changed. `live`: a process of the container. `lane`: the one for /proc.
    pub(crate) async fn look(&mut self, measuring: &Measuring, lane: &Lane, live: i32, list: &List) {
        self.taken = measuring.taken();
        self.container = lane.look(LIMIT, move || Container::of(live)).await.flatten();
        if self.last.is_none() {
            self.last = Some(measuring.last.bytes(lane).await);
        }
        if let Some(bytes) = self.proved(list) {
            self.last = Some(Some(bytes));
            measuring.last.keep(lane, bytes).await;
        }
        self.trouble = self.used_up(list);
    }

    /// What the server took as a candidate that has become the live one: the next one will not take much less.
    fn proved(&mut self, list: &List) -> Option<u64> {
        for run in all(list).filter(|run| run.role == Role::Candidate) {
            let peak = self.peaks.entry(run.number).or_default();
            *peak = self.taken.get(&run.number).copied().unwrap_or(0).max(*peak);
        }
        let live = all(list).find(|run| run.role == Role::Live)?;
        let peak = self.peaks.remove(&live.number).filter(|peak| *peak > 0)?;
        self.peaks.clear();
        Some(peak)
    }

    /// While a candidate boots.
    fn used_up(&mut self, list: &List) -> Option<Problem> {
        let (_, run) = list.runs().find(|(_, run)| run.role == Role::Candidate)?;
        let container = self.container?;
        let taken = container.taken.unwrap_or_else(|| self.taken.values().sum());
        let problem = room::exceeds(container.limit, taken)?;
        let own = self.taken.get(&run.number).copied().unwrap_or(0);
        self.too_large = Some((run.release.clone(), own));
        Some(problem)
    }

    /// The memory for one more server, of this release; `None` where there is no limit, or nothing was measured yet.
    pub(crate) fn room(&self, list: &List, release: Option<&ReleaseId>) -> Option<Room> {
        let container = self.container?;
        let of = |role: Role| {
            let runs = list.runs().filter(move |(_, run)| run.role == role);
            runs.filter_map(|(_, run)| self.taken.get(&run.number)).sum::<u64>()
        };
        let (live, lingering) = (of(Role::Live), of(Role::Lingering));
        let (name, least) = self.too_large.as_ref().map_or(("", 0), |(name, bytes)| (name.as_str(), *bytes));
        let least = if release.is_some_and(|release| release.as_str() == name) { least } else { 0 };
        let room = Room {
            limit: container.limit,
            taken: container.taken.unwrap_or(live.saturating_add(lingering)),
            lingering,
            next: self.last.flatten().unwrap_or(live).max(least),
        };
        Some(room).filter(|room| room.next > 0)
    }
}

/// Of those that have ended, what the parent still knows.
fn all(list: &List) -> impl Iterator<Item = &Run> {
    list.slots.iter().filter_map(|slot| slot.run.as_ref())
}

#[cfg(test)]
impl Memory {
    /// In a container with or without a limit, in which each run takes so much.
    pub(crate) fn given(container: Option<Container>, taken: impl Into<Taken>) -> Self {
        Self { container, taken: taken.into(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Reason;

    fn list(roles: &[&str]) -> List {
        let slots = ["a", "b", "c"].iter().zip(roles).enumerate().map(|(at, (slot, role))| {
            let release = if *role == "candidate" { "v2" } else { "v1" };
            let run = serde_json::json!({
                "number": at + 1, "pid": 9, "start_time": 1, "release": release, "role": role, "started_ms": 1,
            });
            serde_json::json!({"slot": slot, "weight": 0, "queue_empty_ms": 0, "run": run})
        });
        let slots: Vec<_> = slots.collect();
        let raw = serde_json::json!({"pid": 1, "version": "1", "addresses": [], "slots": slots});
        serde_json::from_value(raw).unwrap()
    }

    #[test]
    fn a_release_that_used_up_the_memory_is_not_tried_again_in_as_little() {
        let v2: ReleaseId = "v2".parse().unwrap();
        let mut memory = Memory::given(Some(Container { limit: 1000, taken: Some(500) }), [(1, 300)]);
        let next = |memory: &Memory, release| memory.room(&list(&["live"]), release).unwrap().next;
        assert_eq!(next(&memory, Some(&v2)), 300, "as much as the first");
        memory.last = Some(Some(200));
        assert_eq!(next(&memory, Some(&v2)), 200, "as much as the last one that was good");
        memory.too_large = Some(("v2".into(), 450));
        assert_eq!((next(&memory, Some(&v2)), next(&memory, None)), (450, 200));
        memory.container = None;
        assert_eq!(memory.room(&list(&["live"]), None), None, "there is no limit");
    }

    #[test]
    fn a_candidate_is_in_trouble_when_the_memory_is_nearly_used_up() {
        let (alone, both) = (list(&["live"]), list(&["live", "candidate"]));
        let container = |taken| Some(Container { limit: 1000, taken });
        let mut memory = Memory::given(container(Some(899)), [(1, 500), (2, 420)]);
        assert_eq!(memory.used_up(&both), None);
        memory.container = container(None);
        assert_eq!(memory.used_up(&both).unwrap().reason, Reason::NoMemory, "by what the two take");
        assert_eq!(memory.too_large, Some(("v2".into(), 420)));
        memory.container = container(Some(950));
        assert_eq!(memory.used_up(&alone), None, "the first one alone may take what it gets");
    }

    #[test]
    fn what_a_candidate_took_counts_once_it_is_live() {
        let mut memory = Memory::default();
        let mut seen = |roles: [&str; 2], bytes: u64| {
            memory.taken = [(1, 900), (2, bytes)].into();
            memory.proved(&list(&roles))
        };
        assert_eq!(seen(["live", "candidate"], 400), None);
        assert_eq!(seen(["live", "candidate"], 300), None);
        assert_eq!(seen(["lingering", "live"], 500), Some(400));
        assert_eq!(seen(["lingering", "live"], 500), None, "once");
    }
}
