//! What the init does next: a value without I/O.
//!
//! ```text
//!            release in place,            TERM, INT              drained, time is over,
//!            or time is over                                     the same signal again
//!  Preparing ───────────────▶ Serving ─────────────▶ Holding ───────────────────────▶ Stopping
//!      │ TERM                    │ CMD ends             │ CMD ends                 CMD ends │
//!      │                         ▼                      ▼                                   │
//!      └──────────┐          Settling ─────────────▶ Leaving ◀──────────────────────────────┘
//!                 └─────────────────────────────────▶   │ nobody is left
//!                              the agent owes nothing   ▼
//!                                                     Over
//! ```
//!
//! Settling is for a command that ends by itself in the middle of a restart, as Puma does when a release
//! breaks it: the agent puts `current` back before the container ends, so that the next one boots good
//! code. The agent is started again whenever it dies, except once it has been told to end.

use rustix::process::Signal;

use super::{Answer, Question, Settings, pauses::Pauses};
use crate::core::Moment;

/// A first release gets so long to arrive before the command is started without one.
const FIRST_RELEASE_MS: u64 = 300_000;
/// A sidecar's agent that says nothing at all gets so long.
const FIRST_WORD_MS: u64 = 15_000;
/// The agent's own deadline comes first, and a moment for its answer.
const HOLD_MARGIN_MS: u64 = 1_000;
/// Platforms that send SIGTERM more than once (or to everybody) do so within this time.
const SAME_MS: u64 = 1_000;
/// To put `current` back.
const SETTLE_MS: u64 = 15_000;
/// What was killed is gone after this, or hangs in the kernel.
const AFTER_KILL_MS: u64 = 2_000;
/// Before a question is asked again.
const ASK_AGAIN_MS: u64 = 200;
/// 128 and SIGTERM, SIGINT.
const BY_A_STOP: [u8; 2] = [143, 130];
/// 128 and SIGKILL.
const KILLED: u8 = 137;
/// The agent's exit code for a configuration that cannot work, with no app server beside it.
const CONFIG: u8 = 64;

/// How long things may take, and what they end with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The agent is in another container: it is asked, and not started; and SIGTERM comes when the pod is drained.
    pub(crate) sidecar: bool,
    pub(crate) stop_is_success: bool,
    pub(crate) hold_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) reserve_ms: u64,
}

impl Limits {
    pub(crate) fn of(settings: &Settings) -> Self {
        let Settings { stop_is_success, hold_ms, grace_ms, reserve_ms, .. } = *settings;
        let sidecar = settings.agent.is_none();
        Self { sidecar, stop_is_success, hold_ms, grace_ms, reserve_ms }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// The platform, or somebody at the keyboard, asks for the end.
    Stop(Signal),
    CommandEnded(u8),
    AgentEnded(u8),
    Answered(Question, Answer),
    /// No child is left.
    Alone,
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    StartAgent,
    StartCommand(Why),
    Ask(Question),
    /// Nothing but a word about it.
    Hold(Signal),
    PassOn(Signal, Why),
    EndAgent,
    EndLeftovers,
    Kill,
    /// Nothing but a word about it.
    Ended(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// As it should be.
    Ready,
    /// The configuration allows no deploys.
    NoDeploys,
    /// The time was over.
    Time,
    /// The same was asked for again.
    Again,
    /// The agent answered, with this result of the drain.
    Answered(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Preparing { since: Moment, until: Moment },
    Serving,
    Holding { signal: Signal, since: Moment, until: Moment },
    Stopping { kill_at: Moment, killed: bool },
    Settling { code: u8, until: Moment },
    Leaving { code: u8, until: Moment, killed: bool },
    Over(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// To be started then.
    Down(Moment),
    Up(Moment),
    /// It was told to end, or has ended after that.
    Told,
}

#[derive(Debug, Clone)]
pub(crate) struct Course {
    limits: Limits,
    /// The configuration allows no deploys.
    no_deploys: bool,
    stage: Stage,
    agent: Agent,
    pauses: Pauses,
    /// The question under way.
    asked: Option<Question>,
    ask_at: Moment,
    /// The first SIGTERM came then.
    stopped_at: Option<Moment>,
}

impl Course {
    pub(crate) fn new(now: Moment, limits: Limits, no_deploys: bool) -> Self {
        let patience = if limits.sidecar { FIRST_WORD_MS } else { FIRST_RELEASE_MS };
        let until = if no_deploys { now } else { now.plus(patience) };
        Self {
            limits,
            no_deploys,
            stage: Stage::Preparing { since: now, until },
            agent: if limits.sidecar { Agent::Told } else { Agent::Down(now) },
            pauses: Pauses::new(),
            asked: None,
            ask_at: now,
            stopped_at: None,
        }
    }

    /// The exit code, once everything is over.
    pub(crate) fn over(&self) -> Option<u8> {
        let Stage::Over(code) = self.stage else { return None };
        let well = self.limits.stop_is_success && self.stopped_at.is_some() && BY_A_STOP.contains(&code);
        Some(if well { 0 } else { code })
    }

    /// When something is due though nothing happens.
    pub(crate) fn due(&self) -> Option<Moment> {
        let stage = match self.stage {
            Stage::Preparing { until, .. } | Stage::Holding { until, .. } | Stage::Settling { until, .. } => {
                Some(until)
            }
            Stage::Stopping { kill_at, .. } => Some(kill_at),
            Stage::Leaving { until, .. } => Some(until),
            Stage::Serving | Stage::Over(_) => None,
        };
        let agent = if let Agent::Down(at) = self.agent { Some(at) } else { None };
        let ask = (self.question().is_some() && self.asked.is_none()).then_some(self.ask_at);
        [stage, agent, ask].into_iter().flatten().min()
    }

    /// Takes what happened and says what is to be done.
    pub(crate) fn take(&mut self, now: Moment, input: Input) -> Vec<Act> {
        let mut acts = Vec::new();
        match input {
            Input::Stop(signal) => self.stop(now, signal, &mut acts),
            Input::CommandEnded(code) => self.command_ended(now, code, &mut acts),
            Input::AgentEnded(code) => self.agent_ended(now, code, &mut acts),
            Input::Answered(question, answer) => self.answered(now, question, answer, &mut acts),
            Input::Alone => self.alone(),
            Input::Tick => {}
        }
        self.tick(now, &mut acts);
        acts
    }

    fn stop(&mut self, now: Moment, signal: Signal, acts: &mut Vec<Act>) {
        match self.stage {
            Stage::Preparing { .. } => {
                self.stopped_at = Some(now);
                self.leave(now, 128 + u8::try_from(signal.as_raw()).unwrap_or(0), acts);
            }
            Stage::Serving if self.limits.sidecar => {
                self.stopped_at = Some(now);
                self.pass_on(now, signal, Why::Ready, acts);
            }
            Stage::Serving => {
                self.stopped_at = Some(now);
                let until = now.plus(self.limits.hold_ms.saturating_add(HOLD_MARGIN_MS));
                self.stage = Stage::Holding { signal, since: now, until };
                self.hurry_agent(now);
                (self.asked, self.ask_at) = (None, now);
                acts.push(Act::Hold(signal));
            }
            Stage::Holding { since, .. } if now.since(since) >= SAME_MS => {
                self.pass_on(now, signal, Why::Again, acts);
            }
            Stage::Stopping { .. } => acts.push(Act::PassOn(signal, Why::Again)),
            Stage::Settling { code, .. } => self.leave(now, code, acts),
            Stage::Holding { .. } | Stage::Leaving { .. } | Stage::Over(_) => {}
        }
    }

    fn pass_on(&mut self, now: Moment, signal: Signal, why: Why, acts: &mut Vec<Act>) {
        let since = self.stopped_at.unwrap_or(now);
        self.stage = Stage::Stopping { kill_at: since.plus(self.limits.grace_ms), killed: false };
        acts.push(Act::PassOn(signal, why));
        // From now on it watches the end, and ends with it.
        self.end_agent(acts);
    }

    fn end_agent(&mut self, acts: &mut Vec<Act>) {
        if let Agent::Up(_) = self.agent {
            acts.push(Act::EndAgent);
        }
        self.agent = Agent::Told;
    }

    fn command_ended(&mut self, now: Moment, code: u8, acts: &mut Vec<Act>) {
        acts.push(Act::Ended(code));
        match self.stage {
            Stage::Holding { .. } | Stage::Stopping { .. } => self.leave(now, code, acts),
            // The next container asks the sidecar before it starts anything.
            _ if self.no_deploys || self.limits.sidecar => self.leave(now, code, acts),
            _ => {
                self.stage = Stage::Settling { code, until: now.plus(SETTLE_MS) };
                self.hurry_agent(now);
                (self.asked, self.ask_at) = (None, now);
            }
        }
    }

    fn leave(&mut self, now: Moment, code: u8, acts: &mut Vec<Act>) {
        let reserve = now.plus(self.limits.reserve_ms);
        let grace = self.stopped_at.map(|since| since.plus(self.limits.grace_ms));
        let until = grace.map_or(reserve, |grace| grace.min(reserve));
        self.stage = Stage::Leaving { code, until, killed: false };
        self.end_agent(acts);
        acts.push(Act::EndLeftovers);
    }

    fn agent_ended(&mut self, now: Moment, code: u8, acts: &mut Vec<Act>) {
        let Agent::Up(since) = self.agent else { return };
        self.agent = Agent::Down(now.plus(self.pauses.after(now.since(since))));
        match self.stage {
            Stage::Preparing { .. } if code == CONFIG => {
                self.no_deploys = true;
                self.start_command(Why::NoDeploys, acts);
            }
            Stage::Settling { code: ended, .. } if code == CONFIG => self.leave(now, ended, acts),
            Stage::Holding { .. } | Stage::Settling { .. } => self.hurry_agent(now),
            _ => {}
        }
    }

    /// Somebody waits for the agent.
    fn hurry_agent(&mut self, now: Moment) {
        if let Agent::Down(at) = &mut self.agent {
            *at = (*at).min(now.plus(self.pauses.in_a_hurry()));
        }
    }

    /// What the agent is asked in this stage.
    fn question(&self) -> Option<Question> {
        match self.stage {
            Stage::Preparing { .. } => Some(Question::Startup),
            Stage::Holding { .. } => Some(Question::Drain),
            Stage::Settling { .. } => Some(Question::Settled),
            Stage::Serving | Stage::Stopping { .. } | Stage::Leaving { .. } | Stage::Over(_) => None,
        }
    }

    fn answered(&mut self, now: Moment, question: Question, answer: Answer, acts: &mut Vec<Act>) {
        if self.asked != Some(question) {
            return;
        }
        (self.asked, self.ask_at) = (None, now.plus(ASK_AGAIN_MS));
        let Answer::Yes(text) = answer else {
            if let (Answer::No, Stage::Preparing { since, until }) = (answer, &mut self.stage) {
                *until = (*until).max(since.plus(FIRST_RELEASE_MS));
            }
            return;
        };
        match self.stage {
            Stage::Preparing { .. } => {
                self.start_command(Why::Ready, acts);
            }
            Stage::Holding { signal, .. } => self.pass_on(now, signal, Why::Answered(text), acts),
            Stage::Settling { code, .. } => self.leave(now, code, acts),
            _ => {}
        }
    }

    fn start_command(&mut self, why: Why, acts: &mut Vec<Act>) {
        acts.push(Act::StartCommand(why));
        self.stage = Stage::Serving;
    }

    fn alone(&mut self) {
        if let Stage::Leaving { code, .. } = self.stage {
            self.stage = Stage::Over(code);
        }
    }

    fn tick(&mut self, now: Moment, acts: &mut Vec<Act>) {
        match self.stage {
            Stage::Preparing { until, .. } if now >= until => {
                let why = if self.no_deploys { Why::NoDeploys } else { Why::Time };
                self.start_command(why, acts);
            }
            Stage::Holding { signal, until, .. } if now >= until => {
                self.pass_on(now, signal, Why::Time, acts);
            }
            Stage::Stopping { kill_at, killed: false } if now >= kill_at => {
                acts.push(Act::Kill);
                self.stage = Stage::Stopping { kill_at: now.plus(AFTER_KILL_MS), killed: true };
            }
            // What hangs in the kernel can be waited for by nobody.
            Stage::Stopping { kill_at, killed: true } if now >= kill_at => self.stage = Stage::Over(KILLED),
            Stage::Settling { code, until } if now >= until => self.leave(now, code, acts),
            Stage::Leaving { code, until, killed: false } if now >= until => {
                acts.push(Act::Kill);
                self.stage = Stage::Leaving { code, until: now.plus(AFTER_KILL_MS), killed: true };
            }
            Stage::Leaving { code, until, killed: true } if now >= until => self.stage = Stage::Over(code),
            _ => {}
        }
        if let Agent::Down(at) = self.agent
            && now >= at
            && self.over().is_none()
        {
            self.agent = Agent::Up(now);
            acts.push(Act::StartAgent);
        }
        if let (Some(question), None) = (self.question(), self.asked)
            && now >= self.ask_at
        {
            self.asked = Some(question);
            acts.push(Act::Ask(question));
        }
    }
}

#[cfg(test)]
mod tests;
