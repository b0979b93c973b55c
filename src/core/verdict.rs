//! Did the restart succeed?
//!
//! Proof is that every serving process is new since the baseline, runs in the release's directory,
//! is booted, answers its probes, and that all this holds for the soak time. Failure is recognised
//! as early as it can be told from slowness: a master that is gone, processes that vanish one after
//! the other, a server that settled in another directory, probes that fail in a row.

use std::collections::BTreeSet;

use super::{
    Policy,
    effect::{Baseline, Mode},
    observation::{AppServer, Cwd, Generation, GenerationKey, Moment, Observation, Probe, ProcessKey, Sight},
    reason::Reason,
};
use crate::revision::ReleaseId;

/// What an observation amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can be said yet.
    Undecided,
    /// Every process runs the release.
    Proven,
    /// It will not come to that.
    Failed(Reason),
}

/// What the app server last looked like, to name the reason when time runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    Unseen,
    Unchanged,
    NoProcess,
    Booting,
    Elsewhere,
    InPlace,
}

/// A restart being watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Watch {
    target: ReleaseId,
    baseline: Option<Baseline>,
    /// When it counts as failed; `None` while there is no app server to wait for.
    until: Option<Moment>,
    good_since: Option<Moment>,
    elsewhere_since: Option<Moment>,
    healthy: u32,
    unhealthy: u32,
    mismatched: u32,
    newcomers: BTreeSet<ProcessKey>,
    vanished: u32,
    /// The new image seen last, and how many such were replaced by yet another.
    image: Option<GenerationKey>,
    images_lost: u32,
    shape: Shape,
    /// Something was seen to differ from the baseline.
    touched: bool,
}

impl Watch {
    /// Watches for `target`. Without a baseline everything counts as new (nothing was signalled).
    pub fn new(target: ReleaseId, baseline: Option<Baseline>, until: Option<Moment>) -> Self {
        Self {
            target,
            baseline,
            until,
            good_since: None,
            elsewhere_since: None,
            healthy: 0,
            unhealthy: 0,
            mismatched: 0,
            newcomers: BTreeSet::new(),
            vanished: 0,
            image: None,
            images_lost: 0,
            shape: Shape::Unseen,
            touched: false,
        }
    }

    /// No process of it was ever seen, so nothing depends on it.
    pub fn unseen(&self) -> bool {
        self.shape == Shape::Unseen && self.baseline.is_none()
    }

    /// A restart was asked for, whose outcome is being watched.
    pub fn signalled(&self) -> bool {
        self.baseline.is_some()
    }

    /// The signal has left no trace.
    pub fn unchanged(&self) -> bool {
        !self.touched
    }

    /// What will be due though nothing is seen.
    pub fn deadlines(&self, policy: &Policy) -> Vec<Moment> {
        let soak = self.good_since.or(self.elsewhere_since).map(|since| since.plus(policy.soak_ms));
        [self.until, soak].into_iter().flatten().collect()
    }

    /// Why it failed, once its time has run out.
    pub fn expired(&self, now: Moment) -> Option<Reason> {
        self.until.filter(|until| now >= *until)?;
        Some(match self.shape {
            Shape::NoProcess => Reason::BootFailed,
            Shape::Unseen | Shape::Unchanged | Shape::Booting => Reason::BootTimeout,
            Shape::Elsewhere => Reason::WrongCwd,
            Shape::InPlace if self.mismatched > 0 => Reason::ReleaseMismatch,
            Shape::InPlace if self.unhealthy > 0 => Reason::ProbeFailed,
            // Only the soak is not over yet; it ends by itself, one way or the other.
            Shape::InPlace => return None,
        })
    }

    #[cfg(test)]
    pub(in crate::core) fn rebase(&mut self, shift: &dyn Fn(Moment) -> Moment) {
        for moment in [&mut self.until, &mut self.good_since, &mut self.elsewhere_since] {
            *moment = moment.map(shift);
        }
        if let Some(baseline) = &mut self.baseline {
            baseline.at = shift(baseline.at);
        }
    }

    /// Takes one look.
    pub fn observe(&mut self, now: Moment, observation: &Observation, policy: &Policy) -> Verdict {
        match &observation.sight {
            Sight::Seen(server) => self.see(now, server, observation, policy),
            Sight::Missing if self.baseline.is_some() => Verdict::Failed(Reason::MasterGone),
            Sight::Missing => {
                self.count_vanished(&BTreeSet::new());
                self.good_since = None;
                self.looping(1)
            }
            Sight::Ambiguous | Sight::NotPermitted | Sight::Unclear => Verdict::Undecided,
        }
    }

    fn see(
        &mut self,
        now: Moment,
        server: &AppServer,
        observation: &Observation,
        policy: &Policy,
    ) -> Verdict {
        let Some(newest) = server.generations.last() else { return Verdict::Undecided };
        self.until.get_or_insert(now.plus(policy.hot_timeout_ms));
        self.count_vanished(&self.new_ones(newest));
        self.count_images(newest.key);
        self.shape = self.shape_of(newest, server.old_workers);
        self.touched |= self.differs(newest, server.old_workers);
        self.track(now, newest);
        if let Verdict::Failed(reason) = self.looping(newest.expected) {
            return Verdict::Failed(reason);
        }
        match self.shape {
            // A probe that was asked before everything was in place was asked of something else.
            Shape::InPlace => {
                let asked_here = self.good_since.is_some_and(|since| observation.began >= since);
                self.weigh(now, observation.probe.as_ref().filter(|_| asked_here), policy)
            }
            Shape::Elsewhere if held(self.elsewhere_since, now, policy) => {
                Verdict::Failed(self.wrong_place())
            }
            _ => Verdict::Undecided,
        }
    }

    /// Keys of the generation that the baseline does not have. The image itself is among them, so
    /// that masters which die before they have a worker are counted as well.
    fn new_ones(&self, generation: &Generation) -> BTreeSet<ProcessKey> {
        let old = |key: &ProcessKey| self.baseline.as_ref().is_some_and(|b| b.processes.contains(key));
        let old_image = self.baseline.as_ref().is_some_and(|b| b.generations.contains(&generation.key));
        let image = (!old_image).then_some(ProcessKey(generation.key.0));
        generation.processes.iter().map(|p| p.key).filter(|k| !old(k)).chain(image).collect()
    }

    fn count_vanished(&mut self, present: &BTreeSet<ProcessKey>) {
        let gone = self.newcomers.difference(present).count();
        self.vanished = self.vanished.saturating_add(u32::try_from(gone).unwrap_or(u32::MAX)).min(1_000);
        self.newcomers = present.clone();
    }

    fn looping(&self, expected: usize) -> Verdict {
        let limit = u32::try_from(expected.max(2)).unwrap_or(u32::MAX).saturating_add(1);
        if self.vanished < limit {
            return Verdict::Undecided;
        }
        // A container may be quicker than the looks: then the master is never seen to be gone.
        let masters = self.baseline.is_some() && self.images_lost * 2 > self.vanished;
        Verdict::Failed(if masters { Reason::MasterGone } else { Reason::BootLoop })
    }

    fn count_images(&mut self, key: GenerationKey) {
        let old = self.baseline.as_ref().is_some_and(|b| b.generations.contains(&key));
        if !old && self.image != Some(key) {
            self.images_lost = self.images_lost.saturating_add(u32::from(self.image.is_some())).min(1_000);
            self.image = Some(key);
        }
    }

    fn shape_of(&self, newest: &Generation, old_workers: bool) -> Shape {
        let all_new = self.all_new(newest);
        if newest.processes.is_empty() {
            return Shape::NoProcess;
        }
        if !all_new && newest.processes.iter().all(|p| self.is_old(p.key)) {
            return Shape::Unchanged;
        }
        if !all_new || !whole(newest) || old_workers {
            return Shape::Booting;
        }
        if on_release(newest, &self.target) { Shape::InPlace } else { Shape::Elsewhere }
    }

    fn differs(&self, newest: &Generation, old_workers: bool) -> bool {
        let Some(baseline) = &self.baseline else { return true };
        let same_image = baseline.generations.last() == Some(&newest.key);
        let keys: BTreeSet<_> = newest.processes.iter().map(|p| p.key).collect();
        old_workers || !same_image || keys != baseline.processes.iter().copied().collect()
    }

    fn is_old(&self, key: ProcessKey) -> bool {
        self.baseline.as_ref().is_some_and(|b| b.processes.contains(&key))
    }

    fn all_new(&self, newest: &Generation) -> bool {
        let image_is_new = match &self.baseline {
            Some(b) if b.mode == Mode::Hot => !b.generations.contains(&newest.key),
            _ => true,
        };
        image_is_new && newest.processes.iter().all(|p| !self.is_old(p.key))
    }

    fn track(&mut self, now: Moment, newest: &Generation) {
        let in_place = self.shape == Shape::InPlace;
        if !in_place {
            (self.good_since, self.healthy, self.unhealthy, self.mismatched) = (None, 0, 0, 0);
        } else if self.good_since.is_none() {
            self.good_since = Some(now);
        }
        let elsewhere = self.shape == Shape::Elsewhere && certain(newest);
        self.elsewhere_since = elsewhere.then(|| self.elsewhere_since.unwrap_or(now));
    }

    /// Everything is in place: what do the probes say, and for how long has it held?
    fn weigh(&mut self, now: Moment, probe: Option<&Probe>, policy: &Policy) -> Verdict {
        let probing = policy.probing && self.baseline.as_ref().is_none_or(|b| b.healthy);
        self.count_probe(probe, policy.successes);
        if probing && self.mismatched >= policy.successes {
            return Verdict::Failed(Reason::ReleaseMismatch);
        }
        if probing && self.unhealthy >= policy.successes {
            return Verdict::Failed(Reason::ProbeFailed);
        }
        let believed = !probing || self.healthy >= policy.successes;
        if believed && held(self.good_since, now, policy) { Verdict::Proven } else { Verdict::Undecided }
    }

    fn count_probe(&mut self, probe: Option<&Probe>, enough: u32) {
        let up = |n: u32| (n + 1).min(enough);
        (self.healthy, self.unhealthy, self.mismatched) = match probe {
            None => return,
            Some(Probe::Healthy) => (up(self.healthy), 0, 0),
            Some(Probe::Unhealthy) => (0, up(self.unhealthy), 0),
            Some(Probe::OtherRelease) => (0, 0, up(self.mismatched)),
        };
    }

    fn wrong_place(&self) -> Reason {
        match &self.baseline {
            Some(b) if b.mode == Mode::Hot => Reason::RestartDirPinned,
            _ => Reason::WrongCwd,
        }
    }
}

fn held(since: Option<Moment>, now: Moment, policy: &Policy) -> bool {
    since.is_some_and(|since| now.since(since) >= policy.soak_ms)
}

fn certain(generation: &Generation) -> bool {
    generation.processes.iter().all(|p| p.cwd != Cwd::Unknown)
}

/// Every process that should be there is, and is booted.
pub fn whole(generation: &Generation) -> bool {
    let enough = generation.processes.len() >= generation.expected.max(1);
    generation.signalable && enough && generation.processes.iter().all(|p| p.booted)
}

/// The master and every process run in the release. A master whose directory cannot be read is
/// given the benefit of the doubt; a worker is not.
pub fn on_release(generation: &Generation, release: &ReleaseId) -> bool {
    let here = Cwd::Release(release.clone());
    let master = generation.cwd == here || generation.cwd == Cwd::Unknown;
    master && generation.processes.iter().all(|p| p.cwd == here)
}

/// Everything that is there, the master included, runs in the release already: it was started from
/// `current`, and a signal would only make it boot twice.
pub fn boots(server: &AppServer, release: &ReleaseId) -> bool {
    let here = |g: &Generation| g.cwd == Cwd::Release(release.clone()) && on_release(g, release);
    !server.generations.is_empty() && server.generations.iter().all(here)
}

/// The one release that a server at rest runs; `None` while it changes, boots or is mixed.
pub fn settled_on(server: &AppServer) -> Option<ReleaseId> {
    let [only] = server.generations.as_slice() else { return None };
    let Cwd::Release(release) = &only.processes.first()?.cwd else { return None };
    (whole(only) && !server.old_workers && on_release(only, release)).then(|| release.clone())
}

/// Whether anything serves at all.
pub fn any_booted(sight: &Sight) -> bool {
    match sight {
        Sight::Seen(server) => server.generations.iter().flat_map(|g| &g.processes).any(|p| p.booted),
        Sight::Missing => false,
        // What cannot be seen may well serve.
        Sight::Ambiguous | Sight::NotPermitted | Sight::Unclear => true,
    }
}
