//! `pitstop rollback [--to ID] [--if-current ID]`: moves the pointer back, never forward.

use super::{Console, Exit, Failure, console::one_line, converge::Wait, moving::Moving};
use crate::{
    config::Config,
    fleet::{Report, Reports},
    revision::{Pointer, ReleaseId},
};

/// Where back to, and from what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Back {
    /// The release, whatever is known of it; the one before when absent.
    pub(crate) to: Option<ReleaseId>,
    /// The pointer moves only if it still names this.
    pub(crate) if_current: Option<ReleaseId>,
}

/// Moves it to its `previous`, if nobody rolled back from that and no pod rejected it; or to the release that is named.
///
/// # Errors
/// [`Failure`] with the message for the user: nothing was moved.
pub(crate) async fn run(
    config: &Config,
    back: Back,
    wait: Option<Wait>,
    console: Console,
) -> Result<Exit, Failure> {
    let mut moving = Moving::begin(config, back.to.as_ref()).await?;
    if let Some(expected) = &back.if_current {
        still_names(&moving, expected)?;
    }
    if moving.is_new() {
        return Err(moving.missing().await);
    }
    let id = match back.to {
        Some(id) => id,
        None => {
            let reports = reports(&moving).await;
            way_back(&moving.name, moving.now.as_ref(), moving.rolled_back(), &reports)
                .map_err(Failure::failed)?
        }
    };
    moving.leave(&id);
    moving.to(id, false, wait, console).await
}

fn still_names(moving: &Moving, expected: &ReleaseId) -> Result<(), Failure> {
    let now = moving.now.as_ref().map(|now| &now.revision.release);
    if now == Some(expected) {
        return Ok(());
    }
    let names = now.map_or_else(|| "no release".to_owned(), ToString::to_string);
    Err(Failure::lost(format!(
        "{} points to {names}, not {expected}: somebody has moved it since, so nothing was changed",
        moving.name
    )))
}

/// A store that does not tell must not be what keeps a team from going back at night.
async fn reports(moving: &Moving) -> Vec<Report> {
    let mut reports = Reports::of(&moving.store, &moving.name);
    if let Err(error) = reports.look().await {
        eprintln!("pitstop: the pods' reports cannot be read, so rejections are unknown: {error}");
    }
    reports.all().cloned().collect()
}

/// The release before, if it is a way back; else why there is none.
fn way_back(
    name: &str,
    now: Option<&Pointer>,
    rolled_back: &[ReleaseId],
    reports: &[Report],
) -> Result<ReleaseId, String> {
    let say_which = "choose a release with `pitstop rollback --to ID` (`pitstop releases` lists them)";
    let Some(now) = now else {
        return Err(format!(
            "{name} is not a valid pointer, so the previous release is unknown; {say_which}"
        ));
    };
    let current = &now.revision.release;
    let Some(previous) = now.previous.as_ref().filter(|previous| *previous != current) else {
        return Err(format!("{name} points to {current} and names no previous release; {say_which}"));
    };
    if rolled_back.contains(previous) {
        return Err(format!(
            "{name} was already rolled back from {previous} to {current}, and no earlier release is known; \
             {say_which}"
        ));
    }
    let rejected = reports.iter().find_map(|report| Some((report, rejection(report, previous)?)));
    if let Some((report, reason)) = rejected {
        return Err(format!(
            "the release before {current} is {previous}, which {} rejected ({}); {say_which}",
            one_line(&report.pod),
            one_line(reason)
        ));
    }
    Ok(previous.clone())
}

/// Why this pod rejected the release, whichever move named it.
fn rejection<'a>(report: &'a Report, release: &ReleaseId) -> Option<&'a str> {
    let runs_it = report.running.as_ref() == Some(release);
    let mut rejected = report.rejected.iter().rev();
    rejected.find(|rejected| !runs_it && rejected.revision.release == *release).map(|one| one.reason.as_str())
}
