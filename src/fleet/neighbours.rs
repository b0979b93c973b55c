//! What the other pods say, while that matters to this one: whether one of them has proved a move or rejected it, and
//! whether it is this pod's turn.
//!
//! The live pods stand in one order, by a hash of their names. Of `n` that may restart at once, each waits for the pod
//! `n` places before it: so there are `n` queues, in each of which one pod restarts after the other, and a pod reads
//! one report for its turn, however many pods there are.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch};

use super::{Report, Reports};
use crate::{
    config::order,
    core::{Event, Fleet, Reading, Reason, Stage},
    revision::{PodCount, Revision},
    store::{Store, StoreError},
};

/// Up to so many pods, each reads the reports of all others.
const FEW: usize = 32;
/// Of more it reads those of the first, until it has found so many that live,
const FIRST: usize = 8;
/// and at most so many.
const READ_AT_MOST: usize = 96;
/// So many at a time.
const CHUNK: usize = 8;
/// Who is there is asked again after this.
const LIST_EACH: Duration = Duration::from_secs(30);
/// So many pods of its queue that do not restart are passed over.
const BACK_AT_MOST: usize = 16;
/// More pods read more seldom: so many of them as often as the core asks.
const OFTEN: usize = 100;

/// Reads what the other pods say.
#[derive(Clone)]
pub struct Reader {
    pub(crate) store: Arc<dyn Store>,
    /// The name of the pointer that this pod follows.
    pub(crate) pointer: String,
    pub(crate) pod: String,
    /// How many pods may restart at once.
    pub(crate) max_unavailable: PodCount,
}

impl Reader {
    /// Reads as often as `wanted` says, until nobody listens.
    pub(crate) async fn run(
        self,
        mut wanted: watch::Receiver<Option<Reading>>,
        events: mpsc::UnboundedSender<Event>,
    ) {
        let mut neighbours = Neighbours::of(self);
        loop {
            let reading = wanted.borrow_and_update().clone();
            let Some(reading) = reading else {
                match wanted.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            neighbours.turn_to(reading.revision.as_ref());
            match neighbours.look(&reading).await {
                Ok(Some(fleet)) => {
                    if events.send(Event::Fleet(fleet)).is_err() {
                        return;
                    }
                }
                // Where this pod cannot tell the others, they cannot tell it either.
                Ok(None) => {}
                // Without reports a pod goes by its own place.
                Err(error) => tracing::debug!(%error, "reading the other pods' reports failed"),
            }
            tokio::select! {
                () = tokio::time::sleep(neighbours.pause(&reading)) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }
}

struct Neighbours {
    reader: Reader,
    reports: Reports,
    /// The pods that may be alive, in their order.
    pods: Vec<String>,
    listed: Option<Instant>,
    /// The move for which they are read.
    revision: Option<Revision>,
}

impl Neighbours {
    fn of(reader: Reader) -> Self {
        let reports = Reports::of(&reader.store, &reader.pointer);
        Self { reader, reports, pods: Vec::new(), listed: None, revision: None }
    }

    /// For each move it is asked anew who is there: a pod that overlooks the others would not wait for them.
    fn turn_to(&mut self, revision: Option<&Revision>) {
        if self.revision.as_ref() != revision {
            self.revision = revision.cloned();
            self.listed = None;
        }
    }

    fn pause(&self, reading: &Reading) -> Duration {
        let seldom = (self.pods.len() / OFTEN).clamp(1, 5);
        let pause = Duration::from_millis(reading.each_ms) * u32::try_from(seldom).unwrap_or(1);
        pause.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// What they say; `None` while this pod is not among them.
    async fn look(&mut self, reading: &Reading) -> Result<Option<Fleet>, StoreError> {
        if self.listed.is_none_or(|at| at.elapsed() >= LIST_EACH) {
            self.pods = self.reports.list_live().await?;
            self.listed = Some(Instant::now());
        }
        if !self.pods.contains(&self.reader.pod) {
            self.listed = None;
            return Ok(None);
        }
        self.read_first().await?;
        let now = SystemTime::now();
        let own = self.reader.pod.clone();
        let claimed = reading.revision.as_ref().filter(|_| reading.claimed);
        let mut fleet = add_up(self.reports.all(), &own, claimed, now);
        let there: Vec<_> =
            self.pods.iter().filter(|pod| **pod == own || self.may_live(pod, now)).cloned().collect();
        let place = there.iter().position(|pod| *pod == own).unwrap_or(0);
        let at_once = reading.max_unavailable.unwrap_or(self.reader.max_unavailable).down(there.len());
        fleet.others = there.len().saturating_sub(1);
        fleet.wave = u32::try_from(place / at_once).unwrap_or(u32::MAX);
        if reading.revision.is_some() {
            let queue = (0..place).rev().skip(at_once - 1).step_by(at_once).take(BACK_AT_MOST);
            let queue: Vec<_> = queue.map(|place| there[place].clone()).collect();
            fleet.before = self.before(&queue, claimed).await?;
        }
        Ok(Some(fleet))
    }

    /// A pod that was not read may live.
    fn may_live(&self, pod: &str, now: SystemTime) -> bool {
        self.reports.get(pod).is_none_or(|report| report.is_live(now))
    }

    /// Of many pods the first, which try a release before the others.
    async fn read_first(&mut self) -> Result<(), StoreError> {
        if self.pods.len() <= FEW {
            return self.reports.read(&self.pods).await;
        }
        let mut live = 0;
        for pods in self.pods.chunks(CHUNK).take(READ_AT_MOST / CHUNK) {
            self.reports.read(pods).await?;
            let now = SystemTime::now();
            live += pods.iter().filter(|pod| self.may_live(pod, now)).count();
            if live >= FIRST {
                break;
            }
        }
        Ok(())
    }

    /// What the pod before this one in its queue has behind it; the nearest one comes first.
    async fn before(
        &mut self,
        queue: &[String],
        claimed: Option<&Revision>,
    ) -> Result<Option<BTreeSet<Revision>>, StoreError> {
        for pod in queue {
            if self.pods.len() > FEW {
                self.reports.read(std::slice::from_ref(pod)).await?;
            }
            let restarts = |report: &&Report| report.is_live(SystemTime::now()) && report.restarts(claimed);
            if let Some(report) = self.reports.get(pod).filter(restarts) {
                return Ok(Some(report.done()));
            }
        }
        Ok(None)
    }
}

fn add_up<'a>(
    reports: impl Iterator<Item = &'a Report>,
    own: &str,
    claimed: Option<&Revision>,
    now: SystemTime,
) -> Fleet {
    let mut fleet = Fleet { first: true, ..Fleet::default() };
    for report in reports.filter(|report| report.pod != own && report.is_live(now)) {
        fleet.others += 1;
        // A pod that does not restart proves nothing to those that wait for it.
        fleet.first &= !report.restarts(claimed) || order(own) < order(&report.pod);
        fleet.rejected.extend(report.rejected.iter().map(|rejected| rejected.revision.clone()));
        let Some(desired) = &report.desired else { continue };
        let moves = [Stage::Publishing, Stage::Restarting, Stage::Verifying, Stage::Committing];
        if report.in_sync {
            fleet.well.insert(desired.clone());
        } else if moves.iter().any(|stage| stage.name() == report.stage) {
            fleet.proving.insert(desired.clone());
        } else if report.stage == Stage::Stranded.name() {
            fleet.rejected.insert(desired.clone());
        }
    }
    fleet
}

impl Report {
    /// The pod makes the move that this one makes, which is `claimed` where only some do.
    fn restarts(&self, claimed: Option<&Revision>) -> bool {
        !self.is_held() && !claimed.is_some_and(|revision| self.stays_out_of(revision))
    }

    /// Somebody holds the pod's deploys.
    fn is_held(&self) -> bool {
        self.reason.as_deref() == Some(Reason::Held.code())
    }

    /// The move is a canary's, and the pod is none of them.
    pub(crate) fn stays_out_of(&self, revision: &Revision) -> bool {
        self.canary == Some(false) && self.canary_sequence == revision.sequence
    }

    /// The moves that it runs, proved, or has rejected.
    fn done(&self) -> BTreeSet<Revision> {
        let stranded = self.stage == Stage::Stranded.name();
        let named = self.desired.iter().filter(|_| self.in_sync || stranded).cloned();
        named.chain(self.rejected.iter().map(|rejected| rejected.revision.clone())).collect()
    }
}

#[cfg(test)]
mod tests;
