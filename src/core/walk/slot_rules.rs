//! What must hold of servers in slots.

use super::pod::Nature;
use super::rules::broken;
use super::slots::Queue;
use super::world::{Disturbance, World};
use crate::core::effect::{Mode, ServerCommand};

/// Rules on what the parent is told.
pub(crate) fn ordered(world: &World, command: ServerCommand, on: u64) -> Result<(), String> {
    let Some(slots) = &world.pod.slots else { return Ok(()) };
    let lingers = slots.lingering.iter().find(|one| one.run == on);
    match command {
        ServerCommand::Switch => {
            served_well(world, on)?;
            switched(world, on)
        }
        ServerCommand::Share { permille: 1.. } => switched(world, on),
        ServerCommand::End | ServerCommand::Abort(Mode::Beside) | ServerCommand::Kill
            if shares(world, on) =>
        {
            broken(world, "a server that gets new connections is told to end")
        }
        ServerCommand::End | ServerCommand::Abort(Mode::Beside) => {
            if slots.live == on {
                return broken(world, "the server that gets all connections is told to end");
            }
            if lingers.is_some_and(|one| one.queue != Queue::Quiet) {
                return broken(world, "TERM to a server whose queue is not empty");
            }
            ended(world, on)
        }
        ServerCommand::Kill if lingers.is_some_and(|one| !one.told) => {
            broken(world, "a server with clients is killed, and was never told to end")
        }
        ServerCommand::Kill if slots.find(on).is_some_and(|one| one.met.is_some() && !one.told) => {
            broken(world, "a candidate with clients is killed, and was never told to end")
        }
        ServerCommand::Kill => ended(world, on),
        _ => Ok(()),
    }
}

fn shares(world: &World, on: u64) -> bool {
    let one = world.pod.slots.as_ref().and_then(|slots| slots.find(on));
    one.is_some_and(|one| one.share > 0)
}

/// One whose requests fail is never given all of them.
fn served_well(world: &World, on: u64) -> Result<(), String> {
    let one = world.pod.slots.as_ref().and_then(|slots| slots.find(on));
    match one.and_then(|one| one.met) {
        Some(true) if world.disturbed.is_empty() => {
            broken(world, "one that fails its clients gets all of them")
        }
        _ => Ok(()),
    }
}

/// No client connection ever goes to a server that nobody has proved.
fn switched(world: &World, on: u64) -> Result<(), String> {
    let Some(one) = world.pod.slots.as_ref().and_then(|slots| slots.find(on)) else { return Ok(()) };
    if one.told {
        return broken(world, "both servers end: one that was told to gets the connections");
    }
    let Some(master) = &one.master else { return Ok(()) };
    let worker = |w: &super::pod::Worker| w.booted && healthy(world, world.pod.code(w));
    let serves = master.workers.iter().all(|w| w.as_ref().is_some_and(worker));
    if serves || world.disturbed.contains(&Disturbance::Sick) {
        return Ok(());
    }
    broken(world, "the connections go to a server that was not proved")
}

fn healthy(world: &World, rel: u8) -> bool {
    matches!(world.nature(rel), Nature::Good | Nature::Fights | Nature::Errs)
}

/// Where the container starts anew after the candidate's end, it boots what ran.
fn ended(world: &World, on: u64) -> Result<(), String> {
    let candidate = world.pod.slots.as_ref().and_then(|slots| slots.standing());
    if candidate.is_none_or(|one| one.run != on || one.told) {
        return Ok(());
    }
    let runs = world.pod.master.as_ref().map(|master| master.dir);
    let others = world.disturbed.contains(&Disturbance::Foreign);
    if runs.is_none() || others || world.disk.current == runs {
        return Ok(());
    }
    broken(world, "the candidate is told to end, and `current` does not lead back")
}

/// Rules on every state.
pub(crate) fn hold(world: &World) -> Result<(), String> {
    let Some(slots) = &world.pod.slots else { return Ok(()) };
    if slots.live_told {
        return broken(world, "both servers end");
    }
    let agent_was_away = [Disturbance::Crash, Disturbance::WriteFailed, Disturbance::Hanging];
    let forgiven =
        |d: &Disturbance| agent_was_away.contains(d) || matches!(d, Disturbance::Foreign | Disturbance::Sick);
    let live = world.pod.master.as_ref().filter(|_| !world.disturbed.iter().any(forgiven));
    match live {
        Some(live) if !healthy(world, live.dir) => {
            broken(world, "a release that was never proved serves the clients")
        }
        _ => Ok(()),
    }
}

/// Rules on a world that rests.
pub(crate) fn rest(world: &World) -> Result<(), String> {
    let Some(slots) = &world.pod.slots else { return Ok(()) };
    if slots.servers().any(|one| one.share > 0) {
        return broken(world, "it rests while clients are shared");
    }
    if slots.standing().is_some() {
        return broken(world, "it rests with a candidate that serves nobody");
    }
    if !slots.lingering.is_empty() {
        return broken(world, "it rests beside a server that nobody ends");
    }
    Ok(())
}
