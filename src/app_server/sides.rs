//! What the parent of a server has besides the one that serves. Found by every kind of server; looked at here for those
//! that keep no numbers of their own.

use std::{collections::HashMap, io, path::PathBuf};

use super::{
    Location, SlotDescription,
    driver::Driver,
    error_counts,
    fit::{self, Fit, Misfit, parent_is_able, room_for_one},
    in_slots::{self, Other, Seen},
    inspector::{LIMIT, Surroundings},
    memory::{Measuring, Memory},
    raised,
    server::Server,
    trees::Tree,
};
use crate::{
    config::RestartMode,
    core::{
        Generation, Sockets, Traffic,
        observation::{Beside, Served},
    },
    finding::Check,
    revision::ReleaseId,
    slots::{List, Role, Run, counts},
};

/// The server that is looked for, and what its parent has besides.
#[derive(Debug)]
pub(super) struct Found<P> {
    pub(crate) live: P,
    pub(crate) beside: Vec<Neighbour<P>>,
    /// What the parent says, where there is one.
    pub(crate) parent: Option<List>,
}

/// A server of the parent's that is not the live one.
#[derive(Debug)]
pub(super) struct Neighbour<P> {
    pub(crate) tree: Tree,
    /// Its processes, once it is such a server, and while it is.
    pub(crate) processes: Option<P>,
}

/// What a server consists of.
pub(super) trait Processes {
    /// Its first process, or the newest of several that are.
    fn main(&self) -> i32;
    fn pids(&self) -> Vec<i32>;
}

/// What the configuration says of deploys beside, and what is known across looks.
#[derive(Debug)]
pub(super) struct Settings {
    pub(crate) mode: RestartMode,
    /// A new release gets its traffic by shares.
    pub(crate) shifts: bool,
    /// Where the app's middleware counts.
    state_dir: PathBuf,
    pub(crate) measuring: Measuring,
}

impl Settings {
    /// # Errors
    /// When its thread cannot be started.
    pub(crate) fn new(mode: RestartMode, shifts: bool, location: &Location) -> io::Result<Self> {
        let state_dir = location.state_dir.clone();
        Ok(Self { mode, shifts, measuring: Measuring::start(&state_dir)?, state_dir })
    }

    /// What the app's middleware has counted, by the number of the run.
    pub(crate) async fn counted<S: Server>(&self, driver: &Driver<S>, list: &List) -> HashMap<u64, Served> {
        let runs: Vec<u64> = list.runs().map(|(_, run)| run.number).collect();
        let state_dir = self.state_dir.clone();
        let read =
            move || runs.into_iter().filter_map(|run| Some((run, counts::read(&state_dir, run)?))).collect();
        driver.inspector.processes.look(LIMIT, read).await.unwrap_or_default()
    }
}

/// Everything that one look gave of them.
#[derive(Debug)]
pub(super) struct Sides<P> {
    pub(crate) parent: Option<List>,
    beside: Vec<Side<P>>,
    counted: HashMap<u64, Served>,
    memory: Memory,
}

#[derive(Debug)]
struct Side<P> {
    seen: Neighbour<P>,
    /// The connections that it holds; `None` when that cannot be seen.
    held: Option<Sockets>,
}

impl<P> Side<P> {
    fn run(&self) -> &Run {
        &self.seen.tree.run
    }
}

impl<P: Processes> Sides<P> {
    /// `live`: a process of the server that serves, and its ports.
    pub(crate) async fn look<S: Server>(
        driver: &Driver<S>,
        settings: &Settings,
        memory: &mut Memory,
        (beside, parent): (Vec<Neighbour<P>>, Option<List>),
        (live, ports): (i32, &[u16]),
    ) -> Self {
        let mut counted = HashMap::new();
        if let Some(list) = &parent {
            counted = settings.counted(driver, list).await;
            memory.look(&settings.measuring, &driver.inspector.processes, live, list).await;
        }
        let mut sides = Vec::new();
        for seen in beside {
            let held = match seen.tree.run.role {
                Role::Lingering => driver.inspector.held(ports.to_vec(), seen.tree.pids.clone()).await,
                Role::Live | Role::Candidate => None,
            };
            sides.push(Side { seen, held });
        }
        Self { parent, beside: sides, counted, memory: memory.clone() }
    }

    /// Whether another one could stand beside. `set_up`: what this kind of server has to say of that.
    pub(crate) fn fit(
        &self,
        set_up: impl FnOnce() -> Result<(), Misfit>,
        release: Option<&ReleaseId>,
    ) -> Result<Fit, Misfit> {
        let list = self.parent.as_ref().ok_or_else(Misfit::not_offered)?;
        parent_is_able(list)?;
        set_up()?;
        room_for_one(list, self.memory.room(list, release))
    }

    /// What a look tells of deploys beside.
    pub(crate) fn checks(&self, fit: &Result<Fit, Misfit>, settings: &Settings) -> Vec<Check> {
        let mut checks = vec![fit::check(fit, settings.mode)];
        let goes_beside = matches!(settings.mode, RestartMode::Auto | RestartMode::Beside);
        if settings.shifts && fit.is_ok() && goes_beside {
            checks.push(error_counts::check(self.served_by_live().and_then(|served| served.errors)));
            checks.extend(self.parent.as_ref().and_then(fit::no_shares));
        }
        checks
    }

    /// The servers beside the live one, for the core.
    pub(crate) fn for_core(&self, around: &Surroundings, generation: impl Fn(&P) -> Generation) -> Beside {
        let Some(parent) = &self.parent else { return Beside::default() };
        let others = self.beside.iter().map(|one| {
            let processes = one.seen.processes.as_ref().filter(|_| one.run().role == Role::Candidate);
            Other {
                tree: &one.seen.tree,
                seen: self.seen(one.run(), None, around),
                generation: processes.map(&generation),
                traffic: Traffic {
                    workers: None,
                    sockets: one.held.as_ref().or(around.sockets.as_ref()).cloned(),
                },
            }
        });
        in_slots::for_core(parent, self.memory.trouble.as_ref(), self.served_by_live(), others.collect())
    }

    fn served_by_live(&self) -> Option<Served> {
        let live = self.parent.iter().flat_map(List::runs).find(|(_, run)| run.role == Role::Live);
        live.and_then(|(_, run)| self.counted.get(&run.number).copied())
    }

    /// The candidate that lives, once it is such a server.
    pub(crate) fn candidate_processes(&self) -> Option<(&Run, &P)> {
        let candidates = self.beside.iter().filter(|one| one.run().role == Role::Candidate);
        candidates.filter_map(|one| Some((one.run(), one.seen.processes.as_ref()?))).next()
    }

    fn main_of(&self, run: &Run, live: Option<&P>) -> Option<i32> {
        if run.role == Role::Live {
            return live.map(P::main);
        }
        let one = self.beside.iter().find(|one| one.run().number == run.number)?;
        one.seen.processes.as_ref().map(P::main)
    }

    fn seen(&self, run: &Run, live: Option<&P>, around: &Surroundings) -> Seen {
        Seen {
            main: self.main_of(run, live).map(|main| (main, around.cwd(main))),
            served: self.counted.get(&run.number).copied(),
        }
    }

    /// For /status.
    pub(crate) fn describe(&self, live: &P, around: &Surroundings) -> Vec<SlotDescription> {
        in_slots::describe(self.parent.as_ref(), &self.memory.taken, |run| self.seen(run, Some(live), around))
    }

    /// The processes of each server, by the number of its run, to be measured.
    pub(crate) fn servers(&self, live: &P) -> Vec<(u64, Vec<i32>)> {
        let others = self.beside.iter().map(|one| &one.seen.tree);
        in_slots::processes(self.parent.as_ref(), live.pids(), others)
    }
}

/// The last exception in what the candidate wrote.
pub(super) fn raised(parent: &List) -> Option<String> {
    let runs = parent.slots.iter().filter_map(|slot| slot.run.as_ref());
    let candidate = runs.filter(|run| run.role == Role::Candidate).max_by_key(|run| run.number)?;
    raised::exception(&candidate.tail.join("\n"))
}

#[cfg(test)]
impl<P> Sides<P> {
    /// Of a server without a parent.
    pub(crate) fn none() -> Self {
        Self { parent: None, beside: Vec::new(), counted: HashMap::new(), memory: Memory::default() }
    }

    /// Of a server that a parent has started, alone, in a container like this.
    pub(crate) fn alone(parent: List, memory: Memory) -> Self {
        Self { parent: Some(parent), memory, ..Self::none() }
    }
}
