//! `pitstop fleet`: what each pointer names, and which pods run what.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::moves::promoted;

fn ago(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() - Duration::from_secs(seconds)).to_string()
}

#[test]
fn who_asks_sees_which_pods_run_what_and_why_others_do_not() {
    let rig = promoted(&["v1", "v2"]);
    let (v1, v2) = (json!({ "release": "v1", "sequence": 1 }), json!({ "release": "v2", "sequence": 2 }));
    let deploy =
        json!({ "release": "v2", "sequence": 2, "result": "verified", "seconds": 12.3, "at": ago(60) });
    let good = json!({
        "running": "v2", "desired": v2, "in_sync": true, "node": "node-1", "zone": "a", "image": "shop:7", "app": "shop",
        "version": "0.1.0", "last_deploy": deploy, "in_flight": 3, "good_for_s": 1500, "at": ago(700),
    });
    rig.report("web-0", good);
    let rejected = json!([{ "release": "v2", "sequence": 2, "reason": "boot_failed" }]);
    let why = "v2#2 failed in this pod";
    rig.report("web-1", json!({ "running": "v1", "desired": v2, "rejected": rejected, "message": why }));
    rig.report("web-2", json!({ "running": "v1", "desired": v1, "in_sync": true }));
    rig.report("web-3", json!({ "running": "v1", "desired": v2, "stage": "restarting" }));
    rig.report("web-4", json!({ "running": "v2", "desired": v2, "leaving": true }));
    rig.report("web-5", json!({ "running": "v1", "desired": v1, "at": ago(3700) }));
    rig.report("web-6", json!({ "running": "v1", "desired": v1, "at": ago(100_000) }));
    fs::write(rig.store_dir().join("pointers/canary"), "v1").unwrap();

    let answer: Value = serde_json::from_str(&rig.ok(&["fleet", "--json"])).unwrap();
    let [canary, production] = &answer["pointers"].as_array().unwrap()[..] else { panic!("{answer:#}") };
    assert_eq!((&canary["release"], &canary["pods"]), (&json!("v1"), &json!([])));
    assert_eq!((&production["release"], &production["sequence"]), (&json!("v2"), &json!(2)));
    assert!(production["moved_by"].is_string() && production["moved_at"].is_string());
    assert_eq!(production["gone"], json!(["web-5"]), "since yesterday");
    let pods = production["pods"].as_array().unwrap();
    let states: Vec<_> = pods.iter().map(|pod| pod["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in_sync", "rejected", "behind", "behind", "leaving"]);
    for (field, value) in
        [("node", "node-1"), ("zone", "a"), ("image", "shop:7"), ("app", "shop"), ("version", "0.1.0")]
    {
        assert_eq!(pods[0][field], value);
    }
    assert_eq!((&pods[0]["in_flight"], &pods[0]["last_deploy"]["seconds"]), (&json!(3), &json!(12.3)));
    let why: Vec<_> = pods.iter().map(|pod| pod["message"].as_str().unwrap()).collect();
    assert_eq!(
        why,
        ["", "boot_failed: v2#2 failed in this pod", "has not read the pointer's move yet", "restarting", ""]
    );

    let told = rig.ok(&["fleet", "production"]);
    assert!(told.starts_with("production names v2 (move 2) since 20"), "{told}");
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines[1],
        "1 of 4 pods in sync; 2 behind; 1 rejected it; 1 leaving; not heard of any more: web-5"
    );
    let line = lines.iter().find(|line| line.starts_with("web-0")).unwrap();
    assert!(
        line.contains("v2#2 verified in 12 s") && line.contains("node-1") && line.contains("ago"),
        "{told}"
    );
}

#[test]
fn a_report_that_is_forged_or_loud_draws_no_line_of_its_own() {
    let rig = promoted(&["v1"]);
    let loud = "x\u{1b}[2J\r\nweb-9  v9  in sync";
    let deploy = json!({ "release": "v1", "result": loud, "seconds": 1e300, "at": loud });
    rig.report(
        "web-1",
        json!({ "stage": loud, "message": loud, "node": loud, "version": loud, "last_deploy": deploy }),
    );
    rig.report("web-2", json!({ "pod": "web-3", "running": "v9" }));
    rig.report("web-4", json!({ "good_for_s": u64::MAX, "at": ago(5000) }));
    fs::write(rig.store_dir().join("fleet/production/huge"), vec![b' '; 1 << 20]).unwrap();
    let told = rig.ok(&["fleet"]);
    assert!(!told.contains(['\u{1b}', '\r']) && !told.contains("\nweb-9"), "{told:?}");
    assert_eq!(told.lines().count(), 4, "{told}");
    assert!(!told.contains("web-2") && !told.contains("web-3"), "{told}");
    assert!(told.contains("not heard of any more: web-4"), "{told}");
}

#[test]
fn a_frozen_and_paused_pointer_says_so_and_one_that_is_not_there_is_named() {
    let rig = promoted(&["v1"]);
    rig.ok(&["freeze", "production", "--why", "audit", "--by", "ann"]);
    rig.ok(&["pause", "--fleet", "--why", "database", "--by", "bob"]);
    let told = rig.ok(&["fleet"]);
    assert!(told.contains("; frozen since 20") && told.contains("by ann: audit"), "{told}");
    assert!(told.contains("; pods paused since 20") && told.contains("by bob: database"), "{told}");
    let (code, said) = rig.fails(&["fleet", "prodution"]);
    assert!(code == 1 && said.contains("did you mean production?"), "{said}");
}
