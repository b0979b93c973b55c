//! Walks every state that the agent and a model of its pod can reach together.
//!
//! The world is the real [`Agent`], a modelled Puma ([`pod`]), a disk whose writes may fail half
//! done, and the effects under way. Every order of their steps is tried, with up to a given number
//! of disturbances of any kind: crashes of the agent, failed and hanging writes, late observations,
//! restarts from other hands, killed masters, drains, slow boots. In each state the safety rules
//! are checked; from each state the world, left alone, must come to rest.

mod pod;
mod rules;
mod world;

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use pod::{Kind, Nature};
use world::World;
pub(super) use world::shifted;

use super::mutation::Mutation;

const CLUSTER: Kind = Kind { workers: 2, single: false, preload: false, pinnable: false };
const PRELOAD: Kind = Kind { preload: true, ..CLUSTER };
const SINGLE: Kind = Kind { workers: 1, single: true, ..CLUSTER };
const PINNABLE: Kind = Kind { pinnable: true, ..CLUSTER };

fn fingerprint(world: &World) -> u128 {
    let mut low = DefaultHasher::new();
    world.hash(&mut low);
    let mut high = DefaultHasher::new();
    0x9e37_79b9_u32.hash(&mut high);
    world.hash(&mut high);
    (u128::from(high.finish()) << 64) | u128::from(low.finish())
}

/// What a walk found.
struct Walk {
    states: usize,
    violation: Option<String>,
}

/// Visits every state reachable from `start`; stops at the first broken rule.
fn walk(start: World, disturbances: u8) -> Walk {
    let mut seen = HashSet::from([fingerprint(&start)]);
    let mut calm = HashSet::new();
    let mut queue = VecDeque::from([(start, disturbances)]);
    while let Some((world, left)) = queue.pop_front() {
        if let Err(violation) = rules::comes_to_rest(&world, &mut calm) {
            return Walk { states: seen.len(), violation: Some(violation) };
        }
        for (next, cost) in world.successors(left > 0) {
            let next = match next {
                Ok(next) => next,
                Err(violation) => return Walk { states: seen.len(), violation: Some(violation) },
            };
            let left = left - cost;
            if seen.insert(fingerprint(&next) ^ (u128::from(left) << 3)) {
                queue.push_back((next, left));
            }
        }
    }
    Walk { states: seen.len(), violation: None }
}

fn start(kind: Kind, mode: super::Mode, second: Nature, mutation: Option<Mutation>) -> World {
    World::start(world::Setting { kind, mode, second, mutation })
}

fn passes(kind: Kind, mode: super::Mode, second: Nature) {
    let walk = walk(start(kind, mode, second, None), 1);
    eprintln!("{kind:?} {mode:?} {second:?}: {} states", walk.states);
    if let Some(violation) = walk.violation {
        panic!("{violation}");
    }
}

#[test]
fn a_good_release_phased() {
    passes(CLUSTER, super::Mode::Phased, Nature::Good);
}

#[test]
fn a_good_release_hot() {
    passes(CLUSTER, super::Mode::Hot, Nature::Good);
}
