//! Did the restart succeed?
//!
//! Proof: every serving process is new since the baseline, runs in the release's directory, is booted, answers
//! its probes, and all this holds for the soak time. Where the app names its release, each process has to have
//! named it. A failure is recognised as early as it can be told from slowness: a master that is gone, processes
//! that vanish, a server in another directory, failed probes, another release's name.

mod candidate;
mod crash_loop;
pub(crate) mod errors;
mod probe_results;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Policy,
    effect::{Baseline, Mode},
    observation::{
        AppServer, Cwd, Detection, Files, Generation, GenerationKey, Moment, Observation, ProcessKey,
    },
    proof::ReleaseEvidence,
    reason::Reason,
};
use crate::revision::ReleaseId;
use crash_loop::CrashLoop;
use probe_results::{ProbeResults, of_theirs};

/// So many restarts by others lengthen the time that ours may take.
const THEIRS_AT_MOST: u32 = 3;

/// What an observation amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
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

/// An image that was not there before the restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Image {
    key: GenerationKey,
    process: ProcessKey,
    /// It was seen to handle signals: only then can others have restarted it.
    handled: bool,
}

/// A restart being watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Watch {
    target: ReleaseId,
    baseline: Option<Baseline>,
    /// When it counts as failed; `None` while there is no app server to wait for.
    until: Option<Moment>,
    good_since: Option<Moment>,
    elsewhere_since: Option<Moment>,
    probes: ProbeResults,
    evidence: ReleaseEvidence,
    /// Whether the files that processes have loaded were looked at since everything was in place.
    files_seen: bool,
    /// Since when a process has files of another release only.
    strayed_since: Option<Moment>,
    /// Who was not there before.
    newcomers: CrashLoop,
    /// The new image seen last, and how many such were replaced by one of another process.
    image: Option<Image>,
    images_lost: u32,
    /// How often others restarted it meanwhile.
    theirs: u32,
    /// An older master serves as well, and answers its part of the probes.
    several: bool,
    /// A second master was seen, and now only the first one is there.
    alone_again: bool,
    shape: Shape,
    /// Something was seen to differ from the baseline.
    touched: bool,
    /// A process of the release was seen to accept requests.
    served: bool,
    ended: Ended,
}

/// Whether the master ended after the release had booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ended {
    Not,
    /// Its container has yet to start another one.
    Away,
    Back,
}

impl Watch {
    /// Watches for `target`. Without a baseline everything counts as new (nothing was signalled).
    pub(crate) fn new(target: ReleaseId, baseline: Option<Baseline>, until: Option<Moment>) -> Self {
        Self {
            target,
            baseline,
            until,
            good_since: None,
            elsewhere_since: None,
            probes: ProbeResults::default(),
            evidence: ReleaseEvidence::default(),
            files_seen: false,
            strayed_since: None,
            newcomers: CrashLoop::default(),
            image: None,
            images_lost: 0,
            theirs: 0,
            several: false,
            alone_again: false,
            shape: Shape::Unseen,
            touched: false,
            served: false,
            ended: Ended::Not,
        }
    }

    /// Which release it is about.
    pub(crate) fn target(&self) -> &ReleaseId {
        &self.target
    }

    /// No process of it was ever seen, so nothing depends on it.
    pub(crate) fn unseen(&self) -> bool {
        self.shape == Shape::Unseen && self.baseline.is_none()
    }

    /// A restart was asked for, whose outcome is being watched.
    pub(crate) fn signalled(&self) -> bool {
        self.baseline.is_some()
    }

    /// The restart is visibly over: the second master has ended, and the first one is there as it was.
    pub(crate) fn second_master_gone(&self) -> bool {
        self.alone_again
    }

    /// The signal has left no trace.
    pub(crate) fn unchanged(&self) -> bool {
        !self.touched
    }

    /// The master ended after processes of the release had booted.
    pub(crate) fn ended_after_boot(&self) -> bool {
        self.ended != Ended::Not
    }

    /// It did, and the container has yet to start another one.
    pub(crate) fn needs_container(&self) -> bool {
        self.ended == Ended::Away
    }

    /// How often others restarted the server meanwhile, as far as that counts.
    pub(crate) fn theirs(&self) -> u32 {
        self.theirs
    }

    /// What was heard of the processes that are in place.
    pub(crate) fn evidence(&self) -> &ReleaseEvidence {
        &self.evidence
    }

    /// What will be due though nothing is seen.
    pub(crate) fn deadlines(&self, policy: &Policy) -> Vec<Moment> {
        let soak = self.good_since.or(self.elsewhere_since).map(|since| since.plus(policy.soak_ms));
        let heard = self.good_since.map(|since| since.plus(policy.soak_ms + policy.evidence_ms));
        [self.until, soak, heard].into_iter().flatten().collect()
    }

    /// Why it failed, once its time has run out.
    pub(crate) fn expired(&self, now: Moment) -> Option<Reason> {
        self.until.filter(|until| now >= *until)?;
        Some(match self.shape {
            Shape::NoProcess => Reason::BootFailed,
            Shape::Unseen | Shape::Unchanged | Shape::Booting => Reason::BootTimeout,
            Shape::Elsewhere => Reason::WrongCwd,
            Shape::InPlace if self.evidence.contradicted() > 0 || self.strayed_since.is_some() => {
                Reason::ReleaseMismatch
            }
            Shape::InPlace if self.probes.doubtful() => Reason::ProbeFailed,
            // Only the soak is not over yet, or an older master answers most probes: it ends by itself, one way or
            // the other.
            Shape::InPlace => return None,
        })
    }

    pub(crate) fn observe(&mut self, now: Moment, observation: &Observation, policy: &Policy) -> Verdict {
        match &observation.detection {
            Detection::Seen(server) => self.see(now, server, observation, policy),
            Detection::Missing if self.baseline.is_some() => self.master_ended(now, policy),
            Detection::Missing => {
                self.newcomers.take(now, &BTreeMap::new());
                self.good_since = None;
                self.looping(1)
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => Verdict::Undecided,
        }
    }

    /// A release that has booted is not why its master ends: a plugin, a person or the kernel ended it. Its container
    /// starts it again, and that start is watched like the first one; a second end is the release's.
    fn master_ended(&mut self, now: Moment, policy: &Policy) -> Verdict {
        match self.ended {
            Ended::Not if self.served => {
                self.ended = Ended::Away;
                self.newcomers.forget();
                (self.good_since, self.elsewhere_since, self.shape) = (None, None, Shape::NoProcess);
                self.until = self.until.max(Some(now.plus(policy.hot_timeout_ms)));
                Verdict::Undecided
            }
            Ended::Away => Verdict::Undecided,
            Ended::Not | Ended::Back => Verdict::Failed(Reason::MasterGone),
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
        self.count_images(now, newest, policy);
        self.newcomers.take(now, &self.new_ones(newest));
        self.several = server.generations.len() > 1;
        self.alone_again = self.image.is_some() && self.is_old_image(newest.key);
        if self.alone_again {
            return Verdict::Failed(Reason::BootFailed);
        }
        self.shape = self.shape_of(newest, server.old_workers);
        self.touched |= self.differs(newest, server.old_workers);
        self.served |= self.has_booted(newest);
        if self.ended == Ended::Away {
            self.ended = Ended::Back;
        }
        self.track(now, newest);
        if self.gave_up(newest) {
            return Verdict::Failed(Reason::BootFailed);
        }
        if let Verdict::Failed(reason) = self.looping(newest.expected) {
            return Verdict::Failed(reason);
        }
        match self.shape {
            // What was asked before everything was in place was asked of something else.
            Shape::InPlace => {
                let asked_here = self.good_since.is_some_and(|since| observation.began >= since);
                if asked_here {
                    self.hear(now, newest, observation, policy);
                }
                self.weigh(now, newest, policy)
            }
            Shape::Elsewhere if held(self.elsewhere_since, now, policy) => {
                Verdict::Failed(self.wrong_place())
            }
            _ => Verdict::Undecided,
        }
    }

    /// Keys of the generation that the baseline does not have, and whether they are booted. The master
    /// itself is among them, so that those which die before they have a worker are counted as well.
    fn new_ones(&self, generation: &Generation) -> BTreeMap<ProcessKey, bool> {
        let old = |key: &ProcessKey| self.baseline.as_ref().is_some_and(|b| b.processes.contains(key));
        let master = (!self.is_old_image(generation.key)).then_some((generation.master, false));
        let processes = generation.processes.iter().map(|p| (p.key, p.booted)).filter(|(key, _)| !old(key));
        master.into_iter().chain(processes).collect()
    }

    fn looping(&self, expected: usize) -> Verdict {
        if !self.newcomers.too_many_died(expected) {
            return Verdict::Undecided;
        }
        // A container may be quicker than the looks: then the master is never seen to be gone.
        let masters = self.baseline.is_some() && self.images_lost * 2 > self.newcomers.died();
        Verdict::Failed(if masters { Reason::MasterGone } else { Reason::BootLoop })
    }

    /// What was there before the restart may have given up as well: that says nothing of the release.
    fn gave_up(&self, newest: &Generation) -> bool {
        !self.is_old_image(newest.key) && newest.expected == 0 && newest.processes.is_empty()
    }

    fn is_old_image(&self, key: GenerationKey) -> bool {
        self.baseline.as_ref().is_some_and(|b| b.generations.contains(&key))
    }

    /// The first new image is the one that was asked for. A further one in the same process is another step
    /// of its own start, or was asked for by somebody else: no image that dies is followed by another in its
    /// process.
    fn count_images(&mut self, now: Moment, newest: &Generation, policy: &Policy) {
        if self.is_old_image(newest.key) {
            return;
        }
        let handled = newest.signalable;
        match &mut self.image {
            Some(image) if image.key == newest.key => {
                image.handled |= handled;
                return;
            }
            // What it ended was never given the time to boot, or to last.
            None => self.newcomers.forget(),
            Some(image) if image.process == newest.master => {
                self.newcomers.forget();
                if image.handled && policy.in_place {
                    self.restarted_by_others(now, policy);
                }
            }
            Some(_) => self.images_lost = self.images_lost.saturating_add(1).min(1_000),
        }
        self.image = Some(Image { key: newest.key, process: newest.master, handled });
    }

    fn restarted_by_others(&mut self, now: Moment, policy: &Policy) {
        if self.theirs < THEIRS_AT_MOST {
            self.theirs += 1;
            self.until = self.until.max(Some(now.plus(policy.hot_timeout_ms)));
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
        old_workers || !same_image || keys(newest) != baseline.processes.iter().copied().collect()
    }

    fn is_old(&self, key: ProcessKey) -> bool {
        self.baseline.as_ref().is_some_and(|b| b.processes.contains(&key))
    }

    /// A process of the release accepts requests.
    fn has_booted(&self, newest: &Generation) -> bool {
        let here = Cwd::Release(self.target.clone());
        newest.processes.iter().any(|p| p.booted && p.cwd == here && !self.is_old(p.key))
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
            (self.good_since, self.probes) = (None, ProbeResults::default());
            (self.evidence, self.files_seen, self.strayed_since) = (ReleaseEvidence::default(), false, None);
        } else if self.good_since.is_none() {
            self.good_since = Some(now);
        }
        let elsewhere = self.shape == Shape::Elsewhere && certain(newest);
        self.elsewhere_since = elsewhere.then(|| self.elsewhere_since.unwrap_or(now));
    }

    fn hear(&mut self, now: Moment, newest: &Generation, look: &Observation, policy: &Policy) {
        let processes = keys(newest);
        self.probes.take(look, &processes, self.several, policy);
        self.evidence.take(&of_theirs(look, &processes, self.several), &self.target, policy);
        // Where the app names its release itself, that is better evidence than its files.
        if let Some(files) = look.files.as_ref().filter(|_| !policy.naming) {
            self.files_seen = true;
            let strays = newest.processes.iter().any(|p| self.strays(files.get(&p.key)));
            self.strayed_since = strays.then(|| self.strayed_since.unwrap_or(now));
        }
    }

    /// It has files of other releases, and none of this one. After a phased restart the libraries of the
    /// bundle may well be those of the release that the master was started from.
    fn strays(&self, files: Option<&Files>) -> bool {
        let Some(files) = files else { return false };
        let none = BTreeSet::new();
        let phased = self.baseline.as_ref().is_some_and(|b| b.mode == Mode::Phased);
        let evidence = [&files.open, if phased { &none } else { &files.mapped }];
        let at_home = files.open.contains(&self.target) || files.mapped.contains(&self.target);
        !at_home && evidence.iter().any(|releases| !releases.is_empty())
    }

    /// Everything is in place: what do the answers say, and for how long has it held?
    fn weigh(&self, now: Moment, newest: &Generation, policy: &Policy) -> Verdict {
        let probing = policy.probing && self.baseline.as_ref().is_none_or(|b| b.healthy);
        let contradicted = self.evidence.contradicted();
        if contradicted >= policy.successes || held(self.strayed_since, now, policy) {
            return Verdict::Failed(Reason::ReleaseMismatch);
        }
        if let Some(reason) = self.probes.condemn(self.several, policy).filter(|_| probing) {
            return Verdict::Failed(reason);
        }
        let everybody = self.evidence.complete(&keys(newest));
        let doubtful = self.strayed_since.is_some() || (contradicted > 0 && !everybody);
        let asked_enough = everybody || !probing || self.evidence.anonymous(&keys(newest));
        let heard = if policy.naming { asked_enough } else { self.files_seen };
        let waited = self
            .good_since
            .is_some_and(|since| now.since(since) >= policy.soak_ms.saturating_add(policy.evidence_ms));
        let believed = (!probing || self.probes.suffice(self.several, policy)) && (heard || waited);
        let held = held(self.good_since, now, policy);
        if believed && held && !doubtful { Verdict::Proven } else { Verdict::Undecided }
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

/// The processes that serve.
pub(crate) fn keys(generation: &Generation) -> BTreeSet<ProcessKey> {
    generation.processes.iter().map(|process| process.key).collect()
}

/// Nothing is being restarted: everything that should be there is, and is booted.
pub(crate) fn rests(server: &AppServer) -> bool {
    !server.old_workers && server.generations.iter().all(whole)
}

fn certain(generation: &Generation) -> bool {
    generation.processes.iter().all(|p| p.cwd != Cwd::Unknown)
}

/// Every process that should be there is, and is booted.
pub(crate) fn whole(generation: &Generation) -> bool {
    let enough = generation.processes.len() >= generation.expected.max(1);
    generation.signalable && enough && generation.processes.iter().all(|p| p.booted)
}

/// The master and every process run in the release. A master whose directory cannot be read is
/// given the benefit of the doubt; a worker is not.
pub(crate) fn on_release(generation: &Generation, release: &ReleaseId) -> bool {
    let here = Cwd::Release(release.clone());
    let master = generation.cwd == here || generation.cwd == Cwd::Unknown;
    master && generation.processes.iter().all(|p| p.cwd == here)
}

/// Everything that is there, the master included, runs in the release already: it was started from
/// `current`, and a signal would only make it boot twice.
pub(crate) fn boots(server: &AppServer, release: &ReleaseId) -> bool {
    let here = |g: &Generation| g.cwd == Cwd::Release(release.clone()) && on_release(g, release);
    !server.generations.is_empty() && server.generations.iter().all(here)
}

/// The one release that a server at rest runs; `None` while it changes, boots or is mixed.
pub(crate) fn settled_on(server: &AppServer) -> Option<ReleaseId> {
    let [only] = server.generations.as_slice() else { return None };
    let Cwd::Release(release) = &only.processes.first()?.cwd else { return None };
    (whole(only) && !server.old_workers && on_release(only, release)).then(|| release.clone())
}

/// Whether anything serves at all.
pub(crate) fn any_booted(detection: &Detection) -> bool {
    match detection {
        Detection::Seen(server) => server.generations.iter().flat_map(|g| &g.processes).any(|p| p.booted),
        Detection::Missing => false,
        // What cannot be seen may well serve.
        Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => true,
    }
}
