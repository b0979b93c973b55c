//! What each right in the store or on the volume is worth to whoever has no key. docs/security.md has the table.

use std::fs;

use serde_json::json;

use super::Signed;

/// Two good releases, and the second one is to run.
fn two() -> Signed {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.deploy("v2");
    signed
}

/// Publishes without a key.
fn plant(signed: &Signed, id: &str) {
    let app = signed.rig.app(id);
    fs::write(app.join("config.ru"), "evil").unwrap();
    signed.rig.ok(&["publish", app.to_str().unwrap(), "--release", id]);
}

/// Whatever a pod starts on is what was signed.
#[track_caller]
fn nothing_evil_runs(signed: &Signed) {
    for new in [false, true] {
        if new {
            signed.new_pod();
        }
        let output = signed.run(&["fetch"]);
        let current = signed.rig.release_at_current();
        assert!(current.is_none() || matches!(current.as_deref(), Some("v1" | "v2")), "{output:?}");
        assert_eq!(output.status.success(), current.is_some(), "{output:?}");
        if current.is_some() {
            assert_ne!(fs::read_to_string(signed.rig.current().join("config.ru")).unwrap(), "evil");
        }
    }
}

#[test]
fn who_may_create_in_releases_gets_nothing_run() {
    let signed = two();
    signed.runs("v2");
    // A new id, with a statement that somebody made themselves.
    plant(&signed, "v3");
    let key = super::keygen(&signed.rig, "own-release");
    let mut sign =
        signed.rig.command(&["sign", "v3", "--key", signed.secret("own-release").to_str().unwrap()]);
    assert!(sign.env("PITSTOP_TRUST_APP", "shop").status().unwrap().success(), "{key}");
    // And a second archive of the one that runs.
    signed.rig.put_archive("v2", "tar.gz", &fs::read(signed.object("releases/v3.tar.zst")).unwrap());
    nothing_evil_runs(&signed);
    signed.new_pod();
    signed.runs("v2");
    // The id is used up: CI has to take another.
    let (app, key) = (signed.rig.app("v3"), signed.secret("release"));
    let publish = ["publish", app.to_str().unwrap(), "--release", "v3", "--key", key.to_str().unwrap()];
    assert!(signed.fails(&publish).contains("v3"));
    // It can be promoted by mistake, and does not run then.
    signed.promote("v3");
    let said = signed.ok(&["fetch"]);
    assert!(said.contains("current is v2") && said.contains("the signature of release v3"), "{said}");
}

#[test]
fn who_may_write_releases_can_only_spoil_them() {
    let signed = two();
    signed.runs("v2");
    plant(&signed, "evil");
    for object in ["tar.zst", "tar.zst.sha256", "manifest"] {
        fs::copy(
            signed.object(&format!("releases/evil.{object}")),
            signed.object(&format!("releases/v2.{object}")),
        )
        .unwrap();
    }
    nothing_evil_runs(&signed);
    fs::copy(signed.object("releases/v1.signed"), signed.object("releases/v2.signed")).unwrap();
    nothing_evil_runs(&signed);
    fs::remove_file(signed.object("releases/v2.signed")).unwrap();
    nothing_evil_runs(&signed);
}

#[test]
fn who_may_write_pointers_chooses_nothing() {
    let signed = two();
    let old = signed.pointer();
    signed.deploy("v3");
    signed.runs("v3");
    plant(&signed, "evil");
    let good = signed.pointer();
    let evil = json!({"release": "evil", "sequence": 9});
    let canary = |release: &str| {
        let mut pointer = good.clone();
        pointer["canary"] = json!({"release": release, "sequence": 4, "percent": 100});
        pointer
    };
    let mut carried = good.clone();
    carried["release"] = json!("evil");
    let mut paused = good.clone();
    paused["paused"] = json!({"why": "nobody deploys any more"});
    for pointer in [evil, json!("evil"), canary("evil"), canary("v1"), carried, old.clone(), paused] {
        signed.put_pointer(&pointer);
        signed.ok(&["fetch"]);
        assert_eq!(signed.rig.release_at_current().as_deref(), Some("v3"), "{pointer}");
    }
    // What is left: to a pod without a past an old pointer is a pointer.
    signed.new_pod();
    signed.put_pointer(&old);
    signed.runs("v2");
}

#[test]
fn who_may_write_reports_chooses_nothing() {
    let signed = two();
    plant(&signed, "evil");
    for key in
        ["fleet/production/web-9", "moves/production/9", "canary/production/9/0", "rollouts/production"]
    {
        let path = signed.object(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let report = json!({"v": 1, "pod": "web-9", "release": "evil", "sequence": 9, "running": "evil", "stage": "steady"});
        fs::write(path, report.to_string()).unwrap();
    }
    nothing_evil_runs(&signed);
    signed.new_pod();
    signed.runs("v2");
}

#[test]
fn who_may_write_all_of_the_bucket_has_nothing_run() {
    let signed = two();
    signed.runs("v2");
    // Everything again, by somebody's own keys.
    let (release, pointer) =
        (super::keygen(&signed.rig, "own-release"), super::keygen(&signed.rig, "own-pointer"));
    fs::remove_dir_all(signed.rig.store_dir()).unwrap();
    let app = signed.rig.app("v2");
    fs::write(app.join("config.ru"), "evil").unwrap();
    let with = |args: &[&str], role: &str| {
        let key = signed.secret(role);
        let mut command = signed.rig.command(&[args, &["--key", key.to_str().unwrap()]].concat());
        assert!(command.env("PITSTOP_TRUST_APP", "shop").status().unwrap().success(), "{args:?}");
    };
    with(&["publish", app.to_str().unwrap(), "--release", "v2"], "own-release");
    with(&["promote", "v2"], "own-pointer");
    nothing_evil_runs(&signed);
    // Their keys are good for nothing else, either.
    assert!(release != signed.release_key && pointer != signed.pointer_key);
    signed.refuses("signature_invalid");
}

#[test]
fn who_may_write_the_volume_changes_trees_and_no_signature() {
    let signed = two();
    signed.runs("v2");
    // A tree with a marker that was written by hand, for the release that comes next.
    let (v2, v3) = (signed.rig.deploy_to.join("releases/v2"), signed.rig.deploy_to.join("releases/v3"));
    fs::create_dir_all(&v3).unwrap();
    fs::write(v3.join("config.ru"), "evil").unwrap();
    let marker = fs::read_to_string(v2.join(".pitstop-release")).unwrap();
    let mut marker: serde_json::Value = serde_json::from_str(&marker).unwrap();
    marker["release"] = json!("v3");
    fs::write(v3.join(".pitstop-release"), marker.to_string()).unwrap();
    signed.deploy("v3");
    let said = signed.ok(&["fetch"]);
    assert!(said.contains("current is v2"), "{said}");
    // Not defended: the files of a release that was made here.
    fs::remove_dir_all(v3).unwrap();
    signed.runs("v3");
    fs::write(signed.rig.current().join("config.ru"), "evil").unwrap();
    assert!(signed.ok(&["fetch"]).contains("current is v3"));
    assert!(signed.fails(&["verify-tree"]).is_empty(), "it says on standard output what differs");
}

#[test]
fn verify_tree_goes_by_the_signature_and_not_by_what_bucket_and_volume_say() {
    let signed = two();
    signed.runs("v2");
    assert!(signed.ok(&["verify-tree"]).contains("matches what was published"));
    // The same change in the tree, in the archive with its digest, and in the marker.
    let app = signed.rig.app("v2");
    for dir in [&app, &signed.rig.current()] {
        fs::write(dir.join("config.ru"), "evil").unwrap();
    }
    signed.rig.ok(&["publish", app.to_str().unwrap(), "--release", "evil"]);
    for object in ["tar.zst", "tar.zst.sha256"] {
        let [from, to] = ["evil", "v2"].map(|id| signed.object(&format!("releases/{id}.{object}")));
        fs::copy(from, to).unwrap();
    }
    let digest = fs::read_to_string(signed.object("releases/v2.tar.zst.sha256")).unwrap();
    let path = signed.rig.current().join(".pitstop-release");
    let mut marker: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    marker["sha256"] = json!(digest.split(' ').next().unwrap());
    fs::write(path, marker.to_string()).unwrap();
    assert!(signed.rig.ok(&["verify-tree"]).contains("matches"), "without keys nobody can tell");
    let said = signed.fails(&["verify-tree"]);
    assert!(said.contains("release_corrupt"), "{said}");
}
