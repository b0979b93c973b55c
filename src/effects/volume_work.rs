//! The effects that work on the volume, each on its lane.

use std::time::{Duration, SystemTime};

use super::{Effects, pause_at};
use crate::{
    app_server::Wanted,
    core::{Outcome, Problem, Reason, Record, requirement::Requirement},
    hook::Turn,
    lane::{Lane, Late},
    releases::fetch::Fetched,
    revision::{RecordEvent, ReleaseId},
    revisions_log::Log,
    store::CallOff,
};

/// The lane itself never gives up: the effect's own deadline reports what hangs, and the result
/// still counts when it comes.
const UNTIL_IT_REPORTS: Duration = Duration::from_secs(365 * 86_400);

/// A volume that takes longer to show its root is out of order.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Runs a job on a lane until it reports.
pub(super) async fn on<T: Send + 'static>(
    lane: &Lane,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let lost = || Problem::new(Reason::Internal, "a volume job was lost to a defect; the log shows where");
    match lane.run(UNTIL_IT_REPORTS, job).await {
        Ok(result) => Ok(result),
        Err(Late::Pending(answer)) => answer.await.map_err(|_| lost()),
        Err(Late::Refused | Late::Lost) => Err(lost()),
    }
}

impl Effects {
    /// Makes the release complete on the volume.
    pub(super) async fn fetch(
        &self,
        release: ReleaseId,
        sha256: Option<String>,
        off: CallOff,
    ) -> Result<Outcome, Problem> {
        pause_at("effects.before_fetch").await;
        if release.is_fallback() {
            // It is in the image.
            return Ok(Outcome::Done);
        }
        self.ask_volume().await?;
        let mut fetched = self.fetch_once(&release, sha256.as_deref(), &off).await;
        while fetched.as_ref().is_err_and(|t| t.reason == Reason::NoSpace) && self.make_room().await {
            fetched = self.fetch_once(&release, sha256.as_deref(), &off).await;
        }
        if fetched.is_err() {
            // It has left something.
            self.tidy_soon();
        }
        if let Some(fetched) = fetched? {
            self.tools.metrics.fetched(&fetched);
        }
        self.share_assets().await?;
        pause_at("effects.after_fetch").await;
        Ok(Outcome::Done)
    }

    /// Before any page of the release is out.
    async fn share_assets(&self) -> Result<(), Problem> {
        let tools = self.tools.clone();
        let shared = on(&self.volume, move || tools.releases.share_assets()).await?;
        if let Err(problem) = shared {
            tracing::warn!(
                detail = problem.message,
                "the assets of all releases are not in one place: a page may not find those of its release"
            );
        }
        Ok(())
    }

    /// Answers how it came onto the volume; nothing where there is no store that it could have come from.
    async fn fetch_once(
        &self,
        release: &ReleaseId,
        sha256: Option<&str>,
        off: &CallOff,
    ) -> Result<Option<Fetched>, Problem> {
        let (sha256, off) = (sha256.map(ToOwned::to_owned), off.clone());
        let (tools, holder, release) = (self.tools.clone(), self.holder.clone(), release.clone());
        on(&self.volume, move || {
            holder.hold(&release)?;
            match &tools.store {
                Some(store) => tools.releases.fetch(&store.until(off), &release, sha256.as_deref()).map(Some),
                None => match tools.releases.marker(&release)? {
                    Some(marker) => tools.releases.check_signature(None, &marker).map(|()| None),
                    None => Err(Problem::new(
                        Reason::ReleaseUnknown,
                        format!(
                            "{release} is not on the volume, and without `source` nothing can be fetched"
                        ),
                    )),
                },
            }
        })
        .await?
    }

    /// A fetch may take long for good reasons. Whether the volume answers at all is known sooner.
    async fn ask_volume(&self) -> Result<(), Problem> {
        let tools = self.tools.clone();
        match self.volume.run(SIGN_OF_LIFE, move || tools.releases.check_volume()).await {
            Ok(answer) => answer,
            Err(_) => Err(Problem::new(
                Reason::VolumeUnavailable,
                format!("the volume has not answered for {SIGN_OF_LIFE:?}; the fetch begins when it does"),
            )),
        }
    }

    /// Could the app server be moved to the release, and how? Long requests are the core's matter.
    pub(super) async fn check(
        &self,
        (running, release): (Option<ReleaseId>, ReleaseId),
        beside: bool,
        trial: Option<Turn>,
    ) -> Result<Outcome, Problem> {
        let (tools, id) = (self.tools.clone(), release.clone());
        let Some(marker) = on(&self.volume, move || tools.releases.marker(&id)).await?? else {
            let message =
                format!("{release} was fetched and is gone again from the volume; it is fetched anew");
            return Err(Problem::new(Reason::VolumeUnavailable, message));
        };
        self.check_image(&release, &marker.requires).await?;
        let plan = self
            .tools
            .app_server
            .plan(Wanted { running: running.as_ref(), release: &release, beside })
            .await?;
        // Last: it is the longest, and what can be refused without it need not be booted.
        let checked = match trial {
            Some(turn) => self.try_release(turn, &release, running, Outcome::Checked(plan)).await?,
            None => Outcome::Checked(plan),
        };
        pause_at("effects.after_check").await;
        Ok(checked)
    }

    /// Does the image bring what the release needs?
    async fn check_image(&self, release: &ReleaseId, requires: &[String]) -> Result<(), Problem> {
        if requires.is_empty() {
            return Ok(());
        }
        let requires = Requirement::parse_list(&requires.join(" "));
        let lacks = self.tools.app_server.lacks(requires).await?;
        if lacks.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{release} needs what this image does not bring: {}; roll the pods onto an image that does, and it is deployed",
            lacks.join(", ")
        );
        Err(Problem::new(Reason::NeedsImage, message))
    }

    /// Points `current` to the release.
    pub(super) async fn publish(&self, release: ReleaseId) -> Result<Outcome, Problem> {
        let (tools, holder) = (self.tools.clone(), self.holder.clone());
        let outcome = on(&self.volume, move || {
            // It is named since it was fetched, or since it ran. If not, the way back goes first.
            if let Err(problem) = holder.hold(&release) {
                tracing::warn!(
                    detail = problem.message,
                    "the lease of this pod does not name the release yet"
                );
            }
            let Err(problem) = tools.releases.publish(&release) else {
                return Outcome::Done;
            };
            Outcome::NotPublished { problem, current: tools.releases.current().ok().flatten() }
        })
        .await?;
        if outcome == Outcome::Done {
            pause_at("effects.after_publish").await;
        }
        Ok(outcome)
    }

    /// Appends a line to the journal, synced.
    pub(super) async fn record(&self, record: Record) -> Result<Outcome, Problem> {
        let (before, after) = points(record.event);
        pause_at(before).await;
        let (log, path, line) = (self.log.clone(), self.tools.journal.clone(), record.clone());
        on(&self.lines, move || {
            let mut log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if log.is_none() {
                *log = Some(Log::open(path)?.0);
            }
            log.as_mut().map_or(Ok(()), |log| log.append(&line))
        })
        .await??;
        if record.event == RecordEvent::Rejected {
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            let mut at = self.rejected_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            std::sync::Arc::make_mut(&mut at).insert(record.revision, now);
        }
        pause_at(after).await;
        Ok(Outcome::Done)
    }
}

fn points(event: RecordEvent) -> (&'static str, &'static str) {
    match event {
        RecordEvent::Attempt => ("effects.before_attempt", "effects.after_attempt"),
        RecordEvent::Signalled => ("effects.before_signalled", "effects.after_signalled"),
        RecordEvent::Verified => ("effects.before_verified", "effects.after_verified"),
        RecordEvent::Rejected => ("effects.before_rejected", "effects.after_rejected"),
        RecordEvent::Reverted => ("effects.before_reverted", "effects.after_reverted"),
    }
}
