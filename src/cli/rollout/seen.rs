//! What a rollout sees: the pointer's document, and the pods by their reports.

use std::time::{Duration, SystemTime};

use super::{journal::Journal, machine::Point};
use crate::{
    cli::console::one_line,
    fleet::{LIVE, Report, Reports},
    pointer::document::{ABORTED, CANARY, Document, FROZEN},
    revision::{Aborted, Canary, Leader, PodCount, ReleaseId, Revision},
};

/// The clocks of pods may be so far off.
const SKEW: Duration = Duration::from_secs(600);
/// So much of what a pod says in one place is repeated elsewhere.
const SAID_CHARS: usize = 100;
/// So many releases that somebody rolled back from are remembered.
const ROLLED_BACK_MAX: usize = 20;

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
        share: PodCount,
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
    /// It has read of the release, and that it is not among its pods so far.
    pub(super) stays_out: bool,
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
            Some(reason) => Place::Failed(said(reason)),
            None if named => Place::Coming(match &report.reason {
                Some(reason) => format!("{}, {}", said(&report.stage), said(reason)),
                None => said(&report.stage),
            }),
            None => Place::Elsewhere,
        };
        let runs_it = report.running.as_ref() == Some(&revision.release);
        let reads_each = Duration::from_secs(report.about.poll_s.unwrap_or_default().min(3600));
        Self {
            name: report.pod.clone(),
            address: report.about.address.clone().filter(|address| is_address(address)),
            runs: report.running.clone(),
            place,
            on_release: named || (runs_it && journal.base.release != revision.release),
            silent_ms: ms(silent),
            patience_ms: ms(LIVE.max(reads_each * 3)),
            stays_out: report.stays_out_of(&revision),
        }
    }
}

/// A report is forged more easily than a store: what it says goes into messages and the pointer, in one short line.
fn said(text: &str) -> String {
    one_line(text).chars().take(SAID_CHARS).collect()
}

/// Of a host, with or without a port: a script that is given it must find neither an option nor a command in it.
fn is_address(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '[' | ']' | '%');
    !text.is_empty() && text.len() <= 255 && !text.starts_with('-') && text.chars().all(plain)
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
    if pointer.revision == journal.revision() {
        return Standing::Finished;
    }
    if pointer.revision != journal.base {
        return Standing::Moved(format!("it names {} now", pointer.revision));
    }
    match pointer.canary.as_deref() {
        Some(canary @ Canary { rollout: Some(Leader { id, fence }), .. }) if *id == journal.id => {
            match *fence > journal.fence {
                true => Standing::Moved("the rollout was taken over".into()),
                false => Standing::Canary { share: canary.share, fence: *fence },
            }
        }
        Some(canary) if Some(canary) != journal.replaces.as_ref() => {
            Standing::Moved(format!("it has the canary {} now", canary.release))
        }
        _ if pointer.aborted.as_ref().and_then(|aborted| aborted.sequence) == Some(journal.sequence) => {
            Standing::Aborted
        }
        _ => Standing::Before,
    }
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

fn canary(journal: &Journal, share: PodCount) -> Canary {
    Canary {
        release: journal.release.clone(),
        sequence: Some(journal.sequence),
        sha256: Some(journal.sha256.clone()),
        share,
        max_unavailable: journal.options.max_unavailable,
        rollout: Some(Leader { id: journal.id.clone(), fence: journal.fence }),
        chosen: false,
    }
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
    document.set(CANARY, None::<()>);
    document.set(ABORTED, None::<()>);
}

fn back(document: &mut Document, journal: &Journal, at: &str) {
    document.set(CANARY, None::<()>);
    let aborted = Aborted {
        release: journal.release.clone(),
        sequence: Some(journal.sequence),
        why: journal.why.clone(),
        at: Some(at.into()),
    };
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

#[cfg(test)]
mod tests {
    use super::{
        super::machine::tests::{journal, options},
        *,
    };

    #[test]
    fn what_a_pod_says_is_short_and_plain_wherever_it_is_repeated() {
        let journal = journal(options());
        let loud = format!("\u{1b}[2J\n{}", "x".repeat(60_000));
        let text = serde_json::json!({
            "v": 1, "pod": "web-0", "running": null, "desired": { "release": "v42", "sequence": 8 }, "in_sync": false,
            "stage": loud, "reason": loud, "at": "", "address": "10.0.0.1 --upload-file /etc/shadow",
        });
        let report: Report = serde_json::from_value(text).unwrap();
        let pod = Pod::of(&report, Duration::ZERO, &journal);
        let Place::Coming(said) = pod.place else { panic!("{:?}", pod.place) };
        assert!(said.starts_with("\\u{1b}[2J\\nxxx") && said.len() < 300, "{said}");
        assert_eq!(pod.address, None, "a smoke test passes it on to other programs");
    }

    #[test]
    fn an_address_names_a_host() {
        for address in ["10.0.0.1", "fd00::1", "[fd00::1%eth0]:3000", "web-0.shop.svc:3000"] {
            assert!(is_address(address), "{address}");
        }
        for other in ["", "-o", "a b", "$(reboot)", "http://a/b", "a;b", "a\nb"] {
            assert!(!is_address(other), "{other}");
        }
    }
}
