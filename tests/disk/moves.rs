//! Moving a pointer: `promote` and `rollback`, and each way in which they leave it alone.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::rig::Rig;

impl Rig {
    pub fn pointer_text(&self) -> String {
        fs::read_to_string(self.store_dir().join("pointers/production")).unwrap()
    }

    /// Without the archive's digest, and without who moved it and when.
    pub fn pointer(&self) -> Value {
        let mut pointer: Value = serde_json::from_str(&self.pointer_text()).unwrap();
        let fields = pointer.as_object_mut().unwrap();
        for field in ["sha256", "moved_by", "moved_at"] {
            assert!(fields.remove(field).is_some_and(|value| value.is_string()), "{field}");
        }
        fields.remove("why");
        pointer
    }

    /// What a pod's agent has written.
    pub fn report(&self, pod: &str, report: Value) {
        let dir = self.store_dir().join("fleet/production");
        fs::create_dir_all(&dir).unwrap();
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let mut whole =
            json!({ "v": 1, "pod": pod, "running": null, "in_sync": false, "stage": "steady", "at": now });
        whole.as_object_mut().unwrap().extend(report.as_object().unwrap().clone());
        fs::write(dir.join(pod), whole.to_string()).unwrap();
    }

    /// It ends with this code and this message, and the pointer is what it was.
    #[track_caller]
    pub fn moves_nothing(&self, args: &[&str], code: i32, message: &str) {
        let before = self.pointer_text();
        let (ended, said) = self.fails(args);
        assert_eq!(ended, code, "{args:?}: {said}");
        assert!(said.contains(message), "{args:?}: {said}");
        assert_eq!(self.pointer_text(), before, "{args:?}");
    }
}

pub fn promoted(releases: &[&str]) -> Rig {
    let rig = Rig::new();
    releases.iter().for_each(|release| rig.promote(release));
    rig
}

#[test]
fn a_move_counts_and_remembers_and_rollback_goes_back() {
    let rig = promoted(&["v1", "v2"]);
    assert_eq!(rig.pointer(), json!({ "release": "v2", "sequence": 2, "previous": "v1" }));
    rig.ok(&["promote", "v2"]);
    assert_eq!(rig.pointer(), json!({ "release": "v2", "sequence": 3, "previous": "v1" }));
    assert_eq!(rig.ok(&["rollback"]), "production now points to v1 (move 4), was v2\n");
    let back = json!({ "release": "v1", "sequence": 4, "previous": "v2", "rolled_back": ["v2"] });
    assert_eq!(rig.pointer(), back);
    rig.moves_nothing(&["promote", "v9"], 1, "the store has no release v9");
}

#[test]
fn a_second_rollback_never_leads_to_what_the_first_one_left() {
    let rig = promoted(&["v1", "v2", "v3"]);
    rig.ok(&["rollback"]);
    assert_eq!(rig.ok(&["rollback"]), "production now points to v1 (move 5), was v2\n");
    rig.moves_nothing(
        &["rollback"],
        1,
        "no earlier release is a way back (v2: it was rolled back from; v3: it was rolled back from)",
    );
    rig.moves_nothing(&["rollback", "--wait"], 1, "pitstop rollback --to ID");
    // A release that comes later has a way back again, and it is remembered what none is.
    rig.promote("v4");
    assert_eq!(rig.pointer()["rolled_back"], json!(["v2", "v3"]));
    rig.ok(&["rollback"]);
    assert_eq!(
        (&rig.pointer()["release"], &rig.pointer()["rolled_back"]),
        (&json!("v1"), &json!(["v4", "v2", "v3"]))
    );
}

#[test]
fn who_names_a_release_gets_it() {
    let rig = promoted(&["v1", "v2"]);
    rig.ok(&["rollback"]);
    let answer: Value = serde_json::from_str(&rig.ok(&["rollback", "--to", "v2", "--json"])).unwrap();
    assert_eq!((&answer["release"], &answer["previous"]), (&json!("v2"), &json!("v1")));
    assert_eq!(rig.pointer()["rolled_back"], json!(["v1"]), "wanted again");
    rig.ok(&["promote", "v1"]);
    assert_eq!(rig.pointer().get("rolled_back"), None, "promoted again");
    rig.ok(&["rollback", "v2"]);
    assert_eq!(rig.pointer()["rolled_back"], json!(["v1"]), "an id alone is one as well");
    assert_eq!(rig.fails(&["rollback", "v1", "--to", "v2"]).0, 64);
}

#[test]
fn rollback_leads_to_nothing_that_a_pod_rejected_unless_it_is_named() {
    let rig = promoted(&["v1", "v2"]);
    // Somebody went back by hand: what was before is the bad one.
    rig.ok(&["promote", "v1"]);
    let rejected = json!([{ "release": "v2", "sequence": 2, "reason": "boot_loop" }]);
    rig.report("web-1", json!({ "running": "v1", "rejected": rejected }));
    rig.moves_nothing(&["rollback"], 1, "v2: web-1 rejected it (boot_loop)");
    // It has been proved there since.
    rig.report("web-1", json!({ "running": "v2", "rejected": rejected }));
    rig.ok(&["rollback"]);
    rig.ok(&["promote", "v1"]);
    rig.report("web-1", json!({ "running": "v1", "rejected": rejected }));
    rig.ok(&["rollback", "--to", "v2"]);
    assert_eq!(rig.pointer()["release"], "v2");
}

#[test]
fn only_what_the_caller_meant_is_undone() {
    let rig = promoted(&["v1", "v2"]);
    rig.moves_nothing(&["rollback", "--if-current", "v3"], 4, "production points to v2, not v3");
    rig.moves_nothing(&["rollback", "--to", "v1", "--if-current", "v1"], 4, "somebody has moved it since");
    rig.ok(&["rollback", "--if-current", "v2"]);
    assert_eq!(rig.pointer()["release"], "v1");
    rig.moves_nothing(&["rollback", "--if-current", "v2"], 4, "production points to v1, not v2");
    let absent = rig.command(&["rollback", "--if-current", "v1"]).env("PITSTOP_POINTER", "canary").output();
    assert_eq!(absent.unwrap().status.code(), Some(4));
}

#[test]
fn a_pointer_that_is_not_there_is_made_on_purpose_only() {
    let rig = Rig::new();
    rig.publish("v1");
    assert_eq!(rig.ok(&["promote", "v1"]), "production now points to v1 (move 1), a new pointer\n");
    let other = |args: &[&str], pointer: &str| {
        let output = rig.command(args).env("PITSTOP_POINTER", pointer).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), said)
    };
    let there = |pointer: &str| rig.store_dir().join("pointers").join(pointer).exists();
    for args in [&["promote", "v1"][..], &["rollback"], &["rollback", "--to", "v1"]] {
        let (code, said) = other(args, "prodution");
        assert_eq!((code, there("prodution")), (1, false), "{said}");
        assert!(said.contains("there is no pointer prodution"), "{said}");
        assert!(said.contains("did you mean production? (the store has production)"), "{said}");
    }
    assert!(other(&["promote", "v1"], "prodution").1.contains("`pitstop promote v1 --create` creates it"));
    let (code, said) = other(&["promote", "v1", "--create"], "canary");
    assert_eq!((code, there("canary")), (0, true), "{said}");
    assert!(said.contains("canary now points to v1 (move 1), a new pointer"), "{said}");
}

#[test]
fn a_frozen_pointer_is_left_alone() {
    let rig = promoted(&["v1", "v2"]);
    let frozen = json!({ "release": "v2", "sequence": 2, "previous": "v1", "frozen": { "why": "audit" } });
    fs::write(rig.store_dir().join("pointers/production"), frozen.to_string()).unwrap();
    rig.moves_nothing(&["promote", "v1"], 4, "is frozen");
    rig.moves_nothing(&["rollback"], 4, "audit");
}

#[test]
fn a_pointer_that_is_garbage_keeps_what_can_be_read_of_it() {
    let rig = promoted(&["v1", "v2"]);
    let garbage = json!({ "release": "no id", "sequence": 7, "rolled_back": ["v2"] });
    fs::write(rig.store_dir().join("pointers/production"), garbage.to_string()).unwrap();
    rig.moves_nothing(&["rollback"], 1, "is not a valid pointer");
    rig.ok(&["promote", "v1"]);
    assert_eq!(rig.pointer(), json!({ "release": "v1", "sequence": 8, "rolled_back": ["v2"] }));
}

#[test]
fn of_promotes_at_the_same_time_no_move_is_lost_unseen() {
    let rig = Rig::new();
    ["v1", "v2", "v3", "v4"].iter().for_each(|v| rig.publish(v));
    let begin = |n: i32| {
        let mut command: Command = rig.command(&["promote", &format!("v{n}")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<_> = (1..=4).map(begin).collect();
    let won = all.into_iter().map(|c| c.wait_with_output().unwrap()).filter(|o| match o.status.code() {
        Some(0) => true,
        Some(4) => {
            assert!(String::from_utf8_lossy(&o.stderr).contains("at the same time"));
            false
        }
        code => panic!("{code:?}"),
    });
    let won = won.count() as u64;
    let sequence = pitstop::pointer::parse(rig.pointer_text().as_bytes()).unwrap().revision.sequence;
    assert!(won >= 1);
    assert_eq!(sequence, Some(won), "each move that was told to have won is counted");
}

/// The exit code, what was printed before the wait was over, and the end.
fn waited(rig: &Rig, args: &[&str]) -> (i32, Vec<String>) {
    let output = rig.run(args);
    let said = String::from_utf8_lossy(&output.stdout).lines().map(Into::into).collect();
    (output.status.code().unwrap(), said)
}

#[test]
fn each_way_in_which_a_wait_ends_has_its_code() {
    let rig = promoted(&["v1", "v2", "v3"]);
    let desired = |sequence: u64| json!({ "release": "v3", "sequence": sequence });
    let promote = ["promote", "v3", "--wait", "--timeout", "1s"];
    rig.report("web-1", json!({ "desired": desired(4), "in_sync": true, "running": "v3" }));
    let (code, said) = waited(&rig, &promote);
    assert_eq!((code, said.len()), (0, 2));
    assert_eq!(said[0], "production now points to v3 (move 4), was v2");
    assert_eq!(said[1], "all pods run v3 (1 of 1)");
    let rejected = json!([{ "release": "v3", "sequence": 5, "reason": "boot_loop" }]);
    rig.report("web-1", json!({ "desired": desired(5), "rejected": rejected }));
    let (code, said) = waited(&rig, &promote);
    assert_eq!((code, said[1].as_str()), (2, "failed: rejected by web-1: boot_loop"));
    // It has not seen the move.
    let (code, said) = waited(&rig, &promote);
    assert_eq!((code, said[1].as_str()), (3, "failed: the pods have not converged within 1s"));
    rig.report("web-1", json!({ "desired": desired(99) }));
    let (code, said) = waited(&rig, &promote);
    assert_eq!((code, said[1].contains("moved again meanwhile, to v3#99")), (4, true));
    let (code, said) = waited(&rig, &["promote", "v3", "--wait", "--timeout", "1s", "--json"]);
    let answer: Value = serde_json::from_str(&said[0]).unwrap();
    assert_eq!(
        (code, said.len(), &answer["converged"], &answer["sequence"]),
        (4, 1, &json!(false), &json!(8))
    );
}

#[test]
fn where_no_pod_can_report_the_wait_says_so_at_once() {
    let rig = promoted(&["v1"]);
    let output = rig.run(&["promote", "v1", "--wait", "--timeout", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.starts_with("no pod has ever reported: give the agents write access to fleet/production/"),
        "{said}"
    );
    assert!(said.contains("store.readOnly: false"), "{said}");
}

#[test]
fn a_report_that_is_forged_or_loud_says_nothing_in_our_name() {
    let rig = promoted(&["v1"]);
    rig.report("web-1", json!({ "stage": "x\u{1b}[2J\r\nall pods run v1 (9 of 9)" }));
    // It speaks for another pod, which rejects nothing.
    let rejected = json!([{ "release": "v1", "sequence": 2, "reason": "boot_loop" }]);
    rig.report("web-9", json!({ "pod": "web-1", "rejected": rejected }));
    fs::write(rig.store_dir().join("fleet/production/huge"), vec![b' '; 1 << 20]).unwrap();
    let output = rig.run(&["promote", "v1", "--wait", "--timeout", "1s"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("0 of 1 pods: waiting for web-1"), "{said}");
    assert!(!said.contains(['\u{1b}', '\r']) && !said.contains("\nall pods run"), "{said:?}");
}
