//! Who came with a restart and went again: a release that kills its processes is told from a slow machine, and
//! from others.

use std::collections::BTreeMap;

use crate::core::observation::{Moment, ProcessKey};

/// So many times as often a process may end after a long life: others restart the server as well, and on a
/// starved machine the server itself ends whoever does not boot in time.
const LATER_ENDS: u32 = 4;

/// Whoever dies of its release does so sooner, most often. Puma gives a worker 60 s to boot, or what it is
/// told (`worker_boot_timeout`), and starts another in its place: what slowness alone can bring about.
pub(super) const LONG_BOOT_MS: u64 = 8_000;

/// How long a process has lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    /// It was first seen then, and has not booted.
    Short(Moment),
    /// It was seen booted, or was given long to boot.
    Long,
}

/// Processes that were not there before the restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Lives {
    present: BTreeMap<ProcessKey, Life>,
    /// How many vanished after a short life, and after a long one.
    died: u32,
    ended: u32,
}

impl Lives {
    /// Takes in who is there now, and whether it is booted.
    pub fn take(&mut self, now: Moment, present: &BTreeMap<ProcessKey, bool>) {
        for life in self.present.values_mut() {
            *life = life.at(now);
        }
        let gone = |long: bool| {
            let gone = self.present.iter().filter(|(key, _)| !present.contains_key(key));
            gone.filter(|(_, life)| (**life == Life::Long) == long).count()
        };
        (self.died, self.ended) = (up(self.died, gone(false)), up(self.ended, gone(true)));
        let life = |(key, booted): (&ProcessKey, &bool)| {
            let known = self.present.get(key).copied().unwrap_or(Life::Short(now));
            (*key, if *booted { Life::Long } else { known })
        };
        self.present = present.iter().map(life).collect();
    }

    /// Whoever ends now was not ended by the release.
    pub fn forget(&mut self) {
        self.present.clear();
    }

    /// Where so many are to serve, too many came and went for a good release.
    pub fn too_many_died(&self, expected: usize) -> bool {
        let limit = u32::try_from(expected.max(2)).unwrap_or(u32::MAX).saturating_add(1);
        self.died >= limit || self.ended >= limit.saturating_mul(LATER_ENDS)
    }

    /// How many vanished after a short life.
    pub fn died(&self) -> u32 {
        self.died
    }

    #[cfg(test)]
    pub fn rebase(&mut self, shift: &dyn Fn(Moment) -> Moment) {
        for life in self.present.values_mut() {
            if let Life::Short(since) = life {
                *since = shift(*since);
            }
        }
    }
}

impl Life {
    /// One that has served, or that was given long to boot, is more likely to be ended by somebody than to die
    /// of its release.
    fn at(self, now: Moment) -> Self {
        match self {
            Self::Short(since) if now.since(since) < LONG_BOOT_MS => self,
            Self::Short(_) | Self::Long => Self::Long,
        }
    }
}

fn up(count: u32, by: usize) -> u32 {
    count.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)).min(1_000)
}
