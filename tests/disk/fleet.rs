//! What each pod tells the fleet.

use std::{fs, path::Path, sync::Arc, time::Duration};

use pitstop::{
    config::S3,
    core::{Moment, Problem, Reason},
    fleet::{About, Report, Reporter},
    revision::Revision,
    status::Snapshot,
    store::{self, Body, Condition, StoreError},
};
use tokio::sync::watch;

use crate::rig::{Rig, id};

fn snapshot(release: &str, in_sync: bool) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::unknown(Moment(1), Problem::new(Reason::Rejected, "not tried again"));
    snapshot.view.desired = Some(Revision { release: id(release), sequence: Some(7) });
    snapshot.view.in_sync = in_sync;
    snapshot.into()
}

async fn read_until(path: &Path, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
    for _ in 0..3000 {
        let report = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(report) = report.filter(&holds) {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited without success: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_reports_what_changes_and_that_it_leaves() {
    let rig = Rig::new();
    rig.publish("v1");
    let store = store::open(rig.store_dir().to_str(), &S3::default()).unwrap();
    let (snapshots, seen) = watch::channel(snapshot("v1", false));
    let (stop, stopped) = watch::channel(false);
    let about = About { node: Some("node-1".into()), poll_s: Some(30), ..About::default() };
    let reporter = Reporter {
        store,
        pointer: "production".into(),
        pod: "web-0".into(),
        about: about.clone(),
        snapshots: seen,
    };
    let running = tokio::spawn(reporter.run(stopped));
    let path = rig.store_dir().join("fleet/production/web-0");
    let first = read_until(&path, "the first report", |_| true).await;
    assert_eq!((first.pod.as_str(), first.in_sync, first.leaving), ("web-0", false, false));
    assert_eq!((first.reason.as_deref(), &first.about), (Some("rejected"), &about));
    snapshots.send_replace(snapshot("v2", true));
    let next = read_until(&path, "the change", |report| report.in_sync).await;
    assert_eq!(next.desired.unwrap().to_string(), "v2#7");
    stop.send_replace(true);
    running.await.unwrap();
    // What takes longer than the agent waits for it is written all the same.
    read_until(&path, "the end", |report| report.leaving).await;
}

#[tokio::test]
async fn a_report_makes_no_store_where_none_is_mounted() {
    let rig = Rig::new();
    fs::create_dir(rig.store_dir()).unwrap();
    let store = store::open(rig.store_dir().to_str(), &S3::default()).unwrap();
    let put = store.put("fleet/production/web-0", Body::Bytes(b"{}".to_vec()), Condition::Any).await;
    assert!(matches!(put, Err(StoreError::Unreachable(_))), "{put:?}");
    assert_eq!(fs::read_dir(rig.store_dir()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_no_report_holds_up_nothing() {
    let rig = Rig::new();
    let volume = crate::volume::Mounted::tmpfs(&rig.deploy_to, "1m");
    for dir in ["releases", "pointers"] {
        fs::create_dir(rig.deploy_to.join(dir)).unwrap();
    }
    volume.read_only();
    let store = store::open(rig.deploy_to.to_str(), &S3::default()).unwrap();
    let put = store.put("fleet/production/web-0", Body::Bytes(b"{}".to_vec()), Condition::Any).await;
    assert!(matches!(put, Err(StoreError::Denied(_))), "{put:?}");
    let (_snapshots, seen) = watch::channel(snapshot("v1", true));
    let (stop, stopped) = watch::channel(false);
    let reporter = Reporter {
        store,
        pointer: "production".into(),
        pod: "web-0".into(),
        about: About::default(),
        snapshots: seen,
    };
    let running = tokio::spawn(reporter.run(stopped));
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(20), running).await.expect("it ends").unwrap();
}
