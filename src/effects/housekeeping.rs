//! Old releases and abandoned work are deleted in the background, on a lane of its own: slowly, and not while a deploy
//! or a drain needs the volume.

use std::{
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::Instrument;

use super::{Effects, volume_work::on};
use crate::{
    core::{Problem, Stage},
    releases::prune::{Kept, Need, Pruned},
};

/// No pause between two handfuls is longer, however slow the volume is.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A deploy that takes longer waits for something; nothing has to wait for it.
const DEPLOY_MAX: Duration = Duration::from_secs(900);
/// How often a paused deletion looks whether it may go on.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// After a volume has refused to delete something, the next try; later ones take twice as long each.
const TIDY_AGAIN: Duration = Duration::from_secs(5);
const TIDY_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// How fast things are deleted.
#[derive(Debug, Default)]
pub(super) struct Gear {
    deploy_since: Mutex<Option<Instant>>,
    /// So many fetches wait for room.
    waiting_for_room: AtomicUsize,
    /// How often tidying was begun: of several that go on trying, the last one does.
    tidied: AtomicUsize,
    /// What was last said to stay.
    said: Mutex<Vec<Kept>>,
}

impl Gear {
    /// After a handful that took so long: as long again is left to others, and a deploy has the volume
    /// to itself.
    fn pace(&self, took: Duration) -> ControlFlow<()> {
        if !self.hurries() {
            thread::sleep(took.min(PAUSE_MAX));
        }
        while self.deploys() && !self.hurries() {
            thread::sleep(BETWEEN_LOOKS);
        }
        ControlFlow::Continue(())
    }

    fn hurries(&self) -> bool {
        self.waiting_for_room.load(Ordering::SeqCst) > 0
    }

    fn deploys(&self) -> bool {
        let since = self.deploy_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        since.is_some_and(|since| since.elapsed() < DEPLOY_MAX)
    }

    fn is_news(&self, kept: &[Kept]) -> bool {
        let mut said = self.said.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let news = *said != kept;
        *said = kept.to_vec();
        news
    }
}

/// While it lives, things are deleted as fast as they can be.
struct Hurry<'a>(&'a Gear);

impl<'a> Hurry<'a> {
    fn up(gear: &'a Gear) -> Self {
        gear.waiting_for_room.fetch_add(1, Ordering::SeqCst);
        Self(gear)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.waiting_for_room.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What is gone.
struct Deleted {
    /// How much unfinished work; `None` where the volume refused.
    cleaned: Option<usize>,
    pruned: Pruned,
}

impl Effects {
    /// A deploy or a drain that begins pauses what is being deleted. Never waits.
    pub(crate) fn deploying(&self, stage: Stage, drains: bool) {
        let under_way = drains || !matches!(stage, Stage::Steady | Stage::Stranded);
        let mut since = self.gear.deploy_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if under_way != since.is_some() {
            *since = under_way.then(Instant::now);
        }
    }

    /// Clears away what earlier processes left unfinished, and old releases. In the background.
    pub(crate) fn tidy_soon(&self) {
        let this = self.clone();
        tokio::spawn(async move { this.tidy().await }.in_current_span());
    }

    /// The same after a deploy, which is when a spare tree for the next one is made.
    pub(crate) fn deployed(&self) {
        let this = self.clone();
        let work = async move {
            this.make_spare().await;
            this.tidy().await;
            tracing::debug!("what the deploy has left is tidied up");
        };
        tokio::spawn(work.in_current_span());
    }

    async fn tidy(&self) {
        let (turn, mut pause) = (self.gear.tidied.fetch_add(1, Ordering::SeqCst) + 1, TIDY_AGAIN);
        while !self.tidied().await {
            tokio::time::sleep(pause).await;
            if self.gear.tidied.load(Ordering::SeqCst) != turn {
                return;
            }
            pause = (pause * 2).min(TIDY_AGAIN_MAX);
        }
    }

    /// Answers whether the volume let all of it be deleted.
    async fn tidied(&self) -> bool {
        match self.delete(Need::Tidy).await {
            Ok(deleted) => deleted.cleaned.is_some() && deleted.pruned.failed.is_empty(),
            Err(problem) => {
                tracing::warn!(detail = problem.message, "old releases could not be deleted");
                false
            }
        }
    }

    async fn make_spare(&self) {
        let Some(release) = self.holder.settled() else { return };
        let (tools, holder, gear) = (self.tools.clone(), self.holder.clone(), self.gear.clone());
        let (like, keep) = (release.clone(), tools.keep_releases);
        let made = on(&self.pruning, move || {
            // A fetch that waits for room needs this room as well.
            let pace = |took| {
                if gear.pace(took).is_break() || gear.hurries() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            if pace(Duration::ZERO).is_break() || holder.settled().as_ref() != Some(&like) {
                return Ok(None);
            }
            tools.releases.make_spare(&like, keep, &|| holder.named(), &pace)
        })
        .await;
        match made.and_then(|made| made) {
            Ok(None) => {}
            Ok(Some(of)) => tracing::info!(
                "a spare tree in the state of {release} was made of {of}: the next fetch writes what differs"
            ),
            Err(problem) => tracing::warn!(
                detail = problem.message,
                "no spare tree was made: the next fetch writes all of its release"
            ),
        }
    }

    /// A fetch found no room. Answers whether there is more now.
    pub(super) async fn make_room(&self) -> bool {
        let _hurry = Hurry::up(&self.gear);
        match self.delete(Need::Room).await {
            // One is what the fetch without room has left itself.
            Ok(Deleted { cleaned, pruned }) => {
                cleaned > Some(1) || pruned.emptied > 0 || !pruned.deleted.is_empty()
            }
            Err(problem) => {
                tracing::warn!(detail = problem.message, "no room could be made");
                false
            }
        }
    }

    async fn delete(&self, need: Need) -> Result<Deleted, Problem> {
        let (tools, holder, gear) = (self.tools.clone(), self.holder.clone(), self.gear.clone());
        let deleted = on(&self.pruning, move || {
            let pace = |took| gear.pace(took);
            // Nothing starts in the middle of a deploy either.
            let _ = pace(Duration::ZERO);
            let unfinished = |problem: &Problem| {
                tracing::warn!(
                    detail = problem.message,
                    "unfinished work of earlier fetches could not be deleted"
                );
            };
            let cleaned = tools.releases.clean_leftovers(&pace).inspect_err(unfinished).ok();
            if !holder.is_sure() {
                return Ok(Deleted { cleaned, pruned: Pruned::default() });
            }
            let pruned = tools.releases.prune(tools.keep_releases, need, &|| holder.named(), &pace);
            if let Err(problem) = tools.releases.share_assets() {
                tracing::warn!(
                    detail = problem.message,
                    "links to assets of old releases could not be deleted"
                );
            }
            if let Err(problem) = tools.releases.clean_caches(&pace) {
                tracing::warn!(detail = problem.message, "a cache of an old release could not be deleted");
            }
            pruned.map(|pruned| Deleted { cleaned, pruned })
        })
        .await??;
        self.tell(&deleted.pruned, need == Need::Room);
        Ok(deleted)
    }

    /// What stays is of interest where room is needed; else `pitstop prune --dry-run` says it to those who ask.
    fn tell(&self, pruned: &Pruned, room: bool) {
        let news = room && self.gear.is_news(&pruned.kept);
        for one in &pruned.deleted {
            let (release, bytes) = (one.release.as_str(), one.bytes);
            tracing::info!(was = one.class.word(), bytes, "old release {release} was deleted");
        }
        for one in pruned.kept.iter().filter(|_| news) {
            tracing::info!(release = one.release.as_str(), why = one.why, "a release stays");
        }
        for detail in &pruned.failed {
            tracing::warn!(detail, "an old release could not be deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicBool};

    use super::*;

    /// Paces once, on a thread of its own; tells when it may go on.
    fn pacing(gear: &Arc<Gear>) -> Arc<AtomicBool> {
        let (gear, passed) = (gear.clone(), Arc::new(AtomicBool::new(false)));
        let pass = passed.clone();
        thread::spawn(move || {
            let _ = gear.pace(Duration::ZERO);
            pass.store(true, Ordering::SeqCst);
        });
        passed
    }

    fn wait_for(passed: &AtomicBool) {
        for _ in 0..3000 {
            if passed.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it never went on");
    }

    #[test]
    fn a_deploy_pauses_what_is_being_deleted_until_it_ends_or_needs_the_room() {
        let gear = Arc::new(Gear::default());
        wait_for(&pacing(&gear));
        *gear.deploy_since.lock().unwrap() = Some(Instant::now());
        let paused = pacing(&gear);
        thread::sleep(BETWEEN_LOOKS * 2);
        assert!(!paused.load(Ordering::SeqCst), "beside a deploy");
        {
            let _hurry = Hurry::up(&gear);
            wait_for(&paused);
        }
        let paused = pacing(&gear);
        *gear.deploy_since.lock().unwrap() = None;
        wait_for(&paused);
    }

    #[test]
    fn what_stays_is_said_once() {
        let gear = Gear::default();
        let kept = [Kept { release: "v1".parse().unwrap(), why: "current points to it".into() }];
        assert!(gear.is_news(&kept));
        assert!(!gear.is_news(&kept));
        assert!(gear.is_news(&[]));
    }
}
