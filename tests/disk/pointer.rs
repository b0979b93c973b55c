//! Watching the pointer.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use pitstop::{
    config::S3,
    core::Reason,
    pointer::{self, Check, Kick, Latest, Settings, Source},
    store,
};
use tokio::sync::watch::Receiver;

use crate::rig::Rig;

const NEVER: Duration = Duration::from_secs(3600);
type Checks = Arc<Mutex<Vec<Check>>>;

fn watch(source: Source, poll_interval: Duration) -> (Receiver<Latest>, Kick, Checks) {
    let checks = Checks::default();
    let heard = checks.clone();
    let on_check = Arc::new(move |check| heard.lock().unwrap().push(check));
    let (receiver, kick) =
        pointer::watch(Settings { source, trust: Default::default(), poll_interval, on_check }).unwrap();
    (receiver, kick, checks)
}

/// Waits for the release, or the reason why there is none.
async fn sees(receiver: &mut Receiver<Latest>, expected: &str) {
    let says = |latest: &Latest| match latest {
        Some(Ok(pointer)) => pointer.revision.release.as_str() == expected,
        Some(Err(problem)) => problem.reason.code() == expected,
        None => false,
    };
    let wait = receiver.wait_for(says);
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap_or_else(|_| panic!("no {expected}"))
        .unwrap();
}

/// As the kubelet writes a ConfigMap: a new directory, and `..data` renamed onto it.
fn config_map(dir: &Path, generation: &str, text: &str) {
    fs::create_dir_all(dir.join(generation)).unwrap();
    fs::write(dir.join(generation).join("release"), text).unwrap();
    symlink(generation, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    let _ = symlink("..data/release", dir.join("release"));
}

#[tokio::test]
async fn a_config_map_is_followed_through_its_swaps_without_polling() {
    let dir = tempfile::tempdir().unwrap();
    config_map(dir.path(), "..1", "v1\n");
    let (mut seen, _kick, _) = watch(Source::File(dir.path().join("release")), NEVER);
    sees(&mut seen, "v1").await;
    config_map(dir.path(), "..2", "v2\n");
    sees(&mut seen, "v2").await;
    config_map(dir.path(), "..3", "{\"release\":");
    sees(&mut seen, "pointer_invalid").await;
    config_map(dir.path(), "..4", "{\"release\":\"v4\"}");
    sees(&mut seen, "v4").await;
}

#[tokio::test]
async fn polling_finds_a_directory_that_was_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("late");
    let (mut seen, _kick, checks) = watch(Source::File(late.join("release")), Duration::from_millis(50));
    sees(&mut seen, "pointer_unreadable").await;
    fs::create_dir(&late).unwrap();
    fs::write(late.join("release"), "v1").unwrap();
    sees(&mut seen, "v1").await;
    fs::rename(&late, dir.path().join("gone")).unwrap();
    sees(&mut seen, "pointer_unreadable").await;
    assert!(checks.lock().unwrap().contains(&Check::Failed(Reason::PointerUnreadable)));
}

#[tokio::test]
async fn a_kick_looks_at_once_and_equal_values_wake_nobody() {
    let rig = Rig::new();
    rig.promote("v1");
    let store = store::open(rig.store_dir().to_str(), &S3::default()).unwrap();
    let (mut seen, kick, checks) = watch(Source::Store(store, "production".into()), NEVER);
    sees(&mut seen, "v1").await;
    let looks = || checks.lock().unwrap().len();
    let before = looks();
    kick.now();
    tokio::time::timeout(Duration::from_secs(30), async {
        while looks() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(checks.lock().unwrap().last(), Some(&Check::Unchanged));
    assert!(!seen.has_changed().unwrap());
}

#[tokio::test]
async fn a_promote_shows_at_once_and_a_lost_store_is_named() {
    let rig = Rig::new();
    rig.promote("v1");
    let store = store::open(rig.store_dir().to_str(), &S3::default()).unwrap();
    let (mut seen, kick, _) = watch(Source::Store(store, "production".into()), NEVER);
    sees(&mut seen, "v1").await;
    rig.promote("v2");
    sees(&mut seen, "v2").await;
    fs::rename(rig.store_dir(), rig.dir.path().join("away")).unwrap();
    kick.now();
    sees(&mut seen, "store_unreachable").await;
    fs::rename(rig.dir.path().join("away"), rig.store_dir()).unwrap();
    kick.now();
    sees(&mut seen, "v2").await;
}
