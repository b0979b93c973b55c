//! A store that is slow, broken, or away.

use std::time::Duration;

use pitstop::store::{Body, Condition, Found};
use pitstop_rig::{Fault, S3Rig};

use crate::rig::{get, put, read, refused, store};

#[tokio::test]
async fn what_passes_is_tried_again() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "pointers/production", b"v1").await.unwrap();
    for fault in [
        Fault::Answer(503, "SlowDown"),
        Fault::Answer(500, "InternalError"),
        Fault::AnswerLost,
        Fault::Cut(1),
        Fault::Silence,
    ] {
        rig.fault(fault.clone().of("GET").times(1));
        let found = get(store.as_ref(), "pointers/production").await;
        assert!(matches!(found, Ok(Found::Object { bytes, .. }) if bytes == b"v1"), "{fault:?}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_named() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "pointers/production", b"v1").await.unwrap();
    for (fault, part) in [
        (Fault::Answer(503, "SlowDown"), "answers 503 SlowDown"),
        (Fault::Answer(500, "InternalError"), "answers 500 InternalError"),
        (Fault::Silence, "timeout"),
        (Fault::Cut(1), "the connection broke"),
        (Fault::Stall(1), "no data arrived for 1.5s"),
    ] {
        rig.fault(fault.clone());
        let told = refused(get(store.as_ref(), "pointers/production").await, "store_unreachable");
        assert!(told.contains(part) && told.contains("pointers/production"), "{fault:?}: {told}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_named_with_its_address_and_found_again() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "pointers/production", b"v1").await.unwrap();
    rig.outage();
    let told = refused(get(store.as_ref(), "pointers/production").await, "store_unreachable");
    assert!(told.contains(&rig.endpoint()) && told.contains("Connection refused"), "{told}");
    rig.recover();
    assert!(matches!(get(store.as_ref(), "pointers/production").await, Ok(Found::Object { .. })));
}

#[tokio::test]
async fn a_body_that_breaks_off_or_stalls_is_no_whole_one() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "releases/v1", &[7; 100_000]).await.unwrap();
    rig.fault(Fault::Cut(60_000));
    let told = refused(read(store.as_ref(), "releases/v1", 0).await, "store_unreachable");
    assert!(told.contains("40000 bytes before its end"), "{told}");
    rig.fault(Fault::Stall(60_000));
    let told = refused(read(store.as_ref(), "releases/v1", 0).await, "store_unreachable");
    assert!(told.contains("no data arrived for 1.5s, 40000 bytes"), "{told}");
}

#[tokio::test]
async fn a_slow_body_is_waited_for_as_long_as_something_comes() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "releases/v1", &[7; 40_000]).await.unwrap();
    // Ten pieces; all together they take longer than the limit between two of them.
    rig.fault(Fault::Slow(Duration::from_millis(200)));
    assert_eq!(read(store.as_ref(), "releases/v1", 0).await.unwrap(), [7; 40_000]);
}

#[tokio::test]
async fn an_upload_that_nobody_reads_ends() {
    let rig = S3Rig::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    // More than the kernel takes for a server that does not read.
    std::fs::write(file.path(), vec![7; 32 << 20]).unwrap();
    rig.fault(Fault::Silence.of("PUT"));
    let body = Body::File(file.path().into());
    let told = refused(store(&rig).put("releases/v1", body, Condition::Absent).await, "store_unreachable");
    assert!(told.contains("releases/v1"), "{told}");
    assert_eq!(rig.object("releases/v1"), None);
}
