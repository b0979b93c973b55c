//! What must hold in every state, and where every state must lead.

use std::collections::HashSet;

use super::fingerprint;
use super::pod::{Master, Nature, Stage as PumaStage};
use super::slot_rules;
use super::world::{Disturbance, PreStop, World, name, number};
use crate::core::effect::{Effect, Mode, ServerCommand};
use crate::core::{Agent, Event, Outcome, Reason, Stage, View};
use crate::revision::RecordEvent;

pub(super) fn broken(world: &World, rule: &str) -> Result<(), String> {
    Err(format!(
        "{rule}\n  {}\n  world: {:?}\n  view: {:?}",
        world.story(),
        (&world.pod, &world.running),
        world.agent.as_ref().map(Agent::view)
    ))
}

/// Rules on what the agent asks for, in the state in which it asks.
pub(crate) fn may_begin(world: &World, effect: &Effect) -> Result<(), String> {
    let agent = world.agent.as_ref().expect("a living agent asked");
    let going_back = agent.view().stage == Stage::Reverting;
    let forward = match effect {
        Effect::Fetch { .. } => !going_back,
        Effect::Check { .. } | Effect::Perform { command: ServerCommand::Restart(_), .. } => true,
        Effect::Record { record, .. } => record.event == RecordEvent::Attempt,
        Effect::Publish { .. } => !going_back,
        _ => false,
    };
    if forward && agent.drain.blocks_deploys() {
        return broken(world, "a forward stage starts while draining");
    }
    if let Effect::Record { record, .. } = effect {
        let rejected = agent.view().rejected.iter().any(|(r, _)| *r == record.revision)
            || (on_disk(world, RecordEvent::Rejected, |r| *r == record.revision) && proved_something(world));
        if record.event == RecordEvent::Attempt && rejected {
            return broken(world, "a rejected move is tried again");
        }
        if record.event == RecordEvent::Verified {
            return proven(world, number(&record.revision.release));
        }
    }
    if world.running.iter().any(|r| r.hanging && !matches!(r.effect, Effect::Perform { .. }))
        && matches!(effect, Effect::Fetch { .. } | Effect::Record { .. } | Effect::Publish { .. })
    {
        return broken(world, "the volume is touched while an effect on it hangs");
    }
    Ok(())
}

fn proven(world: &World, rel: u8) -> Result<(), String> {
    let late = world
        .disturbed
        .iter()
        .any(|d| matches!(d, Disturbance::Stale | Disturbance::Killed | Disturbance::Foreign));
    let workers = world.pod.newest().into_iter().flat_map(|m| m.workers.iter());
    let true_now = world.pod.master.is_some()
        && workers.clone().all(|w| w.as_ref().is_some_and(|w| world.pod.code(w) == rel));
    // What was proved is proved, though the pod has ended since.
    if true_now || late || !world.pod.alive || world.setting.second == Nature::Raises {
        return Ok(());
    }
    broken(world, "verified, but not every worker runs the release")
}

/// Before that, a rejection says no more than that nothing came up.
fn proved_something(world: &World) -> bool {
    let proofs = [RecordEvent::Verified, RecordEvent::Reverted];
    proofs.into_iter().any(|event| on_disk(world, event, |_| true))
}

fn on_disk(world: &World, event: RecordEvent, which: impl Fn(&crate::revision::Revision) -> bool) -> bool {
    world.disk.log.iter().any(|(record, _)| record.event == event && which(&record.revision))
}

/// Rules on what happens in the world.
pub(crate) fn may_happen(world: &World, effect: &Effect) -> Result<(), String> {
    match effect {
        Effect::Publish { release, .. } => {
            if !world.disk.complete.contains(&number(release)) {
                return broken(world, "`current` names a release that is not complete");
            }
            if world.nature(number(release)) == Nature::FailsTrial {
                return broken(world, "a release that fails its trial was put in place");
            }
            if world.barred().is_some() && number(release) == 1 {
                return broken(
                    world,
                    "went to a release that somebody rolled back from, or the fleet rejected",
                );
            }
            published_by_intent(world, number(release))
        }
        Effect::Perform { command, on, .. } => {
            slot_rules::ordered(world, *command, on.0)?;
            signalled_in_peace(world, *command, on.0)
        }
        _ => Ok(()),
    }
}

fn published_by_intent(world: &World, rel: u8) -> Result<(), String> {
    let forgiven = world.disturbed.contains(&Disturbance::WriteFailed);
    let last = world.disk.log.iter().rev().map(|(r, _)| r).find(|r| r.event == RecordEvent::Attempt);
    let attempted = last.is_some_and(|r| number(&r.revision.release) == rel);
    let Some(agent) = &world.agent else { return Ok(()) };
    let view = agent.view();
    if view.stage == Stage::Publishing && !attempted {
        return broken(world, "flipped without its attempt on disk");
    }
    let failed = view.rejected.iter().any(|(r, _)| number(&r.release) == rel);
    if view.stage == Stage::Reverting && failed {
        return broken(world, "went back to a release that failed");
    }
    let unwritten = view.rejected.iter().find(|(r, _)| !on_disk(world, RecordEvent::Rejected, |d| d == r));
    if view.stage == Stage::Reverting && unwritten.is_some() && !forgiven {
        return broken(world, "flipped back without its rejection on disk");
    }
    Ok(())
}

fn signalled_in_peace(world: &World, command: ServerCommand, on: u64) -> Result<(), String> {
    let forgiven = world.disturbed.contains(&Disturbance::WriteFailed);
    let announced = world.disk.log.last().is_some_and(|(r, _)| r.event == RecordEvent::Signalled);
    let back = matches!(command, ServerCommand::Abort(_));
    // The candidate was announced before it was started.
    let announces = command != ServerCommand::Abort(Mode::Beside);
    if announces
        && matches!(command, ServerCommand::Restart(_) | ServerCommand::Abort(_))
        && !announced
        && !(back && forgiven)
    {
        return broken(world, "signalled without its intent on disk");
    }
    // Whoever has a second master refuses a third.
    if world.pod.kind.second_master {
        return Ok(());
    }
    // Another image is there: the adapter sends nothing.
    let Some(master) = world.pod.master.as_ref().filter(|m| m.key == on) else { return Ok(()) };
    let usr2 = matches!(command, ServerCommand::Restart(Mode::Hot) | ServerCommand::Abort(Mode::Hot));
    let loading = master.stage == PumaStage::Loading && world.pod.kind.single;
    let under_way = matches!(master.stage, PumaStage::Stopping | PumaStage::Exec) || loading;
    if usr2 && under_way && !master.foreign {
        return broken(world, "USR2 while a hot restart is between its signal and its title, or loading");
    }
    let booted = world.pod.booted();
    if matches!(command, ServerCommand::Restart(_))
        && master.foreign
        && booted > 0
        && booted < world.pod.kind.workers
    {
        return broken(world, "a restart begins in the middle of somebody else's");
    }
    let phased = matches!(master.stage, PumaStage::Phased { .. });
    if matches!(command, ServerCommand::Restart(_))
        && ((phased && !usr2) || under_way)
        && !master.foreign
        && !forgiven
    {
        return broken(world, "a second restart while one is in flight");
    }
    Ok(())
}

/// Rules on every state.
pub(crate) fn holds(world: &World) -> Result<(), String> {
    let (kind, current) = (world.setting.kind, world.disk.current);
    let unborn = world.setting.birth.is_some() && current.is_none();
    if !unborn && current.is_none_or(|rel| !world.disk.complete.contains(&rel)) {
        return broken(world, "`current` does not resolve to a complete release");
    }
    let others = |d: &Disturbance| {
        matches!(d, Disturbance::Killed) || (kind.slots && matches!(d, Disturbance::Foreign))
    };
    let touched = world.disturbed.iter().any(others);
    slot_rules::hold(world)?;
    let beside = kind.slots && world.setting.second != Nature::Fights;
    if (kind.second_master || beside)
        && world.setting.birth.is_none()
        && !touched
        && world.pod.alive
        && world.pod.booted() == 0
    {
        return broken(
            world,
            "nobody serves, though the first master needs not go before the second is proven",
        );
    }
    let Some(agent) = &world.agent else { return Ok(()) };
    leased(world, &agent.view())?;
    let named = kind.canary && world.announced && world.pointer == 2;
    let tried = on_disk(world, RecordEvent::Attempt, |revision| revision.sequence == Some(2));
    if named && tried && agent.view().desired.is_none_or(|desired| desired.sequence != Some(2)) {
        return broken(world, "a pod that has tried the canary does not stay with it");
    }
    let good = |rel: u8| matches!(world.nature(rel), Nature::Good | Nature::Fights);
    let blamed = agent.view().rejected.into_iter().find(|(r, _)| good(number(&r.release)));
    // What others restart in the middle is no fault of the release's either, unless its time was over.
    let in_time = |reason: Reason| !matches!(reason, Reason::BootTimeout | Reason::BootFailed);
    let others = world.disturbed.iter().all(|d| *d == Disturbance::Foreign);
    let peaceful =
        world.disturbed.is_empty() || (others && blamed.as_ref().is_some_and(|(_, r)| in_time(*r)));
    if blamed.is_some() && peaceful && !kind.pinnable && !kind.absolute {
        return broken(world, "a good release was rejected though nothing went wrong");
    }
    Ok(())
}

/// Whatever this pod runs, ran, wants or may boot is named in its lease: others delete the rest.
fn leased(world: &World, view: &View) -> Result<(), String> {
    let in_slots =
        world.pod.slots.iter().flat_map(|slots| slots.servers()).filter_map(|one| one.master.as_ref());
    let masters = world.pod.master.iter().chain(&world.pod.second).chain(in_slots);
    let runs = masters.flat_map(|m| m.workers.iter().flatten().map(|worker| worker.rel).chain([m.dir]));
    let desired = view.desired.as_ref().map(|revision| &revision.release);
    let moving = view.moving.iter().flat_map(|m| m.back_to.iter().chain([&m.revision.release]));
    let known = [view.running.as_ref(), view.previous.as_ref(), desired];
    let known = known.into_iter().flatten().chain(moving).map(number);
    let needed = runs.chain(world.disk.current).chain(known);
    match needed.into_iter().find(|rel| !world.disk.lease.contains(rel)) {
        Some(rel) => broken(world, &format!("a release that is needed has no lease: v{rel}")),
        None => Ok(()),
    }
}

/// Left alone, with no more disturbances and a good pointer, the world comes to rest: in sync, or
/// stranded with a reason; and whoever waits on /prestop is answered.
pub(crate) fn comes_to_rest(world: &World, calm: &mut HashSet<u64>) -> Result<(), String> {
    let mut world = world.clone();
    if world.setting.birth.is_none() {
        world.pointer = 3;
    }
    (world.announced, world.sick) = (false, false);
    let mut path = vec![];
    for turn in 0..600 {
        let mark = fingerprint(&world);
        if calm.contains(&mark) {
            break;
        }
        path.push(mark);
        // What cannot be fetched is asked for again for ever: there is no rest but this.
        let without_end = world.setting.second == Nature::Corrupt || has_no_way(&world);
        let waits = without_end && world.agent.is_some() && world.announced;
        if waits && at_rest(&world).is_ok() {
            calm.extend(path);
            return Ok(());
        }
        match quiet_step(&world, turn)? {
            Some(next) => world = next,
            None => {
                at_rest(&world)?;
                calm.extend(path);
                return Ok(());
            }
        }
    }
    if path.len() >= 600 {
        return broken(&world, "it never comes to rest");
    }
    calm.extend(path);
    Ok(())
}

/// One step of an undisturbed world: effects end well, Puma moves, the agent looks, time passes,
/// and an answered preStop is followed by the end of the pod.
fn quiet_step(world: &World, turn: u32) -> Result<Option<World>, String> {
    if world.prestop == PreStop::Answered && world.pod.alive {
        helped_in_time(world)?;
        let mut ended = world.clone();
        (ended.pod.alive, ended.pod.master, ended.pod.second, ended.pod.slots) = (false, None, None, None);
        return Ok(Some(ended));
    }
    if world.agent.is_none() {
        return Ok(Some(world.restarted()));
    }
    if !world.announced {
        return world.announce().map(Some);
    }
    if let Some(index) = world.running.iter().position(|r| r.outcome.is_none()) {
        return world.happen(index, Outcome::Done).map(Some);
    }
    if let Some(next) = world.effects_end().into_iter().next() {
        return next.map(Some);
    }
    let mut next = world.clone();
    next.late_look = None;
    // A pod that loops does not stop the clock.
    if let (0, Some(ticked)) = (turn % 16, next.clone().disturb(Disturbance::Slow).tick()) {
        return ticked.map(Some);
    }
    if let Some(moved) = next.pod_moves().into_iter().last() {
        let look = moved.look();
        return moved.feed(Event::Observed(look)).map(Some);
    }
    let looked = next.clone().feed(Event::Observed(next.look()))?;
    if fingerprint(&looked) != fingerprint(world) {
        return Ok(Some(looked));
    }
    match looked.tick() {
        Some(ticked) => ticked.map(Some),
        None => Ok(None),
    }
}

/// Whoever waits on a server that serves nothing is helped, draining or not. A worker that hangs is
/// the app server's own to end.
fn helped_in_time(world: &World) -> Result<(), String> {
    let hangs = matches!(world.setting.second, Nature::Hangs | Nature::HangsBeforeTitle);
    let only_drained = world.disturbed.iter().all(|d| matches!(d, Disturbance::Drain | Disturbance::Slow));
    let serves = world.pod.master.is_none() || world.pod.booted() > 0;
    // A pod that ends before it has ever served had no clients.
    let unborn = world.setting.birth.is_some();
    if !world.ran_out || serves || hangs || !only_drained || unborn || world.setting.kind.pinnable {
        return Ok(());
    }
    broken(world, "the drain ran out while nothing served, though there was a way back")
}

/// A newborn pod whose release is bad, and nothing else may take its place.
fn has_no_way(world: &World) -> bool {
    world.barred().is_some() && world.setting.second != Nature::Good
}

fn at_rest(world: &World) -> Result<(), String> {
    let agent = world.agent.as_ref().expect("it was started");
    if world.prestop == PreStop::Waiting {
        return broken(world, "/prestop was never answered");
    }
    let view = agent.view();
    // In a pod that has ended the agent may find that nobody told it to end, and wait for an app server.
    if agent.drain.blocks_deploys() || !world.pod.alive {
        return Ok(());
    }
    let unwritten = |r: &crate::revision::Revision| !on_disk(world, RecordEvent::Rejected, |d| d == r);
    if view.rejected.iter().any(|(revision, _)| unwritten(revision)) {
        return broken(world, "a rejection is not on disk, though the volume takes it");
    }
    let wanted = match (world.setting.birth.is_some(), world.setting.second) {
        (false, _) if world.setting.kind.rolled_back => 1,
        (false, _) => 3,
        (true, Nature::Good) => 2,
        (true, _) => 1,
    };
    let waits = world.setting.second == Nature::Corrupt && view.stage == Stage::Fetching;
    if world.pod.second.is_some() && world.disturbed.is_empty() {
        return broken(world, "it rests with two masters");
    }
    slot_rules::rest(world)?;
    let settled = view.stage == Stage::Steady || waits;
    if world.pod.alive && world.pod.booted() == 0 && view.running.is_some() {
        return broken(world, "it says what runs, and nobody serves");
    }
    let ours = |master: &Master| master.stage == PumaStage::Stuck && !master.foreign;
    if world.pod.master.as_ref().is_some_and(ours) {
        return broken(world, "it stands still beside a Puma that hangs in the stop that it asked for");
    }
    let in_sync = settled && view.running == Some(name(wanted));
    let explained = view.problem.is_some() && (settled || view.stage == Stage::Stranded);
    let kind = world.setting.kind;
    let hopeless = kind.pinnable || kind.absolute || !world.disturbed.is_empty();
    let waits = has_no_way(world) && matches!(view.stage, Stage::Verifying | Stage::Stranded);
    if in_sync || (view.problem.is_some() && waits && view.running.is_none()) || (explained && hopeless) {
        return Ok(());
    }
    broken(world, &format!("it rests neither in sync nor explained: {view:?}"))
}
