//! The model of the pod: Puma as it was measured, and the container around it. It moves by itself.

use super::KEYS;
use super::slots::Slots;
use crate::core::{AppServer, Cwd, Detection, Generation, GenerationKey, Process, ProcessKey};

/// A release of the model, by number.
pub(crate) type Rel = u8;

/// What a release does when it is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Nature {
    Good,
    /// Its workers die on boot; with preload the master does.
    Raises,
    /// Its workers never finish booting; with preload the master hangs, its title set.
    Hangs,
    /// The master hangs before it has a title.
    HangsBeforeTitle,
    /// It boots and serves, and its health path fails.
    Unhealthy,
    /// It cannot be fetched.
    Corrupt,
    /// It does not go together with another server; alone it is good.
    Fights,
    /// It passes its check, and fails clients.
    Errs,
    /// Its trial boot fails; restarted onto, its workers would die.
    FailsTrial,
}

/// How this Puma was set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) workers: usize,
    pub(crate) single: bool,
    pub(crate) preload: bool,
    /// No literal `directory`: a flip between exec and title binds it for ever.
    pub(crate) pinnable: bool,
    /// Started with an absolute rackup path into v1: that code runs, wherever the processes work.
    pub(crate) absolute: bool,
    /// A candidate gets a share of the clients before it gets all of them.
    pub(crate) shares: bool,
    /// A hot restart starts a second master beside the first.
    pub(crate) second_master: bool,
    /// It has a parent that can start another one in a slot of its own.
    pub(crate) slots: bool,
    /// The pointer's last move is back to the first release.
    pub(crate) rolled_back: bool,
    /// v2 is a canary that this pod follows, and is then aborted.
    pub(crate) canary: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Running,
    /// USR2 received: old workers finish, then the exec reads `current`.
    Stopping,
    /// A single process waits for ever for a thread of its own that has ended.
    Stuck,
    /// Between exec and title: any USR2 kills.
    Exec,
    /// Title set, signals handled, the app not yet loaded.
    Loading,
    /// Workers from `next` on are still to be replaced.
    Phased {
        next: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) key: u64,
    pub(crate) rel: Rel,
    pub(crate) booted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Master {
    pub(crate) key: u64,
    pub(crate) process: u64,
    pub(crate) stage: Stage,
    pub(crate) dir: Rel,
    pub(crate) workers: Vec<Option<Worker>>,
    /// A USR1 that came during a phased restart; several are one.
    pub(crate) usr1: bool,
    /// Somebody else asked for the restart under way.
    pub(crate) foreign: bool,
    /// The restart directory no longer follows `current`.
    pub(crate) pinned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pod {
    pub(crate) kind: Kind,
    pub(crate) master: Option<Master>,
    /// The one that was started beside it.
    pub(crate) second: Option<Master>,
    pub(crate) slots: Option<Slots>,
    /// The kubelet starts the container again when Puma ends.
    pub(crate) alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    Usr1,
    Usr2,
    Kill,
}

/// Gives out keys that nobody remembers, so that the number of states stays finite.
pub(crate) trait Keys {
    fn fresh(&mut self) -> u64;
}

impl Pod {
    /// Puma up and serving this release.
    pub(crate) fn serving(kind: Kind, rel: Rel) -> Self {
        let workers =
            (0..kind.workers as u64).map(|n| Some(Worker { key: KEYS + 1 + n, rel, booted: true })).collect();
        let master = Master {
            key: 1,
            process: KEYS,
            stage: Stage::Running,
            dir: rel,
            workers,
            usr1: false,
            foreign: false,
            pinned: false,
        };
        let slots = kind.slots.then(|| Slots::new(KEYS + 100));
        Self { kind, master: Some(master), second: None, slots, alive: true }
    }

    pub(crate) fn detection(&self, name: impl Fn(Rel) -> Cwd + Copy) -> Detection {
        let masters: Vec<&Master> = self.master.iter().chain(&self.second).collect();
        if masters.is_empty() {
            return Detection::Missing;
        }
        let old_workers = masters.iter().any(|master| matches!(master.stage, Stage::Phased { .. }));
        let generations = masters.into_iter().map(|master| self.generation(master, name)).collect();
        Detection::Seen(AppServer { generations, old_workers, beside: self.beside(name) })
    }

    pub(super) fn generation(&self, master: &Master, name: impl Fn(Rel) -> Cwd) -> Generation {
        let processes: Vec<_> = master
            .workers
            .iter()
            .flatten()
            .map(|w| Process { key: ProcessKey(w.key), cwd: name(w.rel), booted: w.booted })
            .collect();
        let titled = !matches!(master.stage, Stage::Exec);
        let loaded = !self.kind.single || processes.iter().any(|p| p.booted);
        Generation {
            key: GenerationKey(master.key),
            master: ProcessKey(master.process),
            signalable: (titled && loaded) || self.second.is_some(),
            cwd: name(master.dir),
            expected: self.kind.workers,
            processes,
        }
    }

    /// The release whose code a worker runs.
    pub(crate) fn code(&self, worker: &Worker) -> Rel {
        if self.kind.absolute { 1 } else { worker.rel }
    }

    pub(crate) fn booted(&self) -> usize {
        let masters = self.master.iter().chain(&self.second);
        masters.flat_map(|m| m.workers.iter().flatten()).filter(|w| w.booted).count()
    }

    /// A signal arrives at the image `on`; `false` when that is not there any more.
    pub(crate) fn signal(&mut self, on: u64, signal: Signal, current: Option<Rel>, foreign: bool) -> bool {
        let Some(master) = self.master.as_mut().filter(|m| m.key == on) else { return false };
        match (signal, master.stage) {
            (Signal::Kill, _) | (_, Stage::Exec) => self.master = None,
            (_, Stage::Stuck) => {}
            (Signal::Usr1, _) if self.kind.single || self.kind.preload => {
                stop(master, self.kind.single);
                master.foreign = foreign;
            }
            (Signal::Usr1, Stage::Running) => {
                start_phased(master, current);
                master.foreign = foreign;
            }
            (Signal::Usr1, _) => master.usr1 = true,
            (Signal::Usr2, Stage::Loading) if self.kind.single => self.master = None,
            (Signal::Usr2, _) => {
                // A master that hangs in its app's preload never comes to handle it.
                let deaf = master.stage == Stage::Loading;
                if !deaf {
                    stop(master, self.kind.single);
                    master.foreign = foreign;
                }
            }
        }
        true
    }

    /// Everything the pod may do next by itself.
    pub(crate) fn moves(
        &self,
        current: Option<Rel>,
        nature: impl Fn(Rel) -> Nature + Copy,
        keys: &mut impl Keys,
    ) -> Vec<Self> {
        if self.ends_with_its_server() {
            return self.moves_in_slots(current, nature, keys);
        }
        let Some(master) = &self.master else {
            return if self.alive { self.respawn(current, keys) } else { vec![] };
        };
        if self.kind.slots {
            let mut next = self.moves_alone(master, current, nature, keys);
            next.extend(self.moves_in_slots(current, nature, keys));
            return next;
        }
        if self.kind.second_master {
            return self.moves_with_second(master, current, nature, keys);
        }
        self.moves_alone(master, current, nature, keys)
    }

    /// What one master may do next.
    pub(super) fn moves_alone(
        &self,
        master: &Master,
        current: Option<Rel>,
        nature: impl Fn(Rel) -> Nature + Copy,
        keys: &mut impl Keys,
    ) -> Vec<Self> {
        match master.stage {
            Stage::Stopping => vec![self.exec(master, current, keys)],
            Stage::Stuck => vec![],
            Stage::Exec => self.title(master, current, nature),
            Stage::Loading => self.load(master, nature),
            Stage::Running | Stage::Phased { .. } => self.work(master, current, nature, keys),
        }
    }

    /// Time has passed: `worker_boot_timeout` ends the workers that hang.
    pub(crate) fn time_out_workers(&mut self, nature: impl Fn(Rel) -> Nature) {
        let Some(master) = &mut self.master else { return };
        for worker in &mut master.workers {
            let hung =
                |w: &Worker| !w.booted && matches!(nature(w.rel), Nature::Hangs | Nature::HangsBeforeTitle);
            if !self.kind.single && !self.kind.second_master && worker.as_ref().is_some_and(hung) {
                *worker = None;
            }
        }
    }

    fn with(&self, master: Option<Master>) -> Self {
        Self { master, ..self.clone() }
    }

    fn respawn(&self, current: Option<Rel>, keys: &mut impl Keys) -> Vec<Self> {
        let Some(dir) = current else { return vec![] };
        let workers = vec![None; self.kind.workers];
        let (key, process) = (keys.fresh(), keys.fresh());
        let stage = Stage::Exec;
        let (usr1, foreign, pinned) = (false, false, false);
        vec![self.with(Some(Master { key, process, stage, dir, workers, usr1, foreign, pinned }))]
    }

    fn exec(&self, master: &Master, current: Option<Rel>, keys: &mut impl Keys) -> Self {
        let dir = current.filter(|_| !master.pinned).unwrap_or(master.dir);
        let workers = vec![None; self.kind.workers];
        self.with(Some(Master {
            key: keys.fresh(),
            stage: Stage::Exec,
            dir,
            workers,
            usr1: false,
            ..master.clone()
        }))
    }

    fn title(&self, master: &Master, current: Option<Rel>, nature: impl Fn(Rel) -> Nature) -> Vec<Self> {
        if nature(master.dir) == Nature::HangsBeforeTitle {
            return vec![];
        }
        let pinned = master.pinned || (self.kind.pinnable && current != Some(master.dir));
        let stage = if self.kind.single || self.kind.preload { Stage::Loading } else { Stage::Running };
        vec![self.with(Some(Master { stage, pinned, ..master.clone() }))]
    }

    fn load(&self, master: &Master, nature: impl Fn(Rel) -> Nature) -> Vec<Self> {
        match nature(master.dir) {
            Nature::Raises | Nature::FailsTrial => vec![self.with(None)],
            Nature::Hangs | Nature::HangsBeforeTitle => vec![],
            Nature::Good | Nature::Unhealthy | Nature::Corrupt | Nature::Fights | Nature::Errs => {
                vec![self.with(Some(Master { stage: Stage::Running, ..master.clone() }))]
            }
        }
    }

    fn work(
        &self,
        master: &Master,
        current: Option<Rel>,
        nature: impl Fn(Rel) -> Nature,
        keys: &mut impl Keys,
    ) -> Vec<Self> {
        let mut next = vec![];
        for index in 0..master.workers.len() {
            let mut changed = master.clone();
            let touched = match &master.workers[index] {
                None => {
                    changed.workers[index] =
                        Some(Worker { key: keys.fresh(), rel: master.dir, booted: false });
                    true
                }
                Some(w) if !w.booted => match nature(w.rel) {
                    Nature::Good | Nature::Unhealthy | Nature::Corrupt | Nature::Fights | Nature::Errs => {
                        changed.workers[index] = Some(Worker { booted: true, ..w.clone() });
                        true
                    }
                    Nature::Raises | Nature::FailsTrial => {
                        changed.workers[index] = None;
                        true
                    }
                    Nature::Hangs | Nature::HangsBeforeTitle => false,
                },
                Some(_) => false,
            };
            if touched {
                next.push(self.with(Some(changed)));
                break;
            }
        }
        next.extend(self.phased(master, current));
        next
    }

    /// The phased restart's own next step; one that waits for a worker that never boots starts
    /// over when another USR1 has come.
    fn phased(&self, master: &Master, current: Option<Rel>) -> Option<Self> {
        let Stage::Phased { next } = master.stage else { return None };
        let all_booted = master.workers.iter().all(|w| w.as_ref().is_some_and(|w| w.booted));
        let mut changed = master.clone();
        if master.usr1 && (!all_booted || next == master.workers.len()) {
            start_phased(&mut changed, current);
        } else if all_booted && next < master.workers.len() {
            changed.workers[next] = None;
            changed.stage = Stage::Phased { next: next + 1 };
        } else if all_booted {
            changed.stage = Stage::Running;
        } else {
            return None;
        }
        Some(self.with(Some(changed)))
    }
}

/// A single process accepts nothing from then on; the master of a cluster tells its workers first.
fn stop(master: &mut Master, single: bool) {
    master.stage = Stage::Stopping;
    for worker in master.workers.iter_mut().flatten().filter(|_| single) {
        worker.booted = false;
    }
}

/// Reads the restart directory once, at the start.
fn start_phased(master: &mut Master, current: Option<Rel>) {
    if let Some(dir) = current.filter(|_| !master.pinned) {
        master.dir = dir;
    }
    for worker in master.workers.iter_mut().filter(|w| w.as_ref().is_some_and(|w| !w.booted)) {
        *worker = None;
    }
    master.usr1 = false;
    master.stage = Stage::Phased { next: 0 };
}
