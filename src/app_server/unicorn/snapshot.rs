//! A look, put into the core's words.

use std::collections::HashMap;

use super::{
    Memory,
    discovery::{Master, ServerProcesses, Worker},
};
use crate::{
    app_server::{Description, WorkerDescription},
    core::{AppServer, Cwd, Generation, Process, Sockets, Traffic},
};

/// Everything that one look gave.
pub(super) struct Snapshot {
    pub processes: ServerProcesses,
    pub cwds: HashMap<i32, Cwd>,
    pub ports: Vec<u16>,
    pub sockets: Option<Sockets>,
    pub memory: Memory,
}

impl Snapshot {
    pub fn app_server(&self) -> AppServer {
        let generations = self.processes.generations();
        let several = generations.len() > 1;
        let generations = generations.into_iter().map(|master| self.generation(master, several)).collect();
        AppServer { generations, old_workers: false }
    }

    fn generation(&self, master: &Master, several: bool) -> Generation {
        Generation {
            key: master.image.generation_key(),
            master: master.image.process.key(),
            // One that loads beside another can be ended at any time.
            signalable: master.title.is_some() || several,
            cwd: self.cwd(master.image.process.pid),
            expected: self.memory.expected(master),
            processes: master.workers.iter().map(|worker| self.process(worker)).collect(),
        }
    }

    fn process(&self, worker: &Worker) -> Process {
        Process { key: worker.id.key(), cwd: self.cwd(worker.id.pid), booted: worker.booted }
    }

    pub fn description(&self) -> Description {
        let workers = self.processes.masters.iter().flat_map(|master| &master.workers);
        Description {
            kind: "unicorn".into(),
            pid: Some(self.pid()),
            mode: Some("cluster".into()),
            workers: workers.map(|worker| self.describe(worker)).collect(),
        }
    }

    fn describe(&self, worker: &Worker) -> WorkerDescription {
        let release = match self.cwd(worker.id.pid) {
            Cwd::Release(release) => Some(release),
            Cwd::Elsewhere | Cwd::Unknown => None,
        };
        WorkerDescription { pid: worker.id.pid, key: worker.id.key(), release, booted: worker.booted }
    }

    /// Unicorn keeps no numbers: each connection is one request, and the socket table has them all.
    pub fn traffic(&self) -> Traffic {
        Traffic { workers: None, sockets: self.sockets.clone() }
    }

    /// The newest master.
    pub fn pid(&self) -> i32 {
        self.processes.newest().image.process.pid
    }

    pub fn cwd(&self, pid: i32) -> Cwd {
        self.cwds.get(&pid).cloned().unwrap_or(Cwd::Unknown)
    }
}
