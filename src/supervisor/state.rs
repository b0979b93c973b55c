//! What the loop owns: the core, who waits for it, and what was last seen.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Attention, Inputs, Seen, cuts::Cuts, deploy_log::DeployLog, foreign_restarts::ForeignRestarts, operator,
    timings::DeployTimings,
};
use crate::{
    app_server::Description,
    core::{
        Agent, Attempt, Detection, Effect, Event, Moment, Operator, Problem, Reading, Reason, Recovered,
        Watchfulness,
        drain::{Answer, DrainCommand, DrainEffect, InWork, Journal, Origin, Undone},
        observation::Warmed,
        verdict,
    },
    finding::{Code, Finding},
    handle::{Asked, PrestopEnd, Reply, Request},
    status::{Since, Snapshot},
    telemetry::word,
};

pub(crate) struct State {
    inputs: Inputs,
    agent: Agent,
    timings: DeployTimings,
    log: DeployLog,
    done: mpsc::UnboundedSender<Event>,
    attention: watch::Sender<Attention>,
    /// What is read of the other pods' reports.
    fleet: watch::Sender<Option<Reading>>,
    /// The callers of /prestop, and since when they wait.
    waiting: Vec<(Moment, oneshot::Sender<PrestopEnd>)>,
    /// What the pointer said before deploys could begin.
    pointer: Option<Event>,
    answer: Option<Answer>,
    term: Option<Term>,
    last: Last,
    foreign_restarts: ForeignRestarts,
    cuts: Cuts,
    held: operator::Held,
    current_complete: bool,
    seen_current: bool,
    seen_booted: bool,
    /// The pod waits for the warm-up of its first server.
    warms: bool,
    warmup_failed: Option<Finding>,
    noted_ready: bool,
}

struct Term {
    at: Moment,
    again: bool,
}

#[derive(Default)]
struct Last {
    description: Arc<Description>,
    findings: Vec<Finding>,
    in_flight: Option<u32>,
    /// The app server was found to be gone by a look that began then.
    gone: Option<Moment>,
}

impl State {
    /// `journal` is that of a drain that was under way when the last process ended.
    /// `warms`: the pod waits for a warm-up, unless it was ready before.
    pub(crate) fn new(
        inputs: &Inputs,
        done: mpsc::UnboundedSender<Event>,
        journal: Option<Journal>,
        warms: bool,
    ) -> Self {
        let now = (inputs.clock)();
        let problem = match &inputs.invalid {
            Some(finding) => Problem::new(Reason::ConfigInvalid, finding.message.clone()),
            None => not_read_yet(),
        };
        let calm = Attention {
            watchfulness: Watchfulness::Calm,
            probe_for: None,
            candidate_for: None,
            second_master: false,
            wants_files: false,
            warms: false,
            awaited: Moment(0),
        };
        // A loop before this one may have seen them; what this process has seen, it has seen.
        let before = inputs.snapshots.borrow().clone();
        Self {
            answer: journal.as_ref().and_then(|journal| journal.answer.clone()),
            agent: Agent::new(inputs.policy.drain.clone(), journal, problem),
            timings: DeployTimings::new(inputs.metrics.clone(), now),
            log: DeployLog::new(inputs.effects.ids().clone(), now),
            inputs: inputs.clone(),
            done,
            attention: watch::channel(calm).0,
            fleet: watch::channel(None).0,
            waiting: Vec::new(),
            pointer: None,
            term: None,
            last: Last::default(),
            foreign_restarts: ForeignRestarts::default(),
            cuts: Cuts::default(),
            held: operator::Held::default(),
            current_complete: before.current_complete,
            // A configuration that cannot be trusted must not keep a serving pod out of service.
            seen_current: before.seen_current || inputs.invalid.is_some(),
            seen_booted: before.seen_booted,
            warms: warms && !before.pending().is_empty(),
            warmup_failed: None,
            noted_ready: false,
        }
    }

    pub(crate) fn attention(&self) -> watch::Receiver<Attention> {
        self.attention.subscribe()
    }

    pub(crate) fn reads_fleet(&self) -> watch::Receiver<Option<Reading>> {
        self.fleet.subscribe()
    }

    fn now(&self) -> Moment {
        (self.inputs.clock)()
    }

    /// One event through the core.
    pub(crate) fn feed(&mut self, event: Event) {
        self.feed_at(self.now(), event);
    }

    fn feed_at(&mut self, now: Moment, event: Event) {
        self.timings.event(&event);
        self.log.event(now, &event);
        if let (true, Event::Pointer(_)) = (!self.agent.deploys(), &event) {
            self.pointer = Some(event.clone());
        }
        let effects = self.agent.step(now, event);
        self.note_current();
        self.start(now, effects);
        if self.agent.drain.blocks_deploys() {
            self.inputs.effects.end_trial();
        }
    }

    /// Whether `current` leads to a complete release is known in one place: by the deploys.
    fn note_current(&mut self) {
        if let Some(complete) = self.agent.current_complete() {
            self.current_complete = complete;
            self.seen_current |= complete;
        }
    }

    fn start(&mut self, now: Moment, effects: Vec<Effect>) {
        self.log.step(now, &effects, &self.agent.view());
        // Before any of them relies on it.
        self.tell_needs();
        for effect in effects {
            self.timings.effect(now, &effect);
            let _inside = self.log.span_of(&effect).entered();
            match effect {
                Effect::Drain(effect) => self.drain(effect),
                Effect::Notice(notice) => self.foreign_restarts.take(now, notice),
                Effect::Conclude { .. } => {
                    self.inputs.effects.perform(effect, &self.done);
                    self.tell_needs();
                    self.inputs.effects.deployed();
                }
                effect => self.inputs.effects.perform(effect, &self.done),
            }
        }
    }

    /// What this pod runs, ran, or is to run must stay on the volume.
    fn tell_needs(&self) {
        if let Some(protected) = self.agent.protected() {
            self.inputs.effects.protect(protected);
            self.inputs.effects.deploying(self.agent.view().stage, self.agent.drain.watches());
        }
    }

    fn drain(&mut self, effect: DrainEffect) {
        match effect {
            DrainEffect::Journal(journal) => self.inputs.effects.write_drain_journal(journal),
            DrainEffect::Answer { called, ends, answer } => {
                if ends {
                    tracing::info!(
                        drain_id = answer.drain_id,
                        result = word(answer.result),
                        "drain: {answer}"
                    );
                    self.inputs.metrics.drained(&answer);
                    self.answer = Some(answer.clone());
                } else {
                    tracing::info!(
                        drain_id = answer.drain_id,
                        result = word(answer.result),
                        "call of /prestop answered: {answer}"
                    );
                }
                self.release(called, &PrestopEnd::Answered(answer));
            }
            DrainEffect::Cut(cut) => log_cut(&cut),
            DrainEffect::Undone(why) => {
                self.answer = None;
                log_undone(why);
                if why == Undone::Operator {
                    self.release(Moment(u64::MAX), &PrestopEnd::Undone(why));
                }
            }
        }
    }

    /// Answers who waits on /prestop since `called` or before. Some have gone; the drain was for them as well.
    fn release(&mut self, called: Moment, ending: &PrestopEnd) {
        for (_, caller) in self.waiting.extract_if(.., |(since, _)| *since <= called) {
            let _ = caller.send(ending.clone());
        }
    }

    /// A look at the app server.
    pub(crate) fn seen(&mut self, seen: Seen) {
        let observation = &seen.observation;
        self.last.gone = (observation.detection == Detection::Missing).then_some(observation.began);
        self.seen_booted |= verdict::any_booted(&observation.detection);
        if observation.detection != Detection::Unclear {
            self.inputs.metrics.slots(&seen.description.slots);
            self.last.description = seen.description;
            self.last.findings = seen.findings;
            self.last.in_flight = observation.traffic.in_flight();
        }
        if let Some(warmed) = seen.warmed {
            self.warmed(warmed);
        }
        let now = self.now();
        let cut = self.cuts.look(now, observation, self.agent.cuts());
        self.inputs.metrics.cut_by_restart(cut.len());
        self.feed_at(now, Event::Observed(seen.observation));
    }

    /// The warm-up of the pod's first server is over. One that failed keeps no pod out of service.
    fn warmed(&mut self, warmed: Result<Warmed, String>) {
        if !std::mem::take(&mut self.warms) {
            return;
        }
        match warmed {
            Ok(Warmed { requests, p95_ms }) => {
                tracing::info!(requests, p95_ms, "the app server is warmed up: this pod can get requests");
            }
            Err(why) => {
                let finding = Finding::risky(
                    Code::WarmupFailed,
                    format!("this pod gets requests though its app server was not warmed up: {why}"),
                    "correct warmup.requests, or raise warmup.timeout or warmup.limit",
                );
                tracing::warn!(fix = finding.fix, "{}", finding.message);
                self.warmup_failed = Some(finding);
            }
        }
    }

    pub(crate) fn request(&mut self, request: Request) {
        match request {
            Request::Prestop(origin, caller) => {
                let now = self.now();
                self.waiting.push((now, caller));
                self.feed_at(now, Event::Drain(DrainCommand::Begin(origin)));
            }
            Request::Kubelet(address) => self.feed(Event::Drain(DrainCommand::Kubelet(address))),
            Request::Undrain(reply) => {
                let answer = self.undrain();
                let _ = reply.send(answer);
            }
            Request::Operator(operator, asked, reply) => {
                let answer = self.obey(operator, &asked);
                let _ = reply.send(answer);
            }
        }
    }

    fn undrain(&mut self) -> Reply {
        let drain = &self.agent.drain;
        if !drain.watches() {
            return Err("no drain is in progress: there is nothing to undo".into());
        }
        let told = operator::undrained(drain.answered());
        self.feed(Event::Drain(DrainCommand::Undrain));
        Ok(told)
    }

    fn obey(&mut self, operator: Operator, asked: &Asked) -> Reply {
        let view = self.agent.view();
        if let (true, Some(problem)) = (!self.agent.deploys(), &view.problem) {
            return Err(format!("deploy commands are not available yet: {}", problem.message));
        }
        let told = operator::told(operator, &view, self.agent.drain.blocks_deploys())?;
        tracing::info!("operator command: {}{asked}", operator::name(operator));
        self.held.note(operator, &view, asked);
        if let (Operator::Sync { .. }, Some((_, kick))) = (operator, &self.inputs.pointer) {
            kick.now();
        }
        self.feed(Event::Operator(operator));
        Ok(told)
    }

    /// The volume has told where the pod stands, or why it does not.
    pub(crate) fn recovered(&mut self, recovered: Result<Recovered, Problem>) {
        match recovered {
            Ok(recovered) => self.begin_deploys(&recovered),
            Err(problem) => {
                if self.inputs.invalid.is_none() {
                    self.agent.hold(problem);
                }
            }
        }
    }

    fn begin_deploys(&mut self, recovered: &Recovered) {
        let current = recovered.current.as_ref();
        tracing::info!(
            current = current.map(|release| release.as_str()),
            "the volume was read: deploys can start"
        );
        self.current_complete = current.is_some();
        self.seen_current |= self.current_complete;
        if self.inputs.invalid.is_some() {
            return;
        }
        let now = self.now();
        self.agent.recover(self.inputs.policy.clone(), recovered, now);
        if let Some(pointer) = self.pointer.take() {
            self.feed(pointer);
        }
        self.tell_needs();
        self.inputs.effects.tidy_soon();
    }

    /// So many SIGTERMs have come.
    pub(crate) fn terms(&mut self, count: u32) {
        if count == 0 {
            return;
        }
        let at = self.term.as_ref().map_or_else(|| self.now(), |term| term.at);
        self.term = Some(Term { at, again: count > 1 });
        if count > 1 {
            tracing::warn!("second SIGTERM received: the agent exits immediately");
            return;
        }
        tracing::info!(
            "SIGTERM received: the agent stays until the drain is over and the app server has ended"
        );
        self.feed(Event::Drain(DrainCommand::Begin(Origin::Term)));
    }

    /// Whether the agent's own end has come.
    pub(crate) fn finished(&self) -> bool {
        let Some(term) = &self.term else { return false };
        let drain = &self.agent.drain;
        let over = !drain.blocks_deploys() || drain.answered();
        let gone = self.last.gone.is_some_and(|seen| seen >= term.at);
        term.again || (over && gone) || self.now() >= self.end_of(term)
    }

    /// The app server's end was seen.
    pub(crate) fn app_server_is_gone(&self) -> bool {
        self.last.gone.is_some()
    }

    fn end_of(&self, term: &Term) -> Moment {
        term.at.plus(u64::try_from(self.inputs.grace_period.as_millis()).unwrap_or(u64::MAX))
    }

    /// How long nothing will be due.
    pub(crate) fn until_deadline(&self) -> Duration {
        let now = self.now();
        let end = self.term.as_ref().map(|term| self.end_of(term));
        let next = [self.agent.deadline(now), end].into_iter().flatten().min();
        next.map_or(Duration::MAX, |at| Duration::from_millis(at.since(now)))
    }

    fn findings(&self) -> Vec<Finding> {
        let Inputs { invalid, standing, .. } = &self.inputs;
        let (restarts, cuts) = (self.foreign_restarts.finding(self.now()), self.cuts.finding(self.now()));
        // No app server is expected before there is a release, or other code, to run.
        let nothing_comes = || self.agent.view().desired.is_none();
        let unborn = !self.current_complete && !self.inputs.policy.fallback && nothing_comes();
        let seen = self.last.findings.iter().filter(|one| !unborn || one.code != Code::AppServerMissing);
        let of_pod = invalid.iter().chain(seen).chain(standing).chain(&self.warmup_failed);
        of_pod.chain(&restarts).chain(&cuts).cloned().collect()
    }

    /// Lets everybody know the state after an event.
    pub(crate) fn publish(&mut self) {
        let now = self.now();
        self.tell_needs();
        let view = self.held.told(self.agent.view());
        self.timings.view(now, &view);
        self.log.view(now, &view);
        let wanted = Attention {
            watchfulness: self.agent.watchfulness(),
            probe_for: self.agent.probe_for(),
            candidate_for: self.agent.probe_candidate_for(),
            second_master: self.inputs.policy.second_master,
            wants_files: self.agent.wants_files(),
            warms: self.warms,
            // While an effect is under way there is no news in it that a look would be due for.
            awaited: self.agent.look_awaited().unwrap_or(self.attention.borrow().awaited),
        };
        self.attention.send_if_modified(|attention| {
            let changed = *attention != wanted;
            *attention = wanted;
            changed
        });
        let wanted = self.agent.reads_fleet();
        self.fleet.send_if_modified(|reading| {
            let changed = *reading != wanted;
            *reading = wanted;
            changed
        });
        let attempt: Attempt = view.attempt;
        let since = Since::after(&self.inputs.snapshots.borrow(), &view, now);
        let snapshot = Snapshot {
            at: now,
            deploy_id: self.inputs.effects.ids().of(attempt),
            view,
            since,
            drain: self.agent.drain.view(now),
            answer: self.answer.clone(),
            app_server: self.last.description.clone(),
            findings: self.findings(),
            fetching_pod: self.inputs.effects.fetching_pod(),
            last_deploy: self.timings.last(),
            in_flight: self.last.in_flight,
            rejected_at: self.inputs.effects.rejected_at(),
            current_complete: self.current_complete,
            // With a configuration that cannot work nothing is ever moved.
            settled: self.inputs.invalid.is_some() || self.agent.settled(),
            seen_current: self.seen_current,
            seen_booted: self.seen_booted,
            warms: self.warms,
        };
        if snapshot.pending().is_empty() && !std::mem::replace(&mut self.noted_ready, true) {
            self.inputs.effects.note_ready();
        }
        self.inputs.snapshots.send_replace(Arc::new(snapshot));
    }
}

/// What holds before the volume has told anything.
pub(super) fn not_read_yet() -> Problem {
    Problem::new(
        Reason::VolumeUnavailable,
        "the volume has not been read yet; deploys start when pitstop knows what this pod runs",
    )
}

/// Said when the app server has gone, and not before: it may finish its requests after SIGTERM.
fn log_cut(cut: &[InWork]) {
    let named: Vec<_> = cut.iter().take(10).map(ToString::to_string).collect();
    tracing::warn!(
        requests = cut.len(),
        "drain: requests cut when the app server ended: {}",
        named.join(", ")
    );
}

fn log_undone(why: Undone) {
    match why {
        Undone::NewImage => {
            tracing::info!("drain undone: the container was restarted and a new app server serves")
        }
        Undone::Operator => tracing::warn!("drain undone by an operator"),
        Undone::FalseDrain => tracing::warn!(
            "drain undone: no SIGTERM within 60 s of the answer; was /prestop called by mistake?"
        ),
    }
}
