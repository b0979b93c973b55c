//! The model of a parent with slots: servers beside the live one, queues in which connections wait, a program that says
//! where new ones go. It survives the agent, and ends with its live server.

use super::pod::{Keys, Master, Nature, Pod, Rel, Stage};
use crate::core::{
    Cwd, Outcome, Plan, Problem, Reason, ServerCommand,
    effect::Mode,
    observation::{Beside, Candidate, GenerationKey, Lingering, Served, Warmed},
};

/// What the parent has besides the live server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Slots {
    /// The live server's run.
    pub(crate) live: u64,
    /// The live server was told to end, by a parent that lets everything happen.
    pub(crate) live_told: bool,
    pub(crate) candidate: Option<Server>,
    /// Who was live last comes first.
    pub(crate) lingering: Vec<Server>,
}

/// A server that is not the live one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) run: u64,
    /// `None`: it has ended.
    pub(crate) master: Option<Master>,
    pub(crate) queue: Queue,
    /// It has a request that ran at the switch.
    pub(crate) busy: bool,
    pub(crate) told: bool,
    /// It got into the way of the other one.
    pub(crate) in_trouble: bool,
    /// The candidate gets so many of 1000 connections.
    pub(crate) share: u32,
    /// Clients have met it with a share, and it failed them.
    pub(crate) met: Option<bool>,
}

/// The connections that wait in a slot which gets no new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Queue {
    /// One that was answered before the switch may still arrive.
    Late,
    Waiting,
    /// Nobody waits, and nobody comes any more.
    Quiet,
}

impl Slots {
    pub(crate) fn new(live: u64) -> Self {
        Self { live, live_told: false, candidate: None, lingering: vec![] }
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.candidate.iter().chain(&self.lingering)
    }

    pub(crate) fn find(&self, run: u64) -> Option<&Server> {
        self.servers().find(|server| server.run == run)
    }

    pub(crate) fn standing(&self) -> Option<&Server> {
        self.candidate.as_ref().filter(|candidate| candidate.master.is_some())
    }

    fn find_mut(&mut self, run: u64) -> Option<&mut Server> {
        self.candidate.iter_mut().chain(&mut self.lingering).find(|server| server.run == run)
    }
}

impl Server {
    fn new(run: u64, master: Master) -> Self {
        let (queue, busy, told, in_trouble) = (Queue::Late, false, false, false);
        Self { run, master: Some(master), queue, busy, told, in_trouble, share: 0, met: None }
    }

    fn served(&self) -> Served {
        let (requests, errors) = match self.met {
            None => (0, 0),
            Some(failed) => (100, if failed { 50 } else { 0 }),
        };
        Served { requests, errors: Some(errors), p95_ms: None }
    }
}

impl Pod {
    pub(crate) fn beside(&self, name: impl Fn(Rel) -> Cwd + Copy) -> Beside {
        let Some(slots) = &self.slots else { return Beside::default() };
        let candidate = slots.candidate.as_ref().map(|one| Candidate {
            key: GenerationKey(one.run),
            generation: one.master.as_ref().map(|master| self.generation(master, name)),
            warm: Some(Warmed::default()),
            ended: one.master.is_none(),
            trouble: one.in_trouble.then(|| Problem::new(Reason::NoMemory, "there is no room for two")),
            share: one.share,
            served: self.kind.shares.then(|| one.served()),
        });
        let lingering = |one: &Server| Lingering {
            key: GenerationKey(one.run),
            release: one.master.as_ref().and_then(|master| match name(master.dir) {
                Cwd::Release(release) => Some(release),
                _ => None,
            }),
            queue_empty_ms: match one.queue {
                Queue::Late => 100,
                Queue::Waiting => 0,
                Queue::Quiet => 400,
            },
            oldest_request_ms: one.busy.then_some(u64::MAX),
            told: one.told,
        };
        let asked = slots.candidate.as_ref().is_some_and(|one| one.met.is_some());
        let live = Served { requests: if asked { 1_000 } else { 0 }, errors: Some(0), p95_ms: None };
        Beside {
            candidate,
            lingering: slots.lingering.iter().map(lingering).collect(),
            served_by_live: self.kind.shares.then_some(live),
        }
    }

    /// There is room for two servers.
    pub(crate) fn plan(&self, beside: bool) -> Plan {
        let lingers = self.slots.as_ref().is_some_and(|slots| !slots.lingering.is_empty());
        let mode = if beside { Mode::Beside } else { Mode::Hot };
        Plan { mode, make_room: beside && lingers }
    }

    /// What the parent does about a command; `None` where it is not for the parent.
    pub(crate) fn order(
        &mut self,
        command: ServerCommand,
        on: u64,
        current: Option<Rel>,
        keys: &mut impl Keys,
    ) -> Option<Outcome> {
        let done = match command {
            ServerCommand::Restart(Mode::Beside) => self.start(on, current, keys),
            ServerCommand::Switch => self.steer(on),
            ServerCommand::Share { permille } => self.share(on, permille),
            ServerCommand::Abort(Mode::Beside) | ServerCommand::End => self.tell(on),
            ServerCommand::Kill => self.end(on),
            _ => return None,
        };
        let gone = Problem::new(Reason::MasterGone, "there is no such server");
        Some(if done { Outcome::Done } else { Outcome::Failed(gone) })
    }

    fn start(&mut self, on: u64, current: Option<Rel>, keys: &mut impl Keys) -> bool {
        let live = self.master.as_ref().is_some_and(|master| master.key == on);
        let (Some(slots), Some(dir), true) = (&mut self.slots, current, live) else { return false };
        if slots.standing().is_some() {
            return false;
        }
        let (run, key, process) = (keys.fresh(), keys.fresh(), keys.fresh());
        let workers = vec![None; self.kind.workers];
        let (usr1, foreign, pinned) = (false, false, false);
        let master = Master { key, process, stage: Stage::Exec, dir, workers, usr1, foreign, pinned };
        slots.candidate = Some(Server { queue: Queue::Quiet, ..Server::new(run, master) });
        true
    }

    fn share(&mut self, on: u64, permille: u32) -> bool {
        let candidate = self.slots.iter_mut().flat_map(|slots| &mut slots.candidate);
        let mut standing = candidate.filter(|one| one.run == on && one.master.is_some() && !one.told);
        standing.next().is_some_and(|one| {
            one.share = permille;
            true
        })
    }

    fn steer(&mut self, on: u64) -> bool {
        let Some(slots) = &mut self.slots else { return false };
        let Some(Server { master: Some(next), told, .. }) = slots.find(on).cloned() else { return false };
        slots.candidate.take_if(|one| one.run == on);
        slots.lingering.retain(|one| one.run != on);
        if let Some(before) = self.master.replace(next) {
            let one = Server { busy: true, told: slots.live_told, ..Server::new(slots.live, before) };
            slots.lingering.insert(0, one);
        }
        (slots.live, slots.live_told) = (on, told);
        true
    }

    fn tell(&mut self, on: u64) -> bool {
        let Some(slots) = &mut self.slots else { return false };
        match slots.find_mut(on) {
            Some(one) => {
                (one.told, one.share) = (true, 0);
                true
            }
            None => {
                slots.live_told |= slots.live == on;
                false
            }
        }
    }

    fn end(&mut self, on: u64) -> bool {
        let Some(slots) = &mut self.slots else { return false };
        let there = slots.find(on).is_some();
        slots.candidate.take_if(|one| one.run == on);
        slots.lingering.retain(|one| one.run != on);
        there
    }

    /// The container, whose first process is the parent, ends with the live server.
    pub(crate) fn ends_with_its_server(&self) -> bool {
        self.master.is_none() && self.slots.as_ref().is_some_and(|slots| slots.servers().next().is_some())
    }

    /// What may happen next in the other slots.
    pub(crate) fn moves_in_slots(
        &self,
        current: Option<Rel>,
        nature: impl Fn(Rel) -> Nature + Copy,
        keys: &mut impl Keys,
    ) -> Vec<Self> {
        let Some(slots) = &self.slots else { return vec![] };
        let with = |slots: Slots| Self { slots: Some(slots), ..self.clone() };
        if self.ends_with_its_server() {
            return vec![with(Slots::new(keys.fresh()))];
        }
        let mut next = vec![];
        if let Some(candidate) = &slots.candidate {
            let after = self.candidate_moves(candidate, current, nature, keys);
            next.extend(after.into_iter().map(|candidate| with(Slots { candidate, ..slots.clone() })));
        }
        for index in 0..slots.lingering.len() {
            for after in lingers_on(&slots.lingering[index]) {
                let mut changed = slots.clone();
                match after {
                    Some(after) => changed.lingering[index] = after,
                    None => drop(changed.lingering.remove(index)),
                }
                next.push(with(changed));
            }
        }
        next
    }

    fn candidate_moves(
        &self,
        candidate: &Server,
        current: Option<Rel>,
        nature: impl Fn(Rel) -> Nature + Copy,
        keys: &mut impl Keys,
    ) -> Vec<Option<Server>> {
        let Some(master) = &candidate.master else { return vec![] };
        if candidate.told {
            return vec![Some(Server { master: None, share: 0, ..candidate.clone() })];
        }
        if nature(master.dir) == Nature::Fights {
            return vec![Some(Server { master: None, in_trouble: true, ..candidate.clone() })];
        }
        if candidate.share > 0 && candidate.met.is_none() {
            let met = Some(nature(master.dir) == Nature::Errs);
            return vec![Some(Server { met, ..candidate.clone() })];
        }
        let alone = Self { master: Some(master.clone()), second: None, slots: None, ..self.clone() };
        let next = alone.moves_alone(master, current, nature, keys);
        next.into_iter().map(|pod| Some(Server { master: pod.master, ..candidate.clone() })).collect()
    }
}

/// One that is told finishes what it has, and accepts nothing any more.
fn lingers_on(one: &Server) -> Vec<Option<Server>> {
    let with = |queue| Some(Server { queue, ..one.clone() });
    let mut next = match (one.queue, one.told) {
        (Queue::Late, _) => vec![with(Queue::Waiting), with(Queue::Quiet)],
        (Queue::Waiting, false) => vec![with(Queue::Quiet)],
        _ => vec![],
    };
    // One after the other: what they mean for the end does not depend on their order.
    if one.queue != Queue::Quiet {
        return next;
    }
    if one.busy {
        next.push(Some(Server { busy: false, ..one.clone() }));
    } else if one.told {
        next.push(None);
    }
    next
}
