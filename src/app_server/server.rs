//! What is particular to one kind of app server. [`Driver`] does everything else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    PERFORM_LIMIT, SlotDescription, Wanted, WorkerDescription,
    driver::Driver,
    inspector::Surroundings,
    not_found::{self, NotFound, ServerKind},
};
use crate::{
    core::{
        AppServer, Detection, Files, GenerationKey, Plan, Problem, ProcessKey, ServerCommand, Traffic,
        WorkerLoad,
    },
    finding::Check,
    procs::{Image, ProcessId},
    slots::List,
};

/// One kind of app server.
pub(super) trait Server: Send + Sync + Sized + 'static {
    /// Its section of the configuration.
    type Section;
    /// What a look at the process table gives.
    type Processes: Send + 'static;
    /// What a look remembers of the earlier ones, besides what the driver does.
    type Memory: Default + Clone + Send + Sync;
    /// Everything that one look gives.
    type Snapshot: Snapshot;

    const KIND: ServerKind;
    /// It can restart one worker after the other.
    const PHASED: bool = false;
    /// A restart cuts requests that last longer than [`Server::stop_timeout`].
    const CUTS_REQUESTS: bool = false;
    /// A restart starts a second master beside the first, which serves until it is told to go.
    const SECOND_MASTER: bool = false;
    /// Others can restart it in its process, image after image.
    const IN_PLACE: bool = false;
    /// It is restarted by a signal, so a plan tries first whether signals arrive.
    const SIGNALLED: bool = false;

    /// How long it lets an old worker finish its requests.
    fn stop_timeout(_: &Self::Section) -> Duration {
        Duration::ZERO
    }

    /// How long a restart may take, where that does not depend on the number of workers.
    fn restart_timeout(_: &Self::Section) -> Option<Duration> {
        None
    }

    /// What can be said of every set-up without looking at it.
    fn advice() -> Vec<Check> {
        Vec::new()
    }

    /// Looks for its processes. Runs on the thread for /proc.
    fn discover(&self, search: &Search) -> Discovery<Self::Processes>;

    /// Looks at the processes that were discovered.
    fn snapshot(
        &self,
        driver: &Driver<Self>,
        memory: &mut Self::Memory,
        processes: Self::Processes,
    ) -> impl Future<Output = Result<Self::Snapshot, NotFound>> + Send;

    /// What a look tells of the set-up.
    fn checks(&self, snapshot: &Self::Snapshot) -> Vec<Check>;

    /// How it could be moved. Changes nothing.
    fn plan(
        &self,
        driver: &Driver<Self>,
        snapshot: &Self::Snapshot,
        wanted: Wanted<'_>,
    ) -> impl Future<Output = Result<Plan, Problem>> + Send;

    /// Carries out a command, by [`Driver::send`] where that means signals. If the image `on` is gone or has
    /// changed, it sends nothing and fails.
    fn order(
        &self,
        driver: &Driver<Self>,
        command: ServerCommand,
        on: GenerationKey,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// How long [`Server::order`] may take.
    fn order_limit(&self) -> Duration {
        PERFORM_LIMIT
    }

    /// Why it is not found. Runs on the thread for /proc.
    fn why_not_found(&self, detection: &Detection, matching: Option<&str>) -> Check {
        not_found::diagnose(&Self::KIND, detection, matching)
    }

    /// What is checked whether it is found or not.
    fn checks_without_it(&self) -> Vec<Check> {
        Vec::new()
    }

    /// Something to do after a look of the agent's own.
    fn after_look(&self, _: &Driver<Self>, _: &Self::Snapshot) -> impl Future<Output = ()> + Send {
        async {}
    }

    fn files(&self, _: &Driver<Self>) -> impl Future<Output = Option<BTreeMap<ProcessKey, Files>>> + Send {
        async { Some(BTreeMap::new()) }
    }

    fn raised(&self, _: &Driver<Self>) -> impl Future<Output = Option<String>> + Send {
        async { None }
    }
}

/// Which server is looked for.
#[derive(Debug, Clone)]
pub(super) struct Search {
    /// The masters of the one that is followed, oldest first.
    pub(crate) known: Vec<ProcessId>,
    /// A text that tells it from others of its kind, where the user gives one.
    pub(crate) matching: Option<Arc<str>>,
    /// A master of the one that the driver has chosen among several.
    pub(crate) chosen: Option<ProcessId>,
    /// What the parent of the app server says, where there is one that can be asked.
    pub(crate) parent: Option<List>,
}

/// What a look at the process table gave.
#[derive(Debug)]
pub(super) enum Discovery<Processes> {
    /// Nothing, and nothing that would become one.
    Nothing,
    /// Something that may be about to become one.
    Starting,
    /// Servers of which none is followed, or that stand beside the one that is: the masters of each.
    Candidates(Vec<Vec<ProcessId>>),
    /// Several, which nothing tells apart.
    Ambiguous,
    /// One of another user's, that listens on these ports as far as can be seen.
    NotPermitted(Vec<u16>),
    /// It changed while it was read.
    Torn,
    One(Processes),
}

/// Everything that one look gave.
pub(super) trait Snapshot: Send + Sync {
    /// In the core's words. The newest generation comes last.
    fn app_server(&self) -> AppServer;

    /// Where the processes work, and what is connected to them.
    fn surroundings(&self) -> &Surroundings;

    /// The image that is restarted: the newest master.
    fn image(&self) -> Image;

    /// The masters that are followed from now on, oldest first.
    fn masters(&self) -> Vec<ProcessId> {
        vec![self.image().process]
    }

    /// A process that shows what the app's image brings.
    fn app_pid(&self) -> Option<i32> {
        Some(self.image().process.pid)
    }

    /// It has finished starting, as far as a plan has to know.
    fn is_settled(&self) -> bool {
        true
    }

    /// What runs, for a sentence: `Puma 42`.
    fn name(&self) -> String;

    fn mode(&self) -> Option<&'static str> {
        None
    }

    fn workers(&self) -> Vec<WorkerDescription>;

    /// The processes of a candidate that serve.
    fn candidate(&self) -> Vec<(i32, ProcessKey)> {
        Vec::new()
    }

    /// The servers that stand side by side, where a parent has slots for them.
    fn slots(&self) -> Vec<SlotDescription> {
        Vec::new()
    }

    /// The server's own numbers, where it has some.
    fn loads(&self) -> Option<Vec<WorkerLoad>> {
        None
    }

    fn traffic(&self) -> Traffic {
        Traffic { workers: self.loads(), sockets: self.surroundings().sockets.clone() }
    }
}

/// For numbers that are read as they are now, and not reported now and then: each answer is newer than the last.
pub(super) fn live_checkin() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}
