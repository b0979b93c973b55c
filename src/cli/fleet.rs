//! `pitstop fleet`: what each pointer names, and which pods run what.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    Console, Exit, Failure,
    pointers::{self, Listed},
    publish::{failure, usage},
    swap,
    table::{or_dash, table},
};
use crate::{
    config::Config,
    fleet::{About, Report, Reports},
    revision::{ReleaseId, Revision},
    status::LastDeploy,
    store,
};

/// A pod that was not heard of for so long is not named any more.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// All pointers, or the one that was asked for.
#[derive(Debug, Serialize)]
struct Answer {
    pointers: Vec<Followed>,
}

/// A pointer and the pods that follow it.
#[derive(Debug, Serialize)]
struct Followed {
    #[serde(flatten)]
    pointer: Listed,
    pods: Vec<Pod>,
    /// Pods that ended without a word since yesterday, or cannot write to the store any more.
    gone: Vec<String>,
}

/// One pod, by its own word.
#[derive(Debug, Serialize)]
struct Pod {
    pod: String,
    state: State,
    /// What it does, or why it is not in sync; for people.
    message: String,
    running: Option<ReleaseId>,
    desired: Option<Revision>,
    stage: String,
    reason: Option<String>,
    in_flight: Option<u32>,
    last_deploy: Option<LastDeploy>,
    /// Whether it follows the canary that the pointer names, as far as it has read that.
    #[serde(skip_serializing_if = "Option::is_none")]
    canary: Option<bool>,
    #[serde(flatten)]
    about: About,
    /// Since when its report is the last one.
    heard_seconds: u64,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It runs what the pointer names for it, proven.
    InSync,
    /// Not yet.
    Behind,
    /// And it does not try.
    Rejected,
    /// It is about to end.
    Leaving,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::InSync => "in sync",
            Self::Behind => "behind",
            Self::Rejected => "rejected",
            Self::Leaving => "leaving",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointers.is_empty() {
            return f.write_str("the store has no pointer: `pitstop promote ID` makes the first");
        }
        for (number, followed) in self.pointers.iter().enumerate() {
            let before = if number == 0 { "" } else { "\n\n" };
            write!(f, "{before}{followed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listed { pointer, release, sequence, moved_at, moved_by, .. } = &self.pointer;
        match release {
            Some(release) => write!(f, "{pointer} names {release}")?,
            None => write!(f, "{pointer} names no release")?,
        }
        let parts = [
            sequence.map(|sequence| format!(" (move {sequence})")),
            moved_at.as_ref().map(|at| format!(" since {at}")),
            moved_by.as_ref().map(|by| format!(" by {by}")),
        ];
        parts.iter().flatten().try_for_each(|part| one_line_to(f, part))?;
        for note in self.pointer.notes() {
            f.write_str("; ")?;
            one_line_to(f, &note)?;
        }
        write!(f, "\n{}", self.counts())?;
        if !self.pods.is_empty() {
            let rows: Vec<_> = self.pods.iter().map(Pod::row).collect();
            let heading = ["POD", "RUNS", "STATE", "LAST DEPLOY", "NODE", "AGENT", "HEARD", "WHY"];
            write!(f, "\n{}", table(heading, &rows))?;
        }
        Ok(())
    }
}

/// What pods and people say begins no line of its own.
fn one_line_to(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str(&super::console::one_line(text))
}

impl Followed {
    fn counts(&self) -> String {
        let count = |state| self.pods.iter().filter(|pod| pod.state == state).count();
        let [in_sync, behind, rejected, leaving] =
            [State::InSync, State::Behind, State::Rejected, State::Leaving].map(count);
        let mut parts = vec![format!("{in_sync} of {} pods in sync", in_sync + behind + rejected)];
        let others = [(behind, "behind"), (rejected, "rejected it"), (leaving, "leaving")];
        parts.extend(others.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")));
        if !self.gone.is_empty() {
            parts.push(format!("not heard of any more: {}", super::console::one_line(&self.gone.join(", "))));
        }
        parts.join("; ")
    }
}

impl Pod {
    fn of(report: &Report, named: Option<&Revision>, now: SystemTime) -> Self {
        let rejection = named.and_then(|named| report.rejection(named));
        let state = match named {
            _ if report.leaving => State::Leaving,
            Some(named) if report.has_arrived(named) => State::InSync,
            _ if rejection.is_some() => State::Rejected,
            _ => State::Behind,
        };
        Self {
            pod: report.pod.clone(),
            state,
            message: why(report, state, named, rejection),
            running: report.running.clone(),
            desired: report.desired.clone(),
            stage: report.stage.clone(),
            reason: report.reason.clone(),
            in_flight: report.in_flight,
            last_deploy: report.last_deploy.clone(),
            canary: report.canary,
            about: report.about.clone(),
            heard_seconds: report.age(now).as_secs(),
        }
    }

    fn row(&self) -> [String; 8] {
        let ended =
            |deploy: &LastDeploy| format!("{} {} in {:.0} s", deploy.revision, deploy.result, deploy.seconds);
        let heard = humantime::format_duration(Duration::from_secs(self.heard_seconds));
        [
            self.pod.clone(),
            or_dash(self.running.as_ref()),
            self.state.word().into(),
            or_dash(self.last_deploy.as_ref().map(ended)),
            or_dash(self.about.node.as_ref()),
            or_dash(self.about.version.as_ref()),
            format!("{heard} ago"),
            self.message.clone(),
        ]
    }
}

fn why(report: &Report, state: State, named: Option<&Revision>, rejection: Option<&str>) -> String {
    let told = || match report.message.is_empty() {
        true => report.stage.clone(),
        false => report.message.clone(),
    };
    match (state, rejection) {
        (State::InSync | State::Leaving, _) => String::new(),
        (State::Rejected, Some(reason)) => format!("{reason}: {}", told()),
        (State::Rejected, None) => told(),
        (State::Behind, _) if report.desired.as_ref() != named => {
            "has not read the pointer's move yet".into()
        }
        (State::Behind, _) => told(),
    }
}

/// Looks at the pointer `name`, or at all of them.
///
/// # Errors
/// [`Failure`] when the store does not tell.
pub(crate) async fn run(config: &Config, name: Option<String>, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let names = match &name {
        Some(name) => vec![name.clone()],
        None => swap::names(store.as_ref()).await.map_err(failure)?,
    };
    let listed = pointers::read(store.as_ref(), names).await.map_err(failure)?;
    if let (Some(name), true) = (&name, listed.is_empty()) {
        return Err(swap::Swap::open(config, Some(name), None).await?.missing().await);
    }
    let mut answer = Answer { pointers: Vec::new() };
    for pointer in listed {
        let mut reports = Reports::of(&store, &pointer.pointer);
        reports.look().await.map_err(failure)?;
        answer.pointers.push(followed(pointer, &reports, SystemTime::now()));
    }
    console.print(&answer);
    Ok(Exit::Done)
}

fn followed(pointer: Listed, reports: &Reports, now: SystemTime) -> Followed {
    let named = pointer.release.clone().map(|release| Revision { release, sequence: pointer.sequence });
    let (gone, there): (Vec<_>, Vec<_>) = reports.all().partition(|report| report.is_gone(now));
    let canary = pointer.canary.as_ref().map(|canary| canary.revision(pointer.sequence));
    let of = |report: &Report| {
        report.canary == Some(true) && report.canary_sequence == canary.as_ref().and_then(|one| one.sequence)
    };
    let pods = there.iter().map(|report| {
        let named = if of(report) { canary.as_ref() } else { named.as_ref() };
        Pod::of(report, named, now)
    });
    let pods = pods.collect();
    let gone = gone.into_iter().filter(|report| !report.leaving && report.age(now) < FORGOTTEN);
    Followed { pointer, pods, gone: gone.map(|report| report.pod.clone()).collect() }
}
