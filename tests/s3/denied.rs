//! What the store refuses, and what the users are told to do about it.

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use pitstop::store::s3::Settings;
use pitstop_rig::{Fault, S3Rig};

use crate::rig::{get, put, refused, settings, store, store_with};

#[tokio::test]
async fn without_the_permission_to_list_both_meanings_are_named() {
    let rig = S3Rig::start();
    let store = store(&rig);
    rig.fault(Fault::NoListing);
    let told = refused(get(store.as_ref(), "pointers/production").await, "store_denied");
    insta::assert_snapshot!(told, @"the store refuses access: s3://rig-bucket/apps/shop/pointers/production: either the object exists and the credentials lack s3:GetObject, or it does not exist and they lack s3:ListBucket (403 AccessDenied)");
    let told = refused(store.list("releases/").await, "store_denied");
    assert!(told.contains("lack s3:ListBucket"), "{told}");
    // What is there is read all the same.
    rig.put("pointers/production", b"v1".to_vec());
    get(store.as_ref(), "pointers/production").await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_refused_names_its_permission() {
    let rig = S3Rig::start();
    rig.fault(Fault::Answer(403, "AccessDenied"));
    let told = refused(put(store(&rig).as_ref(), "pointers/production", b"v1").await, "store_denied");
    assert!(
        told.contains("s3://rig-bucket/apps/shop/pointers/production: the credentials lack s3:PutObject"),
        "{told}"
    );
    assert_eq!(rig.seen().len(), 1, "a refusal is not asked for again");
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_key_are_told_and_the_secret_is_not() {
    let rig = S3Rig::start();
    let keys = rig.keys();
    for (access, secret, code) in [
        (keys.access.as_str(), "another-secret", "SignatureDoesNotMatch"),
        ("SOMEBODY", keys.secret.as_str(), "InvalidAccessKeyId"),
    ] {
        let credentials = Credentials::new(access, secret, None, None, "the test");
        let credentials = Some(SharedCredentialsProvider::new(credentials));
        let store = store_with(&rig, Settings { credentials, ..settings(&rig) });
        let told = refused(get(store.as_ref(), "pointers/production").await, "store_denied");
        assert!(told.contains("does not accept these credentials") && told.contains(code), "{told}");
        assert!(!told.contains(secret), "{told}");
    }
}

#[tokio::test]
async fn expired_credentials_and_a_wrong_clock_are_told_with_their_remedy() {
    let rig = S3Rig::start();
    for (status, code, remedy) in [
        (400, "ExpiredToken", "the credentials have expired: renew them"),
        (403, "RequestTimeTooSkewed", "correct the clock"),
    ] {
        rig.fault(Fault::Answer(status, code));
        let told = refused(get(store(&rig).as_ref(), "pointers/production").await, "store_denied");
        assert!(told.contains(remedy), "{told}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_elsewhere_is_named_with_the_key_to_look_at() {
    let rig = S3Rig::start();
    rig.fault(Fault::Answer(404, "NoSuchBucket"));
    let told = refused(get(store(&rig).as_ref(), "pointers/production").await, "store_unreachable");
    assert!(told.contains("has no bucket rig-bucket: check `source`"), "{told}");
    rig.fault(Fault::OtherRegion("us-west-2"));
    let told = refused(get(store(&rig).as_ref(), "pointers/production").await, "store_unreachable");
    assert!(told.contains("set s3.region to us-west-2"), "{told}");
}
