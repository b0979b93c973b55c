//! Who came with a restart and went again: a release that kills its processes is told from a slow machine, and
//! from others.

use std::collections::BTreeMap;

use crate::core::observation::{Moment, ProcessKey};

/// So many times as often a process may end after a long life: others restart the server as well.
const LATER_ENDS: u32 = 4;

/// Whoever dies of its release does so sooner, most often. Puma gives a worker 60 s to boot, or what it is
/// told (`worker_boot_timeout`), and starts another in its place: what slowness alone can bring about.
pub(super) const LONG_BOOT_MS: u64 = 8_000;

/// So often in a row the server may end, for its slow boot, what never booted.
const SLOW_BOOTS: u32 = 2;

/// How long a process has lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    /// It was first seen then, and has not booted.
    Short(Moment),
    /// It was given long to boot, and has not.
    Slow,
    /// It was seen booted.
    Booted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Newcomer {
    life: Life,
    /// How many slow boots in a row had ended in vain when it came.
    after: u32,
}

/// Processes that were not there before the restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct CrashLoop {
    present: BTreeMap<ProcessKey, Newcomer>,
    /// How many vanished after a short life, and after a long one.
    died: u32,
    ended: u32,
    /// How often in a row one was given long to boot and ended without, while none booted.
    slow: u32,
}

impl CrashLoop {
    /// Takes in who is there now, and whether it is booted.
    pub(crate) fn take(&mut self, now: Moment, present: &BTreeMap<ProcessKey, bool>) {
        for newcomer in self.present.values_mut() {
            newcomer.life = newcomer.life.at(now);
        }
        let gone: Vec<Newcomer> =
            self.present.iter().filter(|(key, _)| !present.contains_key(key)).map(|(_, one)| *one).collect();
        let short = gone.iter().filter(|one| matches!(one.life, Life::Short(_))).count();
        (self.died, self.ended) = (up(self.died, short), up(self.ended, gone.len() - short));
        // Those that came together and end together have had one chance between them.
        let slow = gone.iter().filter(|one| one.life == Life::Slow).map(|one| one.after + 1).max();
        let any_booted = present.values().any(|booted| *booted);
        self.slow = if any_booted { 0 } else { self.slow.max(slow.unwrap_or(0)).min(SLOW_BOOTS) };
        let after = self.slow;
        let newcomer = |(key, booted): (&ProcessKey, &bool)| {
            let new = Newcomer { life: Life::Short(now), after };
            let known = self.present.get(key).copied().unwrap_or(new);
            (*key, if *booted { Newcomer { life: Life::Booted, ..known } } else { known })
        };
        self.present = present.iter().map(newcomer).collect();
    }

    /// Whoever ends now was not ended by the release.
    pub(crate) fn forget(&mut self) {
        self.present.clear();
    }

    /// Where so many are to serve, too many came and went for a good release.
    pub(crate) fn too_many_died(&self, expected: usize) -> bool {
        let limit = u32::try_from(expected.max(2)).unwrap_or(u32::MAX).saturating_add(1);
        self.died >= limit || self.ended >= limit.saturating_mul(LATER_ENDS) || self.slow >= SLOW_BOOTS
    }

    /// How many vanished after a short life.
    pub(crate) fn died(&self) -> u32 {
        self.died
    }
}

impl Life {
    /// One that was given long to boot is more likely to be ended by its server than to die of its release.
    fn at(self, now: Moment) -> Self {
        match self {
            Self::Short(since) if now.since(since) >= LONG_BOOT_MS => Self::Slow,
            known => known,
        }
    }
}

fn up(count: u32, by: usize) -> u32 {
    count.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)).min(1_000)
}
