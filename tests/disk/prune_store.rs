//! `pitstop prune --store`: what nobody needs goes, and whatever happens meanwhile, no release is left by half.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{moves::promoted, rig::Rig};

const NOW: &[&str] = &["prune", "--store", "--json", "--min-age", "0s", "--moves", "1"];

impl Rig {
    fn pruned(&self, more: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[NOW, &["--settle", "0s"], more].concat())).unwrap()
    }

    fn in_store(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store_dir().join("releases")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    fn write(&self, key: &str, text: impl AsRef<[u8]>) {
        let path = self.store_dir().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// It has taken the digests of these releases away, and waits.
    fn pruning(&self, releases: &[&str]) -> Child {
        let args = [NOW, &["--settle", "5s", "--yes"]].concat();
        let child = self.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let digest = |release: &&str| self.store_dir().join(format!("releases/{release}.tar.zst.sha256"));
        pitstop_rig::wait_until("the digests are gone", || {
            releases.iter().all(|release| !digest(release).exists())
        });
        child
    }
}

fn names(answer: &Value, field: &str) -> Vec<String> {
    let all = answer[field].as_array().unwrap().iter();
    all.map(|one| one["release"].as_str().unwrap().to_owned()).collect()
}

fn why(answer: &Value, release: &str) -> String {
    let kept = answer["kept"].as_array().unwrap().iter();
    kept.filter(|one| one["release"] == release).map(|one| one["why"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_somebody_needs_stays_and_nothing_goes_without_yes() {
    let rig = promoted(&["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"]);
    rig.report("web-0", json!({ "running": "v2", "desired": { "release": "v3", "sequence": 3 } }));
    rig.write("pointers/staging", r#"{"release":"v4","canary":{"release":"v5","sequence":2,"pods":1}}"#);
    rig.publish("left");
    fs::remove_file(rig.store_dir().join("releases/left.tar.zst.sha256")).unwrap();
    rig.write("releases/v1.signed", "{}");
    rig.write("releases/README", "ours");
    let before = rig.in_store();

    let answer = rig.pruned(&[]);
    assert_eq!(names(&answer, "deleted"), ["left", "v1", "v6", "v7"]);
    assert_eq!((&answer["dry_run"], rig.in_store()), (&json!(true), before), "nothing is deleted yet");
    assert!(answer["bytes"].as_u64().unwrap() > 0, "{answer}");
    for (release, reason) in [
        ("v2", "pod web-0 runs it"),
        ("v3", "pod web-0 is to run it"),
        ("v4", "staging points to it"),
        ("v5", "it is the canary of staging"),
        ("v8", "production pointed to it before"),
        ("v9", "production points to it"),
    ] {
        assert_eq!(why(&answer, release), reason, "{release}");
    }
    let deeper = rig.ok(&["prune", "--store", "--json", "--min-age", "0s", "--moves", "3"]);
    let deeper = serde_json::from_str(&deeper).unwrap();
    assert_eq!(names(&deeper, "deleted"), ["left", "v1"], "move 7 was from v6 to v7");
    let told = rig.ok(&["prune", "--store", "--moves", "1", "--min-age", "0s"]);
    assert!(told.contains("would delete left (0.0 MB, of 20") && told.contains(", unfinished)\n"), "{told}");
    assert!(told.ends_with("4 of 10 releases would go, 0.0 MB; --yes deletes them\n"), "{told}");

    let answer = rig.pruned(&["--yes"]);
    assert_eq!(names(&answer, "deleted"), ["left", "v1", "v6", "v7"]);
    let gone = |name: &String| ["left.", "v1.", "v6.", "v7."].iter().any(|id| name.starts_with(id));
    assert!(!rig.in_store().iter().any(gone), "{:?}", rig.in_store());
    assert!(rig.in_store().contains(&"README".to_owned()), "nothing of ours");
    rig.fetch("v2").unwrap();
    assert_eq!(names(&rig.pruned(&["--yes"]), "deleted"), [""; 0]);
}

#[test]
fn by_default_a_week_and_twenty_moves_stay() {
    let rig = promoted(&["v1", "v2", "v3"]);
    rig.publish("v0");
    let told = rig.ok(&["prune", "--store"]);
    assert!(told.contains("keeps v0: written within 7days\n"), "{told}");
    let told = rig.ok(&["prune", "--store", "--min-age", "0s"]);
    assert!(told.contains("would delete v0 ") && told.contains("keeps v1: move "), "{told}");
}

#[test]
fn ages_are_by_the_stores_clock_however_far_off_this_machines_is() {
    let rig = promoted(&["v1", "v2", "v3", "v4", "v5"]);
    rig.report("web-0", json!({ "running": "v3", "desired": { "release": "v3", "sequence": 3 } }));
    let written = |key: &str, days_ago: u64| {
        let at = SystemTime::now() - Duration::from_secs(days_ago * 24 * 3600);
        fs::File::open(rig.store_dir().join(key)).unwrap().set_modified(at).unwrap();
    };
    // As if this machine were a hundred days ahead.
    for name in rig.in_store() {
        let days = match name.split('.').next().unwrap() {
            "v1" | "v3" => 130,
            "v2" => 103,
            _ => 100,
        };
        written(&format!("releases/{name}"), days);
    }
    written("fleet/production/web-0", 102);
    let answer = rig.ok(&["prune", "--store", "--json", "--moves", "1", "--yes", "--settle", "0s"]);
    let answer = serde_json::from_str(&answer).unwrap();
    assert_eq!(names(&answer, "deleted"), ["v1"]);
    assert_eq!(
        (why(&answer, "v2"), why(&answer, "v3")),
        ("written within 7days".to_owned(), "pod web-0 runs it".to_owned())
    );
    // An object of the future makes no other one older.
    rig.write("releases/v9.tar.zst", "");
    let future = SystemTime::now() + Duration::from_secs(365 * 24 * 3600);
    fs::File::open(rig.store_dir().join("releases/v9.tar.zst")).unwrap().set_modified(future).unwrap();
    rig.publish("v8");
    let answer = serde_json::from_str(&rig.ok(&["prune", "--store", "--json", "--moves", "1"])).unwrap();
    assert_eq!(
        (why(&answer, "v8"), why(&answer, "v9")),
        ("written within 7days".into(), "written within 7days".into())
    );
}

#[test]
fn what_is_frozen_or_rolling_out_needs_all_of_its_way_back() {
    let rig = promoted(&["v1", "v2", "v3", "v4"]);
    rig.publish("v5");
    let journal = |state: &str| {
        let options = json!({ "steps": [], "smoke": false, "bake": "0s", "max_failed": 1, "timeout": "15m", "revert": true, "lease": "30s" });
        json!({ "v": 1, "id": "x", "release": "v5", "sequence": 5, "sha256": "", "base": { "release": "v1", "sequence": 4 },
                "state": state, "step": 1, "since": "", "fence": 1, "holder": null, "heartbeat": 0, "options": options })
    };
    rig.write("rollouts/production", journal("smoke").to_string());
    let answer = rig.pruned(&[]);
    assert_eq!(names(&answer, "deleted"), ["v2"]);
    assert_eq!(why(&answer, "v5"), "a rollout of production has not ended");
    rig.write("rollouts/production", journal("done").to_string());
    assert_eq!(names(&rig.pruned(&[]), "deleted"), ["v1", "v2", "v5"]);
    rig.ok(&["freeze", "production", "--why", "audit"]);
    let answer = rig.pruned(&[]);
    assert_eq!(names(&answer, "deleted"), ["v5"]);
    assert_eq!(why(&answer, "v1"), "move 2 of production, which is frozen or paused");
}

#[test]
fn where_it_is_unknown_what_is_needed_nothing_goes() {
    let rig = promoted(&["v1", "v2", "v3", "v4"]);
    let yes = [NOW, &["--settle", "0s", "--yes"]].concat();
    let before = rig.in_store();
    let refuses = |why: &str| {
        let (code, said) = rig.fails(&yes);
        assert!(code == 1 && said.contains(why) && rig.in_store() == before, "{why}: {code} {said}");
    };
    for (key, text, why) in [
        ("pointers/other", "no id at all", "other is not a valid pointer"),
        ("fleet/production/web-9", "{", "fleet/production/web-9 is no report of a pod"),
        ("rollouts/production", "{}", "rollouts/production is of another version, or damaged"),
    ] {
        rig.write(key, text);
        refuses(why);
        fs::remove_file(rig.store_dir().join(key)).unwrap();
    }
    fs::remove_dir_all(rig.store_dir().join("pointers")).unwrap();
    refuses("the store has no pointer");
    let mut in_a_file = rig.command(&yes);
    let output = in_a_file.env("PITSTOP_POINTER", "file:/etc/pointer").output().unwrap();
    assert_eq!((output.status.code(), rig.in_store()), (Some(64), before));
    for usage in [&["prune", "--yes"][..], &["prune", "--store", "--keep", "3"], &["prune", "--moves", "3"]] {
        assert_eq!(rig.fails(usage).0, 64, "{usage:?}");
    }
}

#[test]
fn what_is_promoted_or_published_in_the_same_moment_is_whole_afterwards() {
    let rig = promoted(&["v1", "v2", "v3", "v4", "v5"]);
    let child = rig.pruning(&["v1", "v2", "v3"]);
    // Who had found v1 before its digest was gone writes the pointer now; v2 is published once more.
    rig.write("pointers/other", "v1");
    assert!(rig.fails(&["promote", "v3"]).1.contains("the digest was deleted"), "it is no release any more");
    rig.publish("v2");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(names(&answer, "deleted"), ["v3"]);
    assert_eq!(why(&answer, "v1"), "other points to it");
    assert_eq!(why(&answer, "v2"), "it was published again meanwhile");
    for release in ["v1", "v2"] {
        rig.fetch(release).unwrap();
    }
}

#[test]
fn a_kill_in_between_leaves_nothing_that_can_be_promoted_and_the_next_one_finishes() {
    let rig = promoted(&["v1", "v2", "v3"]);
    let mut child = rig.pruning(&["v1"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(rig.store_dir().join("releases/v1.tar.zst").exists());
    let (code, said) = rig.fails(&["promote", "v1"]);
    assert!(code == 1 && said.contains("Publish v1 again"), "{said}");
    assert_eq!(names(&rig.pruned(&["--yes"]), "deleted"), ["v1"]);
    assert!(!rig.in_store().iter().any(|name| name.starts_with("v1.")));
}
