//! What need not happen, and does: crashes, failed and hanging writes, looks that arrive late,
//! others' hands, stops that never end, slowness, drains.

use super::pod::{Master, Signal, Stage as PumaStage};
use super::world::{Disturbance, Next, PreStop, World, address, number};
use crate::core::drain::DrainCommand;
use crate::core::{Detection, Effect, Event, Observation, Outcome, Problem, Reason};

impl World {
    /// Every disturbance that is possible here.
    pub(crate) fn disturbances(&self) -> Vec<Next> {
        let mut next: Vec<Next> = vec![];
        if self.agent.is_some() {
            next.extend(self.crashes());
            // A dependency that is away is disturbance enough, besides the agent's deaths.
            if self.setting.birth.is_some_and(|birth| birth.sick) {
                return next;
            }
            next.extend(self.slowness());
            if self.late_look.is_none() && !self.running.is_empty() {
                let late_look = Some((self.look(), false));
                let world = World { late_look, ..self.clone() };
                next.push(Ok(world.disturb(Disturbance::Stale).note("a look is on its way")));
            }
            next.extend(self.torn_looks());
            if self.prestop == PreStop::Idle {
                next.push(self.clone().disturb(Disturbance::Drain).begin_drain());
            } else {
                next.push(self.clone().disturb(Disturbance::Drain).feed(Event::Drain(DrainCommand::Undrain)));
            }
        }
        next.extend(self.bad_ends());
        next.extend(self.moves_of_others().into_iter().map(Ok));
        next.extend(self.ends_in_slots().into_iter().map(Ok));
        next
    }

    /// A look that shows nothing for certain, and one that misses a worker.
    fn torn_looks(&self) -> Vec<Next> {
        let look = self.look();
        let mut looks = vec![Observation { detection: Detection::Unclear, ..look.clone() }];
        if let Detection::Seen(mut server) = look.detection.clone()
            && server.generations[0].processes.pop().is_some()
        {
            looks.push(Observation { detection: Detection::Seen(server), ..look });
        }
        let world = self.clone().disturb(Disturbance::Torn);
        looks.into_iter().map(|look| world.clone().feed(Event::Observed(look))).collect()
    }

    /// The agent dies. Each effect under way has happened or not; a line that was not synced is
    /// there or not.
    fn crashes(&self) -> Vec<Next> {
        let mut worlds = vec![Ok(self.clone())];
        for index in 0..self.running.len() {
            if self.running[index].outcome.is_none() {
                worlds.push(self.happen(index, Outcome::Done));
            }
        }
        let mut next = vec![];
        for world in worlds {
            let Ok(mut world) = world else {
                next.push(world);
                continue;
            };
            world.agent = None;
            world.running.clear();
            world.late_look = None;
            let world = world.disturb(Disturbance::Crash).note("the agent is killed");
            if world.disk.log.last().is_some_and(|(_, synced)| !synced) {
                let mut torn = world.clone();
                torn.disk.log.pop();
                next.push(Ok(torn));
            }
            next.push(Ok(world));
        }
        next
    }

    /// Time goes on though the pod is not done.
    fn slowness(&self) -> Option<Next> {
        if self.pod_moves().is_empty() && self.running.is_empty() {
            return None;
        }
        self.clone().disturb(Disturbance::Slow).tick()
    }

    /// Effects that fail, half done or not at all, or hang.
    fn bad_ends(&self) -> Vec<Next> {
        let mut next = vec![];
        for (index, running) in self.running.iter().enumerate() {
            if running.outcome.is_some() {
                continue;
            }
            let failed = Outcome::Failed(Problem::new(Reason::VolumeUnavailable, "write failed"));
            if !matches!(running.effect, Effect::Perform { .. }) {
                next.push(self.clone().disturb(Disturbance::WriteFailed).happen(index, failed.clone()));
                next.push(self.half_done(index, failed));
            }
            if !running.hanging && self.agent.is_some() {
                next.extend(self.hangs(index));
            }
        }
        next
    }

    /// An effect overruns its deadline. On the volume it may still happen; a signal is called off,
    /// and has been sent by then or never will be.
    fn hangs(&self, index: usize) -> Vec<Next> {
        let world = self.clone().disturb(Disturbance::Hanging);
        let effect = &self.running[index].effect;
        let (attempt, step) = address(effect);
        let unknown = Event::Finished { attempt, step, outcome: Outcome::Unknown };
        let mut worlds = vec![world.clone()];
        if matches!(effect, Effect::Perform { .. }) {
            match world.happen(index, Outcome::Done) {
                Ok(sent) => worlds.push(sent),
                broken => return vec![broken],
            }
            for world in &mut worlds {
                world.running.remove(index);
            }
        } else {
            worlds[0].running[index].hanging = true;
        }
        worlds.into_iter().map(|world| world.feed(unknown.clone())).collect()
    }

    /// Written, but reported as failed: nobody knows whether it lasts.
    fn half_done(&self, index: usize, failed: Outcome) -> Next {
        let mut world = self.clone().disturb(Disturbance::WriteFailed);
        match &self.running[index].effect {
            Effect::Record { record, .. } => world.disk.log.push((record.clone(), false)),
            Effect::Publish { release, .. } => world.disk.current = Some(number(release)),
            _ => {}
        }
        world.happen(index, failed)
    }

    /// The candidate is killed; or what the live server depends on fails for a while, and it alone.
    fn ends_in_slots(&self) -> Vec<World> {
        let Some(slots) = &self.pod.slots else { return vec![] };
        let mut next = vec![];
        if slots.standing().is_some() {
            let mut killed = self.clone().disturb(Disturbance::Killed);
            killed
                .pod
                .slots
                .iter_mut()
                .flat_map(|slots| &mut slots.candidate)
                .for_each(|one| (one.master, one.share) = (None, 0));
            next.push(killed.note("the candidate is killed"));
        }
        if self.agent.is_some() && !self.sick {
            let sick = World { sick: true, ..self.clone() }.disturb(Disturbance::Sick);
            next.push(sick.note("the live server's health falls"));
        }
        next
    }

    /// Others restart or kill Puma.
    fn moves_of_others(&self) -> Vec<World> {
        let Some(master) = &self.pod.master else { return vec![] };
        let mut killed = self.clone().disturb(Disturbance::Killed);
        (killed.pod.master, killed.pod.second) = (None, None);
        let mut next = vec![killed.note("Puma is killed")];
        if self.pod.kind.single && master.stage == PumaStage::Stopping {
            let mut stuck = self.clone().disturb(Disturbance::Stuck);
            stuck.pod.master = Some(Master { stage: PumaStage::Stuck, ..master.clone() });
            next.push(stuck.note("Puma hangs in its stop"));
        }
        // A second master of other hands stays until those hands end it.
        if !self.pod.kind.second_master
            && master.stage == PumaStage::Running
            && self.pod.booted() == self.pod.kind.workers
        {
            let mut restarted = self.clone().disturb(Disturbance::Foreign);
            restarted.pod.signal(master.key, Signal::Usr2, self.disk.current, true);
            next.push(restarted.note("somebody else restarts Puma"));
        }
        next
    }
}
