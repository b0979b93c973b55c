//! What the store can do: conditional reads and writes, parts of objects, lists.

use pitstop::store::{Body, Condition, Found, Object, StoreError};
use pitstop_rig::{Fault, S3Rig};

use crate::rig::{get, put, read, refused, store};

#[tokio::test]
async fn what_is_written_is_read_and_not_sent_again_while_it_is_the_same() {
    let rig = S3Rig::start();
    let store = store(&rig);
    assert_eq!(get(store.as_ref(), "pointers/production").await, Ok(Found::Absent));
    let version = put(store.as_ref(), "pointers/production", b"v1").await.unwrap();
    let found = get(store.as_ref(), "pointers/production").await.unwrap();
    assert_eq!(found, Found::Object { version: version.clone(), bytes: b"v1".to_vec() });
    let again = store.get("pointers/production", Some(&version), 100).await;
    assert_eq!(again, Ok(Found::NotModified));
    assert_eq!(rig.seen().last().unwrap().status, 304);
    rig.put("pointers/production", b"v2".to_vec());
    let changed = store.get("pointers/production", Some(&version), 100).await.unwrap();
    assert!(matches!(changed, Found::Object { bytes, .. } if bytes == b"v2"));
}

#[tokio::test]
async fn the_objects_lie_below_the_prefix() {
    let rig = S3Rig::start();
    put(store(&rig).as_ref(), "releases/v1.tar.zst.sha256", b"digest").await.unwrap();
    assert_eq!(rig.object("releases/v1.tar.zst.sha256").unwrap(), b"digest");
}

#[tokio::test]
async fn a_write_happens_only_if_its_condition_holds() {
    let rig = S3Rig::start();
    let store = store(&rig);
    let first = put(store.as_ref(), "pointers/a", b"1").await.unwrap();
    let taken = put(store.as_ref(), "pointers/a", b"2").await;
    assert_eq!(taken, Err(StoreError::Changed("pointers/a".into())));
    let swap = |version, bytes: &[u8]| {
        store.put("pointers/a", Body::Bytes(bytes.into()), Condition::Matches(version))
    };
    let second = swap(first.clone(), b"2").await.unwrap();
    assert_eq!(swap(first, b"3").await, Err(StoreError::Changed("pointers/a".into())));
    assert_eq!(rig.object("pointers/a").unwrap(), b"2");
    let gone = store.put("pointers/b", Body::Bytes(b"x".to_vec()), Condition::Matches(second)).await;
    assert_eq!(gone, Err(StoreError::Changed("pointers/b".into())));
}

#[tokio::test]
async fn a_conflict_of_two_writes_under_way_is_a_lost_race() {
    let rig = S3Rig::start();
    rig.fault(Fault::Answer(409, "ConditionalRequestConflict").of("PUT"));
    let lost = put(store(&rig).as_ref(), "pointers/a", b"1").await;
    assert_eq!(lost, Err(StoreError::Changed("pointers/a".into())));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_to_be_done() {
    let rig = S3Rig::start();
    let store = store(&rig);
    rig.fault(Fault::AnswerLost.of("PUT").times(1));
    let version = put(store.as_ref(), "pointers/a", b"ours").await.unwrap();
    let statuses: Vec<_> = rig.seen().iter().map(|seen| (seen.method.clone(), seen.status)).collect();
    assert_eq!(statuses, [("PUT".into(), 0), ("PUT".into(), 412), ("GET".into(), 200)]);
    // But not somebody else's.
    rig.fault(Fault::AnswerLost.of("PUT").times(1));
    let lost =
        store.put("pointers/a", Body::Bytes(b"ours, too".to_vec()), Condition::Matches(version.clone()));
    rig.put("pointers/a", b"theirs".to_vec());
    assert_eq!(lost.await, Err(StoreError::Changed("pointers/a".into())));
    assert_eq!(rig.object("pointers/a").unwrap(), b"theirs");
}

#[tokio::test]
async fn a_file_is_streamed_and_its_digest_checked_by_the_store() {
    let rig = S3Rig::start();
    let store = store(&rig);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let body = || Body::File(file.path().into());
    store.put("releases/v1.tar.zst", body(), Condition::Absent).await.unwrap();
    assert!(rig.object("releases/v1.tar.zst").unwrap() == bytes);
    let again = store.put("releases/v1.tar.zst", body(), Condition::Absent).await;
    assert_eq!(again, Err(StoreError::Changed("releases/v1.tar.zst".into())));
    let missing = store.put("releases/v2", Body::File("/nowhere/v2".into()), Condition::Absent).await;
    assert!(refused(missing, "internal").contains("/nowhere/v2"));
}

#[tokio::test]
async fn a_part_of_an_object_is_read_and_only_of_the_version_that_is_meant() {
    let rig = S3Rig::start();
    let store = store(&rig);
    let first = put(store.as_ref(), "releases/v1", b"0123456789").await.unwrap();
    assert_eq!(read(store.as_ref(), "releases/v1", 0).await.unwrap(), b"0123456789");
    let Object { size_bytes, version, .. } = store.read("releases/v1", 7, Some(&first)).await.unwrap();
    assert_eq!((size_bytes, version), (10, first.clone()));
    assert_eq!(read(store.as_ref(), "releases/v1", 7).await.unwrap(), b"789");
    rig.put("releases/v1", b"abcdefghij".to_vec());
    let other = store.read("releases/v1", 7, Some(&first)).await.map(|_| ());
    assert_eq!(other, Err(StoreError::Changed("releases/v1".into())));
    assert_eq!(read(store.as_ref(), "releases/v2", 0).await, Err(StoreError::Missing("releases/v2".into())));
}

#[tokio::test]
async fn more_than_the_reader_takes_is_refused() {
    let rig = S3Rig::start();
    let store = store(&rig);
    put(store.as_ref(), "pointers/big", &[b'x'; 5000]).await.unwrap();
    let found = store.get("pointers/big", None, 4999).await;
    assert!(refused(found, "release_corrupt").contains("pointers/big is larger than 4999 bytes"));
    assert!(matches!(store.get("pointers/big", None, 5000).await, Ok(Found::Object { .. })));
}

#[tokio::test]
async fn a_list_is_whole_however_many_pages_it_has() {
    let rig = S3Rig::start();
    let store = store(&rig);
    assert_eq!(store.list("releases/").await, Ok(vec![]));
    for n in 0..1005 {
        rig.put(&format!("releases/v{n:04}.tar.zst.sha256"), b"digest".to_vec());
    }
    rig.put("releases/deeper/packs/1", b"pack".to_vec());
    rig.put("pointers/production", b"v1".to_vec());
    let keys = store.list("releases/").await.unwrap();
    assert_eq!(keys.len(), 1005, "{:?}", keys.last());
    assert_eq!(
        (keys[0].as_str(), keys[1004].as_str()),
        ("releases/v0000.tar.zst.sha256", "releases/v1004.tar.zst.sha256")
    );
    assert_eq!(rig.seen().iter().filter(|seen| seen.key.starts_with('?')).count(), 1 + 2);
}

#[tokio::test]
async fn a_text_that_is_no_key_asks_nobody() {
    let rig = S3Rig::start();
    let store = store(&rig);
    for key in ["", "/a", "a//b", "../a", "a/.b", "a\nb"] {
        assert_eq!(get(store.as_ref(), key).await, Err(StoreError::InvalidKey(key.into())));
    }
    assert_eq!(rig.seen(), []);
}
