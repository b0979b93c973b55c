//! A fleet, a store and processes that are killed, stopped and started again, in orders that a seed decides.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::*;
use crate::revision::{ReleaseId, Revision};

/// A pod as its agent moves it.
struct SimPod {
    desired: Revision,
    running: ReleaseId,
    /// It rejects the release.
    is_bad: bool,
    rejected: bool,
    /// It never tells anything, and does nothing.
    is_dead: bool,
    heard_ms: u64,
}

/// A process that drives the rollout: what it believes, and what it is about to do.
struct Process {
    journal: Journal,
    journal_version: u64,
    machine: Machine,
    clock_ms: u64,
    last_ms: Option<u64>,
    /// Decided on what was seen then.
    pending: Option<(Action, Document, u64)>,
    /// It does not run now, and goes on later.
    stopped: bool,
}

struct World {
    rng: Rng,
    now_ms: u64,
    document: Document,
    version: u64,
    journal: Journal,
    journal_version: u64,
    pods: BTreeMap<String, SimPod>,
    claim: Option<String>,
    is_in: BTreeSet<String>,
    processes: Vec<Process>,
    away_until_ms: u64,
    /// What the commands do.
    before_fails: bool,
    smoke_fails: bool,
    /// How often they were started, and how many of these starts were cut short.
    befores: u32,
    cut: u32,
    smoked: bool,
    /// The most that the pointer has ever given the release to.
    widest: usize,
    kills: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (steps, bad) = (rng.u8(0..3), rng.u8(0..4));
        let steps = match steps {
            0 => vec![PodCount::Pods(1), PodCount::Percent(25), ALL],
            1 => vec![PodCount::Pods(2), ALL],
            _ => vec![ALL],
        };
        let options = Options { steps, bake: Duration::from_secs(rng.u64(0..3) * 5), ..options() };
        let journal = journal(options);
        let mut world = Self {
            now_ms: 0,
            document: Document::of(BASE),
            version: 0,
            journal,
            journal_version: 0,
            pods: BTreeMap::new(),
            claim: None,
            is_in: BTreeSet::new(),
            processes: Vec::new(),
            away_until_ms: 0,
            before_fails: rng.u8(0..8) == 0,
            smoke_fails: rng.u8(0..8) == 0,
            befores: 0,
            cut: 0,
            smoked: false,
            widest: 0,
            kills: 6,
            rng,
        };
        for n in 0..world.rng.usize(1..9) {
            world.born(n);
        }
        let bad = bad.saturating_sub(1) as usize;
        world.pods.values_mut().rev().take(bad).for_each(|pod| pod.is_bad = true);
        world
    }

    fn born(&mut self, n: usize) {
        let named = self.journal.base.clone();
        let pod = SimPod {
            running: named.release.clone(),
            desired: named,
            is_bad: false,
            rejected: false,
            is_dead: self.rng.u8(0..12) == 0 && n > 0,
            heard_ms: self.now_ms,
        };
        let name = format!("web-{n}");
        self.pods.insert(name.clone(), pod);
        if !self.pods[&name].is_dead && self.now_ms > 0 {
            // It starts on what its share says.
            self.reads(&name);
            let pod = self.pods.get_mut(&name).unwrap();
            pod.running = pod.desired.release.clone();
        }
    }

    /// What a pod makes of the pointer.
    fn reads(&mut self, name: &str) {
        let pointer = self.document.pointer.clone().unwrap();
        let canary: Option<serde_json::Value> = self.document.get("canary");
        let live = self.pods.len();
        let rank = self.pods.keys().position(|one| one == name).unwrap();
        let joins = canary.as_ref().is_some_and(|canary| match canary["pods"].as_u64() {
            Some(count) => {
                let claimed = self.is_in.len() < count as usize;
                claimed || self.claim.as_deref() == Some(name)
            }
            None => rank < PodCount::Percent(canary["percent"].as_u64().unwrap() as u8).up(live),
        });
        let desired = match canary.is_some() && (joins || self.is_in.contains(name)) {
            true => {
                self.is_in.insert(name.to_owned());
                self.journal.revision()
            }
            false => pointer.revision,
        };
        let pod = self.pods.get_mut(name).unwrap();
        if pod.desired != desired {
            (pod.desired, pod.heard_ms) = (desired, self.now_ms);
        }
    }

    fn moves(&mut self, name: &str) {
        let (release, now_ms) = (self.journal.release.clone(), self.now_ms);
        let pod = self.pods.get_mut(name).unwrap();
        if pod.running == pod.desired.release || (pod.rejected && pod.desired.release == release) {
            return;
        }
        pod.heard_ms = now_ms;
        match pod.is_bad && pod.desired.release == release {
            true => pod.rejected = true,
            false => pod.running = pod.desired.release.clone(),
        }
    }

    fn seen(&self, journal: &Journal) -> Seen {
        let pods = self.pods.iter().map(|(name, pod)| {
            let named = pod.desired == journal.revision();
            let place = match named {
                false => Place::Elsewhere,
                true if pod.rejected => Place::Failed("boot_loop".into()),
                true if pod.running == journal.release => Place::Arrived,
                true => Place::Coming("verifying".into()),
            };
            Pod {
                on_release: named || pod.running == journal.release,
                silent_ms: self.now_ms - pod.heard_ms,
                patience_ms: 60_000,
                ..super::pod(name, place)
            }
        });
        let standing = standing(&self.document, journal);
        Seen { standing, frozen: None, pods: pods.collect(), ever: true }
    }

    /// A process looks and decides; later it does that, on condition that nothing has changed.
    fn turn(&mut self, at: usize) {
        let mut process = self.processes.swap_remove(at);
        match process.pending.take() {
            None if self.now_ms < self.away_until_ms => process.last_ms = None,
            None => {
                process.clock_ms += process.last_ms.map(|last| self.now_ms - last).unwrap_or_default();
                process.last_ms = Some(self.now_ms);
                let seen = self.seen(&process.journal);
                let action = process.machine.step(&process.journal, &seen, process.clock_ms);
                process.pending = Some((action, self.document.clone(), self.version));
            }
            Some((action, document, version)) => {
                if !self.perform(&mut process, action, &document, version) {
                    return;
                }
            }
        }
        self.processes.push(process);
    }

    /// Whether the process goes on.
    fn perform(&mut self, process: &mut Process, action: Action, document: &Document, version: u64) -> bool {
        let away = self.now_ms < self.away_until_ms;
        match action {
            Action::Wait => {}
            Action::Stop(_) => panic!("nothing is frozen"),
            Action::Run(Which::Before) => {
                self.befores += 1;
                process.machine.ran(if self.before_fails { Err("failed".into()) } else { Ok(()) });
            }
            Action::Run(Which::Smoke) => {
                self.smoked |= !self.smoke_fails;
                process.machine.ran(if self.smoke_fails { Err("failed".into()) } else { Ok(()) });
            }
            Action::Enter(_) | Action::Point(_) if away => {}
            Action::Enter(next) => {
                if process.journal_version != self.journal_version {
                    return false;
                }
                self.journal_version += 1;
                (process.journal_version, process.journal) = (self.journal_version, (*next).clone());
                self.journal = *next;
                // The end of the story.
                return !self.journal.state.is_final();
            }
            Action::Point(point) if version == self.version => {
                self.document = changed(document, &process.journal, point, "now");
                self.version += 1;
            }
            Action::Point(_) => {}
        }
        true
    }

    fn start(&mut self) {
        self.journal_version += 1;
        self.journal.fence += 1;
        self.processes.push(Process {
            journal: self.journal.clone(),
            journal_version: self.journal_version,
            machine: Machine::default(),
            clock_ms: 0,
            last_ms: None,
            pending: None,
            stopped: false,
        });
    }

    fn tick(&mut self) {
        self.now_ms += 500;
        let names: Vec<_> = self.pods.keys().cloned().collect();
        let name = &names[self.rng.usize(..names.len())];
        if !self.pods[name].is_dead {
            match self.now_ms >= self.away_until_ms && self.rng.bool() {
                true => self.reads(name),
                false => self.moves(name),
            }
        }
        if self.rng.u8(0..60) == 0 && names.len() < 12 {
            self.born(names.len() + 20);
        }
        if self.rng.u16(0..400) == 0 {
            self.away_until_ms = self.now_ms + 60_000;
        }
        let running: Vec<_> = (0..self.processes.len()).filter(|at| !self.processes[*at].stopped).collect();
        let Some(at) = running.first().copied() else { return self.start() };
        match self.rng.u8(0..50) {
            // Its heartbeat is missed; it may come back long after another has taken over.
            0 if self.kills > 0 => {
                self.kills -= 1;
                match self.rng.bool() {
                    true => {
                        let died = self.processes.swap_remove(at);
                        let ran = died.journal.before == Some(Before::Running);
                        self.cut += u32::from(ran);
                    }
                    false => {
                        self.cut += u32::from(self.processes[at].journal.before == Some(Before::Running));
                        self.processes[at].stopped = true;
                    }
                }
            }
            1..=4 if self.processes.len() > running.len() => {
                let stopped: Vec<_> =
                    (0..self.processes.len()).filter(|at| self.processes[*at].stopped).collect();
                let at = stopped[self.rng.usize(..stopped.len())];
                self.turn_stopped(at);
            }
            _ => self.turn(at),
        }
    }

    /// One that was thought dead does what it was about to do.
    fn turn_stopped(&mut self, at: usize) {
        let mut process = self.processes.swap_remove(at);
        let commands = matches!(process.pending, None | Some((Action::Run(_), ..)));
        if let Some((action, document, version)) = process.pending.take().filter(|_| !commands) {
            let before = self.document.text();
            self.perform(&mut process, action, &document, version);
            let fence = |text: &str| {
                let document: serde_json::Value = serde_json::from_str(text).unwrap();
                document["canary"]["rollout"]["fence"].as_u64().unwrap_or_default()
            };
            assert!(
                fence(&before) <= fence(&self.document.text()) || self.document.get::<u8>("canary").is_none()
            );
        }
    }

    fn check(&mut self) {
        let canary: Option<serde_json::Value> = self.document.get("canary");
        let share = canary.as_ref().map(|canary| match canary["pods"].as_u64() {
            Some(count) => count as usize,
            None => canary["percent"].as_u64().unwrap() as usize * 100,
        });
        if let Some(share) = share {
            assert!(share >= self.widest, "the rollout goes back by a step");
            self.widest = share;
            assert!(!self.before_fails, "nothing moves");
            let first = self.journal.options.steps[0] == self.journal.share() && self.journal.step <= 1;
            assert!(first || self.smoked, "more pods than the canary, without a smoke test");
        }
        assert!(self.befores <= 1 + self.cut, "{} of which {} were cut short", self.befores, self.cut);
    }

    fn assert_end(&self, seed: u64) {
        let on_release = self.pods.values().any(|pod| pod.running == self.journal.release);
        let pointer = self.document.pointer.as_ref().unwrap();
        assert!(self.document.get::<serde_json::Value>("canary").is_none(), "{seed}");
        match self.journal.result.unwrap() {
            Outcome::Done => {
                assert_eq!(pointer.revision, self.journal.revision(), "{seed}");
                assert!(!self.smoke_fails && !self.before_fails, "{seed}");
            }
            Outcome::TakenBack => {
                assert_eq!(pointer.revision, self.journal.base, "{seed}");
                assert!(!on_release, "{seed}");
            }
            Outcome::Failed => {
                assert!(self.before_fails && !on_release, "{seed}");
                assert_eq!(self.document.text(), Document::of(BASE).text(), "{seed}");
            }
            other => panic!("{seed}: {other:?}: {:?}", self.journal.why),
        }
    }
}

#[test]
fn killed_and_started_again_at_any_moment_a_rollout_ends_as_it_would_have() {
    let mut outcomes = BTreeMap::new();
    for seed in 0..600 {
        let mut world = World::new(seed);
        let mut ticks = 0;
        while !world.journal.state.is_final() {
            world.tick();
            world.check();
            ticks += 1;
            assert!(ticks < 20_000, "{seed}: it does not end: {:?}", world.journal);
        }
        // Whatever those do that were thought dead.
        for at in (0..world.processes.len()).rev() {
            world.turn_stopped(at);
            world.check();
        }
        world.assert_end(seed);
        *outcomes.entry(world.journal.result.unwrap().word()).or_insert(0) += 1;
    }
    assert!(["done", "taken_back", "failed"].iter().all(|word| outcomes.contains_key(word)), "{outcomes:?}");
}
