//! A look, put into the core's words.

use std::collections::{HashMap, HashSet};

use super::{
    discovery::Core,
    pool::{AppProcess, Group},
};
use crate::{
    app_server::{WorkerDescription, inspector::Surroundings, server},
    core::{AppServer, Cwd, Generation, GenerationKey, Process, ProcessKey, WorkerLoad},
    procs::{Image, ProcessId},
};

/// Everything that one look gave.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(crate) core: Core,
    pub(crate) version: String,
    /// How many processes there may be, of all apps.
    pub(crate) capacity: usize,
    pub(crate) group: Group,
    /// The processes that are still there.
    pub(crate) ids: HashMap<i32, ProcessId>,
    pub(crate) surroundings: Surroundings,
    /// Passenger could not boot the app, and nothing serves.
    pub(crate) gave_up: bool,
    /// The attempts to boot it that are under way.
    pub(crate) booting: HashSet<ProcessId>,
    /// Requests that may wait for a process, where that is known.
    pub(crate) longest_queue: Option<u64>,
    /// The running release asks for restarts by a file.
    pub(crate) restart_file: bool,
}

impl server::Snapshot for Snapshot {
    /// Old processes that only end their last requests are no part of it: no new request gets there, and
    /// nothing ends them before they are done.
    fn app_server(&self) -> AppServer {
        let generation = Generation {
            key: self.key(),
            master: self.core.image.process.key(),
            // Orders are taken at any time, also in the middle of a restart.
            signalable: true,
            cwd: self.home(),
            expected: self.expected(),
            processes: self.processes(),
        };
        AppServer { generations: vec![generation], old_workers: false, ..Default::default() }
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    fn image(&self) -> Image {
        self.core.image
    }

    fn app_pid(&self) -> Option<i32> {
        self.group.serving().map(|process| process.pid).next()
    }

    fn name(&self) -> String {
        format!("Passenger's app {}", self.group.name)
    }

    fn workers(&self) -> Vec<WorkerDescription> {
        let describe = |process: &AppProcess| {
            let id = *self.ids.get(&process.pid)?;
            Some(self.surroundings.describe(id, !process.is_detached()))
        };
        self.group.all().filter_map(describe).collect()
    }

    /// The numbers are live: each answer is a check-in of its own. Requests that wait for a process belong to none
    /// yet.
    fn loads(&self) -> Option<Vec<WorkerLoad>> {
        let checkin = server::live_checkin();
        let load = |process: &AppProcess| {
            Some(WorkerLoad {
                key: self.ids.get(&process.pid)?.key(),
                requests: process.processed,
                busy: process.sessions,
                backlog: 0,
                checkin,
            })
        };
        let mut workers: Vec<_> = self.group.all().filter_map(load).collect();
        let waiting = self.group.get_wait_list_size;
        match workers.first_mut() {
            Some(first) => first.backlog = waiting,
            None if waiting > 0 => {
                let key = ProcessKey(self.key().0);
                workers.push(WorkerLoad { key, requests: 0, busy: 0, backlog: waiting, checkin });
            }
            None => {}
        }
        (!workers.is_empty()).then_some(workers)
    }
}

impl Snapshot {
    /// A restart gives the app another uuid, and the core stays.
    pub(crate) fn key(&self) -> GenerationKey {
        self.core.image.generation_named(&self.group.uuid)
    }

    /// Where all serving processes run; unknown while they do not agree, or there are none.
    pub(crate) fn home(&self) -> Cwd {
        let mut cwds = self.group.serving().map(|process| self.surroundings.cwd(process.pid));
        let first = cwds.next().unwrap_or(Cwd::Unknown);
        if cwds.all(|cwd| cwd == first) { first } else { Cwd::Unknown }
    }

    fn expected(&self) -> usize {
        match self.gave_up {
            true => 0,
            false => self.group.least().min(self.capacity).max(1),
        }
    }

    fn processes(&self) -> Vec<Process> {
        let serving = self.group.serving().filter_map(|process| {
            let key = self.ids.get(&process.pid)?.key();
            Some(Process { key, cwd: self.surroundings.cwd(process.pid), booted: true })
        });
        let serving: Vec<_> = serving.collect();
        if !serving.is_empty() || self.gave_up || !self.group.is_booting() {
            return serving;
        }
        let booting = |id: &ProcessId| Process { key: id.key(), cwd: Cwd::Unknown, booted: false };
        self.booting.iter().map(booting).collect()
    }
}

#[cfg(test)]
mod tests {
    use server::Snapshot as _;

    use super::{
        super::{
            boots::Children,
            pool::{
                Pool,
                tests::{document, process},
            },
        },
        *,
    };

    const IDLE: &str = "<processes_being_spawned>0</processes_being_spawned>";
    const SPAWNING: &str = "<processes_being_spawned>1</processes_being_spawned>";

    fn id(pid: i32) -> ProcessId {
        ProcessId { pid, start: 1 }
    }

    /// Of an app with 8 requests that wait; each process works in the release.
    fn snapshot(state: &str, processes: &str) -> Snapshot {
        let pool = Pool::parse(document(state, processes).as_bytes()).unwrap();
        let group = pool.groups().next().unwrap().clone();
        let release = Cwd::Release("v1".parse().unwrap());
        Snapshot {
            core: Core {
                image: Image { process: id(9), at_random: 1 },
                children: Children::default(),
                instance: None,
                ports: vec![3000],
            },
            version: pool.passenger_version.clone(),
            capacity: pool.max,
            ids: group.all().map(|process| (process.pid, id(process.pid))).collect(),
            surroundings: Surroundings {
                cwds: group.all().map(|process| (process.pid, release.clone())).collect(),
                ..Surroundings::default()
            },
            group,
            gave_up: false,
            booting: HashSet::new(),
            longest_queue: None,
            restart_file: false,
        }
    }

    fn generation(snapshot: &Snapshot) -> Generation {
        snapshot.app_server().generations.remove(0)
    }

    #[test]
    fn an_old_process_still_counts_as_busy_and_no_more_as_serving() {
        let snapshot = snapshot(IDLE, &(process(81, 1, "DETACHED") + &process(334, 0, "ENABLED")));
        let generation = generation(&snapshot);
        assert_eq!(
            generation.processes.iter().map(|process| process.key).collect::<Vec<_>>(),
            [id(334).key()]
        );
        assert_eq!(generation.expected, 2);
        let workers = snapshot.traffic().workers.unwrap();
        assert_eq!(workers.iter().map(|worker| worker.busy).sum::<u32>(), 1);
        assert_eq!(workers.iter().map(|worker| worker.backlog).sum::<u32>(), 8, "those that wait");
        let shown = snapshot.workers();
        assert_eq!(
            shown.iter().map(|worker| (worker.pid, worker.booted)).collect::<Vec<_>>(),
            [(81, false), (334, true)]
        );
    }

    #[test]
    fn requests_that_wait_for_the_first_process_are_in_flight() {
        let snapshot = snapshot(SPAWNING, "");
        let workers = snapshot.traffic().workers.unwrap();
        assert_eq!(workers.iter().map(|worker| (worker.busy, worker.backlog)).collect::<Vec<_>>(), [(0, 8)]);
    }

    #[test]
    fn a_boot_under_way_is_a_process_that_does_not_serve_yet() {
        let mut snapshot = snapshot(SPAWNING, "");
        snapshot.booting.insert(id(208));
        let generation = generation(&snapshot);
        assert_eq!(generation.processes.iter().map(|process| process.booted).collect::<Vec<_>>(), [false]);
        assert_eq!(generation.expected, 2);
    }

    #[test]
    fn an_app_that_does_not_boot_has_nothing_to_be_waited_for() {
        let mut snapshot = snapshot(SPAWNING, "");
        (snapshot.gave_up, snapshot.booting) = (true, [id(253)].into());
        let generation = generation(&snapshot);
        assert_eq!((generation.expected, generation.processes.len()), (0, 0));
    }

    #[test]
    fn each_restart_makes_another_generation_of_the_same_core() {
        let (one, mut two) = (snapshot(IDLE, ""), snapshot(IDLE, ""));
        assert_eq!(one.key(), two.key());
        two.group.uuid = "eLvWTSfEKKjRK8YIBabu".into();
        assert_ne!(one.key(), two.key());
    }
}
