//! Servers of S3's protocol that are not quite like it, and proxies that change what passes: each answer that people
//! report has a message with what to do.

use pitstop::store::{Condition, Found};
use pitstop_rig::{Fault, S3Rig};
use serde_json::Value;

use crate::{
    commands::{Pod, ended},
    rig::{get, put, read, refused, store},
};

#[test]
fn a_server_without_conditional_writes_is_told_with_the_other_ways() {
    let pod = Pod::new();
    pod.rig.fault(Fault::Says(501, "NotImplemented", "A header you provided is not implemented").of("PUT"));
    let app = pod.app("v1");
    let (code, said) = pod.fails(&["publish", app.to_str().unwrap(), "--release", "v1"]);
    assert_eq!(code, 1);
    assert!(said.contains("does not support conditional writes (501 NotImplemented"), "{said}");
    assert!(said.contains("move the pointer by hand") && !said.contains("cannot be reached"), "{said}");
    assert_eq!(pod.rig.seen().iter().filter(|seen| seen.method == "PUT").count(), 1, "asked once");
}

#[tokio::test]
async fn archived_objects_and_lists_that_are_not_found_are_told_with_the_remedy() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "releases/v1.tar.zst", b"archive").await.unwrap();
    rig.fault(Fault::Answer(403, "InvalidObjectState").of("GET"));
    let told = refused(read(store.as_ref(), "releases/v1.tar.zst", 0).await, "store_denied");
    assert!(told.contains("the object is archived") && told.contains("restore-object"), "{told}");
    rig.fault(Fault::Answer(404, "NoSuchKey"));
    let told = refused(store.list("releases/").await, "store_unreachable");
    assert!(told.contains("answers a list request with 404") && told.contains("s3.path_style"), "{told}");
}

#[tokio::test]
async fn the_right_region_is_named_where_the_answer_says_it() {
    let rig = S3Rig::start();
    let expecting =
        "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-south-2'";
    for (fault, part) in [
        (Fault::Says(400, "AuthorizationHeaderMalformed", expecting), "set s3.region to eu-south-2"),
        (Fault::OtherRegion("ap-east-1"), "set s3.region to ap-east-1"),
        (Fault::Answer(307, "TemporaryRedirect"), "set s3.region to the bucket's"),
    ] {
        rig.fault(fault);
        let told = refused(get(store(&rig).as_ref(), "pointers/production").await, "store_unreachable");
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn a_weak_version_is_the_version_that_it_was_made_from() {
    let rig = S3Rig::start();
    let store = store(&rig);
    rig.fault(Fault::WeakETag);
    put(store.as_ref(), "pointers/production", b"v1").await.unwrap();
    let Ok(Found::Object { version, .. }) = get(store.as_ref(), "pointers/production").await else {
        panic!()
    };
    let body = pitstop::store::Body::Bytes(b"v2".to_vec());
    store.put("pointers/production", body, Condition::Matches(version)).await.unwrap();
    assert_eq!(rig.object("pointers/production").unwrap(), b"v2");
}

#[test]
fn versions_that_hold_for_nothing_are_not_taken_for_another_persons_move() {
    let pod = Pod::new();
    pod.publish("v1");
    pod.ok(&["promote", "v1"]);
    pod.rig.fault(Fault::Header("etag", "\"changed\"").of("GET"));
    let (code, said) = pod.fails(&["promote", "v1"]);
    assert_eq!(code, 1);
    assert!(said.contains("nobody else has changed it: its ETags do not hold"), "{said}");
}

#[test]
fn content_that_is_changed_on_its_way_is_told_by_its_encoding() {
    let pod = Pod::new();
    pod.publish("v1");
    pod.ok(&["promote", "v1"]);
    pod.rig.fault(Fault::Header("content-encoding", "gzip").of("GET").at("pointers/production"));
    let (_, said) = pod.fails(&["fetch"]);
    assert!(
        said.contains("pointers/production came with Content-Encoding gzip: upload it without"),
        "{said}"
    );
    pod.rig.heal();
    pod.rig.put("releases/v1.tar.zst", b"what a proxy has made of it".to_vec());
    pod.rig.fault(Fault::Header("content-encoding", "gzip").of("GET").at("releases/v1.tar.zst"));
    let (_, said) = pod.fails(&["fetch"]);
    assert!(said.contains("it came with Content-Encoding gzip, so the server or a proxy"), "{said}");
}

#[tokio::test]
async fn a_refusal_without_end_is_not_read_to_its_end() {
    let rig = S3Rig::start();
    rig.fault(Fault::Endless);
    let told = refused(get(store(&rig).as_ref(), "pointers/production").await, "store_denied");
    assert!(told.contains("403"), "{told}");
}

#[test]
fn doctor_tries_a_write_that_must_fail() {
    let pod = Pod::new();
    pod.publish("v1");
    pod.ok(&["promote", "v1"]);
    let found = || {
        let output = pod.command(&["doctor", "--json"]).output().unwrap();
        let said: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{:?}", ended(&output)));
        said.to_string()
    };
    let fine = found();
    assert!(fine.contains("the store supports conditional writes"), "{fine}");
    assert!(!fine.contains("STORE_PLAIN_HTTP"), "on loopback: {fine}");
    pod.rig.ignore_conditions();
    let found = found();
    assert!(found.contains("STORE_WITHOUT_CONDITIONS"), "{found}");
    assert_eq!(
        pod.rig
            .seen()
            .iter()
            .filter(|seen| seen.key.starts_with("pointers/") && seen.method == "PUT")
            .count(),
        1
    );
}
