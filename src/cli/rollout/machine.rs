//! What a rollout does next: a function of what the store has of it, of what was seen last, and of the time. It reads
//! no clock and asks nobody, so that every order of events can be tried out.

use super::{
    journal::{ALL, Before, Journal, Outcome, State},
    seen::{Place, Pod, Seen, Standing},
};
use crate::revision::PodCount;

/// Where no pod has ever reported for so long, none can, or there is none.
const NEVER_MS: u64 = 120_000;
/// So many pods are named in a message.
const NAMED: usize = 10;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Write this into the store: it is the state from then on.
    Enter(Box<Journal>),
    /// Change the pointer.
    Point(Point),
    /// Run a command; its result is for [`Machine::ran`].
    Run(Which),
    /// Stop here. The state in the store remains.
    Stop(String),
}

/// A change of the pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// These pods are to run the release.
    Canary(PodCount),
    /// All are, from now on.
    Finish,
    /// None is any more.
    Back,
}

/// A command of the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Before,
    Smoke,
}

/// What is known besides the store's state, and lost with the process.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// The state that the rest is about.
    entered: Option<(State, usize)>,
    /// The last time that a pod arrived, or the state was entered.
    progress_ms: u64,
    arrived: usize,
    /// Since when the pods of the step are well.
    well_since_ms: Option<u64>,
    /// How the state's command ended.
    ended: Option<Result<(), String>>,
    since_ms: u64,
}

/// How far the pods are with a step.
#[derive(Debug, Default)]
pub(super) struct Tally {
    arrived: usize,
    failed: Vec<String>,
    coming: Vec<String>,
    /// So many have to arrive or fail.
    expected: usize,
}

impl Tally {
    fn of(share: PodCount, pods: &[Pod], waited_ms: u64) -> Self {
        let mut tally = Self::default();
        let mut lost = 0;
        for pod in pods {
            match &pod.place {
                Place::Arrived => tally.arrived += 1,
                Place::Failed(why) => tally.failed.push(format!("{}: {why}", pod.name)),
                Place::Coming(what) => tally.coming.push(format!("{} ({what})", pod.name)),
                // It would have read the pointer by now, and said so. One that is not to run it yet says nothing.
                Place::Elsewhere => {
                    let silent = pod.silent_ms.min(waited_ms) > pod.patience_ms;
                    lost += usize::from(silent && (share == ALL || !pod.stays_out));
                }
            }
        }
        tally.expected = share.up(pods.len()).saturating_sub(lost).max(1);
        tally
    }

    /// All pods of the step have arrived, except those that failed.
    fn is_reached(&self) -> bool {
        let ended = self.arrived + self.failed.len();
        self.arrived > 0 && self.coming.is_empty() && ended >= self.expected
    }

    fn missing(&self) -> String {
        let unread = self.expected.saturating_sub(self.arrived + self.failed.len() + self.coming.len());
        let unread = (unread > 0).then(|| format!("{unread} that have not read the pointer yet"));
        let coming = (!self.coming.is_empty()).then(|| some_of(&self.coming));
        let waiting: Vec<_> = coming.into_iter().chain(unread).collect();
        format!("{} of {} pods arrived; waiting for {}", self.arrived, self.expected, waiting.join(", "))
    }
}

impl Machine {
    /// How the command that was to run ended.
    pub(super) fn ran(&mut self, ended: Result<(), String>) {
        self.ended = Some(ended);
    }

    /// Decides. `now_ms` grows while the store answers only: its outages count for no time-out.
    pub(super) fn step(&mut self, journal: &Journal, seen: &Seen, now_ms: u64) -> Action {
        let entered = Some((journal.state, journal.step));
        if self.entered != entered {
            *self = Self { entered, progress_ms: now_ms, since_ms: now_ms, ..Self::default() };
        }
        let moved = match &seen.standing {
            _ if journal.state.is_final() => return Action::Wait,
            Standing::Moved(by) => Some(by.clone()),
            Standing::Aborted if journal.state != State::Aborting => Some("somebody aborted it".into()),
            _ => None,
        };
        if let Some(by) = moved {
            return lost(journal, by);
        }
        // The way back is open to a frozen pointer, what a command said is not lost by it, and a move that was made is.
        let holds = journal.state != State::Aborting
            && self.ended.is_none()
            && !(journal.state == State::Finish && seen.standing == Standing::Finished);
        if let Some(frozen) = seen.frozen.as_ref().filter(|_| holds) {
            return Action::Stop(format!("the pointer is frozen ({frozen})"));
        }
        match journal.state {
            State::Before => self.before(journal),
            State::Finish if seen.standing == Standing::Finished => done(journal, seen),
            State::Finish => Action::Point(Point::Finish),
            State::Aborting => self.aborting(journal, seen, now_ms),
            State::Canary | State::Smoke | State::Step | State::Bake => self.forward(journal, seen, now_ms),
            State::Done | State::Aborted => Action::Wait,
        }
    }

    fn before(&self, journal: &Journal) -> Action {
        match (journal.before, self.ended.clone()) {
            (None | Some(Before::Done), _) => enter(journal.entering(State::Canary, 1)),
            (Some(Before::Pending), _) => enter(Journal { before: Some(Before::Running), ..journal.clone() }),
            (Some(Before::Running), None) => Action::Run(Which::Before),
            (Some(Before::Running), Some(Ok(()))) => {
                enter(Journal { before: Some(Before::Done), ..journal.entering(State::Canary, 1) })
            }
            (Some(Before::Running), Some(Err(why))) => end(journal, Outcome::Failed, why),
        }
    }

    /// With some pods on the release.
    fn forward(&mut self, journal: &Journal, seen: &Seen, now_ms: u64) -> Action {
        let share = journal.share();
        match seen.standing {
            Standing::Canary { share: there, fence } if there == share && fence == journal.fence => {}
            // The fence comes first: whoever drove it before writes nothing more.
            _ => return Action::Point(Point::Canary(share)),
        }
        let tally = Tally::of(share, &seen.pods, now_ms - self.since_ms);
        let allowed = if journal.step <= 1 { 0 } else { journal.options.max_failed };
        if tally.failed.len() > allowed {
            return abort(journal, Outcome::Stays, format!("rejected by {}", some_of(&tally.failed)));
        }
        if tally.arrived > self.arrived {
            (self.arrived, self.progress_ms) = (tally.arrived, now_ms);
        }
        let reached = tally.is_reached();
        match journal.state {
            State::Smoke => return self.smoke(journal),
            State::Bake if reached => {
                let since = *self.well_since_ms.get_or_insert(now_ms);
                self.progress_ms = now_ms;
                if u128::from(now_ms - since) >= journal.options.bake.as_millis() {
                    return further(journal);
                }
            }
            State::Canary if reached && journal.options.smoke => {
                return enter(journal.entering(State::Smoke, 1));
            }
            _ if reached => return baked(journal),
            _ => self.well_since_ms = None,
        }
        let waited_ms = now_ms - self.progress_ms;
        if seen.pods.is_empty() && !seen.ever && waited_ms >= NEVER_MS {
            let why =
                "no pod has ever reported: check that pods run and that their agents may write to fleet/";
            return abort(journal, Outcome::TimedOut, why.into());
        }
        if u128::from(waited_ms) >= journal.options.timeout.as_millis() {
            let time = humantime::format_duration(journal.options.timeout);
            let why = format!("step {} made no progress for {time}: {}", journal.step, tally.missing());
            return abort(journal, Outcome::TimedOut, why);
        }
        Action::Wait
    }

    fn smoke(&self, journal: &Journal) -> Action {
        match self.ended.clone() {
            None => Action::Run(Which::Smoke),
            Some(Ok(())) => baked(journal),
            Some(Err(why)) => abort(journal, Outcome::Stays, why),
        }
    }

    fn aborting(&self, journal: &Journal, seen: &Seen, now_ms: u64) -> Action {
        let why = journal.why.clone().unwrap_or_default();
        match seen.standing {
            // Too late: the last step was done before.
            Standing::Finished => return done(journal, seen),
            // Also where no pod has heard of it yet: whoever drove it before finds that it is over.
            Standing::Before | Standing::Canary { .. } => return Action::Point(Point::Back),
            Standing::Aborted | Standing::Moved(_) => {}
        }
        let left: Vec<_> =
            seen.pods.iter().filter(|pod| pod.on_release).map(|pod| pod.name.clone()).collect();
        if left.is_empty() {
            return end(journal, Outcome::TakenBack, why);
        }
        if u128::from(now_ms - self.progress_ms) >= journal.options.timeout.as_millis() {
            let why = format!("{why}; not back in time: {}", some_of(&left));
            return end(journal, Outcome::TimedOut, why);
        }
        Action::Wait
    }
}

/// The reason of an end is part of the pointer, which has room for some pods only.
fn some_of(pods: &[String]) -> String {
    let more = pods.len().saturating_sub(NAMED);
    let named = pods.iter().take(NAMED).cloned();
    named.chain((more > 0).then(|| format!("and {more} more"))).collect::<Vec<_>>().join(", ")
}

fn enter(journal: Journal) -> Action {
    Action::Enter(Box::new(journal))
}

/// The pods have arrived, and the smoke test has passed.
fn baked(journal: &Journal) -> Action {
    match journal.options.bake.is_zero() {
        true => further(journal),
        false => enter(journal.entering(State::Bake, journal.step)),
    }
}

fn further(journal: &Journal) -> Action {
    match journal.step < journal.options.steps.len() {
        true => enter(journal.entering(State::Step, journal.step + 1)),
        false => enter(journal.entering(State::Finish, journal.step)),
    }
}

fn done(journal: &Journal, seen: &Seen) -> Action {
    let arrived = seen.pods.iter().filter(|pod| pod.place == Place::Arrived).count();
    end(journal, Outcome::Done, format!("{arrived} of {} pods ran it", seen.pods.len()))
}

/// Takes it back; or leaves it as it is with `--no-revert`.
fn abort(journal: &Journal, stays: Outcome, why: String) -> Action {
    match journal.options.revert {
        true => enter(Journal { why: Some(why), ..journal.entering(State::Aborting, journal.step) }),
        false => end(journal, stays, why),
    }
}

fn lost(journal: &Journal, by: String) -> Action {
    end(journal, Outcome::Lost, by)
}

fn end(journal: &Journal, result: Outcome, why: String) -> Action {
    let state = if result == Outcome::Done { State::Done } else { State::Aborted };
    enter(Journal { result: Some(result), why: Some(why), ..journal.entering(state, journal.step) })
}

#[cfg(test)]
pub(super) mod tests;
