//! Rollouts move a signed pointer step by step, and each step is signed.

use pitstop_rig::until;
use serde_json::json;

use super::Signed;

#[test]
fn a_rollout_signs_each_step_and_starts_none_without_a_key() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.publish("v2");
    let said = signed.fails(&["rollout", "v2", "--step", "1,100%"]);
    assert!(said.contains("this command has no key"), "{said}");
    let key = std::fs::read_to_string(signed.secret("pointer")).unwrap();
    let mut rollout = signed.rig.command(&["rollout", "v2", "--step", "1,100%", "--timeout", "1s"]);
    let mut rollout = rollout
        .env("PITSTOP_POINTER_KEY", key)
        .env("PITSTOP_TRUST_APP", "shop")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let canary = || {
        let pointer = signed.pointer();
        (pointer["canary"]["release"] == "v2").then_some(pointer)
    };
    let pointer = until("the canary in the pointer", canary);
    signed.ok(&["verify", "--pointer"]);
    // It goes back, signed as well.
    until("the end", || rollout.try_wait().unwrap());
    assert_eq!(signed.pointer()["release"], "v1");
    signed.ok(&["verify", "--pointer"]);
    // The canary of before is a replay to whoever has seen the end.
    signed.runs("v1");
    signed.put_pointer(&pointer);
    let said = signed.ok(&["fetch"]);
    assert!(said.contains("current is v1") && said.contains("an older pointer was put back"), "{said}");
    // And of one that names no archive nobody knows what would run.
    assert_ne!(pointer["canary"]["sha256"], json!(null));
}
