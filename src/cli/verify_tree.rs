//! `pitstop verify-tree [ID]`: compares a release on the volume with what was published.

use std::{fmt, ops::ControlFlow, time::Duration};

use serde::Serialize;
use tokio::runtime::Handle;

use super::{Console, Exit, Failure, gently::Gently, publish::usage};
use crate::{
    config::Config,
    core::{Problem, Reason},
    releases::{Releases, verify_tree::Difference},
    revision::ReleaseId,
    store::{self, Blocking},
};

/// How long the store may be silent.
const IDLE: Duration = Duration::from_secs(30);

/// What was compared, and what differs.
#[derive(Debug, Serialize)]
struct Answer {
    release: ReleaseId,
    entries: u64,
    differences: Vec<Difference>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        let Self { release, entries, differences } = self;
        match differences.len() {
            0 => write!(
                f,
                "{release} matches what was published ({entries} files, directories and links compared)"
            ),
            1 => write!(f, "{release} has 1 difference from what was published"),
            n => write!(f, "{release} has {n} differences from what was published"),
        }
    }
}

/// Compares it; [`Exit::Failed`] when anything differs. Without an id: what `current` leads to.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: &Config, id: Option<ReleaseId>, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let store = Blocking::new(store, Handle::current(), IDLE);
    let releases = super::on_volume(config).trusting(super::trust(config));
    let gently = Gently::beside(config.state_dir.clone(), console).await;
    let work = tokio::task::spawn_blocking(move || compare(&releases, &store, id, &gently));
    let answer = work.await.map_err(|e| Failure::failed(e.to_string()))??;
    console.print(&answer);
    Ok(if answer.differences.is_empty() { Exit::Done } else { Exit::Failed })
}

fn compare(
    releases: &Releases,
    store: &Blocking,
    id: Option<ReleaseId>,
    gently: &Gently,
) -> Result<Answer, Problem> {
    let none = || {
        let current = releases.current_path().display();
        let message =
            format!("{current} does not point to a complete release; choose one: pitstop verify-tree ID");
        Problem::new(Reason::ReleaseUnknown, message)
    };
    let release = match id {
        Some(id) => id,
        None => releases.current()?.ok_or_else(none)?,
    };
    gently.wait();
    let pace = |_| {
        gently.wait();
        ControlFlow::Continue(())
    };
    let (entries, differences) = releases.verify_tree(store, &release, &pace)?;
    Ok(Answer { release, entries, differences })
}
