//! The log of a deploy: one line when a stage begins, one when something fails or holds it up, one at its end. Each
//! names the release, the move and the deploy. What lasts is said again after growing pauses, not at each look.

use tracing::Span;

use super::{slots_log::SlotsLog, state};
use crate::{
    core::{
        Attempt, DeployResult, Effect, Event, Mode, Moment, Moving, Outcome, Problem, Reason, ServerCommand,
        Stage, Step, View,
    },
    revision::{ReleaseId, Revision},
    telemetry::{DeployIds, seconds, word},
};

/// What lasts is said again after this; after each time the pause doubles,
const FIRST_PAUSE_MS: u64 = 60_000;
/// up to this.
const LONGEST_PAUSE_MS: u64 = 3_600_000;

pub(crate) struct DeployLog {
    ids: DeployIds,
    stage: Stage,
    stage_since: Moment,
    /// The deploy under way, and since when.
    deploy: Option<(Attempt, Moving, Moment)>,
    told: Option<Told>,
    slots: SlotsLog,
}

/// A problem that was said.
struct Told {
    reason: Reason,
    since: Moment,
    again: Moment,
    pause_ms: u64,
}

impl DeployLog {
    pub(crate) fn new(ids: DeployIds, now: Moment) -> Self {
        Self {
            ids,
            stage: Stage::Steady,
            stage_since: now,
            deploy: None,
            told: None,
            slots: SlotsLog::default(),
        }
    }

    /// What is logged inside belongs to the deploy that the effect is for.
    pub(crate) fn span_of(&self, effect: &Effect) -> Span {
        let attempt = match effect {
            Effect::Fetch { attempt, .. }
            | Effect::Check { attempt, .. }
            | Effect::Record { attempt, .. }
            | Effect::Publish { attempt, .. }
            | Effect::Perform { attempt, .. } => *attempt,
            Effect::Conclude { attempt, revision, .. } => return self.span(*attempt, revision),
            Effect::Notice(_) | Effect::Drain(_) => return Span::none(),
        };
        match &self.deploy {
            Some((_, moving, _)) => self.span(attempt, &moving.revision),
            None => Span::none(),
        }
    }

    fn span(&self, attempt: Attempt, revision: &Revision) -> Span {
        let (deploy_id, release) = (self.ids.of(attempt), revision.release.as_str());
        tracing::info_span!("deploy", deploy_id, release, sequence = revision.sequence)
    }

    fn here(&self) -> Span {
        let deploy = self.deploy.as_ref();
        deploy.map_or_else(Span::none, |(attempt, moving, _)| self.span(*attempt, &moving.revision))
    }

    /// A result has come in.
    pub(crate) fn event(&mut self, now: Moment, event: &Event) {
        if let Event::Observed(observation) = event {
            let here = self.here();
            here.in_scope(|| self.slots.look(observation));
        }
        let Event::Finished { attempt, step, outcome } = event else { return };
        if self.deploy.as_ref().is_none_or(|(ours, ..)| ours != attempt) {
            return;
        }
        match outcome {
            Outcome::Failed(problem)
            | Outcome::Condemned(problem)
            | Outcome::NotPublished { problem, .. } => self.failed(now, *step, problem),
            Outcome::Done | Outcome::Checked(_) | Outcome::Unknown => {}
        }
    }

    fn failed(&mut self, now: Moment, step: Step, problem: &Problem) {
        let what = match step {
            Step::Fetch => "the release was not fetched",
            Step::Check => "the check failed",
            Step::Record(_) => "revisions.log was not written",
            Step::Publish => "`current` was not switched",
            Step::Perform(_) => "the restart signal was not sent",
        };
        if let Some(for_seconds) = self.is_news(now, problem.reason) {
            let (reason, detail) = (problem.reason.code(), &problem.message);
            self.here().in_scope(|| tracing::warn!(reason, for_seconds, "{what}: {detail}"));
        }
    }

    /// What the core wants next, before any of it begins.
    pub(crate) fn step(&mut self, now: Moment, effects: &[Effect], view: &View) {
        for effect in effects {
            if let Effect::Conclude { attempt, revision, result } = effect {
                let span = self.span(*attempt, revision);
                span.in_scope(|| self.conclude(now, *attempt, revision, result));
            }
        }
        self.view(now, view);
        for effect in effects {
            if let Effect::Perform { command: ServerCommand::Restart(mode), .. } = effect {
                self.here().in_scope(|| self.restarting(now, *mode));
            }
            let here = self.here();
            here.in_scope(|| self.slots.order(effect));
        }
    }

    /// The stage alone does not say that anything is restarted: it may turn out that all runs the release already.
    fn restarting(&mut self, now: Moment, mode: Mode) {
        let ((after, after_seconds), stage) = (self.before(now), Stage::Restarting);
        let what = match mode {
            Mode::Beside => "starting a second server beside the one that serves".into(),
            mode => format!("restarting the app server ({})", word(mode)),
        };
        tracing::info!(stage = stage.name(), after, after_seconds, "{what}");
        (self.stage, self.stage_since) = (stage, now);
    }

    /// The state after an event.
    pub(crate) fn view(&mut self, now: Moment, view: &View) {
        let begun =
            self.deploy.take().filter(|(attempt, ..)| *attempt == view.attempt).map(|(.., begun)| begun);
        let fresh = begun.is_none();
        let begun = begun.unwrap_or(now);
        self.deploy = view.moving.clone().map(|moving| (view.attempt, moving, begun));
        let changed = self.stage != view.stage || (fresh && view.moving.is_some());
        if changed && view.stage != Stage::Restarting {
            self.here().in_scope(|| self.stage(now, view, fresh));
            (self.stage, self.stage_since) = (view.stage, now);
        }
        self.problem(now, view);
    }

    /// One line; the end of a deploy has its own.
    fn stage(&mut self, now: Moment, view: &View, fresh: bool) {
        let Some(Moving { revision, back_to }) = &view.moving else { return };
        let what = match view.stage {
            Stage::Steady | Stage::Stranded | Stage::Restarting => return,
            Stage::Fetching => format!("deploy of {revision} started: fetching the release"),
            Stage::Checking => format!("checking whether {revision} can run here and how to restart"),
            Stage::Publishing => format!("switching `current` to {revision}"),
            Stage::Verifying => format!("waiting until every worker runs {revision}"),
            Stage::Committing => format!("every worker runs {revision}: recording it"),
            Stage::Reverting => return self.reverting(now, view, revision, back_to.as_ref()),
        };
        let stage = view.stage.name();
        match fresh {
            true => tracing::info!(stage, "{what}"),
            false => {
                let (after, after_seconds) = self.before(now);
                tracing::info!(stage, after, after_seconds, "{what}");
            }
        }
    }

    fn before(&self, now: Moment) -> (&'static str, f64) {
        (self.stage.name(), seconds(now.since(self.stage_since)))
    }

    fn reverting(&mut self, now: Moment, view: &View, revision: &Revision, back_to: Option<&ReleaseId>) {
        let (after, after_seconds) = self.before(now);
        let why = view.problem.as_ref();
        let (reason, detail) = (why.map(|t| t.reason.code()), why.map_or("", |t| &t.message));
        let back = back_to.map_or_else(
            || "looking for a release to roll back to".into(),
            |id| format!("rolling back to {id}"),
        );
        let stage = view.stage.name();
        tracing::warn!(stage, reason, after, after_seconds, "deploy of {revision} failed: {detail}; {back}");
        if let Some(problem) = why {
            self.is_news(now, problem.reason);
        }
    }

    fn conclude(&mut self, now: Moment, attempt: Attempt, revision: &Revision, result: &DeployResult) {
        let ours = self.deploy.take().filter(|(ours, ..)| *ours == attempt);
        let seconds = ours.map(|(.., begun)| seconds(now.since(begun)));
        // What it was held up by goes with it.
        self.told = None;
        match result {
            DeployResult::Verified => {
                tracing::info!(result = "verified", seconds, "deploy of {revision} ended: it runs")
            }
            DeployResult::Superseded => {
                tracing::info!(
                    result = "superseded",
                    seconds,
                    "deploy of {revision} ended: another move came first"
                );
            }
            DeployResult::Reverted(why) => warn(revision, "reverted", "rolled back", why, seconds),
            DeployResult::Refused(why) => warn(revision, "refused", "nothing was changed", why, seconds),
            DeployResult::Stranded(why) => {
                warn(revision, "stranded", "rollback is not possible", why, seconds)
            }
        }
        if let DeployResult::Reverted(why) | DeployResult::Refused(why) | DeployResult::Stranded(why) = result
        {
            self.is_news(now, why.reason);
        }
    }

    /// What holds a deploy up, or keeps one from beginning, where nobody else says it.
    fn problem(&mut self, now: Moment, view: &View) {
        match &view.problem {
            Some(problem) if !is_said_elsewhere(problem, view.stage) => {
                let Some(for_seconds) = self.is_news(now, problem.reason) else { return };
                let (reason, detail) = (problem.reason.code(), &problem.message);
                self.here().in_scope(|| match problem.reason {
                    Reason::LongRequests => tracing::info!(reason, for_seconds, "{detail}"),
                    _ => tracing::warn!(reason, for_seconds, "{detail}"),
                });
            }
            Some(_) => {}
            None => self.told = None,
        }
    }

    /// For how many seconds it has been so, if that is to be said now.
    fn is_news(&mut self, now: Moment, reason: Reason) -> Option<f64> {
        let Some(told) = self.told.as_mut().filter(|told| told.reason == reason) else {
            let again = now.plus(FIRST_PAUSE_MS);
            self.told = Some(Told { reason, since: now, again, pause_ms: FIRST_PAUSE_MS });
            return Some(0.0);
        };
        if now < told.again {
            return None;
        }
        told.pause_ms = (told.pause_ms * 2).min(LONGEST_PAUSE_MS);
        told.again = now.plus(told.pause_ms);
        Some(seconds(now.since(told.since)))
    }
}

fn warn(revision: &Revision, result: &str, what: &str, why: &Problem, seconds: Option<f64>) {
    let (reason, detail) = (why.reason.code(), &why.message);
    tracing::warn!(result, reason, seconds, "deploy of {revision} ended: {what}: {detail}");
}

/// By who reads the pointer, who drains, who obeys an operator, or with the deploy that ended.
fn is_said_elsewhere(problem: &Problem, stage: Stage) -> bool {
    let at_rest = matches!(stage, Stage::Steady | Stage::Stranded);
    match problem.reason {
        Reason::PointerInvalid
        | Reason::PointerUnreadable
        | Reason::StoreUnreachable
        | Reason::StoreDenied => at_rest,
        Reason::Rejected | Reason::Held | Reason::Draining | Reason::ConfigInvalid => true,
        Reason::VolumeUnavailable if *problem == state::not_read_yet() => true,
        _ => stage == Stage::Reverting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> DeployLog {
        DeployLog::new(DeployIds::since(1), Moment(0))
    }

    #[test]
    fn what_lasts_is_said_again_after_growing_pauses() {
        let mut log = log();
        let said = (0..24 * 3600)
            .filter(|second| log.is_news(Moment(second * 1000), Reason::VolumeUnavailable).is_some());
        let said: Vec<_> = said.collect();
        assert_eq!(said[..6], [0, 60, 180, 420, 900, 1860]);
        assert!(said.len() < 32, "at most once an hour in the end: {}", said.len());
    }

    #[test]
    fn another_reason_is_said_at_once() {
        let mut log = log();
        assert!(log.is_news(Moment(0), Reason::VolumeUnavailable).is_some());
        assert!(log.is_news(Moment(1), Reason::NoSpace).is_some());
        assert!(log.is_news(Moment(2), Reason::NoSpace).is_none());
    }
}
