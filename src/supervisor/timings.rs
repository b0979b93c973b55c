//! How long things took: for the metrics and for people, nothing is decided by it.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{
    core::{Attempt, DeployResult, Effect, Event, Mode, Moment, Outcome, ServerCommand, Stage, Step, View},
    metrics::{self, Metrics},
    revision::Revision,
    status::LastDeploy,
};

pub(crate) struct DeployTimings {
    metrics: Arc<Metrics>,
    stage: (Stage, Moment),
    /// What the metrics say already.
    told: Option<View>,
    begun: HashMap<Attempt, Moment>,
    signal: Option<(Attempt, Mode, Moment)>,
    last: Option<LastDeploy>,
}

impl DeployTimings {
    pub(crate) fn new(metrics: Arc<Metrics>, now: Moment) -> Self {
        let stage = (Stage::Steady, now);
        Self { metrics, stage, told: None, begun: HashMap::new(), signal: None, last: None }
    }

    /// The state after an event.
    pub(crate) fn view(&mut self, now: Moment, view: &View) {
        if self.told.as_ref() == Some(view) {
            return;
        }
        self.told = Some(view.clone());
        let (stage, since) = self.stage;
        if stage != view.stage {
            if stage != Stage::Steady {
                self.metrics.stage_left(stage, seconds(now, since));
            }
            self.stage = (view.stage, now);
        }
        if !matches!(view.stage, Stage::Steady | Stage::Stranded) {
            self.begun.entry(view.attempt).or_insert(now);
        }
        self.metrics.view(view);
    }

    /// An effect is about to start. Returns for how many seconds the deploy had been under way.
    pub(crate) fn effect(&mut self, now: Moment, effect: &Effect) {
        match effect {
            Effect::Perform {
                attempt,
                command: ServerCommand::Restart(mode) | ServerCommand::Abort(mode),
                ..
            } => {
                self.signal = Some((*attempt, *mode, now));
            }
            Effect::Conclude { attempt, revision, result } => self.conclude(now, *attempt, revision, result),
            _ => {}
        }
    }

    pub(crate) fn event(&self, event: &Event) {
        match (event, self.signal) {
            (
                Event::Finished {
                    attempt,
                    step: Step::Perform(ServerCommand::Restart(_) | ServerCommand::Abort(_)),
                    outcome,
                },
                Some((ours, mode, _)),
            ) if *attempt == ours && *outcome != Outcome::Unknown => {
                self.metrics.restart_sent(mode, *outcome == Outcome::Done);
            }
            (Event::Observed(observation), _) => self.metrics.observed(observation),
            _ => {}
        }
    }

    /// The deploy that ended last.
    pub(crate) fn last(&self) -> Option<LastDeploy> {
        self.last.clone()
    }

    fn conclude(&mut self, now: Moment, attempt: Attempt, revision: &Revision, result: &DeployResult) {
        let begun = self.begun.remove(&attempt).unwrap_or(now);
        self.begun.clear();
        self.metrics.concluded(result, seconds(now, begun));
        let (word, reason) = metrics::result_names(result);
        self.last = Some(LastDeploy {
            revision: revision.clone(),
            result: word.into(),
            reason: reason.map(|reason| reason.code().into()),
            seconds: seconds(now, begun),
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        });
        match self.signal.take() {
            Some((ours, mode, sent)) if ours == attempt && *result == DeployResult::Verified => {
                self.metrics.restart_proved(mode, seconds(now, sent));
            }
            _ => {}
        }
    }
}

fn seconds(now: Moment, since: Moment) -> f64 {
    now.since(since) as f64 / 1000.0
}
