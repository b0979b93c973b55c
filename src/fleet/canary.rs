//! Which pods follow a canary.
//!
//! - Of `"percent": P` a pod is one when a hash of its name lies in the first P percent of all hashes, and also when it is
//!   among the first P percent of the live pods in the order of these hashes, rounded up. So the share only grows with P.
//! - Of `"pods": N` a pod is one when its name stands in one of the N claims: objects that are created once. The claim of
//!   a pod that is gone can be made anew, under the same number with a suffix.
//!
//! Whoever has tried the canary stays with it: the core sees to that, by the journal. Nobody waits for the store longer
//! than a moment: a pod that does not know is none.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::{LIMIT_BYTES, LIVE, Reader, Report, Reports, prefix};
use crate::{
    config::order,
    pointer::Latest,
    revision::{Canary, PodCount, Pointer, Revision},
    store::{Body, Condition, Found, StoreError, Version},
};

/// The first question holds up what the pointer says no longer than this.
const FIRST: Duration = Duration::from_secs(2);
/// Later ones may take so long.
const LATER: Duration = Duration::from_secs(20);
/// A pod that is no canary asks again after this, give or take a fifth,
const LOOK: Duration = Duration::from_secs(30);
/// and ever more seldom, down to this.
const LOOK_SELDOM: Duration = Duration::from_secs(600);
/// So many claims are tried in one look.
const CLAIMS_AT_MOST: u32 = 64;
/// So many pods beyond the share may be gone before a pod that comes after them looks who is.
const GONE: usize = 16;

/// Finds out whether this pod follows the canary that the pointer names.
pub(crate) struct Chooser {
    pod: String,
    /// `None`: nothing is known of other pods.
    fleet: Option<Reader>,
    /// The canary that this pod follows.
    chosen: Option<Revision>,
    claims: Option<Claims>,
}

impl Chooser {
    pub(crate) fn new(pod: String, fleet: Option<Reader>) -> Self {
        Self { pod, fleet, chosen: None, claims: None }
    }

    /// What the pointer says, with the answer in it. Follows until nobody listens.
    pub(crate) fn follow(self, latest: watch::Receiver<Latest>) -> watch::Receiver<Latest> {
        let (chosen, receiver) = watch::channel(None);
        tokio::spawn(self.run(latest, chosen));
        receiver
    }

    async fn run(mut self, mut latest: watch::Receiver<Latest>, chosen: watch::Sender<Latest>) {
        let (mut pause, mut again) = (LOOK, false);
        loop {
            let mut now = latest.borrow_and_update().clone();
            let mut open = false;
            if let Some(Ok(pointer)) = &mut now {
                self.choose(pointer, again).await;
                open = pointer.canary.is_some() && !pointer.is_canary() && self.fleet.is_some();
            }
            chosen.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
            again = true;
            tokio::select! {
                changed = latest.changed() => match changed {
                    Ok(()) => (pause, again) = (LOOK, false),
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())), if open => {
                    pause = (pause * 2).min(LOOK_SELDOM);
                }
                () = chosen.closed() => return,
            }
        }
    }

    /// Notes in the pointer whether this pod is among its canaries. `again`: it was asked before, and nobody waits.
    pub(crate) async fn choose(&mut self, pointer: &mut Pointer, again: bool) {
        let Some(revision) = pointer.canary() else { return };
        let Some(canary) = &mut pointer.canary else { return };
        let known = self.chosen.as_ref() == Some(&revision) || by_hash(&self.pod, canary.share);
        let limit = if again { LATER } else { FIRST };
        canary.chosen = known
            || match tokio::time::timeout(limit, self.ask(canary, &revision)).await {
                Ok(Ok(chosen)) => chosen,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "whether this pod follows the canary is not known, so it does not");
                    false
                }
                Err(_) => false,
            };
        if canary.chosen {
            self.chosen = Some(revision);
        }
    }

    async fn ask(&mut self, canary: &Canary, revision: &Revision) -> Result<bool, StoreError> {
        let Some(fleet) = &self.fleet else { return Ok(false) };
        match canary.share {
            PodCount::Percent(percent) => by_rank(fleet, percent).await,
            PodCount::Pods(pods) => {
                self.claims.take_if(|claims| claims.revision != *revision);
                self.claims
                    .get_or_insert_with(|| Claims::of(fleet.clone(), revision.clone()))
                    .look(pods)
                    .await
            }
        }
    }
}

/// Of this share of all hashes is the pod's.
fn by_hash(pod: &str, share: PodCount) -> bool {
    match share {
        PodCount::Percent(percent) => u128::from(order(pod)) * 100 < u128::from(percent) << 64,
        PodCount::Pods(_) => false,
    }
}

/// Whether the pod is among the first of those that live, which makes the share as large as it is called.
async fn by_rank(fleet: &Reader, percent: u8) -> Result<bool, StoreError> {
    let mut reports = Reports::of(&fleet.store, &fleet.pointer);
    let mut pods = reports.list_live().await?;
    // A pod that was just born has not reported yet.
    if !pods.contains(&fleet.pod) {
        pods.push(fleet.pod.clone());
        pods.sort_by_key(|pod| order(pod));
    }
    let rank = pods.iter().position(|pod| *pod == fleet.pod).unwrap_or(pods.len());
    if percent == 0 || rank >= PodCount::Percent(percent).up(pods.len()) + GONE {
        return Ok(false);
    }
    reports.read(&pods[..rank]).await?;
    let now = SystemTime::now();
    let gone = |pod: &&String| reports.get(pod).is_some_and(|report| !report.is_live(now));
    let gone = pods[..rank].iter().filter(gone).count();
    Ok(is_among(rank - gone, pods.len() - gone, percent))
}

/// Whether a pod is in this share of so many, with so many before it.
fn is_among(rank: usize, live: usize, percent: u8) -> bool {
    rank < PodCount::Percent(percent).up(live)
}

/// The claims to a canary, as this pod has read them.
struct Claims {
    fleet: Reader,
    revision: Revision,
    holders: BTreeMap<u32, Holder>,
}

/// Who holds one.
struct Holder {
    /// How often it was made anew.
    times: u32,
    pod: String,
    report: Option<Report>,
    version: Option<Version>,
    /// It has said the same since.
    since: Instant,
}

impl Claims {
    fn of(fleet: Reader, revision: Revision) -> Self {
        Self { fleet, revision, holders: BTreeMap::new() }
    }

    fn key(&self, number: u32, times: u32) -> String {
        let Revision { release, sequence } = &self.revision;
        let of = sequence.map_or_else(|| release.to_string(), |sequence| sequence.to_string());
        let again = if times == 0 { String::new() } else { format!(".{times}") };
        format!("canary/{}/{of}/{number}{again}", self.fleet.pointer)
    }

    /// Whether one of so many is this pod's, by now.
    async fn look(&mut self, pods: u32) -> Result<bool, StoreError> {
        if pods == 0 {
            return Ok(false);
        }
        let first = u32::try_from(order(&self.fleet.pod) % u64::from(pods)).unwrap_or(0);
        for place in 0..pods.min(CLAIMS_AT_MOST) {
            let number = (u64::from(first) + u64::from(place)) % u64::from(pods);
            if self.take(u32::try_from(number).unwrap_or(0)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the claim of this number is this pod's, which makes it where it is free.
    async fn take(&mut self, number: u32) -> Result<bool, StoreError> {
        let mut times = self.holders.get(&number).map_or(0, |holder| holder.times + 1);
        while let Some(pod) = self.read(&self.key(number, times)).await? {
            let holder = Holder { times, pod, report: None, version: None, since: Instant::now() };
            self.holders.insert(number, holder);
            times += 1;
        }
        let free = match self.holders.get_mut(&number) {
            None => true,
            Some(holder) if holder.pod == self.fleet.pod => return Ok(true),
            Some(holder) => holder.is_gone(&self.fleet).await?,
        };
        if !free {
            return Ok(false);
        }
        let body = Body::Bytes(format!("{}\n", self.fleet.pod).into_bytes());
        match self.fleet.store.put(&self.key(number, times), body, Condition::Absent).await {
            Ok(_) => Ok(true),
            Err(StoreError::Changed(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<String>, StoreError> {
        match self.fleet.store.get(key, None, LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            // Without the right to list, what is not there is refused.
            Ok(Found::Absent | Found::NotModified) | Err(StoreError::Denied(_)) => Ok(None),
            Err(StoreError::TooLarge { .. }) => Ok(Some(String::new())),
            Err(error) => Err(error),
        }
    }
}

impl Holder {
    /// It said that it ends, or has said nothing for longer than a pod that lives, also by this pod's own clock.
    async fn is_gone(&mut self, fleet: &Reader) -> Result<bool, StoreError> {
        let key = format!("{}{}", prefix(&fleet.pointer), self.pod);
        match fleet.store.get(&key, self.version.as_ref(), LIMIT_BYTES).await {
            Ok(Found::Object { version, bytes }) => {
                self.report = serde_json::from_slice(&bytes).ok();
                (self.version, self.since) = (Some(version), Instant::now());
            }
            Ok(Found::NotModified) => {}
            Ok(Found::Absent) if self.version.is_none() => {}
            Ok(Found::Absent) => (self.version, self.report, self.since) = (None, None, Instant::now()),
            // No pod is called so: it was written by nobody who may claim it.
            Err(StoreError::InvalidKey(_)) => return Ok(true),
            Err(error) => return Err(error),
        }
        let leaves = self.report.as_ref().is_some_and(|report| report.leaving);
        let silent = self.report.as_ref().is_none_or(|report| report.is_gone(SystemTime::now()));
        Ok(leaves || (silent && self.since.elapsed() >= LIVE))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::store::{Store, dir::DirStore};

    proptest! {
        #[test]
        fn a_share_is_rounded_up_and_only_grows(pods in 1_usize..200, percent in 0_u8..101) {
            let names: Vec<_> = (0..pods).map(|n| format!("web-{n}")).collect();
            let chosen = |percent| {
                let mut order_of: Vec<_> = names.iter().collect();
                order_of.sort_by_key(|pod| order(pod));
                let share = PodCount::Percent(percent);
                let is_in = |(rank, pod): (usize, &&String)| {
                    (by_hash(pod, share) || is_among(rank, pods, percent)).then(|| (*pod).clone())
                };
                order_of.iter().enumerate().filter_map(is_in).collect::<BTreeSet<_>>()
            };
            let share = chosen(percent);
            prop_assert!(share.len() >= (pods * usize::from(percent)).div_ceil(100), "{share:?}");
            prop_assert!(share.len() <= pods && (percent > 0 || share.is_empty()));
            // A hash is even over many names: seven standard deviations are room enough for chance.
            prop_assert!(share.len() <= pods * usize::from(percent) / 100 + 8 + 4 * pods.isqrt());
            prop_assert!(percent == 100 || share.is_subset(&chosen(percent + 1)));
        }
    }

    struct Rig {
        _dir: tempfile::TempDir,
        store: Arc<dyn Store>,
        runtime: tokio::runtime::Runtime,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            ["releases", "pointers"]
                .iter()
                .for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
            let store = Arc::new(DirStore::new(dir.path().to_owned()).unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            Self { _dir: dir, store, runtime }
        }

        fn pod(&self, pod: &str) -> Chooser {
            let (store, max_unavailable) = (self.store.clone(), PodCount::Percent(25));
            let reader = Reader { store, pointer: "production".into(), pod: pod.into(), max_unavailable };
            Chooser::new(pod.into(), Some(reader))
        }

        fn chosen(&self, chooser: &mut Chooser, share: &str) -> bool {
            let text = format!(
                r#"{{"release":"v1","sequence":7,"canary":{{"release":"v2","sequence":8,{share}}}}}"#
            );
            let mut pointer = crate::pointer::parse(text.as_bytes()).unwrap();
            self.runtime.block_on(chooser.choose(&mut pointer, true));
            pointer.is_canary()
        }

        fn leaves(&self, pod: &str) {
            let text = format!(
                r#"{{"v":1,"pod":"{pod}","running":null,"desired":null,"in_sync":true,"stage":"steady","at":"","leaving":true}}"#
            );
            let (key, body) = (format!("fleet/production/{pod}"), Body::Bytes(text.into_bytes()));
            self.runtime.block_on(self.store.put(&key, body, Condition::Any)).unwrap();
        }
    }

    #[test]
    fn so_many_pods_claim_a_canary_as_it_has_and_stay_it() {
        let rig = Rig::new();
        let mut pods: Vec<_> = (0..12).map(|n| rig.pod(&format!("web-{n}"))).collect();
        let ask = |pods: &mut Vec<Chooser>, share: &str| {
            pods.iter_mut()
                .filter_map(|pod| rig.chosen(pod, share).then(|| pod.pod.clone()))
                .collect::<Vec<_>>()
        };
        let first = ask(&mut pods, r#""pods":3"#);
        assert_eq!((first.len(), ask(&mut pods, r#""pods":3"#)), (3, first.clone()));
        // More are added, and nobody leaves.
        let more = ask(&mut pods, r#""pods":5"#);
        assert!(more.len() == 5 && first.iter().all(|pod| more.contains(pod)), "{first:?} {more:?}");
        // A pod that is born again under its name is the same one.
        assert!(rig.chosen(&mut rig.pod(&first[0]), r#""pods":5"#));
        assert!(!rig.chosen(&mut rig.pod("web-new"), r#""pods":5"#));
        // The place of one that ends is free, once.
        rig.leaves(&first[0]);
        assert!(rig.chosen(&mut rig.pod("web-new"), r#""pods":5"#));
        assert!(!rig.chosen(&mut rig.pod("web-late"), r#""pods":5"#));
        assert!(!rig.chosen(&mut rig.pod("web-late"), r#""pods":0"#));
    }

    #[test]
    fn without_a_store_only_the_hash_counts_and_nobody_claims_anything() {
        let rig = Rig::new();
        let pods = (0..40).map(|n| Chooser::new(format!("web-{n}"), None));
        let chosen = pods.filter_map(|mut pod| rig.chosen(&mut pod, r#""percent":50"#).then_some(pod));
        assert!((10..30).contains(&chosen.count()));
        assert!(!rig.chosen(&mut Chooser::new("web-0".into(), None), r#""pods":40"#));
        assert!(rig.chosen(&mut Chooser::new("web-0".into(), None), r#""percent":100"#));
    }
}
