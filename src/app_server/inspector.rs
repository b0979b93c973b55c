//! What every kind of server is looked at with: the process table, where processes work, what is connected to them,
//! and their files. Each has a thread of its own, because each may hang.

use std::{collections::HashMap, io, path::PathBuf, time::Duration};

use super::{WorkerDescription, connections::Connections, working_dir::CwdResolver};
use crate::{
    core::{Cwd, Sockets},
    lane::Lane,
    procs::ProcessId,
};

/// /proc answers at once, unless a process hangs in the kernel with its memory locked.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

const TRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(200);

/// Where a server works, and what of it is watched.
#[derive(Debug, Clone)]
pub struct Location {
    /// The volume's root, which has the `releases` directory.
    pub deploy_to: PathBuf,
    /// Code in the image that counts as ours as well ([`ReleaseId::fallback`](crate::revision::ReleaseId::fallback)),
    /// as the app's container names it.
    pub fallback: Option<PathBuf>,
    /// If there are any, their connections count instead of those of the server's own ports: a proxy's in front of it.
    pub ports: Vec<u16>,
    /// The link that the server is started from.
    pub current: PathBuf,
    /// Where the parent of the app server is asked.
    pub state_dir: PathBuf,
}

impl Location {
    pub(crate) fn releases(&self) -> PathBuf {
        self.deploy_to.join("releases")
    }
}

#[derive(Debug)]
pub(super) struct Inspector {
    ports: Vec<u16>,
    pub(crate) processes: Lane,
    cwds: CwdResolver,
    /// A stranger on a volume that hangs must not hide where our own processes are.
    candidates: CwdResolver,
    connections: Connections,
    /// The app's image and its files.
    pub(crate) files: Lane,
}

/// Where the processes of a server work, and what is connected to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    pub(crate) cwds: HashMap<i32, Cwd>,
    /// The ports that are watched.
    pub(crate) ports: Vec<u16>,
    pub(crate) sockets: Option<Sockets>,
}

impl Surroundings {
    pub(crate) fn cwd(&self, pid: i32) -> Cwd {
        self.cwds.get(&pid).cloned().unwrap_or(Cwd::Unknown)
    }

    /// A worker, for /status.
    pub(crate) fn describe(&self, worker: ProcessId, booted: bool) -> WorkerDescription {
        let release = match self.cwd(worker.pid) {
            Cwd::Release(release) => Some(release),
            Cwd::Elsewhere | Cwd::Unknown => None,
        };
        WorkerDescription { pid: worker.pid, key: worker.key(), release, booted }
    }
}

impl Inspector {
    /// Starts the threads, and to listen for connections that end.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn open(location: Location) -> io::Result<Self> {
        let cwds = || CwdResolver::start(location.releases(), location.fallback.clone());
        Ok(Self {
            processes: Lane::one_at_a_time("processes")?,
            cwds: cwds()?,
            candidates: cwds()?,
            connections: Connections::start()?,
            files: Lane::one_at_a_time("files")?,
            ports: location.ports,
        })
    }

    /// The ports to be watched of a server that listens on its `own` ones.
    pub(crate) fn watched(&self, own: &[u16]) -> Vec<u16> {
        if self.ports.is_empty() { own.to_vec() } else { self.ports.clone() }
    }

    /// What is connected to these ports.
    pub(crate) async fn connections(&self, ports: Vec<u16>) -> Option<Sockets> {
        self.connections.on(ports).await
    }

    /// Those of them that these processes hold.
    pub(crate) async fn held(&self, ports: Vec<u16>, pids: Vec<i32>) -> Option<Sockets> {
        self.connections.held(ports, pids).await
    }

    /// Where each process works.
    pub(crate) async fn cwds(&self, pids: Vec<i32>) -> HashMap<i32, Cwd> {
        self.cwds.of(pids).await
    }

    /// The same for servers of which it is not known yet which is meant.
    pub(crate) async fn cwds_of_candidates(&self, pids: Vec<i32>) -> HashMap<i32, Cwd> {
        self.candidates.of(pids).await
    }

    /// Where these processes work, and what is connected to a server that listens on its `own` ports.
    pub(crate) async fn surroundings(&self, pids: Vec<i32>, own: &[u16]) -> Surroundings {
        let ports = self.watched(own);
        let (cwds, sockets) = tokio::join!(self.cwds(pids), self.connections(ports.clone()));
        Surroundings { cwds, ports, sockets }
    }
}

/// How often a look that fell into a start or a restart is repeated: about as long as a start takes.
#[derive(Debug)]
pub(super) struct Retries {
    left: u32,
    first: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self { left: TRIES, first: true }
    }
}

impl Retries {
    /// At once for the first time, then after a pause; `false` when none is left.
    pub(crate) async fn next(&mut self) -> bool {
        if !std::mem::take(&mut self.first) {
            tokio::time::sleep(PAUSE).await;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}
