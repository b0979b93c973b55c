//! The world that is walked: agent, pod, disk, effects under way.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use super::pod::{Keys, Nature, Pod, Rel, Signal, Stage as PumaStage};
use super::setting::{Barred, Birth, Setting};
use super::{KEYS, LONG_AGO_MS, MOMENTS, keys_in, rules};
use crate::core::drain::{DrainCommand, DrainEffect, DrainResult, Journal, Origin};
use crate::core::history::History;
use crate::core::{
    Agent, Attempt, Effect, Event, Fleet, Mode, Moment, Observation, Outcome, Plan, Problem, Reason, Record,
    Recovered, ServerCommand, Step,
};
use crate::revision::{Pointer, RecordEvent, ReleaseId, Revision};

/// Something that need not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Disturbance {
    Crash,
    WriteFailed,
    Hanging,
    Stale,
    Torn,
    Foreign,
    Killed,
    Stuck,
    Sick,
    Drain,
    Slow,
}

/// An effect under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Running {
    pub(crate) effect: Effect,
    /// How it ended, once it has; not yet reported.
    pub(crate) outcome: Option<Outcome>,
    /// It was reported as unknown.
    pub(crate) hanging: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) current: Option<Rel>,
    pub(crate) complete: BTreeSet<Rel>,
    /// Each line, and whether it was synced.
    pub(crate) log: Vec<(Record, bool)>,
    pub(crate) journal: Option<Journal>,
    /// What this pod's lease names: others may delete whatever it does not.
    pub(crate) lease: BTreeSet<Rel>,
}

impl Hash for Disk {
    /// Of the journal only what it adds up to, and its last line: a move that is tried again and
    /// again does not make a new world each time.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let records: Vec<_> = self.log.iter().map(|(record, _)| record.clone()).collect();
        let last = self.log.last().map(|(record, synced)| (record.event, *synced));
        (self.current, &self.complete, &self.journal, &self.lease, last, History::fold(&records)).hash(state);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum PreStop {
    #[default]
    Idle,
    Waiting,
    Answered,
}

#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) what: String,
    pub(crate) before: Option<Rc<Trace>>,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) now: Moment,
    pub(crate) agent: Option<Agent>,
    pub(crate) pod: Pod,
    pub(crate) disk: Disk,
    pub(crate) running: Vec<Running>,
    /// A look taken earlier that has not arrived yet, and whether it is older than the last effect.
    pub(crate) late_look: Option<(Observation, bool)>,
    pub(crate) pointer: Rel,
    pub(crate) announced: bool,
    /// The health path fails, whatever runs.
    pub(crate) sick: bool,
    pub(crate) prestop: PreStop,
    /// The drain's time ran out.
    pub(crate) ran_out: bool,
    /// Which kinds of disturbances there were.
    pub(crate) disturbed: Vec<Disturbance>,
    pub(crate) trace: Option<Rc<Trace>>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.agent.hash(state);
        self.pod.hash(state);
        self.disk.hash(state);
        self.running.hash(state);
        self.late_look.hash(state);
        (self.pointer, self.announced, self.prestop, self.sick).hash(state);
        (self.disturbed.is_empty(), self.disturbed.contains(&Disturbance::WriteFailed)).hash(state);
    }
}

pub(crate) fn name(rel: Rel) -> ReleaseId {
    format!("v{rel}").parse().expect("a valid id")
}

pub(crate) fn number(release: &ReleaseId) -> Rel {
    release.as_str()[1..].parse().expect("a release of the model")
}

pub(super) fn revision(rel: Rel) -> Revision {
    Revision { release: name(rel), sequence: Some(u64::from(rel)) }
}

/// The smallest keys that nothing in the world remembers.
struct Unused(BTreeSet<u64>);

impl Keys for Unused {
    fn fresh(&mut self) -> u64 {
        let key = (KEYS..).find(|k| !self.0.contains(k)).expect("some number is free");
        self.0.insert(key);
        key
    }
}

pub(crate) type Next = Result<World, String>;

impl World {
    /// v1 runs, verified; the pointer has just moved to v2.
    pub(crate) fn start(setting: Setting) -> Self {
        let verified = |event| Record::new(event, revision(1));
        let log = vec![(verified(RecordEvent::Attempt), true), (verified(RecordEvent::Verified), true)];
        let disk = Disk { current: Some(1), complete: BTreeSet::from([1]), log, ..Disk::default() };
        let served = Pod::serving(setting.kind, 1);
        let (disk, pod) = match setting.birth {
            Some(Birth { deaths: true, .. }) => {
                let attempt = Record::new(RecordEvent::Attempt, revision(2));
                let log = vec![(attempt, true); 3];
                let disk =
                    Disk { current: Some(2), complete: BTreeSet::from([1, 2]), log, ..Disk::default() };
                (disk, Pod::serving(setting.kind, 2))
            }
            Some(_) => (Disk::default(), Pod { master: None, ..served }),
            None => (disk, served),
        };
        let mut world = Self {
            setting,
            now: Moment(*MOMENTS.start()).plus(LONG_AGO_MS),
            agent: None,
            pod,
            disk,
            running: vec![],
            late_look: None,
            pointer: 2,
            announced: false,
            sick: setting.birth.is_some_and(|birth| birth.sick),
            prestop: PreStop::Idle,
            ran_out: false,
            disturbed: vec![],
            trace: None,
        };
        world.start_agent();
        world
    }

    pub(crate) fn nature(&self, rel: Rel) -> Nature {
        if rel == 2 { self.setting.second } else { Nature::Good }
    }

    pub(crate) fn barred(&self) -> Option<Barred> {
        self.setting.birth.and_then(|birth| birth.barred)
    }

    fn start_agent(&mut self) {
        let recovered = Recovered {
            current: self.disk.current.filter(|r| self.disk.complete.contains(r)).map(name),
            records: self.disk.log.iter().map(|(record, _)| record.clone()).collect(),
            boot_id: String::new(),
            neighbours: Default::default(),
        };
        let policy = self.setting.policy();
        let journal = self.disk.journal.clone();
        let mut agent =
            Agent::new(policy.drain.clone(), journal, Problem::new(Reason::VolumeUnavailable, ""));
        agent.step(self.now, Event::Tick);
        agent.recover(policy, &recovered, self.now);
        if self.barred() == Some(Barred::ByFleet) {
            let fleet = Fleet { rejected: [revision(1)].into(), ..Fleet::default() };
            agent.step(self.now, Event::Fleet(fleet));
        }
        self.agent = Some(agent);
        self.announced = false;
        self.write_lease();
    }

    /// It is written before any effect of the same step.
    fn write_lease(&mut self) {
        let protected = self.agent.as_ref().and_then(Agent::protected).unwrap_or_default();
        self.disk.lease = protected.releases().map(number).collect();
    }

    pub(crate) fn note(mut self, what: impl Into<String>) -> Self {
        self.trace = Some(Rc::new(Trace { what: what.into(), before: self.trace.take() }));
        self
    }

    pub(crate) fn disturb(mut self, disturbance: Disturbance) -> Self {
        if !self.disturbed.contains(&disturbance) {
            self.disturbed.push(disturbance);
        }
        self
    }

    /// The agent takes an event; its effects are under way from then on.
    pub(crate) fn feed(mut self, event: Event) -> Next {
        let what = format!("{event:?}").chars().take(150).collect::<String>();
        let agent = self.agent.as_mut().expect("only a living agent is fed");
        let effects = agent.step(self.now, event);
        let mut world = self.note(what);
        world.write_lease();
        for effect in effects {
            rules::may_begin(&world, &effect)?;
            match effect {
                Effect::Conclude { .. } | Effect::Notice(_) => {}
                Effect::Drain(drain) => world.drained(drain),
                effect => world.running.push(Running { effect, outcome: None, hanging: false }),
            }
        }
        world.renumber();
        rules::holds(&world)?;
        Ok(world)
    }

    /// Attempts are only told apart: without a late effect their number says nothing.
    fn renumber(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let now = agent.view().attempt;
        if now > Attempt(1) && self.running.iter().all(|r| address(&r.effect).0 == now) && agent.renumber() {
            for running in &mut self.running {
                *attempt_of(&mut running.effect) = Attempt(1);
            }
        }
    }

    fn drained(&mut self, effect: DrainEffect) {
        match effect {
            DrainEffect::Journal(journal) => self.disk.journal = journal,
            DrainEffect::Answer { answer, .. } if self.prestop == PreStop::Waiting => {
                self.prestop = PreStop::Answered;
                self.ran_out = answer.result == DrainResult::Deadline;
            }
            DrainEffect::Answer { .. } | DrainEffect::Cut(_) => {}
            DrainEffect::Undone(_) => self.prestop = PreStop::Idle,
        }
    }

    fn unused(&self) -> Unused {
        Unused(keys_in(self).into_iter().collect())
    }

    /// Everything that may happen next, with what it takes from the disturbances left.
    pub(crate) fn successors(&self, disturbances: bool) -> Vec<(Next, u8)> {
        let mut next: Vec<(Next, u8)> = self.pod_moves().into_iter().map(|w| (Ok(w), 0)).collect();
        next.extend(self.effects_end().into_iter().map(|w| (w, 0)));
        if self.agent.is_some() {
            next.extend(self.agent_moves().into_iter().map(|w| (w, 0)));
        } else {
            next.push((Ok(self.restarted()), 0));
        }
        if disturbances {
            next.extend(self.disturbances().into_iter().map(|w| (w, 1)));
        }
        next
    }

    pub(crate) fn pod_moves(&self) -> Vec<World> {
        let mut keys = self.unused();
        // The parent starts nothing before `current` leads to what may be booted; without an agent to ask, after a while.
        let asks = self.pod.kind.slots && self.pod.master.is_none() && !self.pod.ends_with_its_server();
        if asks && self.agent.as_ref().is_some_and(|agent| !agent.settled()) {
            return vec![];
        }
        let pods = self.pod.moves(self.disk.current, |rel| self.nature(rel), &mut keys);
        pods.into_iter().map(|pod| World { pod, ..self.clone() }.note("the pod moves")).collect()
    }

    pub(crate) fn restarted(&self) -> World {
        let mut world = self.clone();
        world.start_agent();
        world.note("the agent starts")
    }

    fn agent_moves(&self) -> Vec<Next> {
        let mut next = vec![self.clone().feed(Event::Observed(self.look()))];
        if !self.announced {
            next.push(self.announce());
        }
        if self.sick {
            next.push(Ok(World { sick: false, ..self.clone() }.note("the dependency is back")));
        }
        if self.pointer == 2 && self.setting.birth.is_none() {
            let moved = World { pointer: 3, announced: false, ..self.clone() };
            next.push(Ok(moved.note("the pointer moves")));
        }
        if let Some((look, outdated)) = &self.late_look {
            let began = if *outdated { Moment(0) } else { look.began };
            let world = World { late_look: None, ..self.clone() };
            next.push(world.feed(Event::Observed(Observation { began, ..look.clone() })));
        }
        if self.pod_moves().is_empty() && self.running.is_empty() {
            next.extend(self.tick());
        }
        next
    }

    pub(crate) fn announce(&self) -> Next {
        if self.setting.kind.canary {
            let pointer = self.canary();
            return World { announced: true, ..self.clone() }.feed(Event::Pointer(Ok(pointer)));
        }
        let previous = (self.pointer > 1).then(|| name(self.pointer - 1));
        let back = (self.barred() == Some(Barred::RolledBack)).then(|| name(1));
        let rolled_back = back.into_iter().collect();
        let mut revision = revision(self.pointer);
        if self.setting.kind.rolled_back && self.pointer == 3 {
            revision.release = name(1);
        }
        let pointer = Pointer { previous, rolled_back, ..revision.into() };
        World { announced: true, ..self.clone() }.feed(Event::Pointer(Ok(pointer)))
    }

    /// Time goes on to the next deadline.
    pub(crate) fn tick(&self) -> Option<Next> {
        let due = self.agent.as_ref()?.deadline(self.now)?;
        let mut world = Self { now: due, ..self.clone() };
        let natures = [world.nature(1), world.nature(2), world.nature(3)];
        world.pod.time_out_workers(|rel| natures[usize::from(rel) - 1]);
        // A look does not take longer than the shortest of the deadlines.
        world.late_look = None;
        // What is tried again for ever must not outlast all looks: time that no look resets grows.
        let look = world.setting.second == Nature::Corrupt
            || world.setting.birth.is_some_and(|b| b.sick || b.barred.is_some());
        let event = if look { Event::Observed(world.look()) } else { Event::Tick };
        Some(world.feed(event))
    }

    /// Each effect under way may end well, and each that has ended may be reported.
    pub(crate) fn effects_end(&self) -> Vec<Next> {
        let mut next = vec![];
        for index in 0..self.running.len() {
            if self.running[index].outcome.is_some() {
                next.push(self.report(index));
            } else {
                next.push(self.happen(index, Outcome::Done));
            }
        }
        next
    }

    /// The effect does its work in the world; nobody is told yet.
    pub(crate) fn happen(&self, index: usize, outcome: Outcome) -> Next {
        let mut world = self.clone().note(format!("happens: {:?} {outcome:?}", self.running[index].effect));
        let effect = self.running[index].effect.clone();
        let outcome = world.apply(&effect, outcome)?;
        world.running[index].outcome = Some(match (outcome, &effect) {
            (Outcome::Failed(problem), Effect::Publish { .. }) => {
                Outcome::NotPublished { problem, current: world.disk.current.map(name) }
            }
            (outcome, _) => outcome,
        });
        if let Some((_, outdated)) = &mut world.late_look {
            *outdated = true;
        }
        // Only what the pod can see of an effect matters before its report.
        let seen = matches!(effect, Effect::Publish { .. } | Effect::Perform { .. });
        if seen || world.agent.is_none() { Ok(world) } else { world.report(index) }
    }

    fn apply(&mut self, effect: &Effect, outcome: Outcome) -> Result<Outcome, String> {
        rules::may_happen(self, effect)?;
        let done = outcome == Outcome::Done;
        match effect {
            Effect::Fetch { release, .. } if done && self.nature(number(release)) == Nature::Corrupt => {
                let why = Problem::new(Reason::ReleaseCorrupt, "not what was published");
                return Ok(Outcome::Failed(why));
            }
            Effect::Fetch { release, .. } if done => {
                self.disk.complete.insert(number(release));
            }
            Effect::Check { release, trial: true, .. }
                if done && self.nature(number(release)) == Nature::FailsTrial =>
            {
                let why = Problem::new(Reason::HookFailed, "it raises");
                return Ok(Outcome::Condemned(why));
            }
            Effect::Check { beside, .. } if done && self.pod.kind.slots => {
                return Ok(Outcome::Checked(self.pod.plan(*beside)));
            }
            Effect::Check { .. } if done => return Ok(Outcome::Checked(Plan::new(self.setting.mode))),
            Effect::Record { record, .. } if done => self.disk.log.push((record.clone(), true)),
            Effect::Publish { release, .. } if done => self.disk.current = Some(number(release)),
            Effect::Perform { command, on, .. } => return Ok(self.perform(*command, on.0)),
            _ => {}
        }
        Ok(outcome)
    }

    fn perform(&mut self, command: ServerCommand, on: u64) -> Outcome {
        let gone = || Outcome::Failed(Problem::new(Reason::MasterGone, "the image meant is gone"));
        let mut keys = self.unused();
        let current = self.disk.current;
        if let (true, Some(outcome)) = (self.pod.kind.slots, self.pod.order(command, on, current, &mut keys))
        {
            return outcome;
        }
        if self.pod.kind.second_master {
            return if self.pod.told(command, on) { Outcome::Done } else { gone() };
        }
        let signal = match command {
            ServerCommand::Restart(Mode::Hot) | ServerCommand::Abort(Mode::Hot) => Signal::Usr2,
            ServerCommand::Restart(Mode::Phased) | ServerCommand::Abort(Mode::Phased) => Signal::Usr1,
            ServerCommand::Recover => Signal::Kill,
            ServerCommand::Commit
            | ServerCommand::Switch
            | ServerCommand::Share { .. }
            | ServerCommand::End
            | ServerCommand::Kill => return Outcome::Done,
            ServerCommand::Restart(Mode::Beside) | ServerCommand::Abort(Mode::Beside) => return gone(),
        };
        // The adapter sees that workers which served at its last look do no longer.
        let ends = self.pod.master.as_ref().is_some_and(|m| m.stage == PumaStage::Stopping);
        if matches!(command, ServerCommand::Restart(_)) && ends {
            return Outcome::Failed(Problem::new(Reason::MasterGone, "somebody else restarts it"));
        }
        if self.pod.signal(on, signal, self.disk.current, false) { Outcome::Done } else { gone() }
    }

    fn report(&self, index: usize) -> Next {
        let mut world = self.clone();
        let Running { effect, outcome, .. } = world.running.remove(index);
        let (attempt, step) = address(&effect);
        let outcome = outcome.expect("only what has ended is reported");
        if world.agent.is_none() {
            return Ok(world);
        }
        world.feed(Event::Finished { attempt, step, outcome })
    }

    pub(crate) fn begin_drain(self) -> Next {
        let world = World { prestop: PreStop::Waiting, ..self };
        world.feed(Event::Drain(DrainCommand::Begin(Origin::PreStop)))
    }

    pub(crate) fn story(&self) -> String {
        let mut lines = vec![];
        let mut at = &self.trace;
        while let Some(trace) = at {
            lines.push(trace.what.clone());
            at = &trace.before;
        }
        lines.reverse();
        lines.join("\n  ")
    }
}

pub(crate) fn address(effect: &Effect) -> (Attempt, Step) {
    match effect {
        Effect::Fetch { attempt, .. } => (*attempt, Step::Fetch),
        Effect::Check { attempt, .. } => (*attempt, Step::Check),
        Effect::Record { attempt, record } => (*attempt, Step::Record(record.event)),
        Effect::Publish { attempt, .. } => (*attempt, Step::Publish),
        Effect::Perform { attempt, command, .. } => (*attempt, Step::Perform(*command)),
        Effect::Conclude { .. } | Effect::Notice(_) | Effect::Drain(_) => {
            unreachable!("these report nothing")
        }
    }
}

fn attempt_of(effect: &mut Effect) -> &mut Attempt {
    match effect {
        Effect::Fetch { attempt, .. }
        | Effect::Check { attempt, .. }
        | Effect::Record { attempt, .. }
        | Effect::Publish { attempt, .. }
        | Effect::Perform { attempt, .. } => attempt,
        Effect::Conclude { .. } | Effect::Notice(_) | Effect::Drain(_) => {
            unreachable!("these report nothing")
        }
    }
}
