//! What a rollout sees: the pointer's document, and the pods by their reports.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{
    journal::{Journal, Share},
    machine::Point,
};
use crate::{
    fleet::{LIVE, Report, Reports},
    pointer::document::{Document, FROZEN},
    revision::{ReleaseId, Revision},
};

/// The clocks of pods may be so far off.
const SKEW: Duration = Duration::from_secs(600);
/// So many releases that somebody rolled back from are remembered.
const ROLLED_BACK_MAX: usize = 20;
/// A part of the fleet is to run another release.
const CANARY: &str = "canary";
/// The last rollout that was taken back.
const ABORTED: &str = "aborted";

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) standing: Standing,
    /// Nobody moves the pointer, and why.
    pub(super) frozen: Option<String>,
    /// The live ones, by name.
    pub(super) pods: Vec<Pod>,
    /// Some pod has reported at some time.
    pub(super) ever: bool,
}

/// What the pointer says of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet.
    Before,
    /// Some pods are to run it.
    Canary {
        /// Which.
        share: Share,
        /// Whose write that was.
        fence: u64,
    },
    /// It names the release.
    Finished,
    /// It was taken back.
    Aborted,
    /// Somebody else has moved it; what it says now.
    Moved(String),
}

/// A live pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) address: Option<String>,
    /// What it was proved to run.
    pub(super) runs: Option<ReleaseId>,
    pub(super) place: Place,
    /// It runs the release, or is about to, or has tried.
    pub(super) on_release: bool,
    /// For so long it has said nothing new.
    pub(super) silent_ms: u64,
    /// After so long without a word it does not read the pointer any more.
    pub(super) patience_ms: u64,
}

/// Where a pod is with the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It is not to run it, or has not read that yet.
    Elsewhere,
    /// It is about to; what it does.
    Coming(String),
    /// It runs it, proved.
    Arrived,
    /// It rejected it; why.
    Failed(String),
}

impl Pod {
    fn of(report: &Report, silent: Duration, journal: &Journal) -> Self {
        let revision = journal.revision();
        let named = report.desired.as_ref() == Some(&revision);
        let place = match report.rejection(&revision) {
            _ if report.has_arrived(&revision) => Place::Arrived,
            Some(reason) => Place::Failed(reason.to_owned()),
            None if named => Place::Coming(match &report.reason {
                Some(reason) => format!("{}, {reason}", report.stage),
                None => report.stage.clone(),
            }),
            None => Place::Elsewhere,
        };
        let runs_it = report.running.as_ref() == Some(&revision.release);
        let reads_each = Duration::from_secs(report.about.poll_s.unwrap_or_default().min(3600));
        Self {
            name: report.pod.clone(),
            address: None,
            runs: report.running.clone(),
            place,
            on_release: named || (runs_it && journal.base.release != revision.release),
            silent_ms: ms(silent),
            patience_ms: ms(LIVE.max(reads_each * 3)),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Seen {
    pub(super) fn of(document: &Document, reports: &Reports, journal: &Journal) -> Self {
        let now = SystemTime::now();
        let live = reports.heard().filter(|(report, silent, news)| is_live(report, *silent, *news, now));
        Self {
            standing: standing(document, journal),
            frozen: document.note(FROZEN).map(|note| note.to_string()),
            pods: live.map(|(report, silent, _)| Pod::of(report, silent, journal)).collect(),
            ever: reports.all().next().is_some(),
        }
    }
}

/// By this process' own clock, as soon as it has heard something new of the pod: clocks may be minutes apart.
fn is_live(report: &Report, silent: Duration, news: bool, now: SystemTime) -> bool {
    let promised = report.promised();
    !report.leaving && silent <= promised && (news || report.age(now) <= promised + SKEW)
}

/// What the pointer says of this rollout.
pub(super) fn standing(document: &Document, journal: &Journal) -> Standing {
    let Some(pointer) = &document.pointer else {
        return Standing::Moved("it is no valid pointer now".into());
    };
    let canary: Option<Value> = document.get(CANARY);
    if pointer.revision == journal.revision() {
        return Standing::Finished;
    }
    if pointer.revision != journal.base {
        return Standing::Moved(format!("it names {} now", pointer.revision));
    }
    match canary {
        Some(canary) if canary["rollout"]["id"] == *journal.id => {
            let fence = canary["rollout"]["fence"].as_u64().unwrap_or_default();
            match (share(&canary), fence > journal.fence) {
                (_, true) => Standing::Moved("the rollout was taken over".into()),
                (Some(share), false) => Standing::Canary { share, fence },
                (None, false) => Standing::Before,
            }
        }
        Some(canary) if Some(&canary) != journal.replaces.as_ref() => {
            let names = canary["release"].as_str().and_then(|text| text.parse::<ReleaseId>().ok());
            let names =
                names.map_or_else(|| "another canary".into(), |release| format!("the canary {release}"));
            Standing::Moved(format!("it has {names} now"))
        }
        _ if document
            .get::<Value>(ABORTED)
            .is_some_and(|aborted| aborted["sequence"] == journal.sequence) =>
        {
            Standing::Aborted
        }
        _ => Standing::Before,
    }
}

fn share(canary: &Value) -> Option<Share> {
    let number = |field: &str| canary[field].as_u64().and_then(|number| u32::try_from(number).ok());
    number("pods").map(Share::Pods).or_else(|| number("percent").map(Share::Percent))
}

/// The pointer's document after a change; `at` is the time now, by this machine's clock.
pub(super) fn changed(document: &Document, journal: &Journal, point: Point, at: &str) -> Document {
    let mut document = document.clone();
    match point {
        Point::Canary(share) => document.set(CANARY, Some(canary(journal, share))),
        Point::Finish => finish(&mut document, journal, at),
        Point::Back => back(&mut document, journal, at),
    }
    Document::of(document.text().as_bytes())
}

fn canary(journal: &Journal, share: Share) -> Value {
    let mut canary = json!({
        "release": journal.release, "sequence": journal.sequence, "sha256": journal.sha256,
        "rollout": { "id": journal.id, "fence": journal.fence },
    });
    match share {
        Share::Pods(count) => canary["pods"] = count.into(),
        Share::Percent(percent) => canary["percent"] = percent.into(),
    }
    if let Some(most) = journal.options.max_unavailable {
        canary["max_unavailable"] = String::from(most).into();
    }
    canary
}

fn finish(document: &mut Document, journal: &Journal, at: &str) {
    let Revision { release, .. } = &journal.base;
    if *release != journal.release {
        document.set("previous", Some(release));
    }
    let mut rolled_back: Vec<ReleaseId> = document.get("rolled_back").unwrap_or_default();
    rolled_back.retain(|release| *release != journal.release);
    document.set("rolled_back", Some(&rolled_back).filter(|all| !all.is_empty()));
    document.set("release", Some(&journal.release));
    document.set("sequence", Some(journal.sequence));
    document.set("sha256", Some(&journal.sha256));
    document.set("moved_by", journal.started.by.as_ref());
    document.set("moved_at", Some(at));
    document.set("why", journal.started.why.as_ref());
    document.set(CANARY, None::<Value>);
    document.set(ABORTED, None::<Value>);
}

fn back(document: &mut Document, journal: &Journal, at: &str) {
    document.set(CANARY, None::<Value>);
    let aborted = json!({
        "release": journal.release, "sequence": journal.sequence, "why": journal.why, "at": at,
    });
    document.set(ABORTED, Some(aborted));
    // The same release again may only have been restarted: it is what runs.
    if journal.base.release != journal.release {
        let mut rolled_back: Vec<ReleaseId> = document.get("rolled_back").unwrap_or_default();
        rolled_back.retain(|release| *release != journal.release);
        rolled_back.insert(0, journal.release.clone());
        rolled_back.truncate(ROLLED_BACK_MAX);
        document.set("rolled_back", Some(rolled_back));
    }
}
