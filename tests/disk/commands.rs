//! The commands that look after what is on the volume.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use pitstop::releases::leases::Lease;
use serde_json::Value;

use crate::rig::{Rig, id};

fn rig_with(releases: &[&str]) -> Rig {
    let rig = Rig::new();
    for release in releases {
        rig.promote(release);
        rig.ok(&["fetch"]);
    }
    rig
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn prune_says_what_would_go_and_then_does_it() {
    let rig = rig_with(&["v1", "v2", "v3", "v4"]);
    let lease = Lease { pod: "web-1".into(), running: Some(id("v1")), ..Lease::default() };
    let other = rig.of_pod("web-1");
    other.write_lease(&lease).unwrap();
    let would = json(&rig.ok(&["prune", "--keep", "1", "--dry-run", "--json"]));
    assert_eq!(would["dry_run"], true);
    assert_eq!(would["deleted"][0]["release"], "v2");
    assert!(rig.deploy_to.join("releases/v2").exists());
    let said = rig.ok(&["prune", "--keep", "1"]);
    assert!(said.contains("deleted v2 (untried,"), "{said}");
    assert!(said.contains("keeps v1: running in pod web-1"), "{said}");
    assert!(said.contains("keeps v3: in use in pod web-0"), "what the last fetch came from: {said}");
    assert!(!rig.deploy_to.join("releases/v2").exists());
    assert_eq!(rig.release_at_current().as_deref(), Some("v4"));
    fs::write(rig.deploy_to.join(".pitstop/leases/web-9"), "torn").unwrap();
    let (code, _) = rig.fails(&["prune"]);
    assert_eq!(code, 1, "nobody knows what may go");
}

#[test]
fn releases_shows_what_is_where_and_who_needs_it() {
    let rig = rig_with(&["v1", "v2"]);
    rig.publish("v3");
    let lease = Lease { pod: "web-1".into(), running: Some(id("v1")), ..Lease::default() };
    rig.of_pod("web-1").write_lease(&lease).unwrap();
    let listed = json(&rig.ok(&["releases", "--json"]));
    let of = |release: &str| {
        let all = listed["releases"].as_array().unwrap();
        all.iter().find(|one| one["release"] == release).unwrap().clone()
    };
    assert_eq!(
        (&of("v1")["leased"][0]["pod"], &of("v1")["leased"][0]["role"]),
        (&"web-0".into(), &"in use".into())
    );
    assert_eq!(of("v1")["leased"][1]["role"], "running");
    assert_eq!(of("v2")["current"], true);
    assert_eq!((&of("v3")["in_store"], &of("v3")["on_volume"]), (&true.into(), &Value::Null));
    let text = rig.ok(&["releases"]);
    assert!(text.contains("current") && text.contains("running in web-1"), "{text}");
    fs::rename(rig.store_dir(), rig.dir.path().join("away")).unwrap();
    let without = rig.run(&["releases"]);
    let text = String::from_utf8(without.stdout).unwrap();
    assert_eq!(without.status.code(), Some(1));
    assert!(text.contains("the store could not be listed") && text.contains("running in web-1"), "{text}");
}

#[test]
fn verify_tree_finds_what_somebody_changed() {
    let rig = rig_with(&["v1"]);
    assert!(rig.ok(&["verify-tree"]).contains("v1 matches what was published"));
    let release = rig.deploy_to.join("releases/v1");
    fs::write(release.join("config/0.rb"), "RELEASE = v2, 0").unwrap();
    fs::remove_file(release.join("config/1.rb")).unwrap();
    fs::write(release.join("config/debug.rb"), "").unwrap();
    fs::remove_file(release.join("link.ru")).unwrap();
    symlink("config/2.rb", release.join("link.ru")).unwrap();
    fs::set_permissions(release.join("config/3.rb"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = rig.run(&["verify-tree", "v1", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found = json(&String::from_utf8(output.stdout).unwrap());
    let found: Vec<_> = found["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["path"].as_str().unwrap().to_owned(), d["kind"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("config/0.rb", "changed"),
        ("config/1.rb", "missing"),
        ("config/3.rb", "changed"),
        ("config/debug.rb", "extra"),
        ("link.ru", "changed"),
    ];
    assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind.to_owned())));
    assert_eq!(rig.leftovers(), Vec::<String>::new());
    let (code, said) = rig.fails(&["verify-tree", "v9"]);
    assert_eq!(code, 1);
    assert!(said.contains("not a complete release"), "{said}");
}

#[test]
fn verify_tree_knows_the_links_that_a_release_was_given() {
    let rig = Rig::new();
    rig.promote("v1");
    let with_links = |args: &[&str]| {
        let mut command = rig.command(args);
        command.env("PITSTOP_LINKED_DIRS", "storage,public/uploads").output().unwrap()
    };
    assert!(with_links(&["fetch"]).status.success());
    // What is configured by now does not matter.
    rig.ok(&["verify-tree"]);
    let link = rig.deploy_to.join("releases/v1/public/uploads");
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    let output = with_links(&["verify-tree"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("changed  public/uploads (it was given a link to"), "{said}");
}

#[test]
fn install_copies_the_program_itself() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let into = dir.path().to_str().unwrap();
    assert!(rig.ok(&["install", into]).contains("installed"));
    let installed = dir.path().join("pitstop");
    assert_eq!(fs::read(&installed).unwrap(), fs::read(env!("CARGO_BIN_EXE_pitstop")).unwrap());
    assert!(rig.ok(&["install", into]).contains("is there already"));
    let version = std::process::Command::new(&installed).arg("--version").output().unwrap();
    assert!(version.status.success());
    // An older one that is running is replaced all the same.
    fs::write(dir.path().join("other"), "old").unwrap();
    let other = dir.path().join("other");
    let said = std::process::Command::new(&installed).arg("install").arg(&other).output().unwrap();
    assert!(said.status.success());
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o755);
    let sub = format!("{into}/made/");
    rig.ok(&["install", &sub]);
    assert!(dir.path().join("made/pitstop").exists());
    let (code, said) = rig.fails(&["install", "/proc/nowhere"]);
    assert_eq!(code, 1);
    assert!(said.contains("/proc/nowhere"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing else is left");
}
