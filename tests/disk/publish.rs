//! Publishing, moving the pointer, moving `current`.

use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener};

use pitstop::{core::Reason, releases::Limits, releases::Releases};

use crate::rig::{Rig, id};

#[test]
fn an_id_never_changes_its_bytes() {
    let rig = Rig::new();
    rig.publish("v1");
    let app = rig.app("v1");
    let args = ["publish", app.to_str().unwrap(), "--release", "v1"];
    assert!(rig.ok(&args).starts_with("already published v1"));
    fs::write(app.join("config.ru"), "other").unwrap();
    let (code, message) = rig.fails(&args);
    assert_eq!(code, 1);
    assert!(message.contains("different content"), "{message}");
    rig.ok(&["promote", "v1"]);
    rig.ok(&["fetch"]);
    assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
}

#[test]
fn an_interrupted_publish_is_taken_up_and_unknown_until_then() {
    let rig = Rig::new();
    rig.publish("v1");
    fs::remove_file(rig.store_dir().join("releases/v1.tar.zst.sha256")).unwrap();
    let (code, message) = rig.fails(&["promote", "v1"]);
    assert_eq!(code, 1);
    assert!(message.contains("release_unknown"), "{message}");
    rig.promote("v1");
}

#[test]
fn a_ready_archive_is_published_as_it_is() {
    let rig = Rig::new();
    let app = rig.app("v1");
    let archive = rig.dir.path().join("v1.tgz");
    let tar =
        std::process::Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&app).arg(".").status();
    assert!(tar.unwrap().success());
    let args = ["publish", "--archive", archive.to_str().unwrap(), "--release", "v1"];
    assert!(rig.ok(&args).contains("releases/v1.tar.gz"));
    assert!(rig.ok(&args).starts_with("already published"));
    rig.ok(&["promote", "v1"]);
    rig.ok(&["fetch"]);
    assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
    fs::write(&archive, "no archive at all").unwrap();
    assert!(rig.fails(&args).1.contains("neither a tar.zst nor a tar.gz"));
}

#[test]
fn what_cannot_be_a_release_is_refused_by_name() {
    let rig = Rig::new();
    let app = rig.app("v1");
    let args = ["publish", app.to_str().unwrap(), "--release", "v1"];
    symlink("../../outside", app.join("out")).unwrap();
    assert!(rig.fails(&args).1.contains("leads out of the release"));
    fs::remove_file(app.join("out")).unwrap();
    let _socket = UnixListener::bind(app.join("puma.sock")).unwrap();
    assert!(rig.fails(&args).1.contains("puma.sock is a socket"));
}

#[tokio::test]
async fn of_two_writers_that_saw_the_same_exactly_one_wins() {
    use pitstop::store::{Body, Condition, Found, Store, StoreError, dir::DirStore};
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..4).map(|_| DirStore::new(dir.path().into()).unwrap()).collect();
    let key = "pointers/production";
    stores[0].put(key, Body::Bytes(b"v0".into()), Condition::Absent).await.unwrap();
    let Found::Object { version, .. } = stores[0].get(key, None, 100).await.unwrap() else { panic!() };
    let puts = stores.iter().enumerate().map(|(n, store)| {
        store.put(key, Body::Bytes(format!("v{n}-new").into()), Condition::Matches(version.clone()))
    });
    let results = futures_util::future::join_all(puts).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(StoreError::Changed(_)))), "{results:?}");
}

#[test]
fn a_file_pointer_is_moved_where_it_comes_from() {
    let rig = Rig::new();
    for args in [&["promote", "v1"][..], &["rollback"]] {
        let output = rig.command(args).env("PITSTOP_POINTER", "file:/etc/pitstop/release").output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&output.stderr).contains("kubectl patch configmap"));
    }
}

#[test]
fn current_being_a_directory_is_left_alone() {
    let rig = Rig::new();
    rig.promote("v1");
    fs::create_dir_all(rig.current().join("app")).unwrap();
    let (code, message) = rig.fails(&["fetch"]);
    assert_eq!(code, 1);
    assert!(message.contains("is a directory and not a link; move it away"), "{message}");
    assert!(rig.current().join("app").is_dir());
    assert_eq!(rig.releases().current(), Ok(None));
}

#[test]
fn current_is_only_what_was_proved_complete() {
    let rig = Rig::new();
    rig.promote("v1");
    rig.fetch("v1").unwrap();
    let releases = rig.releases();
    assert_eq!(releases.current(), Ok(None));
    symlink("releases/v9", rig.current()).unwrap();
    assert_eq!(releases.current(), Ok(None), "dangling");
    releases.publish(&id("v1")).unwrap();
    assert_eq!(releases.current(), Ok(Some(id("v1"))));
    assert_eq!(fs::read_link(rig.current()).unwrap().to_str(), Some("releases/v1"));
    fs::create_dir(rig.deploy_to.join("releases/by-hand")).unwrap();
    assert_eq!(releases.publish(&id("by-hand")).unwrap_err().reason, Reason::ReleaseCorrupt);
    assert_eq!(releases.current(), Ok(Some(id("v1"))));
}

#[test]
fn current_may_be_elsewhere() {
    let rig = Rig::new();
    rig.publish("v1");
    rig.fetch("v1").unwrap();
    let elsewhere = rig.dir.path().join("pod");
    fs::create_dir(&elsewhere).unwrap();
    let current = elsewhere.join("current");
    let releases = Releases::new(rig.deploy_to.clone(), current.clone(), "web-0", Limits::default());
    releases.publish(&id("v1")).unwrap();
    assert_eq!(releases.current(), Ok(Some(id("v1"))));
    assert_eq!(fs::read_to_string(current.join("config.ru")).unwrap(), "v1");
}
