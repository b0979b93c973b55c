//! Walks every state that the agent and a model of its pod can reach together.
//!
//! The world is the real [`Agent`], a modelled Puma ([`pod`]), a disk whose writes may fail half
//! done, and the effects under way. Every order of their steps is tried, with up to a given number
//! of disturbances of any kind: crashes of the agent, failed and hanging writes, late observations,
//! restarts from other hands, killed masters, drains, slow boots. In each state the safety rules
//! are checked; from each state the world, left alone, must come to rest.

mod canary;
mod disturbances;
mod looks;
mod pod;
mod rules;
mod second_master;
mod setting;
mod slot_rules;
mod slots;
mod world;

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;

use pod::{Kind, Nature};
use setting::{Barred, Birth, Setting};
use world::World;

use super::Moment;

const CLUSTER: Kind = Kind {
    workers: 2,
    single: false,
    preload: false,
    pinnable: false,
    absolute: false,
    shares: false,
    second_master: false,
    slots: false,
    rolled_back: false,
    canary: false,
};
const PRELOAD: Kind = Kind { preload: true, ..CLUSTER };
const SINGLE: Kind = Kind { workers: 1, single: true, ..CLUSTER };
const PINNABLE: Kind = Kind { pinnable: true, ..CLUSTER };
const ABSOLUTE: Kind = Kind { absolute: true, ..CLUSTER };
/// One worker each: two masters of two have more states than a test has time.
const SECOND_MASTER: Kind = Kind { second_master: true, workers: 1, ..CLUSTER };
const SECOND_MASTER_PRELOAD: Kind = Kind { preload: true, ..SECOND_MASTER };

/// One worker in each slot.
const SLOTS: Kind = Kind { slots: true, workers: 1, ..CLUSTER };
const SLOTS_BACK: Kind = Kind { rolled_back: true, ..SLOTS };
const CANARY: Kind = Kind { canary: true, rolled_back: true, ..CLUSTER };
const SLOTS_CANARY: Kind = Kind { canary: true, ..SLOTS_BACK };
const SLOTS_SHARES: Kind = Kind { shares: true, ..SLOTS };
const SLOTS_PRELOAD: Kind = Kind { preload: true, ..SLOTS };
const SLOTS_ABSOLUTE: Kind = Kind { absolute: true, ..SLOTS };

const SICK: Birth = Birth { sick: true, barred: None, deaths: false };
const DEATHS: Birth = Birth { sick: false, barred: None, deaths: true };

/// Keys of processes and images begin here, so that a hasher can tell them from all other numbers.
const KEYS: u64 = 1 << 40;
/// So do moments: the first and the last of a walk.
const MOMENTS: RangeInclusive<u64> = 1 << 50..=1 << 51;
/// How long ago something was is not told apart beyond this.
const LONG_AGO_MS: u64 = 10_000;

/// Hashes a world up to the names of its processes and the time of day. Keys are only ever compared, so two worlds
/// that differ by a renaming are one state; so are two that differ by when they are.
struct Canonical {
    now: Moment,
    keys: Vec<u64>,
    hash: u64,
}

impl Canonical {
    fn of(world: &World) -> Self {
        let mut canonical = Self { now: world.now, keys: vec![], hash: 0 };
        world.hash(&mut canonical);
        canonical
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash ^= self.hash >> 29;
    }
}

impl Hasher for Canonical {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.mix(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        if number < KEYS {
            return self.mix(number);
        }
        if MOMENTS.contains(&number) {
            let long_ago = self.now.0 - LONG_AGO_MS;
            return self.mix(number.saturating_sub(long_ago));
        }
        let name = self.keys.iter().position(|k| *k == number).unwrap_or_else(|| {
            self.keys.push(number);
            self.keys.len() - 1
        });
        self.mix(KEYS + name as u64);
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

fn fingerprint(world: &World) -> u64 {
    Canonical::of(world).finish()
}

/// Every key that something in the world remembers.
fn keys_in(world: &World) -> Vec<u64> {
    Canonical::of(world).keys
}

/// What a walk found.
struct Walk {
    states: usize,
    violation: Option<String>,
}

/// Visits every state reachable from `start`; stops at the first broken rule.
fn walk(start: World, disturbances: u8) -> Walk {
    let mut seen = HashSet::from([fingerprint(&start).wrapping_add(u64::from(disturbances))]);
    let mut calm = HashSet::new();
    let mut queue = vec![(start, disturbances)];
    while let Some((world, left)) = queue.pop() {
        if let Err(violation) = rules::comes_to_rest(&world, &mut calm) {
            return Walk { states: seen.len(), violation: Some(violation) };
        }
        for (next, cost) in world.successors(left > 0) {
            let next = match next {
                Ok(next) => next,
                Err(violation) => return Walk { states: seen.len(), violation: Some(violation) },
            };
            let left = left - cost;
            if seen.insert(fingerprint(&next).wrapping_add(u64::from(left))) {
                queue.push((next, left));
            }
        }
    }
    Walk { states: seen.len(), violation: None }
}

fn start(kind: Kind, mode: super::Mode, second: Nature) -> World {
    World::start(Setting { kind, mode, second, birth: None })
}

/// How many disturbances a walk is given. `WALK_DISTURBANCES=2` tries every pair of them, with many
/// times the states.
const DISTURBANCES: u8 = 1;

fn passes(kind: Kind, mode: super::Mode, second: Nature) {
    rests(start(kind, mode, second));
}

fn rests(start: World) {
    rests_after(start, DISTURBANCES);
}

fn rests_after(start: World, disturbances: u8) {
    let Setting { kind, mode, second, birth, .. } = start.setting;
    let given = std::env::var("WALK_DISTURBANCES").ok().and_then(|n| n.parse().ok());
    let walk = walk(start, given.unwrap_or(disturbances));
    if let Some(violation) = walk.violation {
        panic!("{kind:?} {mode:?} {second:?}, after {} states: {violation}", walk.states);
    }
    println!("{kind:?} {mode:?} {second:?} {birth:?}: {} states", walk.states);
}

/// Every kind of Puma with every kind of second release.
fn every_release(kind: Kind, mode: super::Mode) {
    use Nature::{Good, Hangs, HangsBeforeTitle, Raises, Unhealthy};
    for second in [Good, Raises, Hangs, HangsBeforeTitle, Unhealthy] {
        passes(kind, mode, second);
    }
}

#[test]
fn phased_restarts_of_a_cluster() {
    every_release(CLUSTER, super::Mode::Phased);
}

#[test]
fn hot_restarts_of_a_cluster() {
    every_release(CLUSTER, super::Mode::Hot);
}

#[test]
fn hot_restarts_of_a_preloading_cluster() {
    every_release(PRELOAD, super::Mode::Hot);
}

#[test]
fn hot_restarts_of_a_single_puma() {
    every_release(SINGLE, super::Mode::Hot);
}

#[test]
fn hot_restarts_of_a_puma_that_can_be_pinned() {
    every_release(PINNABLE, super::Mode::Hot);
}

#[test]
fn restarts_of_a_puma_whose_code_comes_from_elsewhere() {
    for mode in [super::Mode::Hot, super::Mode::Phased] {
        passes(ABSOLUTE, mode, Nature::Good);
    }
}

#[test]
fn a_trial_boot_that_fails() {
    for (kind, mode) in [(CLUSTER, super::Mode::Phased), (PRELOAD, super::Mode::Hot)] {
        passes(kind, mode, Nature::FailsTrial);
    }
}

#[test]
fn second_masters_beside_the_first() {
    every_release(SECOND_MASTER, super::Mode::Hot);
}

#[test]
fn second_masters_that_preload_beside_the_first() {
    every_release(SECOND_MASTER_PRELOAD, super::Mode::Hot);
}

#[test]
fn canaries_that_are_aborted() {
    for second in [Nature::Good, Nature::Raises] {
        for mode in [super::Mode::Phased, super::Mode::Hot] {
            passes(CANARY, mode, second);
        }
        let walk = walk(start(SLOTS_CANARY, super::Mode::Beside, second), 0);
        assert_eq!(walk.violation, None, "{second:?}");
    }
}

#[test]
fn servers_in_slots_that_come_up() {
    passes(SLOTS, super::Mode::Beside, Nature::Good);
}

#[test]
fn servers_in_slots_that_are_gone_back_to() {
    passes(SLOTS_BACK, super::Mode::Beside, Nature::Good);
}

#[test]
fn servers_in_slots_that_raise() {
    passes(SLOTS, super::Mode::Beside, Nature::Raises);
}

#[test]
fn servers_in_slots_that_do_not_go_together() {
    passes(SLOTS, super::Mode::Beside, Nature::Fights);
}

/// With a disturbance they have more states than a test has time; `WALK_DISTURBANCES=1` tries it.
#[test]
fn servers_in_slots_that_get_a_share_first() {
    for second in [Nature::Good, Nature::Errs, Nature::Raises] {
        rests_after(start(SLOTS_SHARES, super::Mode::Beside, second), 0);
    }
}

/// What disturbs them is walked with the others: their way back is the same.
#[test]
fn servers_in_slots_that_fail_in_other_ways() {
    use Nature::{Good, Hangs, HangsBeforeTitle, Raises, Unhealthy};
    for kind in [SLOTS, SLOTS_BACK, SLOTS_PRELOAD, SLOTS_ABSOLUTE] {
        for second in [Good, Raises, Hangs, HangsBeforeTitle, Unhealthy] {
            let walk = walk(start(kind, super::Mode::Beside, second), 0);
            assert_eq!(walk.violation, None, "{kind:?} {second:?}");
        }
    }
}

#[test]
fn births_on_an_empty_volume() {
    use Nature::{Corrupt, Good, Hangs, Raises, Unhealthy};
    for kind in [CLUSTER, PRELOAD] {
        for second in [Good, Raises, Hangs, Unhealthy, Corrupt] {
            rests(born(kind, second, Birth::default()));
        }
    }
}

fn born(kind: Kind, second: Nature, birth: Birth) -> World {
    World::start(Setting { kind, mode: super::Mode::Hot, second, birth: Some(birth) })
}

#[test]
fn births_beside_a_sick_dependency() {
    for second in [Nature::Good, Nature::Raises, Nature::Unhealthy] {
        rests(born(SINGLE, second, SICK));
    }
}

#[test]
fn births_where_the_release_before_is_no_way_back() {
    for barred in [Barred::RolledBack, Barred::ByFleet] {
        for second in [Nature::Good, Nature::Raises, Nature::Unhealthy] {
            rests(born(CLUSTER, second, Birth { barred: Some(barred), ..SICK }));
        }
    }
}

#[test]
fn agents_that_die_at_a_birth() {
    for second in [Nature::Good, Nature::Unhealthy] {
        rests(born(CLUSTER, second, DEATHS));
    }
}
