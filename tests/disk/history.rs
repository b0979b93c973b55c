//! What is written down of each move: who, when, why, how it ended; and the way back that it shows.

use std::fs;

use serde_json::{Value, json};

use crate::{moves::promoted, rig::Rig};

impl Rig {
    fn moves(&self, name: &str) -> std::path::PathBuf {
        self.store_dir().join("moves/production").join(name)
    }

    fn written(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.moves(name)).unwrap_or_else(|e| panic!("{name}: {e}"))).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// A pod that runs what this move names, proved.
    fn runs(&self, release: &str, sequence: u64) {
        let desired = json!({ "release": release, "sequence": sequence });
        self.report("web-1", json!({ "desired": desired, "in_sync": true, "running": release }));
    }
}

/// Each move with how it ended.
fn ends(history: &Value) -> Vec<(u64, String)> {
    let moves = history["moves"].as_array().unwrap().iter();
    moves.map(|one| (one["sequence"].as_u64().unwrap(), one["result"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn who_moves_it_when_and_why_is_in_the_pointer_and_in_the_history() {
    let rig = promoted(&["v1"]);
    rig.publish("v2");
    let github = [("GITHUB_ACTIONS", "true"), ("GITHUB_ACTOR", "octocat")];
    let output = rig.command(&["promote", "v2", "--why", "fix 12"]).envs(github).output().unwrap();
    assert!(output.status.success());
    let pointer: Value = serde_json::from_str(&rig.pointer_text()).unwrap();
    for written in [&pointer, &rig.written("2")] {
        assert_eq!((&written["release"], &written["sequence"]), (&json!("v2"), &json!(2)));
        assert_eq!(written["moved_by"], "octocat (GitHub Actions)");
        assert_eq!(written["why"], "fix 12");
        assert!(humantime::parse_rfc3339(written["moved_at"].as_str().unwrap()).is_ok());
        assert_eq!(written["sha256"], pointer["sha256"]);
    }
    rig.ok(&["rollback", "--by", "ann"]);
    let history = rig.json(&["history"]);
    let of = |field: &str| {
        let moves = history["moves"].as_array().unwrap().iter();
        moves.map(|one| one[field].as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("release"), ["v1", "v2", "v1"]);
    assert_eq!(of("how"), ["rollback", "promote", "promote"]);
    assert_eq!(of("moved_by")[..2], ["ann", "octocat (GitHub Actions)"]);
    assert_eq!(of("why")[1], "fix 12");
    let told = rig.ok(&["history", "--limit", "2"]);
    assert_eq!(told.lines().count(), 3, "{told}");
    let lines: Vec<_> = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[1][..2], ["3", "v1"]);
    assert!(told.contains("octocat (GitHub Actions)") && told.contains("fix 12"), "{told}");
}

#[test]
fn who_waits_or_moves_next_writes_how_a_move_ended_and_nobody_writes_it_again() {
    let rig = promoted(&["v1", "v2", "v3"]);
    rig.runs("v3", 4);
    rig.ok(&["promote", "v3", "--wait", "--timeout", "60s"]);
    let end = rig.written("4.end");
    assert_eq!((&end["result"], &end["message"]), (&json!("verified"), &json!("1 of 1 pods ran it")));
    // A pod says later that it has rejected it: that is another story.
    let rejected = json!([{ "release": "v3", "sequence": 4, "reason": "boot_loop" }]);
    rig.report("web-1", json!({ "running": "v1", "rejected": rejected }));
    rig.ok(&["promote", "v2"]);
    assert_eq!(rig.written("4.end"), end);
    // The next move tells how this one ended: the pod never ran it.
    rig.ok(&["promote", "v1"]);
    assert_eq!(rig.written("5.end")["result"], "superseded");
    let rejected = json!([{ "release": "v1", "sequence": 6, "reason": "boot_loop" }]);
    rig.report("web-1", json!({ "running": "v3", "rejected": rejected }));
    rig.ok(&["promote", "v3"]);
    let end = rig.written("6.end");
    assert_eq!((&end["result"], &end["message"]), (&json!("rejected"), &json!("web-1: boot_loop")));
    let expected = [(7, "current"), (6, "rejected"), (5, "superseded"), (4, "verified"), (3, "verified")];
    let history = rig.json(&["history"]);
    assert_eq!(ends(&history)[..5], expected.map(|(sequence, word)| (sequence, word.to_owned())));
    assert_eq!(history["moves"][0]["message"], "1 of 1 pods run it");
}

#[test]
fn time_that_is_up_says_nothing_about_how_a_move_ends() {
    let rig = promoted(&["v1"]);
    rig.report("web-1", json!({ "running": "v1" }));
    assert_eq!(rig.fails(&["promote", "v1", "--wait", "--timeout", "1s"]).0, 3);
    assert!(!rig.moves("2.end").exists());
    rig.runs("v1", 2);
    rig.ok(&["promote", "v1"]);
    assert_eq!(rig.written("2.end")["result"], "verified", "the pods went on");
}

#[test]
fn rollback_goes_to_the_last_release_that_the_fleet_ran() {
    let rig = promoted(&["v1"]);
    rig.runs("v1", 1);
    rig.promote("v2");
    rig.promote("v3");
    rig.runs("v3", 3);
    rig.promote("v4");
    // v2 was never run: another move came first. v3 was.
    assert_eq!(rig.ok(&["rollback"]), "production now points to v3 (move 5), was v4\n");
    rig.runs("v3", 5);
    assert_eq!(rig.ok(&["rollback"]), "production now points to v1 (move 6), was v3\n");
    rig.moves_nothing(&["rollback"], 1, "v2: another move came before most pods ran it");
    assert_eq!(rig.pointer()["rolled_back"], json!(["v3", "v4"]));
}

#[test]
fn many_pods_and_many_moves_are_read_without_a_complaint() {
    let rig = promoted(&["v1", "v2"]);
    for release in ["v1", "v2"].iter().cycle().take(20) {
        rig.ok(&["promote", release]);
    }
    for pod in 0..20 {
        rig.report(&format!("web-{pod}"), json!({ "running": "v2" }));
    }
    let output = rig.run(&["rollback"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(rig.pointer()["release"], "v1");
    assert_eq!(rig.written("22.end")["message"], "20 of 20 pods ran it");
    let fleet = rig.json(&["fleet", "production"]);
    assert_eq!(fleet["pointers"][0]["pods"].as_array().map(Vec::len), Some(20));
}

#[test]
fn a_move_that_was_not_written_down_is_by_the_next_one() {
    let rig = promoted(&["v1", "v2"]);
    fs::remove_file(rig.moves("2")).unwrap();
    let history = rig.json(&["history"]);
    assert_eq!(ends(&history), [(2, "current".to_owned()), (1, "unknown".to_owned())]);
    rig.promote("v3");
    let (again, pointer) = (rig.written("2"), rig.written("3"));
    assert_eq!((&again["release"], &again["moved_by"]), (&json!("v2"), &pointer["moved_by"]));
}

#[test]
fn a_pointer_as_the_version_before_wrote_it_moves_on() {
    let rig = promoted(&["v1", "v2", "v3"]);
    fs::remove_dir_all(rig.store_dir().join("moves")).unwrap();
    let before = json!({ "release": "v3", "sequence": 3, "previous": "v2", "rolled_back": ["v9"] });
    fs::write(rig.store_dir().join("pointers/production"), before.to_string()).unwrap();
    // A report of that version, too.
    let desired = json!({ "release": "v3", "sequence": 3 });
    rig.report(
        "web-1",
        json!({ "desired": desired, "running": "v3", "in_sync": true, "reason": null, "message": "" }),
    );
    rig.ok(&["rollback"]);
    let back = json!({ "release": "v2", "sequence": 4, "previous": "v3", "rolled_back": ["v3", "v9"] });
    assert_eq!(rig.pointer(), back);
    assert_eq!(
        (&rig.written("3")["release"], &rig.written("3.end")["result"]),
        (&json!("v3"), &json!("verified"))
    );
    // A plain id has no number, and no move to be written down.
    fs::write(rig.store_dir().join("pointers/canary"), "v1\n").unwrap();
    let canary = |args: &[&str]| rig.command(args).env("PITSTOP_POINTER", "canary").output().unwrap();
    assert!(canary(&["history"]).stdout.starts_with(b"no move of canary is written down"));
    assert!(canary(&["promote", "v2"]).status.success());
    let moves: Vec<_> = fs::read_dir(rig.store_dir().join("moves/canary")).unwrap().collect();
    assert_eq!(moves.iter().filter(|one| one.as_ref().unwrap().file_name() != ".lock").count(), 1);
}

#[test]
fn what_later_versions_write_into_the_pointer_stays_there() {
    let rig = promoted(&["v1", "v2"]);
    let mut pointer: Value = serde_json::from_str(&rig.pointer_text()).unwrap();
    pointer["approvals"] = json!(["ann", { "by": "bob" }]);
    fs::write(rig.store_dir().join("pointers/production"), pointer.to_string()).unwrap();
    rig.ok(&["promote", "v1"]);
    rig.ok(&["freeze", "production", "--why", "audit"]);
    rig.ok(&["unfreeze", "production"]);
    rig.ok(&["rollback"]);
    assert_eq!(rig.pointer()["approvals"], pointer["approvals"]);
    assert!(rig.ok(&["fetch"]).contains("current is v2"), "agents make nothing of it");
}

#[test]
fn a_move_ends_a_canary_and_takes_a_number_above_its_own() {
    let rig = promoted(&["v1", "v2"]);
    rig.publish("v3");
    let mut pointer: Value = serde_json::from_str(&rig.pointer_text()).unwrap();
    let canary = json!({ "release": "v3", "sequence": 5, "percent": 5, "until": { "p95": "200ms" } });
    pointer["canary"] = canary.clone();
    fs::write(rig.store_dir().join("pointers/production"), pointer.to_string()).unwrap();
    rig.ok(&["freeze", "production", "--why", "audit"]);
    assert_eq!(rig.pointer()["canary"], canary, "who holds the pointer up takes nothing away");
    rig.ok(&["unfreeze", "production"]);
    // Whoever writes the history first takes the number, also where the pointer was never written.
    let taken = json!({ "v": 1, "release": "v9", "sequence": 6 });
    fs::write(rig.moves("6"), taken.to_string()).unwrap();
    rig.ok(&["promote", "v1"]);
    let now = rig.pointer();
    assert_eq!((&now["release"], &now["sequence"], &now["canary"]), (&json!("v1"), &json!(7), &Value::Null));
    assert_eq!(rig.written("7")["previous"], "v2");
}

#[test]
fn a_history_that_cannot_be_written_stops_no_move() {
    let rig = promoted(&["v1", "v2"]);
    fs::remove_dir_all(rig.store_dir().join("moves")).unwrap();
    fs::write(rig.store_dir().join("moves"), "in the way").unwrap();
    let output = rig.run(&["rollback", "--to", "v1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("production was moved, but the history was not written").count(), 1, "{said}");
    assert_eq!(rig.pointer()["release"], "v1");
}

#[test]
fn what_was_forged_in_a_history_begins_no_line_of_its_own() {
    let rig = promoted(&["v1"]);
    rig.publish("v2");
    rig.ok(&["promote", "v2", "--by", "ann\u{1b}[2J", "--why", "x\u{9b}y\u{202e}"]);
    // Somebody wrote it by hand, under another number.
    let forged = json!({ "v": 1, "release": "v9", "sequence": 7 });
    fs::write(rig.moves("1"), forged.to_string()).unwrap();
    let told = rig.ok(&["history"]);
    assert!(!told.contains(['\u{1b}', '\u{9b}', '\u{202e}']) && !told.contains("v9"), "{told:?}");
    assert!(!rig.ok(&["pointers"]).contains(['\u{1b}', '\u{9b}']));
}
