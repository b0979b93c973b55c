//! A look, put into the core's words.

use super::{
    Memory,
    discovery::{Master, ServerProcesses},
};
use crate::{
    app_server::{SlotDescription, WorkerDescription, inspector::Surroundings, server, sides::Sides},
    core::{AppServer, Generation, Process, ProcessKey},
    procs::{Image, ProcessId},
};

/// Everything that one look gave.
pub(super) struct Snapshot {
    pub(crate) processes: ServerProcesses,
    pub(crate) surroundings: Surroundings,
    pub(crate) memory: Memory,
    /// The parent's other servers.
    pub(crate) sides: Sides<ServerProcesses>,
}

/// Unicorn keeps no numbers: each connection is one request, and the socket table has them all.
impl server::Snapshot for Snapshot {
    fn app_server(&self) -> AppServer {
        let generations = self.processes.generations();
        let several = generations.len() > 1;
        let generations = generations.into_iter().map(|master| self.generation(master, several)).collect();
        let beside = self.sides.for_core(&self.surroundings, |one| self.generation(one.newest(), false));
        AppServer { generations, old_workers: false, beside }
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    fn image(&self) -> Image {
        self.processes.newest().image
    }

    fn masters(&self) -> Vec<ProcessId> {
        self.processes.ids()
    }

    fn candidate(&self) -> Vec<(i32, ProcessKey)> {
        let workers = self.sides.candidate_processes().map(|(_, one)| &one.newest().workers[..]);
        workers.unwrap_or_default().iter().map(|worker| (worker.id.pid, worker.id.key())).collect()
    }

    fn slots(&self) -> Vec<SlotDescription> {
        self.sides.describe(&self.processes, &self.surroundings)
    }

    fn is_settled(&self) -> bool {
        self.processes.newest().title.is_some()
    }

    fn name(&self) -> String {
        format!("Unicorn {}", self.image().process.pid)
    }

    fn mode(&self) -> Option<&'static str> {
        Some("cluster")
    }

    fn workers(&self) -> Vec<WorkerDescription> {
        let workers = self.processes.masters.iter().flat_map(|master| &master.workers);
        workers.map(|worker| self.surroundings.describe(worker.id, worker.booted)).collect()
    }
}

impl Snapshot {
    pub(crate) fn generation(&self, master: &Master, several: bool) -> Generation {
        let process = |worker: &super::discovery::Worker| Process {
            key: worker.id.key(),
            cwd: self.surroundings.cwd(worker.id.pid),
            booted: worker.booted,
        };
        Generation {
            key: master.image.generation_key(),
            master: master.image.process.key(),
            // One that loads beside another can be ended at any time.
            signalable: master.title.is_some() || several,
            cwd: self.surroundings.cwd(master.image.process.pid),
            expected: self.memory.expected(master),
            processes: master.workers.iter().map(process).collect(),
        }
    }
}
