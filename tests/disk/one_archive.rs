//! A release has one archive, and the one that was promoted is the one that pods run.

use std::fs;

use serde_json::Value;

use crate::rig::{Rig, id};

/// A tar.gz of an app that says who made it.
fn archive(rig: &Rig, release: &str, who: &str) -> Vec<u8> {
    let app = rig.app(release);
    fs::write(app.join("who"), who).unwrap();
    let packed = rig.dir.path().join("packed.tar.gz");
    let tar =
        std::process::Command::new("tar").arg("-czf").arg(&packed).arg("-C").arg(&app).arg(".").status();
    assert!(tar.unwrap().success());
    fs::read(packed).unwrap()
}

fn pointer(rig: &Rig) -> Value {
    serde_json::from_slice(&fs::read(rig.store_dir().join("pointers/production")).unwrap()).unwrap()
}

fn who(rig: &Rig) -> Option<String> {
    fs::read_to_string(rig.deploy_to.join("current/who")).ok()
}

#[test]
fn a_release_with_two_archives_is_refused_by_both_names() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &archive(&rig, "v1", "ci"));
    rig.ok(&["promote", "v1"]);
    rig.put_archive("v1", "tar.zst", b"an archive that somebody added");
    for command in
        [&["fetch"][..], &["promote", "v1"], &["publish", "--archive", "ours.tar.gz", "--release", "v1"]]
    {
        fs::write(rig.dir.path().join("ours.tar.gz"), archive(&rig, "v1", "ours")).unwrap();
        let output = rig.command(command).current_dir(rig.dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(
            said.contains("releases/v1.tar.zst") && said.contains("releases/v1.tar.gz"),
            "{command:?}: {said}"
        );
        assert!(said.contains("delete the wrong one"), "{command:?}: {said}");
    }
    let problem = rig.fetch("v1").unwrap_err();
    assert_eq!(problem.reason.code(), "release_corrupt");
    assert_eq!(who(&rig), None);
    fs::remove_file(rig.store_dir().join("releases/v1.tar.zst.sha256")).unwrap();
    rig.ok(&["fetch"]);
    assert_eq!(who(&rig).as_deref(), Some("ci"));
}

#[test]
fn nothing_is_published_beside_an_archive_of_another_kind() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &archive(&rig, "v1", "ci"));
    let app = rig.app("v1");
    let publish = ["publish", app.to_str().unwrap(), "--release", "v1"];
    let (code, said) = rig.fails(&publish);
    assert!(code == 1 && said.contains("is in the store as releases/v1.tar.gz"), "{said}");
    fs::remove_file(rig.store_dir().join("releases/v1.tar.gz.sha256")).unwrap();
    let (code, said) = rig.fails(&publish);
    assert!(
        code == 1 && said.contains("is in the store as releases/v1.tar.gz"),
        "without its digest: {said}"
    );
    assert!(!rig.store_dir().join("releases/v1.tar.zst").exists());
}

#[test]
fn promote_writes_the_digest_of_the_archive_and_pods_take_no_other() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &archive(&rig, "v1", "ci"));
    rig.ok(&["promote", "v1"]);
    let promised = pointer(&rig)["sha256"].as_str().unwrap().to_owned();
    rig.put_archive("v1", "tar.gz", &archive(&rig, "v1", "somebody else"));
    let (code, said) = rig.fails(&["fetch"]);
    assert!(code == 1 && said.contains("was replaced") && said.contains(&promised), "{said}");
    assert_eq!(
        rig.fetch_promised(&rig.releases(), "v1", Some(&promised)).unwrap_err().reason.code(),
        "release_corrupt"
    );
    assert!(!rig.deploy_to.join("releases/v1").exists());
    // Without a digest in the pointer it goes as it always went.
    fs::write(rig.store_dir().join("pointers/production"), "v1").unwrap();
    rig.ok(&["fetch"]);
    assert_eq!(who(&rig).as_deref(), Some("somebody else"));
}

#[test]
fn a_tree_that_was_made_from_another_archive_is_not_taken_for_the_release() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &archive(&rig, "v1", "ci"));
    rig.fetch("v1").unwrap();
    let marker = rig.releases().marker(&id("v1")).unwrap().unwrap();
    assert!(rig.fetch_promised(&rig.releases(), "v1", Some(&marker.sha256)).unwrap().was_there);
    let problem = rig.fetch_promised(&rig.releases(), "v1", Some(&"0".repeat(64))).unwrap_err();
    assert_eq!(problem.reason.code(), "release_corrupt");
    assert!(problem.message.contains(&marker.sha256), "{}", problem.message);
}

#[test]
fn a_rollback_names_the_digest_of_what_it_goes_back_to() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &archive(&rig, "v1", "ci"));
    rig.put_archive("v2", "tar.gz", &archive(&rig, "v2", "ci"));
    rig.ok(&["promote", "v1"]);
    let of_v1 = pointer(&rig)["sha256"].clone();
    rig.ok(&["promote", "v2"]);
    assert_ne!(pointer(&rig)["sha256"], of_v1);
    rig.ok(&["rollback"]);
    assert_eq!(pointer(&rig)["sha256"], of_v1);
}

#[test]
fn an_archive_without_its_digest_is_told_from_a_release_that_was_never_published() {
    let rig = Rig::new();
    rig.promote("v1");
    rig.promote("v2");
    fs::remove_file(rig.store_dir().join("releases/v2.tar.zst.sha256")).unwrap();
    let (code, by_promote) = rig.fails(&["promote", "v2"]);
    assert_eq!(code, 1);
    for said in [by_promote, rig.fetch("v2").unwrap_err().message] {
        assert!(
            said.contains("the store has its archive (releases/v2.tar.zst) but not its digest"),
            "{said}"
        );
        assert!(said.contains("The upload did not finish, or the digest was deleted"), "{said}");
    }
    let (_, said) = rig.fails(&["promote", "v3"]);
    assert!(said.contains("the store has no release v3"), "{said}");
}
