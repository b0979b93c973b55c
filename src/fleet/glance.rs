//! The fleet as the page shows it: read from the store while somebody looks at the page, and seldom even then.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Mutex;

use super::{Report, Reports, moves::Entry, moves::Moves};
use crate::{
    revision::Revision,
    store::{Store, StoreError},
};

/// However many pages are open, the store is asked so often.
const KEPT: Duration = Duration::from_secs(15);
/// A page waits no longer for the store; it shows what was read before.
const LONGEST: Duration = Duration::from_secs(3);
const PODS_AT_MOST: usize = 100;
const MOVES: u64 = 8;

/// Reads the reports of the pods that follow a pointer, and its last moves.
#[derive(Clone)]
pub struct Glance {
    store: Arc<dyn Store>,
    pointer: Arc<str>,
    read: Arc<Mutex<Option<Read>>>,
}

struct Read {
    reports: Reports,
    overview: Arc<Overview>,
    at: Instant,
    /// The move whose predecessors were read.
    last_move: Option<u64>,
}

/// What the store says of a fleet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overview {
    /// The pointer that the pods follow.
    pub(crate) pointer: String,
    /// What the first hundred say. Gone ones are left out.
    pub(crate) pods: Vec<Report>,
    /// How many others there are.
    pub(crate) more: usize,
    /// The last moves, the newest first.
    pub(crate) moves: Vec<Entry>,
    /// Why this is not all, or not new.
    pub(crate) trouble: Option<String>,
    /// When it was read.
    pub(crate) at: Option<SystemTime>,
}

impl fmt::Debug for Glance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Glance").field("pointer", &self.pointer).finish_non_exhaustive()
    }
}

impl Glance {
    /// At the pods that follow this pointer.
    pub fn at(store: Arc<dyn Store>, pointer: &str) -> Self {
        Self { store, pointer: pointer.into(), read: Arc::default() }
    }

    /// What was read in the last seconds, or is read now. `named` is the move that this pod's pointer names.
    pub(crate) async fn look(&self, named: Option<&Revision>) -> Arc<Overview> {
        let mut read = self.read.lock().await;
        let mut last = read.take().unwrap_or_else(|| Read {
            reports: Reports::of(&self.store, &self.pointer),
            overview: Arc::new(Overview { pointer: self.pointer.to_string(), ..Overview::default() }),
            at: Instant::now(),
            last_move: None,
        });
        let known = last.overview.at.is_some() || last.overview.trouble.is_some();
        if !known || last.at.elapsed() > KEPT {
            last.at = Instant::now();
            let looked = tokio::time::timeout(LONGEST, self.read(&mut last, named)).await;
            let trouble = match looked {
                Ok(Ok(overview)) => {
                    last.overview = Arc::new(overview);
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("the store did not answer within {} s", LONGEST.as_secs())),
            };
            if trouble.is_some() {
                last.overview = Arc::new(Overview { trouble, ..(*last.overview).clone() });
            }
        }
        let overview = last.overview.clone();
        *read = Some(last);
        overview
    }

    async fn read(&self, last: &mut Read, named: Option<&Revision>) -> Result<Overview, StoreError> {
        let all = last.reports.look_at(PODS_AT_MOST).await?;
        let now = SystemTime::now();
        let mut pods: Vec<_> = last.reports.all().filter(|report| !report.is_gone(now)).cloned().collect();
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        let sequence = named.and_then(|named| named.sequence);
        let mut overview = Overview {
            pointer: self.pointer.to_string(),
            pods,
            more: all.len().saturating_sub(PODS_AT_MOST),
            moves: last.overview.moves.clone(),
            trouble: None,
            at: Some(now),
        };
        let open = overview.moves.first().is_none_or(|newest| newest.end.is_none());
        if let Some(newest) = sequence.filter(|_| open || last.last_move != sequence) {
            match Moves::of(&self.store, &self.pointer).back_from(newest, MOVES).await {
                Ok(moves) => (overview.moves, last.last_move) = (moves, sequence),
                Err(error) => overview.trouble = Some(format!("the moves cannot be read: {error}")),
            }
        }
        Ok(overview)
    }
}
