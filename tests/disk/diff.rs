//! `publish` says what an archive holds; `diff` compares two of them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use serde_json::{Value, json};

use crate::rig::Rig;

fn publish(rig: &Rig, release: &str, files: &[(&str, &str)]) {
    let app = rig.dir.path().join("apps").join(release);
    for (name, text) in files {
        let path = app.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let _ = symlink(release, app.join("link"));
    rig.ok(&["publish", app.to_str().unwrap(), "--release", release]);
}

fn diff(rig: &Rig, more: &[&str]) -> Value {
    let text = rig.ok(&[&["diff", "v1", "v2", "--json"], more].concat());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_changes_from_one_release_to_another_is_named_and_so_is_the_restart() {
    let rig = Rig::new();
    publish(&rig, "v1", &[("app/a.rb", "a"), ("app/b.rb", "b"), ("Gemfile.lock", "one"), ("old", "")]);
    publish(&rig, "v2", &[("app/a.rb", "a"), ("app/b.rb", "B"), ("Gemfile.lock", "two"), ("new/er", "")]);
    let found = diff(&rig, &[]);
    assert_eq!(found["added"], json!({ "count": 1, "names": ["new/er"] }));
    assert_eq!(found["changed"], json!({ "count": 3, "names": ["Gemfile.lock", "app/b.rb", "link"] }));
    assert_eq!(found["removed"], json!({ "count": 1, "names": ["old"] }));
    assert_eq!((&found["gemfile_lock"], &found["puma_config"]), (&json!(true), &json!(false)));
    assert_eq!(found["restart"]["mode"], "hot");
    let text = rig.ok(&["diff", "v1", "v2", "--limit", "1"]);
    insta::assert_snapshot!(text, @r"
    v1 to v2: 1 added, 3 changed, 1 removed (files and links)
      + new/er
      ~ Gemfile.lock
      ~ and 2 more (--limit)
      - old
    bundle (Gemfile.lock): changes
    config/puma.rb: unchanged
    restart: beside where Puma runs under `pitstop exec`, else hot (Gemfile.lock differs, which a phased restart does not load)
    ");
}

#[test]
fn a_release_that_differs_in_code_only_may_be_restarted_worker_by_worker() {
    let rig = Rig::new();
    publish(&rig, "v1", &[("app/a.rb", "a"), ("bin/rails", "x"), ("config/puma.rb", "workers 2")]);
    let app = rig.dir.path().join("apps/v2");
    fs::create_dir_all(app.join("bin")).unwrap();
    fs::write(app.join("bin/rails"), "x").unwrap();
    fs::set_permissions(app.join("bin/rails"), fs::Permissions::from_mode(0o755)).unwrap();
    publish(&rig, "v2", &[("app/a.rb", "A"), ("config/puma.rb", "workers 2")]);
    let found = diff(&rig, &[]);
    assert_eq!(found["changed"]["names"], json!(["app/a.rb", "bin/rails", "link"]));
    assert_eq!(found["restart"]["mode"], "phased");
}

#[test]
fn a_release_that_another_tool_uploaded_is_compared_by_its_archive() {
    let rig = Rig::new();
    let files = [("app/a.rb", "a"), ("log/.keep", "")];
    publish(&rig, "v1", &files);
    let archive = rig.dir.path().join("v2.tar.gz");
    let packed = |dir: &str| {
        let app = rig.dir.path().join("apps").join(dir);
        let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(app).arg(".").status();
        assert!(tar.unwrap().success());
        fs::read(&archive).unwrap()
    };
    rig.put_archive("v2", "tar.gz", &packed("v1"));
    let found = diff(&rig, &[]);
    let none = json!({ "count": 0, "names": [] });
    assert_eq!((&found["added"], &found["changed"], &found["removed"]), (&none, &none, &none));
    // What publish itself takes as it is has a manifest too, the same with any configuration.
    let mut publish = rig.command(&["publish", "--archive", archive.to_str().unwrap(), "--release", "v3"]);
    assert!(publish.env("PITSTOP_LINKED_DIRS", "log,storage").output().unwrap().status.success());
    let manifest =
        |release: &str| fs::read(rig.store_dir().join(format!("releases/{release}.manifest"))).unwrap();
    assert_eq!(manifest("v3"), manifest("v1"));
    fs::write(rig.store_dir().join("releases/v3.manifest"), "torn").unwrap();
    let (code, message) = rig.fails(&["diff", "v1", "v3"]);
    assert!(code == 1 && message.contains("releases/v3.manifest"), "{message}");
}

#[test]
fn a_release_that_is_not_there_is_named() {
    let rig = Rig::new();
    publish(&rig, "v1", &[("app/a.rb", "a")]);
    let (code, message) = rig.fails(&["diff", "v1", "v9"]);
    assert_eq!(code, 1);
    assert!(message.contains("the store has no release v9"), "{message}");
}

#[test]
fn what_an_archive_holds_lies_beside_it_before_the_release_is_committed() {
    let rig = Rig::new();
    publish(&rig, "v1", &[("app/a.rb", "a")]);
    let manifest = rig.store_dir().join("releases/v1.manifest");
    let text = zstd::decode_all(fs::File::open(&manifest).unwrap()).unwrap();
    let text = String::from_utf8(text).unwrap();
    let sum = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert_eq!(text, format!("pitstop-manifest 1 3\napp d 755\napp/a.rb f 644 1 {sum}\nlink l v1\n"));
    // What an interrupted publish left is taken up; what belongs to something else is not.
    let commit = rig.store_dir().join("releases/v1.tar.zst.sha256");
    fs::remove_file(&commit).unwrap();
    publish(&rig, "v1", &[]);
    fs::remove_file(&commit).unwrap();
    fs::write(&manifest, "another").unwrap();
    let app = rig.dir.path().join("apps/v1");
    let (code, message) = rig.fails(&["publish", app.to_str().unwrap(), "--release", "v1"]);
    assert!(code == 1 && message.contains("releases/v1.manifest"), "{message}");
    assert!(!commit.exists());
}
