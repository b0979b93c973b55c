//! `pitstop prune`: deletes old releases from the volume, or says what would go. Runs beside the agent.

use std::{collections::BTreeMap, fmt, ops::ControlFlow, thread, time::Duration};

use serde::Serialize;

use super::{Console, Exit, Failure, gently::Gently};
use crate::{
    config::Config,
    core::{Problem, history::History},
    pointer::{self, Source},
    releases::{
        Releases,
        prune::{Judged, Need, Pruned},
    },
    revision::ReleaseId,
    revisions_log::{self, Log},
    store,
};

/// No pause between two handfuls is longer.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What was deleted, or would be.
#[derive(Debug, Serialize)]
struct Answer {
    dry_run: bool,
    #[serde(flatten)]
    pruned: Pruned,
    /// What keeps everything from being deleted.
    unreadable_leases: Vec<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pruned, .. } = self;
        let verb = if self.dry_run { "would delete" } else { "deleted" };
        for Judged { release, class, bytes, .. } in &pruned.deleted {
            writeln!(f, "{verb} {release} ({}, {bytes} bytes)", class.word())?;
        }
        for kept in &pruned.kept {
            writeln!(f, "keeps {}: {}", kept.release, kept.why)?;
        }
        for what in &pruned.failed {
            writeln!(f, "could not be deleted: {what}")?;
        }
        for what in &self.unreadable_leases {
            writeln!(f, "nothing is deleted because this lease cannot be read: {what}")?;
        }
        let count = pruned.deleted.len();
        write!(
            f,
            "{count} of {} releases {}",
            count + pruned.kept.len(),
            if self.dry_run { "would go" } else { "gone" }
        )
    }
}

/// Deletes what `keep` does not keep and nobody needs; [`Exit::Failed`] when something could not be
/// deleted, or it is not known what is needed.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(
    config: &Config,
    keep: Option<usize>,
    dry_run: bool,
    console: Console,
) -> Result<Exit, Failure> {
    let releases = super::on_volume(config);
    let keep = keep.unwrap_or(config.keep_releases);
    let needed = needed(config).await?;
    let gently = Gently::beside(config.state_dir.clone(), console).await;
    let work = tokio::task::spawn_blocking(move || prune(&releases, keep, dry_run, &needed, &gently));
    let answer = work.await.map_err(|e| Failure::failed(e.to_string()))??;
    let done = answer.pruned.failed.is_empty() && answer.unreadable_leases.is_empty();
    console.print(&answer);
    Ok(if done { Exit::Done } else { Exit::Failed })
}

fn prune(
    releases: &Releases,
    keep: usize,
    dry_run: bool,
    needed: &BTreeMap<ReleaseId, String>,
    gently: &Gently,
) -> Result<Answer, Problem> {
    releases.check_volume()?;
    let needed = || needed.clone();
    // As long again is left to others.
    let pace = |took: Duration| {
        thread::sleep(took.min(PAUSE_MAX));
        gently.wait();
        ControlFlow::Continue(())
    };
    let pruned = if dry_run {
        releases.would_prune(keep, &needed)?
    } else {
        releases.clean_leftovers(&pace)?;
        releases.prune(keep, Need::Tidy, &needed, &pace)?
    };
    Ok(Answer { dry_run, pruned, unreadable_leases: releases.leases()?.unreadable })
}

/// What this pod needs by its journal and its pointer: its agent need not be running, or ever have been.
async fn needed(config: &Config) -> Result<BTreeMap<ReleaseId, String>, Failure> {
    let journal = revisions_log::path(&config.deploy_to, &config.pod());
    let (history, _) = History::fold(&Log::open(journal)?.1);
    let desired = desired(config).await;
    if let Err(problem) = &desired {
        tracing::warn!(detail = problem.message, "the pointer cannot be read");
    }
    let named = [
        (history.previous, "this pod may roll back to it"),
        (history.verified, "this pod ran it last"),
        (desired.ok().flatten(), "the pointer names it"),
    ];
    Ok(named.into_iter().filter_map(|(id, why)| Some((id?, why.to_owned()))).collect())
}

async fn desired(config: &Config) -> Result<Option<ReleaseId>, Problem> {
    let source = match (pointer::file_path(&config.pointer), &config.source) {
        (Some(path), _) => Source::File(path),
        (None, Some(source)) => Source::Store(store::open(Some(source), &config.s3)?, config.pointer.clone()),
        (None, None) => return Ok(None),
    };
    pointer::read(&source, &super::trust(config)).await.map(|pointer| Some(pointer.revision.release))
}
