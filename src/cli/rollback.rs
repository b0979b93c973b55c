//! `pitstop rollback [--to ID] [--if-current ID]`: moves the pointer back through its history, never forward.

use super::{Console, Exit, Failure, console::one_line, converge::Wait, moving::Moving, who::Said};
use crate::{
    config::Config,
    fleet::{
        Report,
        moves::{End, Ended, Entry, Moves},
    },
    revision::{Pointer, ReleaseId},
    store::StoreError,
};

/// So far back a way is looked for.
const MOVES_AT_MOST: u64 = 100;

const SAY_WHICH: &str = "choose a release with `pitstop rollback --to ID` (`pitstop releases` lists them)";
const SUPERSEDED: &str = "another move came before most pods ran it";

/// Where back to, and from what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Back {
    /// The release, whatever is known of it; the last good one when absent.
    pub(crate) to: Option<ReleaseId>,
    /// The pointer moves only if it still names this.
    pub(crate) if_current: Option<ReleaseId>,
}

/// Moves it to the last release of its history that the fleet ran, that nobody rolled back from and no pod rejected;
/// or to the release that is named.
///
/// # Errors
/// [`Failure`] with the message for the user: nothing was moved.
pub(crate) async fn run(
    config: &Config,
    back: Back,
    said: &Said,
    wait: Option<Wait>,
    console: Console,
) -> Result<Exit, Failure> {
    let mut moving = Moving::begin(config, back.to.as_ref(), "rollback", said).await?;
    if let Some(expected) = &back.if_current {
        still_names(&moving, expected)?;
    }
    if moving.swap.is_new() {
        return Err(moving.swap.missing().await);
    }
    let id = match back.to {
        Some(id) => id,
        None => found(&moving).await?,
    };
    moving.leave(&id);
    moving.to(id, false, wait, console).await
}

fn still_names(moving: &Moving, expected: &ReleaseId) -> Result<(), Failure> {
    let now = moving.now().map(|now| &now.revision.release);
    if now == Some(expected) {
        return Ok(());
    }
    let names = now.map_or_else(|| "no release".to_owned(), ToString::to_string);
    Err(Failure::lost(format!(
        "{} points to {names}, not {expected}: somebody has moved it since, so nothing was changed",
        moving.swap.name
    )))
}

async fn found(moving: &Moving) -> Result<ReleaseId, Failure> {
    let name = &moving.swap.name;
    let Some(now) = moving.now() else {
        return Err(Failure::failed(format!(
            "{name} is not a valid pointer, so the previous release is unknown; {SAY_WHICH}"
        )));
    };
    // One after the other: a directory's thread refuses more than a few calls at a time.
    let (reports, history) = (moving.reports().await, history(moving).await);
    let current = &now.revision.release;
    let back = way_back(current, &earlier(now, history), moving.rolled_back(), &reports);
    back.map_err(|passed| Failure::failed(nowhere(name, current, &passed)))
}

/// A store that does not tell must not be what keeps a team from going back at night.
async fn history(moving: &Moving) -> Vec<Entry> {
    let sequence = moving.now().and_then(|now| now.revision.sequence);
    let Some(before) = sequence.and_then(|sequence| sequence.checked_sub(1)) else { return Vec::new() };
    let moves = Moves::of(&moving.swap.store, &moving.swap.name);
    match moves.back_from(before, MOVES_AT_MOST).await {
        Ok(entries) => entries,
        // Without the right to list, what is not there is denied.
        Err(StoreError::Denied(_)) => Vec::new(),
        Err(error) => {
            eprintln!("pitstop: the history cannot be read, so only the release before is known: {error}");
            Vec::new()
        }
    }
}

/// What an earlier move named, and how that ended.
type Earlier = (ReleaseId, Option<End>);

/// The last one first. Of the one before this, the pointer itself knows, too.
fn earlier(now: &Pointer, history: Vec<Entry>) -> Vec<Earlier> {
    let before = now.revision.sequence.and_then(|sequence| sequence.checked_sub(1));
    let written = history.first().is_some_and(|entry| Some(entry.made.sequence) == before);
    let previous = now.previous.clone().filter(|_| !written).map(|release| (release, None));
    previous.into_iter().chain(history.into_iter().map(|entry| (entry.made.release, entry.end))).collect()
}

/// The last release that the fleet ran, or that no pod has reported on; else the one just before this, if all that is
/// known is that it was superseded: reports lag behind a quick second move. Else which ones are no way back, and why.
fn way_back(
    current: &ReleaseId,
    earlier: &[Earlier],
    rolled_back: &[ReleaseId],
    reports: &[Report],
) -> Result<ReleaseId, Vec<(ReleaseId, String)>> {
    let mut passed: Vec<(ReleaseId, String)> = Vec::new();
    for (release, end) in earlier {
        if release == current || passed.iter().any(|(known, why)| known == release && why != SUPERSEDED) {
            continue;
        }
        let rejected = reports.iter().find_map(|report| {
            let reason = rejection(report, release)?;
            Some(format!("{} rejected it ({})", one_line(&report.pod), one_line(reason)))
        });
        let why = match end.as_ref().map(|end| end.result) {
            _ if rolled_back.contains(release) => "it was rolled back from".to_owned(),
            _ if let Some(rejected) = rejected => rejected,
            Some(Ended::Rejected) => {
                let by = end.as_ref().map(|end| end.message.as_str()).unwrap_or_default();
                format!("it was rejected ({})", one_line(by))
            }
            Some(Ended::Superseded) => SUPERSEDED.to_owned(),
            Some(Ended::Verified | Ended::Unknown) | None => return Ok(release.clone()),
        };
        passed.retain(|(known, _)| known != release);
        passed.push((release.clone(), why));
    }
    let just_before = earlier.first().map(|(release, _)| release);
    let only_superseded =
        |release: &&ReleaseId| passed.contains(&((*release).clone(), SUPERSEDED.to_owned()));
    just_before.filter(only_superseded).cloned().ok_or(passed)
}

fn nowhere(name: &str, current: &ReleaseId, passed: &[(ReleaseId, String)]) -> String {
    let passed: Vec<_> = passed.iter().map(|(release, why)| format!("{release}: {why}")).collect();
    let none = match passed.is_empty() {
        true => "no earlier release is known".to_owned(),
        false => format!("no earlier release is a way back ({})", passed.join("; ")),
    };
    format!("{name} points to {current}, and {none}; {SAY_WHICH}")
}

/// Why this pod rejected the release, whichever move named it.
fn rejection<'a>(report: &'a Report, release: &ReleaseId) -> Option<&'a str> {
    let runs_it = report.running.as_ref() == Some(release);
    let mut rejected = report.rejected.iter().rev();
    rejected.find(|rejected| !runs_it && rejected.revision.release == *release).map(|one| one.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(release: &str) -> ReleaseId {
        release.parse().unwrap()
    }

    fn ended(release: &str, result: Ended) -> Earlier {
        (id(release), Some(End { v: 1, result, message: "web-1: boot_failed".into(), by: None, at: None }))
    }

    fn back(earlier: &[Earlier], rolled_back: &[&str]) -> Result<String, String> {
        let rolled_back: Vec<_> = rolled_back.iter().map(|release| id(release)).collect();
        let found = way_back(&id("v9"), earlier, &rolled_back, &[]);
        found.map(|release| release.to_string()).map_err(|passed| {
            nowhere("production", &id("v9"), &passed).split("; choose").next().unwrap_or_default().to_owned()
        })
    }

    #[test]
    fn the_way_back_is_the_last_release_that_the_fleet_ran_and_nobody_rolled_back_from() {
        let history = [
            ended("v8", Ended::Superseded),
            ended("v7", Ended::Rejected),
            ended("v6", Ended::Verified),
            ended("v5", Ended::Verified),
        ];
        assert_eq!(back(&history, &[]), Ok("v6".into()));
        assert_eq!(back(&history, &["v6"]), Ok("v5".into()));
        assert_eq!(
            back(&history[1..2], &[]).unwrap_err(),
            "production points to v9, and no earlier release is a way back (v7: it was rejected (web-1: boot_failed))"
        );
        assert_eq!(back(&[], &[]).unwrap_err(), "production points to v9, and no earlier release is known");
    }

    #[test]
    fn where_no_release_is_known_to_have_run_the_one_just_before_is_the_way_back_unless_it_was_bad() {
        let (v8, v7) = (ended("v8", Ended::Superseded), ended("v7", Ended::Superseded));
        assert_eq!(back(&[v8.clone(), v7.clone()], &[]), Ok("v8".into()));
        assert!(back(&[v8.clone(), v7], &["v8"]).is_err(), "nobody knows whether v7 is any good");
        assert!(back(&[v8, ended("v8", Ended::Rejected)], &[]).is_err(), "the only thing known of it is bad");
    }

    #[test]
    fn what_nobody_reported_on_is_as_good_as_before_there_was_a_history() {
        assert_eq!(back(&[(id("v8"), None), ended("v7", Ended::Verified)], &[]), Ok("v8".into()));
    }

    #[test]
    fn the_last_word_on_a_release_counts() {
        let rejected_since = [ended("v8", Ended::Rejected), ended("v8", Ended::Verified)];
        assert!(back(&rejected_since, &[]).is_err());
        let verified_before = [ended("v8", Ended::Superseded), ended("v8", Ended::Verified)];
        assert_eq!(back(&verified_before, &[]), Ok("v8".into()));
        let current = [ended("v9", Ended::Verified), ended("v7", Ended::Verified)];
        assert_eq!(back(&current, &[]), Ok("v7".into()), "never to where it is");
    }

    #[test]
    fn without_a_history_the_pointer_itself_names_the_release_before() {
        let pointer = crate::pointer::parse(br#"{"release":"v9","sequence":9,"previous":"v8"}"#).unwrap();
        assert_eq!(earlier(&pointer, Vec::new()), [(id("v8"), None)]);
    }
}
