//! The end of a pod: when may SIGTERM come?
//!
//! ```text
//!            a call            each call answered:
//!                              drained, deadline,
//!                              no app server, gone
//!   Serving ───────▶ Draining ─────────────────────▶ Answered
//!      ▲                │                               │
//!      │                │ operator                      │ operator, new image,
//!      └────────────────┴───────────────────────────────┘ false drain
//! ```
//!
//! A call is answered when three things hold at one look: `drain.min` is over since it came, every sender has
//! been silent for longer than chance explains (`quiet`), and nothing is in flight
//! (`in_flight`). Looks that began before the call, and looks that saw no app server clearly,
//! prove nothing. Without a control server the socket table decides alone, without a socket table
//! the control server does, and with neither the deadline.
//!
//! Is the drain over? [`Drain::decide`] answers the calls, by what `criteria` says is still waited for. What that rests on:
//! `quiet` (senders, by `socket_diff`, `gaps` and `probers`), `in_flight` (the workers' numbers), `progress` (does the
//! app server hang?). `active` has the data of a drain, `types` what comes in and goes out.
//!
//! Each call has a minimum and a deadline of its own, and all share what is seen. A call that nothing
//! shows to be the kubelet's is stray: held like any other, and without a meaning for the pod.
//!
//! Before the answer a new image undoes nothing: while the kubelet waits for the hook, it starts no
//! container anew, so that the image was changed by a restart in place; and an answer, of whatever
//! kind, is what lets SIGTERM through. After the answer, a new image means that the container was
//! restarted and the pod lives on (the hook is called for a failed liveness probe as well).
//!
//! SIGTERM is remembered in this process only, not in the journal: the kubelet starts no container
//! anew in a pod that it ends, so a restarted agent is itself a sign that the pod may live on. A drain
//! that found no app server is not remembered at all: what it let through ended with the process.

mod active;
mod criteria;
mod gaps;
mod in_flight;
mod left;
mod probers;
mod progress;
mod quiet;
mod socket_diff;
mod types;

pub use types::{
    Answer, Budget, DrainCommand, DrainEffect, DrainResult, DrainView, Evidence, InWork, Journal, Origin,
    Undone, Upgraded, Wait, WaitsFor,
};

use super::observation::{Detection, Generation, GenerationKey, Moment, Observation};
use active::{ActiveDrain, Answered, Call, PodEnd, Source};
use in_flight::Freshness;
use left::Left;
use progress::Progress;
use quiet::Quiet;

/// After the answer SIGTERM follows within milliseconds; a server untouched for this long was not meant.
const FALSE_DRAIN_MS: u64 = 60_000;

/// The drain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drain {
    budget: Budget,
    active: Option<ActiveDrain>,
    /// The pod is to end. Stray calls say nothing of that.
    end: Option<PodEnd>,
    /// The image that was last seen, `None` when the last clear look saw none.
    generation: Option<GenerationKey>,
    image_change_expected: bool,
    quiet: Quiet,
    freshness: Freshness,
    progress: Progress,
    control: Source,
    sockets: Source,
}

impl Drain {
    /// Serving, unless a journal says that a drain was under way. The journal must be of this boot.
    pub fn new(mut budget: Budget, journal: Option<Journal>) -> Self {
        for peer in &mut budget.ignore_peers {
            *peer = peer.to_canonical();
        }
        let (end, active) = journal.and_then(PodEnd::resumed).unzip();
        Self {
            budget,
            active: active.flatten(),
            end,
            generation: None,
            image_change_expected: false,
            quiet: Quiet::default(),
            freshness: Freshness::default(),
            progress: Progress::default(),
            control: Source::default(),
            sockets: Source::default(),
        }
    }

    /// Takes a command.
    pub fn command(&mut self, now: Moment, command: DrainCommand) -> Vec<DrainEffect> {
        match command {
            DrainCommand::Begin(origin) => self.begin(now, origin),
            DrainCommand::Undrain => self.undrain(),
            DrainCommand::Kubelet(address) => {
                self.quiet.kubelet(address);
                Vec::new()
            }
        }
    }

    /// Takes a look at the app server. Also called while serving, to learn the peers' rhythms.
    pub fn observe(&mut self, now: Moment, observation: &Observation) -> Vec<DrainEffect> {
        let clear = self.learn(now, observation);
        let after = self.end.as_ref().and_then(|end| end.answered.as_ref()).map(|after| after.at);
        let mut effects = Vec::new();
        if self.active.as_ref().is_some_and(|active| observation.began >= active.began) {
            if clear {
                self.evaluate(now, observation);
            }
            effects.extend(self.decide(now, observation, clear));
        }
        if after.is_some_and(|at| observation.began >= at) {
            effects.extend(self.watch_after_answer(observation));
        }
        effects.extend(self.tick(now));
        effects
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Moment) -> Vec<DrainEffect> {
        let mut effects = self.answer(now, |call| (now >= call.deadline).then_some(DrainResult::Deadline));
        if self.doubtful_from().is_some_and(|at| now >= at) {
            effects.extend(self.undo(Undone::FalseDrain));
        }
        effects
    }

    /// When something will be due though nothing happens. May lie in the past after an answer.
    pub fn deadline(&self) -> Option<Moment> {
        let calls = self.active.iter().flat_map(|active| &active.calls).map(|call| call.deadline);
        let end = self.end.as_ref().filter(|end| !end.termed);
        let doubted = end.and_then(|end| end.answered.as_ref()).map(|after| after.at.plus(FALSE_DRAIN_MS));
        calls.chain(doubted).min()
    }

    /// No forward stage may start: the pod is to end.
    pub fn blocks_deploys(&self) -> bool {
        self.end.is_some()
    }

    /// Somebody waits for an answer, or the pod is to end.
    pub fn watches(&self) -> bool {
        self.blocks_deploys() || self.active.is_some()
    }

    /// /prestop was answered and the drain not undone.
    pub fn answered(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.answered.is_some())
    }

    /// While a restart of our own is under way, a new image is no sign that the pod lives on. To be
    /// lifted only after the look that showed the restart's end went through [`Self::observe`].
    pub fn expect_image_change(&mut self, expected: bool) {
        self.image_change_expected = expected;
    }

    /// The drain for /status; `None` while serving. What a stray call waits for is shown as long as it waits.
    pub fn view(&self, now: Moment) -> Option<DrainView> {
        let end = self.end.as_ref();
        let after = end.and_then(|end| end.answered.as_ref());
        // Of a drain that has ended the answer says all.
        let active = self.active.as_ref().filter(|active| end.is_none() || active.meant());
        let call = active.and_then(ActiveDrain::main);
        let (drain_id, began, deadline) = match (call, end) {
            (Some(call), _) => (active?.drain_id, call.began, call.deadline),
            (None, Some(end)) => (end.drain_id, end.began, end.deadline),
            (None, None) => return None,
        };
        let min = call.filter(|call| now.since(call.began) < self.budget.min_ms).map(|_| WaitsFor::Min);
        let waiting = active.iter().flat_map(|active| active.waiting.iter().copied());
        Some(DrainView {
            drain_id,
            meant: end.is_some(),
            began,
            deadline,
            waits_for: min.into_iter().chain(waiting).collect(),
            peers_not_quiet: active.map_or(0, |active| active.peers_not_quiet),
            requests_in_flight: active.and_then(|active| active.in_flight),
            in_work: active.map_or_else(Vec::new, ActiveDrain::named),
            upgraded: match (active, after) {
                (Some(active), _) => active.upgraded,
                (None, after) => after.map_or(0, |after| after.answer.upgraded),
            },
            evidence: active.map_or_else(Evidence::default, |active| active.evidence),
            answered: after.is_some(),
            result: after.map(|after| after.answer.result),
        })
    }

    fn begin(&mut self, now: Moment, origin: Origin) -> Vec<DrainEffect> {
        let after = self.end.as_ref().and_then(|end| end.answered.as_ref());
        match (origin, after) {
            (Origin::Term, Some(_)) => {
                self.end.iter_mut().for_each(|end| end.termed = true);
                return Vec::new();
            }
            (_, Some(after)) if after.over() => {
                return vec![DrainEffect::Answer { called: now, ends: false, answer: after.answer.clone() }];
            }
            _ => {}
        }
        let call = Call::new(now, self.budget.max_ms, origin != Origin::Stray);
        let active = match self.active.take() {
            Some(mut active) => {
                active.join(call);
                active
            }
            None => {
                self.quiet.begin();
                if !self.sockets.here() {
                    // What the workers said before is as old as their last check-in, and nobody saw what came
                    // since.
                    self.freshness.disturb(now);
                }
                ActiveDrain::new(call, self.generation)
            }
        };
        let (drain_id, generation) = (active.drain_id, active.generation);
        self.active = Some(active);
        if !call.meant {
            return Vec::new();
        }
        let termed = origin == Origin::Term || self.end.as_ref().is_some_and(|end| end.termed);
        let (began, deadline) = (call.began, call.deadline);
        let end = PodEnd { drain_id, began, deadline, origin, termed, generation, answered: None };
        vec![self.end.insert(end).journal()]
    }

    fn undrain(&mut self) -> Vec<DrainEffect> {
        if self.active.take().is_none() && self.end.is_none() {
            return Vec::new();
        }
        self.undo(Undone::Operator)
    }

    /// The pod lives on. Who waits, waits on.
    fn undo(&mut self, why: Undone) -> Vec<DrainEffect> {
        self.end = None;
        vec![DrainEffect::Undone(why), DrainEffect::Journal(None)]
    }

    /// From when on an answer is taken back that nobody has followed by SIGTERM.
    fn doubtful_from(&self) -> Option<Moment> {
        let end = self.end.as_ref().filter(|end| !end.termed)?;
        let after = end.answered.as_ref()?;
        (after.serves || after.went).then(|| after.at.plus(FALSE_DRAIN_MS))
    }

    /// Answers the calls for which something is due.
    fn answer(&mut self, now: Moment, due: impl Fn(&Call) -> Option<DrainResult>) -> Vec<DrainEffect> {
        let Some(mut active) = self.active.take() else { return Vec::new() };
        let (mut answers, mut last) = (Vec::new(), None);
        active.calls = std::mem::take(&mut active.calls)
            .into_iter()
            .filter(|call| {
                let Some(result) = due(call) else { return true };
                let answer = active.answer(now, *call, self.budget.min_ms, result);
                if call.meant {
                    last = Some(answers.len());
                }
                answers.push((call.began, answer));
                false
            })
            .collect();
        let ends = last.filter(|_| !active.meant());
        let mut effects = Vec::new();
        if let Some((_, answer)) = ends.and_then(|last| answers.get(last)) {
            effects.push(self.ended(now, &active, answer.clone()));
        }
        self.active = Some(active).filter(|active| !active.calls.is_empty());
        effects.extend(answers.into_iter().enumerate().map(|(i, (called, answer))| DrainEffect::Answer {
            called,
            ends: ends == Some(i),
            answer,
        }));
        effects
    }

    /// Every call that was meant has been answered. A drain that no app server was there for leaves nothing
    /// behind: nobody's SIGTERM is to come, but this process's own.
    fn ended(&mut self, now: Moment, active: &ActiveDrain, answer: Answer) -> DrainEffect {
        let none = answer.result == DrainResult::NoAppServer;
        self.end = self.end.take().filter(|end| !none || end.termed);
        let Some(end) = &mut self.end else { return DrainEffect::Journal(None) };
        end.generation = active.generation;
        end.answered =
            Some(Answered { left: Left::of(&answer, &active.in_work), ..Answered::new(answer, now) });
        if none { DrainEffect::Journal(None) } else { end.journal() }
    }

    fn decide(&mut self, now: Moment, observation: &Observation, clear: bool) -> Vec<DrainEffect> {
        let Some(active) = &mut self.active else { return Vec::new() };
        let looked = observation.began;
        if observation.detection == Detection::Missing {
            let known = active.generation.is_some();
            let result = if known { DrainResult::AlreadyGone } else { DrainResult::NoAppServer };
            return self.answer(now, |call| (looked >= call.began).then_some(result));
        }
        let known = self.generation.or(active.generation);
        let news = known != active.generation;
        active.generation = known;
        let met = clear && active.waiting.is_empty();
        // An agent that starts in mid-drain must know whom it drains, to tell that it went.
        let end = self.end.as_mut().filter(|end| news && end.answered.is_none());
        let journal = end.map(|end| {
            end.generation = known;
            end.journal()
        });
        let min_ms = self.budget.min_ms;
        let stuck = self.progress.stuck_ms(now).is_some();
        let result = if met { Some(DrainResult::Drained) } else { stuck.then_some(DrainResult::Stuck) };
        let due = |call: &Call| looked >= call.began && now.since(call.began) >= min_ms;
        let answers = self.answer(now, |call| result.filter(|_| due(call)));
        journal.into_iter().chain(answers).collect()
    }

    /// After the answer: does the pod live on?
    fn watch_after_answer(&mut self, observation: &Observation) -> Vec<DrainEffect> {
        let expected = self.image_change_expected;
        let Some(end) = &mut self.end else { return Vec::new() };
        let Some(after) = &mut end.answered else { return Vec::new() };
        let gone = observation.detection == Detection::Missing;
        let cut = after.left.look(observation.traffic.sockets.as_ref(), gone).map(DrainEffect::Cut);
        after.closed = observation.traffic.sockets.as_ref().is_some_and(|s| s.closed);
        match &observation.detection {
            Detection::Seen(server) => {
                let ours = server.generations.iter().find(|g| Some(g.key) == end.generation);
                let other = server.generations.iter().find(|g| serves(g));
                after.serves = ours.is_some_and(serves) && !after.closed;
                match (ours, other) {
                    (None, Some(other)) if expected && !after.went => end.generation = Some(other.key),
                    (None, Some(_)) if !end.termed => {
                        return cut.into_iter().chain(self.undo(Undone::NewImage)).collect();
                    }
                    _ => {}
                }
            }
            Detection::Missing => (after.serves, after.went) = (false, true),
            Detection::Unclear | Detection::Ambiguous | Detection::NotPermitted => {}
        }
        cut.into_iter().collect()
    }
}

/// Whether an image takes requests.
fn serves(generation: &Generation) -> bool {
    generation.signalable && generation.processes.iter().any(|p| p.booted)
}
