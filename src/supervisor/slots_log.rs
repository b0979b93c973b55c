//! The log of the servers that stand side by side: a line for whatever one of them comes to.

use std::collections::BTreeMap;

use crate::{
    core::{
        Detection, Effect, Generation, GenerationKey, Mode, Moment, Observation, ServerCommand,
        observation::{Beside, Candidate, Lingering, Served, Warmed},
    },
    revision::ReleaseId,
    telemetry::seconds,
};

/// What was said of whom.
#[derive(Debug, Default)]
pub(super) struct SlotsLog {
    candidate: Option<Known>,
    lingering: BTreeMap<GenerationKey, Lingers>,
    /// The last order, which is given again where it failed.
    ordered: Option<(ServerCommand, GenerationKey)>,
}

#[derive(Debug)]
struct Known {
    key: GenerationKey,
    since: Moment,
    booted: bool,
    warmed: bool,
    ended: bool,
    served: Option<Served>,
}

#[derive(Debug)]
struct Lingers {
    release: Option<ReleaseId>,
    since: Moment,
    told: bool,
}

impl SlotsLog {
    /// A look. What it does not show, as in a restart, is not over.
    pub(crate) fn look(&mut self, observation: &Observation) {
        let Detection::Seen(server) = &observation.detection else { return };
        let Beside { candidate, lingering, .. } = &server.beside;
        match candidate {
            Some(candidate) => self.candidate(observation.began, candidate),
            None => self.candidate = None,
        }
        for one in lingering {
            self.lingers(observation.began, one);
        }
        let gone = |key: &GenerationKey, _: &mut Lingers| !lingering.iter().any(|one| one.key == *key);
        for (_, was) in self.lingering.extract_if(.., gone) {
            let after_seconds = seconds(observation.began.since(was.since));
            match was.told {
                true => {
                    tracing::info!(after_seconds, "the earlier server{} has ended", of(was.release.as_ref()))
                }
                false => tracing::info!(
                    after_seconds,
                    "the earlier server{} lingers no more: it serves again, or has ended by itself",
                    of(was.release.as_ref())
                ),
            }
        }
    }

    fn candidate(&mut self, now: Moment, seen: &Candidate) {
        let known = self.candidate.take().filter(|known| known.key == seen.key);
        let mut known = known.unwrap_or_else(|| {
            // One that had ended before it was first seen is not news.
            if !seen.ended {
                tracing::info!("the second server boots: no client reaches it");
            }
            Known { key: seen.key, since: now, booted: false, warmed: false, ended: seen.ended, served: None }
        });
        let after_seconds = seconds(now.since(known.since));
        if let Some(workers) = seen.generation.as_ref().and_then(Generation::all_booted)
            && !known.booted
        {
            known.booted = true;
            tracing::info!(
                after_seconds,
                workers,
                "the second server has booted: it is checked before clients reach it"
            );
        }
        if let Some(Warmed { requests: requests @ 1.., p95_ms }) = seen.warm
            && known.booted
            && !known.warmed
        {
            known.warmed = true;
            tracing::info!(requests, p95_ms, "the second server is warmed up");
        }
        if seen.ended && !known.ended {
            known.ended = true;
            tracing::info!(after_seconds, "the second server has ended");
        }
        known.served = seen.served.or(known.served);
        self.candidate = Some(known);
    }

    fn lingers(&mut self, now: Moment, seen: &Lingering) {
        let release = seen.release.as_ref();
        let known = self.lingering.entry(seen.key).or_insert_with(|| {
            let oldest = seen.oldest_request_ms.map(seconds);
            tracing::info!(
                oldest_request_seconds = oldest,
                "the earlier server{} gets no new connection and finishes its requests",
                of(release)
            );
            Lingers { release: seen.release.clone(), since: now, told: false }
        });
        known.told |= seen.told;
    }

    /// An order is about to be given.
    pub(crate) fn order(&mut self, effect: &Effect) {
        let Effect::Perform { command, on, .. } = *effect else { return };
        if self.ordered.replace((command, on)) == Some((command, on)) {
            return;
        }
        let is_candidate = self.candidate.as_ref().is_some_and(|known| known.key == on);
        match command {
            ServerCommand::Share { permille } if is_candidate => self.share(permille),
            ServerCommand::Switch if is_candidate => {
                tracing::info!("the second server passed its check: new connections go to it from now on");
            }
            ServerCommand::Switch => {
                let release = self.lingering.get(&on).and_then(|known| known.release.as_ref());
                tracing::info!("new connections go back to the earlier server{}", of(release));
            }
            ServerCommand::End => {
                if let Some(known) = self.lingering.get_mut(&on) {
                    known.told = true;
                    tracing::info!("stopping the earlier server{}", of(known.release.as_ref()));
                }
            }
            ServerCommand::Abort(Mode::Beside) => tracing::info!("stopping the second server"),
            ServerCommand::Kill => {
                tracing::warn!("a server that was told to stop has not ended: it is killed")
            }
            _ => {}
        }
    }
}

impl SlotsLog {
    /// Kept connections stay where they are: what was served says more than the share.
    fn share(&self, permille: u32) {
        let served = self.candidate.as_ref().and_then(|known| known.served);
        let (requests, errors) =
            (served.map(|served| served.requests), served.and_then(|served| served.errors));
        let percent = f64::from(permille) / 10.0;
        match permille {
            0 => tracing::warn!(requests, errors, "the second server gets no new connections any more"),
            _ => {
                tracing::info!(percent, requests, errors, "the second server gets a share of new connections")
            }
        }
    }
}

fn of(release: Option<&ReleaseId>) -> String {
    release.map(|release| format!(" ({release})")).unwrap_or_default()
}
