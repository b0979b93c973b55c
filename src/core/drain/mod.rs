//! The end of a pod: when may SIGTERM come?
//!
//! ```text
//!            Begin                    drained, deadline,
//!                                     no app server, gone
//!   Serving ───────▶ Draining ─────────────────────────────▶ Answered
//!      ▲                │                                        │
//!      │                │ operator                               │ operator, new image,
//!      └────────────────┴────────────────────────────────────────┘ false drain
//! ```
//!
//! A drain is answered when three things hold at one look: `drain.min` is over, every sender has
//! been silent for longer than chance explains (`quiet`), and nothing is in flight
//! (`in_flight`). Looks that began before the drain, and looks that saw no app server clearly,
//! prove nothing. Without a control server the socket table decides alone, without a socket table
//! the control server does, and with neither the deadline.
//!
//! Before the answer a new image undoes nothing: while the kubelet waits for the hook, it starts no
//! container anew, so that the image was changed by a restart in place; and an answer, of whatever
//! kind, is what lets SIGTERM through. After the answer, a new image means that the container was
//! restarted and the pod lives on (the hook is called for a failed liveness probe as well).
//!
//! SIGTERM is remembered in this process only, not in the journal: the kubelet starts no container
//! anew in a pod that it ends, so a restarted agent is itself a sign that the pod may live on.

mod course;
mod in_flight;
mod quiet;
mod regular;
mod rhythm;
mod table;
mod words;

pub use in_flight::in_flight;
pub use words::{
    Answer, Budget, Cut, DrainCommand, DrainEffect, DrainResult, DrainView, Evidence, Journal, Origin,
    Undone, Upgraded, Wait, WaitsFor,
};

use super::observation::{
    AppServer, Connection, Generation, GenerationKey, Moment, Observation, Sight, Sockets, Traffic,
};
use course::{Course, Testimony, Witness};
use in_flight::{Beside, Freshness};
use quiet::{Quiet, Source};
use table::Look;

/// After the answer SIGTERM follows within milliseconds; a server untouched for this long was not meant.
const FALSE_DRAIN_MS: u64 = 60_000;

/// A call that comes so soon after the answer was under way with the others: two containers' hooks.
const SAME_CALL_MS: u64 = 2000;
/// So many requests that were cut off are named.
const CUT_NAMED: usize = 10;

/// The drain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drain {
    budget: Budget,
    phase: Phase,
    /// The image that was last seen, `None` when the last clear look saw none.
    generation: Option<GenerationKey>,
    image_change_expected: bool,
    quiet: Quiet,
    freshness: Freshness,
    control: Witness,
    sockets: Witness,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Serving,
    Draining(Course),
    Answered(Course, After),
}

/// What came after the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct After {
    answer: Answer,
    at: Moment,
    /// The image that was answered for still serves, by the last look after the answer.
    serves: bool,
    /// The app server was gone at a look after the answer.
    went: bool,
}

impl Drain {
    /// Serving, unless a journal says that a drain was under way. The journal must be of this boot.
    pub fn new(mut budget: Budget, journal: Option<Journal>) -> Self {
        for peer in &mut budget.ignore_peers {
            *peer = peer.to_canonical();
        }
        let phase = journal.map_or(Phase::Serving, |journal| {
            let course = Course::resumed(&journal);
            match journal.answer {
                Some(answer) => {
                    let at = journal.began.plus(answer.held_ms);
                    Phase::Answered(course, After { answer, at, serves: false, went: false })
                }
                None => Phase::Draining(course),
            }
        });
        Self {
            budget,
            phase,
            generation: None,
            image_change_expected: false,
            quiet: Quiet::default(),
            freshness: Freshness::default(),
            control: Witness::default(),
            sockets: Witness::default(),
        }
    }

    /// Takes a command.
    pub fn command(&mut self, now: Moment, command: DrainCommand) -> Vec<DrainEffect> {
        match command {
            DrainCommand::Begin(origin) => self.begin(now, origin),
            DrainCommand::Undrain => self.undo(Undone::Operator),
        }
    }

    /// Takes a look at the app server. Also called while serving, to learn the peers' rhythms.
    pub fn observe(&mut self, now: Moment, observation: &Observation) -> Vec<DrainEffect> {
        let clear = self.take_in(now, observation);
        match &self.phase {
            Phase::Draining(course) if observation.began >= course.began => {
                if clear {
                    self.weigh(now, observation);
                }
                self.judge(now, observation, clear)
            }
            Phase::Answered(_, after) if observation.began >= after.at => {
                self.doubt(now, &observation.sight, observation)
            }
            _ => self.tick(now),
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Moment) -> Vec<DrainEffect> {
        match &self.phase {
            Phase::Draining(course) if now >= course.deadline => self.answer(now, DrainResult::Deadline),
            Phase::Answered(course, after)
                if after.serves && !course.termed && now.since(after.at) >= FALSE_DRAIN_MS =>
            {
                self.undo(Undone::FalseDrain)
            }
            _ => Vec::new(),
        }
    }

    /// When something will be due though nothing happens. May lie in the past after an answer.
    pub fn deadline(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Serving => None,
            Phase::Draining(course) => Some(course.deadline),
            Phase::Answered(course, after) => (!course.termed).then(|| after.at.plus(FALSE_DRAIN_MS)),
        }
    }

    /// No forward stage may start: draining or answered.
    pub fn active(&self) -> bool {
        !matches!(self.phase, Phase::Serving)
    }

    /// /prestop was answered and the drain not undone.
    pub fn answered(&self) -> bool {
        matches!(self.phase, Phase::Answered(..))
    }

    /// While a restart of our own is under way, a new image is no sign that the pod lives on. To be
    /// lifted only after the look that showed the restart's end went through [`Self::observe`].
    pub fn expect_image_change(&mut self, expected: bool) {
        self.image_change_expected = expected;
    }

    /// What is waited for at this time; empty when nothing drains.
    pub fn waiting(&self) -> Vec<WaitsFor> {
        match &self.phase {
            Phase::Draining(course) => course.waiting.clone(),
            _ => Vec::new(),
        }
    }

    /// The drain for /status; `None` while serving.
    pub fn view(&self) -> Option<DrainView> {
        let (course, answer) = match &self.phase {
            Phase::Serving => return None,
            Phase::Draining(course) => (course, None),
            Phase::Answered(course, after) => (course, Some(&after.answer)),
        };
        Some(DrainView {
            drain_id: course.drain_id,
            began: course.began,
            deadline: course.deadline,
            waits_for: self.waiting(),
            peers_not_quiet: course.peers_not_quiet,
            requests_in_flight: course.in_flight,
            upgraded: course.upgraded,
            evidence: course.evidence,
            answered: answer.is_some(),
            result: answer.map(|a| a.result),
        })
    }

    /// Moves every stored moment so that `now` becomes `then`, for a test that walks all states and
    /// must not tell the same state apart by its absolute time.
    pub fn rebase(&mut self, now: Moment, then: Moment) {
        let shift = |m: Moment| Moment((m.0 + then.0).saturating_sub(now.0));
        self.quiet.rebase(shift);
        self.freshness.rebase(shift);
        for witness in [&mut self.control, &mut self.sockets] {
            witness.last = witness.last.map(shift);
        }
        let course = match &mut self.phase {
            Phase::Serving => return,
            Phase::Draining(course) => course,
            Phase::Answered(course, after) => {
                after.at = shift(after.at);
                after.answer.drain_id = shift(Moment(after.answer.drain_id)).0;
                course
            }
        };
        course.drain_id = shift(Moment(course.drain_id)).0;
        for moment in [&mut course.began, &mut course.deadline] {
            *moment = shift(*moment);
        }
        course.watched_since = course.watched_since.map(shift);
    }

    fn begin(&mut self, now: Moment, origin: Origin) -> Vec<DrainEffect> {
        let unmeant = self.unmeant(now);
        match &mut self.phase {
            Phase::Serving => {}
            Phase::Draining(course) => {
                course.termed |= origin == Origin::Term;
                return Vec::new();
            }
            Phase::Answered(course, after) if origin == Origin::Term || !unmeant => {
                course.termed |= origin == Origin::Term;
                return vec![DrainEffect::Answer(after.answer.clone())];
            }
            // The answer was somebody else's: this call gets a drain of its own.
            Phase::Answered(..) => {}
        }
        self.quiet.begin();
        if !self.sockets.here() {
            // What the workers said before is as old as their last check-in, and nobody saw what came since.
            self.freshness.disturb(now);
        }
        let course = Course::new(now, origin, self.budget.max_ms, self.generation);
        let effects = vec![course.journal(None)];
        self.phase = Phase::Draining(course);
        effects
    }

    /// The answer let nobody's SIGTERM through: the app server serves on.
    fn unmeant(&self, now: Moment) -> bool {
        match &self.phase {
            Phase::Answered(course, after) => {
                after.serves && !course.termed && now.since(after.at) >= SAME_CALL_MS
            }
            _ => false,
        }
    }

    fn undo(&mut self, why: Undone) -> Vec<DrainEffect> {
        if !self.active() {
            return Vec::new();
        }
        self.phase = Phase::Serving;
        vec![DrainEffect::Undone(why), DrainEffect::Journal(None)]
    }

    fn answer(&mut self, now: Moment, result: DrainResult) -> Vec<DrainEffect> {
        let Phase::Draining(mut course) = std::mem::replace(&mut self.phase, Phase::Serving) else {
            return Vec::new();
        };
        if result == DrainResult::Deadline {
            let waiting = course.waiting.clone();
            course.wait_for(now, waiting);
        }
        let answer = course.answer(now, result);
        let effects = vec![course.journal(Some(&answer)), DrainEffect::Answer(answer.clone())];
        self.phase = Phase::Answered(course, After { answer, at: now, serves: false, went: false });
        effects
    }

    /// Learns from a look, whatever the state; says whether it tells of traffic at all.
    fn take_in(&mut self, now: Moment, observation: &Observation) -> bool {
        let server = match &observation.sight {
            Sight::Seen(server) => Some(server),
            Sight::NotPermitted => None,
            Sight::Missing => {
                self.generation = None;
                return false;
            }
            Sight::Unclear | Sight::Ambiguous => return false,
        };
        if let Some(server) = server {
            self.generation = server.generations.first().map(|g| g.key);
        }
        let traffic = &observation.traffic;
        let patience = self.budget.quiet_max_ms;
        self.control.look(observation.began, traffic.workers.is_some(), patience);
        self.sockets.look(observation.began, traffic.sockets.is_some(), patience);
        let draining = matches!(&self.phase, Phase::Draining(c) if observation.began >= c.began);
        let beside = beside(traffic);
        let look = Look {
            now,
            draining,
            count_sent: traffic.workers.is_none(),
            unseen_is_ignored: beside == Beside::Sockets && !self.budget.ignore_peers.is_empty(),
            busy: traffic.workers.as_ref().map(|w| w.iter().map(|w| u64::from(w.busy)).sum()),
            all_idle: self.control.here() && self.freshness.idle(server),
        };
        if !draining {
            self.quiet.forget(now);
        }
        let arrived = traffic.sockets.as_ref().is_some_and(|s| self.quiet.sockets(&look, s, &self.budget));
        if let Some(workers) = &traffic.workers {
            self.quiet.workers(&look, workers);
            self.freshness.look(now, workers, beside);
        }
        if arrived || self.veto(observation) {
            self.freshness.disturb(now);
        }
        true
    }

    /// The socket table shows work. Without a control server a connection that may be busy counts
    /// as such for as long as the longest silence.
    fn veto(&self, observation: &Observation) -> bool {
        let Some(sockets) = &observation.traffic.sockets else { return false };
        let doubtful = |c: &Connection| {
            let age_ms = c.last_received_ms.unwrap_or(0);
            observation.traffic.workers.is_none() && c.ambiguous() && age_ms < self.budget.quiet_max_ms
        };
        let busy = |c: &Connection| (c.busy() || doubtful(c)) && self.counts(c);
        sockets.accept_queue > 0 || sockets.connections.iter().any(busy)
    }

    /// Whether this connection can hold the drain as one that carries requests.
    fn counts(&self, connection: &Connection) -> bool {
        !self.budget.ignores(connection.peer) && !self.quiet.upgraded(connection)
    }

    /// How many connections have become websockets or the like.
    fn upgraded(&self, sockets: Option<&Sockets>) -> u32 {
        let upgraded = |c: &&Connection| self.quiet.upgraded(c) && !self.budget.ignores(c.peer);
        let count = sockets.map_or(0, |s| s.connections.iter().filter(upgraded).count());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Finds out what is still to be waited for.
    fn weigh(&mut self, now: Moment, observation: &Observation) {
        let server = match &observation.sight {
            Sight::Seen(server) => Some(server),
            _ => None,
        };
        let traffic = &observation.traffic;
        let ends = beside(traffic) == Beside::AllConnections;
        let evidence = Evidence { control: self.control.here(), sockets: self.sockets.here(), ends };
        let loud = self.quiet.loud(observation.began, &self.budget);
        let upgraded = self.upgraded(traffic.sockets.as_ref());
        let idle = self.idle(server, observation);
        if idle && evidence.control {
            self.quiet.settle();
        }
        let provable = self.provable(traffic.sockets.as_ref());
        let (min_ms, quiet_min_ms) = (self.budget.min_ms, self.budget.quiet_min_ms);
        let waits_for_upgraded = self.budget.upgraded == Upgraded::Wait;
        let cut = self.in_flight_now(traffic.sockets.as_ref());
        let Phase::Draining(course) = &mut self.phase else { return };
        if course.watched_since.is_none() && (evidence.control || evidence.sockets) {
            course.watched_since = Some(observation.began);
        }
        let watched =
            course.watched_since.is_some_and(|since| observation.began.since(since) >= quiet_min_ms);
        let unmet = [
            (WaitsFor::Min, now.since(course.began) < min_ms),
            (WaitsFor::Quiet, !(watched && provable && loud.is_empty())),
            (WaitsFor::InFlight, !idle || (upgraded > 0 && waits_for_upgraded)),
        ];
        course.wait_for(now, unmet.into_iter().filter(|(_, unmet)| *unmet).map(|(what, _)| what).collect());
        course.evidence = evidence;
        course.in_flight = in_flight(traffic);
        (course.upgraded, course.cut) = (upgraded, cut);
        course.peers_not_quiet = loud.len();
        if let Some(source) = loud.last() {
            course.last_peer = if let Source::Peer(peer) = source { Some(*peer) } else { None };
        }
    }

    /// The requests that the table shows, the oldest first.
    fn in_flight_now(&self, sockets: Option<&Sockets>) -> Vec<Cut> {
        let connections = sockets.into_iter().flat_map(|s| &s.connections).filter(|c| self.counts(c));
        let in_flight = |c: &Connection| Some(Cut { peer: c.peer, age_ms: c.request_age_ms()? });
        let mut cut: Vec<Cut> = connections.filter_map(in_flight).collect();
        cut.sort_by_key(|cut| std::cmp::Reverse(cut.age_ms));
        cut.truncate(CUT_NAMED);
        cut
    }

    /// Nothing is in flight, by every witness there is.
    fn idle(&self, server: Option<&AppServer>, observation: &Observation) -> bool {
        let proven = match (self.control.state, self.sockets.state) {
            (Testimony::Missed, _) | (_, Testimony::Missed) => false,
            (Testimony::Here, _) => self.freshness.idle(server),
            (Testimony::Absent, sockets) => sockets == Testimony::Here,
        };
        proven && !self.veto(observation)
    }

    /// Whether silence can be seen at all: without a control server a connection whose byte counters
    /// are unknown may carry requests that no look catches.
    fn provable(&self, sockets: Option<&Sockets>) -> bool {
        let counted =
            |s: &Sockets| s.connections.iter().all(|c| c.received.is_some() || self.budget.ignores(c.peer));
        self.control.here() || sockets.is_some_and(counted)
    }

    fn judge(&mut self, now: Moment, observation: &Observation, clear: bool) -> Vec<DrainEffect> {
        let Phase::Draining(course) = &mut self.phase else { return Vec::new() };
        if observation.sight == Sight::Missing {
            let known = course.generation.is_some();
            return self.answer(now, if known { DrainResult::AlreadyGone } else { DrainResult::NoAppServer });
        }
        let known = self.generation.or(course.generation);
        let news = known != course.generation;
        course.generation = known;
        // An agent that starts in mid-drain must know whom it drains, to tell that it went.
        let mut effects: Vec<_> = news.then(|| course.journal(None)).into_iter().collect();
        let drained = clear && course.waiting.is_empty();
        effects.extend(if drained { self.answer(now, DrainResult::Drained) } else { self.tick(now) });
        effects
    }

    /// After the answer: does the pod live on?
    fn doubt(&mut self, now: Moment, sight: &Sight, observation: &Observation) -> Vec<DrainEffect> {
        let Phase::Answered(course, after) = &mut self.phase else { return Vec::new() };
        let closed = observation.traffic.sockets.as_ref().is_some_and(|s| s.closed);
        match sight {
            Sight::Seen(server) => {
                let ours = server.generations.iter().find(|g| Some(g.key) == course.generation);
                let other = server.generations.iter().find(|g| serves(g));
                after.serves = ours.is_some_and(serves) && !closed;
                match (ours, other) {
                    (None, Some(other)) if self.image_change_expected && !after.went => {
                        course.generation = Some(other.key)
                    }
                    (None, Some(_)) if !course.termed => return self.undo(Undone::NewImage),
                    _ => {}
                }
            }
            Sight::Missing => (after.serves, after.went) = (false, true),
            Sight::Unclear | Sight::Ambiguous | Sight::NotPermitted => {}
        }
        self.tick(now)
    }
}

/// What there is beside the workers' own numbers.
fn beside(traffic: &Traffic) -> Beside {
    match &traffic.sockets {
        None => Beside::Nothing,
        Some(sockets) if sockets.ended.is_some() => Beside::AllConnections,
        Some(_) => Beside::Sockets,
    }
}

/// Whether an image takes requests.
fn serves(generation: &Generation) -> bool {
    generation.signalable && generation.processes.iter().any(|p| p.booted)
}
