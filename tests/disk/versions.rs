//! What the version before wrote is read, and so is what a version to come may write: pointers, reports, journals, and
//! the files of `state_dir`. The texts are those of the versions, byte by byte.

use std::{fs, process::Stdio};

use pitstop_rig::{signal, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{moves::promoted, rig::Rig};

/// Before pointers said who moved them, and before reports said where a pod is.
const BEFORE: Written = Written {
    pointer: r#"{"release":"v2","sequence":7,"previous":"v1","rolled_back":["v0"]}"#,
    report: r#"{"v":1,"pod":"web-1","running":"v1","desired":{"release":"v2","sequence":7},"in_sync":false,"stage":"steady","reason":"rejected","message":"v2#7 failed in this pod","rejected":[{"release":"v2","sequence":7,"reason":"boot_failed"}],"leaving":false,"at":"AT"}"#,
    journal: &[
        r#"{"v":1,"at":"2026-11-20T10:00:00Z","event":"attempt","release":"v1","sequence":6,"reason":null}"#,
        r#"{"v":1,"at":"2026-11-20T10:00:09Z","event":"verified","release":"v1","sequence":6,"reason":null}"#,
        r#"{"v":1,"at":"2026-11-21T10:00:00Z","event":"attempt","release":"v2","sequence":7,"reason":null}"#,
        r#"{"v":1,"at":"2026-11-21T10:00:01Z","event":"signalled","release":"v2","sequence":7,"reason":null,"baseline":{"at":5,"boot_id":"b","mode":"phased","generations":[1],"processes":[2,3],"healthy":true}}"#,
        r#"{"v":1,"at":"2026-11-21T10:00:31Z","event":"rejected","release":"v2","sequence":7,"reason":"boot_failed"}"#,
        r#"{"v":1,"at":"2026-11-21T10:00:32Z","event":"reverted","release":"v1","sequence":6,"reason":null}"#,
    ],
    drain: r#"{"boot_id":"another","journal":{"drain_id":5,"began":5,"deadline":9,"origin":"pre_stop","generation":null,"answer":null}}"#,
};

/// With fields, words and lines that nobody knows yet.
const AFTER: Written = Written {
    pointer: r#"{"v":9,"release":"v2","sequence":7,"previous":"v1","rolled_back":["v0"],"approved":[{"by":"ann"}],"canary":null,"aborted":{"of":"a later form"}}"#,
    report: r#"{"v":9,"pod":"web-1","running":"v1","desired":{"release":"v2","sequence":7,"tree":"ab"},"in_sync":false,"stage":"rehearsing","reason":"a_word_to_come","message":"v2#7 failed in this pod","rejected":[{"release":"v2","sequence":7,"reason":"a_word_to_come","trace":[1]}],"leaving":false,"at":"AT","good_for_s":600,"node":"n1","slots":{"a":1},"canary":null}"#,
    journal: &[
        r#"{"v":9,"at":"2026-11-20T10:00:00Z","event":"attempt","release":"v1","sequence":6,"reason":null,"by":"ann"}"#,
        r#"{"v":9,"at":"2026-11-20T10:00:09Z","event":"verified","release":"v1","sequence":6,"reason":null,"proof":{"n":3}}"#,
        r#"{"v":9,"at":"2026-11-21T10:00:00Z","event":"rehearsed","release":"v2","sequence":7}"#,
        r#"{"v":9,"at":"2026-11-21T10:00:31Z","event":"rejected","release":"v2","sequence":7,"reason":"a_word_to_come","mode":{"new":1}}"#,
    ],
    drain: r#"{"v":9,"boot_id":"another","journal":{"drain_id":5,"began":5,"deadline":9,"origin":"a_word_to_come"},"peers":[]}"#,
};

struct Written {
    pointer: &'static str,
    report: &'static str,
    journal: &'static [&'static str],
    drain: &'static str,
}

impl Rig {
    /// An agent beside no app server, with what was written before; until it has said where it stands.
    fn agent_says(&self, written: &Written) -> Value {
        let state = self.dir.path().join("state");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("drain.json"), written.drain).unwrap();
        fs::write(state.join("ready"), "another").unwrap();
        let with = |args: &[&str]| {
            let mut command = self.command(args);
            command.env("PITSTOP_STATE_DIR", &state).env("PITSTOP_LISTEN", "127.0.0.1:0");
            command.env("PITSTOP_POD_DIR", self.dir.path().join("pod"));
            command
        };
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut agent =
            with(&["run"]).stdout(log.try_clone().unwrap()).stderr(Stdio::from(log)).spawn().unwrap();
        let said = until("the agent has read it all", || {
            let said = with(&["status", "--json"]).output().unwrap().stdout;
            let said: Value = serde_json::from_slice(&said).ok()?;
            (!said["desired"].is_null()).then_some(said)
        });
        signal(i32::try_from(agent.id()).unwrap(), Signal::TERM);
        assert!(agent.wait().unwrap().success());
        said
    }
}

#[test]
fn what_the_version_before_and_one_to_come_have_written_is_read() {
    for (written, reason) in [(BEFORE, "boot_failed"), (AFTER, "internal")] {
        let rig = promoted(&["v1", "v2"]);
        rig.ok(&["promote", "v1"]);
        rig.ok(&["fetch"]);
        fs::remove_dir_all(rig.store_dir().join("moves")).unwrap();
        fs::write(rig.store_dir().join("pointers/production"), written.pointer).unwrap();
        let fleet = rig.store_dir().join("fleet/production");
        fs::create_dir_all(&fleet).unwrap();
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        fs::write(fleet.join("web-1"), written.report.replace("AT", &now)).unwrap();
        let journal = rig.deploy_to.join(".pitstop/pods/web-0/revisions.log");
        fs::create_dir_all(journal.parent().unwrap()).unwrap();
        fs::write(&journal, written.journal.join("\n") + "\n").unwrap();

        // The agent keeps to what its journal says.
        let said = rig.agent_says(&written);
        let rejected = json!([{ "release": "v2", "sequence": 7, "reason": reason }]);
        let known = |one: &Value| json!({ "release": one["release"], "sequence": one["sequence"], "reason": one["reason"] });
        let told = said["rejected"].as_array().unwrap().iter().map(known).collect::<Vec<_>>();
        assert_eq!((&said["desired"]["release"], json!(told)), (&json!("v2"), rejected), "{said}");
        // Everybody sees the other pod.
        let told: Value = serde_json::from_str(&rig.ok(&["fleet", "production", "--json"])).unwrap();
        let pods = told["pointers"][0]["pods"].as_array().unwrap().clone();
        let other = pods.iter().find(|pod| pod["pod"] == "web-1").unwrap_or_else(|| panic!("{told}"));
        assert_eq!((&other["state"], &other["running"]), (&json!("rejected"), &json!("v1")), "{other}");
        // And the pointer moves on: back to where both pods are.
        rig.ok(&["rollback"]);
        let pointer = rig.pointer();
        assert_eq!((&pointer["release"], &pointer["sequence"]), (&json!("v1"), &json!(8)));
        assert_eq!(pointer["rolled_back"], json!(["v2", "v0"]));
    }
}
