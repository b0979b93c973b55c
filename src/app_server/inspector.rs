//! What every kind of server is looked at with: the process table, where processes work, what is connected to them,
//! and their files. Each on a thread of its own, since each may hang.

use std::{collections::HashMap, io, path::PathBuf, time::Duration};

use super::{
    Description, Look,
    connections::Connections,
    image,
    not_found::{self, ServerKind},
    working_dir::CwdResolver,
};
use crate::{
    core::{Cwd, Detection, Problem, Sockets, Traffic, requirement::Requirement},
    finding::{self, Check},
    lane::Lane,
};

/// /proc answers at once, unless a process hangs in the kernel with its memory locked.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

const TRIES: u32 = 25;
const TRIES_FOR_A_RESTART: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Where a server works, and what of it is watched.
#[derive(Debug, Clone)]
pub struct Location {
    /// The volume's root, which has the `releases` directory.
    pub deploy_to: PathBuf,
    /// Code in the image that counts as ours as well ([`ReleaseId::fallback`](crate::revision::ReleaseId::fallback)),
    /// as the app's container names it.
    pub fallback: Option<PathBuf>,
    /// Where these are some, their connections count in place of those of its own ports.
    pub ports: Vec<u16>,
}

impl Location {
    /// Where releases are.
    pub fn releases(&self) -> PathBuf {
        self.deploy_to.join("releases")
    }
}

/// The means of one kind.
#[derive(Debug)]
pub(super) struct Inspector {
    kind: &'static ServerKind,
    ports: Vec<u16>,
    /// The process table.
    pub processes: Lane,
    cwds: CwdResolver,
    connections: Connections,
    /// The app's image and its files.
    pub files: Lane,
}

impl Inspector {
    /// Begins to listen for connections that end.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn open(kind: &'static ServerKind, place: Location) -> io::Result<Self> {
        let mut cwds = CwdResolver::start(place.releases())?;
        cwds.fallback = place.fallback;
        Ok(Self {
            kind,
            ports: place.ports,
            processes: Lane::one_at_a_time("processes")?,
            cwds,
            connections: Connections::start()?,
            files: Lane::one_at_a_time("files")?,
        })
    }

    /// The ports to be watched of a server that listens on its own ones.
    pub fn watched(&self, own: Vec<u16>) -> Vec<u16> {
        if self.ports.is_empty() { own } else { self.ports.clone() }
    }

    /// What is connected to these.
    pub async fn connections(&self, ports: &[u16]) -> Option<Sockets> {
        self.connections.on(ports.to_vec()).await
    }

    /// Where each process works.
    pub async fn cwds(&self, pids: Vec<i32>) -> HashMap<i32, Cwd> {
        self.cwds.of(pids).await
    }

    /// What the image of this process does not bring; one that is not there lacks nothing.
    ///
    /// # Errors
    /// As [`image::lacks`].
    pub async fn lacks(&self, pid: Option<i32>, requires: Vec<Requirement>) -> Result<Vec<String>, Problem> {
        let Some(pid) = pid else { return Ok(Vec::new()) };
        image::lacks(self.kind, &self.files, pid, requires).await
    }

    /// Why there is none to look at.
    pub async fn why_not_found(&self, detection: &Detection, narrow: Option<&str>) -> Vec<Check> {
        let (kind, detection, narrow) = (self.kind, detection.clone(), narrow.map(str::to_owned));
        let told = self
            .processes
            .look(LIMIT, move || not_found::diagnose(kind, &detection, narrow.as_deref()))
            .await;
        told.into_iter().collect()
    }

    /// Of a server that cannot be looked into, what its configured ports tell all the same.
    pub async fn without(&self, detection: Detection, why: &[Check]) -> Look {
        let sockets = self.connections(&self.ports).await;
        self.not_found(detection, Traffic { workers: None, sockets }, why)
    }

    /// The same with traffic that is known.
    pub fn not_found(&self, detection: Detection, traffic: Traffic, why: &[Check]) -> Look {
        let description = Description { kind: self.kind.section.into(), ..Description::default() };
        Look { detection, traffic, description, findings: finding::findings(why) }
    }
}

/// How often it is looked once more, a while later, where a look fell into a start or a restart.
#[derive(Debug)]
pub(super) struct Retries {
    tries: u32,
    first: bool,
}

impl Retries {
    /// As long as somebody who is just starting may take: for an examination.
    pub fn for_a_start() -> Self {
        Self { tries: TRIES, first: true }
    }

    /// As long as a restart of somebody else's is between two images: for a plan.
    pub fn for_a_restart() -> Self {
        Self { tries: TRIES_FOR_A_RESTART, first: true }
    }

    /// At once for the first time, then after a pause; `false` when it has ended.
    pub async fn lasts(&mut self) -> bool {
        if !std::mem::take(&mut self.first) {
            tokio::time::sleep(PAUSE).await;
        }
        let left = self.tries.checked_sub(1);
        self.tries = left.unwrap_or(0);
        left.is_some()
    }
}
