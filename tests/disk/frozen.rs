//! What is held up for everybody: `freeze`, and `pause --fleet`.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::{moves::promoted, rig::Rig};

impl Rig {
    fn said(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }
}

#[test]
fn a_frozen_pointer_moves_for_nobody_until_it_is_unfrozen() {
    let rig = promoted(&["v1", "v2"]);
    let told = rig.ok(&["freeze", "production", "--why", "incident 12", "--by", "ann"]);
    assert!(
        told.starts_with("production is frozen (since 20") && told.contains("by ann: incident 12)"),
        "{told}"
    );
    for args in [&["promote", "v1"][..], &["promote", "v2"], &["rollback"], &["rollback", "--to", "v1"]] {
        rig.moves_nothing(args, 4, "by ann: incident 12) and was not moved; `pitstop unfreeze production`");
    }
    let again = rig.said(&["freeze", "production", "--why", "another reason", "--by", "bob"]);
    assert_eq!((&again["changed"], &again["frozen"]["by"]), (&json!(false), &json!("ann")));
    // The pods go on with what it names.
    assert!(rig.ok(&["fetch"]).contains("current is v2"));
    assert_eq!(rig.pointer()["sequence"], 2, "it is no move");
    let ended = rig.said(&["unfreeze", "production"]);
    assert_eq!((&ended["changed"], &ended["ended"]["why"]), (&json!(true), &json!("incident 12")));
    assert_eq!(rig.ok(&["unfreeze", "production"]), "production was not frozen\n");
    rig.ok(&["rollback"]);
    assert_eq!(rig.pointer()["release"], "v1");
}

#[test]
fn a_pointer_that_is_not_there_cannot_be_frozen() {
    let rig = promoted(&["v1"]);
    for args in
        [&["freeze", "prodution", "--why", "x"][..], &["unfreeze", "prodution"], &["history", "prodution"]]
    {
        let (code, said) = rig.fails(args);
        assert!(code == 1 && said.contains("did you mean production?"), "{args:?}: {said}");
    }
    for args in [&["freeze", "production"][..], &["freeze", "../x", "--why", "x"], &["unfreeze"]] {
        assert_eq!(rig.fails(args).0, 64, "{args:?}");
    }
}

#[test]
fn a_pause_of_the_fleet_is_said_by_who_moves_the_pointer() {
    let rig = promoted(&["v1", "v2"]);
    let told = rig.ok(&["pause", "--fleet", "--why", "database", "--by", "ann"]);
    assert!(told.starts_with("the pods of production are paused (since 20"), "{told}");
    assert!(told.contains("by ann: database)") && told.contains("`pitstop resume --fleet`"), "{told}");
    let text = rig.pointer_text();
    let paused = pitstop::pointer::parse(text.as_bytes()).unwrap();
    assert_eq!(paused.revision.to_string(), "v2#2", "it is no move");
    let moved = rig.ok(&["promote", "v1"]);
    assert!(moved.contains("its pods are paused (since 20"), "{moved}");
    assert!(rig.ok(&["resume", "--fleet"]).contains("by ann: database"));
    assert_eq!(rig.ok(&["resume", "--fleet"]), "the pods of production were not paused\n");
    assert_eq!(rig.ok(&["promote", "v2"]), "production now points to v2 (move 4), was v1\n");
}

#[test]
fn a_pointer_in_a_file_is_not_ours_to_pause() {
    let rig = promoted(&["v1"]);
    for args in [&["pause", "--fleet"][..], &["resume", "--fleet"], &["history"]] {
        let output = rig.command(args).env("PITSTOP_POINTER", "file:/etc/pitstop/release").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(64) && said.contains("which pitstop does not write"), "{said}");
    }
}

#[test]
fn pointers_are_listed_with_what_is_to_be_known_of_each() {
    let rig = promoted(&["v1", "v2"]);
    rig.ok(&["freeze", "production", "--why", "audit", "--by", "ann"]);
    std::fs::write(rig.store_dir().join("pointers/canary"), "v1\n").unwrap();
    std::fs::write(rig.store_dir().join("pointers/broken"), "no id at all").unwrap();
    let all = rig.said(&["pointers"]);
    let of = |n: usize| &all["pointers"][n];
    assert_eq!(
        [of(0), of(1), of(2)].map(|one| one["pointer"].as_str().unwrap()),
        ["broken", "canary", "production"]
    );
    assert!(of(0)["release"].is_null() && of(0)["error"].as_str().unwrap().contains("release id"));
    assert_eq!((&of(1)["release"], &of(1)["sequence"]), (&json!("v1"), &Value::Null));
    assert_eq!(
        (&of(2)["release"], &of(2)["sequence"], &of(2)["previous"]),
        (&json!("v2"), &json!(2), &json!("v1"))
    );
    assert_eq!(of(2)["frozen"]["why"], "audit");
    let told = rig.ok(&["pointers"]);
    let line = told.lines().find(|line| line.starts_with("production")).unwrap();
    assert!(line.contains(" v2 ") && line.contains("by ann: audit"), "{told}");
}

#[test]
fn of_a_freeze_and_promotes_at_the_same_time_both_hold_or_the_move_is_refused() {
    let rig = promoted(&["v1", "v2", "v3"]);
    let begin = |args: &[&str]| {
        let mut command = rig.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let freeze = begin(&["freeze", "production", "--why", "audit"]);
    let promotes = ["v1", "v2", "v3"].map(|release| begin(&["promote", release]));
    assert!(freeze.wait_with_output().unwrap().status.success(), "the note goes beside whatever it names");
    let codes = promotes.map(|promote| promote.wait_with_output().unwrap().status.code());
    let won = codes.iter().filter(|code| **code == Some(0)).count() as u64;
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 4))), "{codes:?}");
    assert_eq!(rig.pointer()["sequence"], 3 + won, "no move is lost");
    assert_eq!(rig.pointer()["frozen"]["why"], "audit");
    rig.moves_nothing(&["promote", "v1"], 4, "audit");
}
