//! Signatures, as an agent beside a running Puma sees them.

use std::fs;

use pitstop_rig::{App, Pod, Setup, until};
use serde_json::Value;

use super::point_to;
use crate::new_pod;

const SECRETS: [&str; 2] = ["PITSTOP_RELEASE_KEY", "PITSTOP_POINTER_KEY"];

/// A pod whose releases and pointers are signed from the first one on.
fn signed_pod(required: bool) -> Pod {
    let mut pod = new_pod(Setup::default()).with("PITSTOP_TRUST_APP", "shop");
    for (role, secret) in ["release", "pointer"].iter().zip(SECRETS) {
        let out = pod.puma.scratch().join(format!("{role}.key"));
        let printed = pod.agent.must(&["--json", "keygen", role, "--out", out.to_str().unwrap()]);
        let keys: Value = serde_json::from_str(&printed).unwrap();
        pod.set(&format!("PITSTOP_TRUST_{}_KEYS", role.to_uppercase()), keys["public_key"].as_str().unwrap());
        pod.set(secret, fs::read_to_string(out).unwrap());
    }
    pod.with("PITSTOP_TRUST_REQUIRED", required.to_string())
}

/// What somebody does who has no key.
fn without_keys(pod: &mut Pod, act: impl FnOnce(&Pod)) {
    let env = pod.agent.env.clone();
    pod.agent.env.retain(|(name, _)| !SECRETS.contains(&name.as_str()));
    act(pod);
    pod.agent.env = env;
}

#[test]
fn e2e_where_signatures_are_required_nothing_else_is_deployed() {
    let mut pod = signed_pod(true).in_sync();
    let serves = |reason: &str| {
        assert_eq!(pod.wait_for_reason(reason)["running"], "v1");
        assert_eq!(pod.metric(&format!("pitstop_reason{{reason=\"{reason}\"}}")), Some(1.0));
        until("the reason in the log", || pod.log().contains(reason).then_some(()));
    };
    point_to(&pod, r#"{"release":"v1","sequence":9}"#);
    serves("signature_missing");
    pod.agent.must(&["sync", "--retry"]);
    serves("signature_missing");
    pod.agent.must(&["sign", "--pointer"]);
    until("a statement that leaves the archive open", || {
        let status = pod.wait_for_reason("signature_invalid");
        status["message"].as_str()?.contains("leaves open which archive").then_some(())
    });
    without_keys(&mut pod, |pod| drop(pod.agent.publish(&pod.puma, App::Good, "v2")));
    pod.agent.promote("v2");
    let status = pod.wait_for_reason("signature_missing");
    assert!(status["message"].as_str().unwrap().contains("releases/v2.signed"), "{status}");
    assert!(!pod.puma.releases().join("v2").exists(), "nothing of it is unpacked");
    pod.assert_runs("v1");
    // As soon as it is signed it is deployed.
    pod.agent.must(&["sign", "v2"]);
    pod.agent.wait_in_sync("v2");
    assert!(!pod.found("POINTER_NOT_SIGNED") && !pod.found("RELEASE_NOT_SIGNED"), "{:?}", pod.findings());
}

#[test]
fn e2e_a_signature_that_has_expired_holds_deploys_until_the_pointer_is_signed_again() {
    let mut pod = signed_pod(true).in_sync();
    pod.agent.publish(&pod.puma, App::Good, "v2");
    // Each signature is a second later than the one before.
    let pointer = fs::read_to_string(pod.agent.store().join("pointers/production")).unwrap();
    let now = || humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    until("the next second", || (!pointer.contains(&now())).then_some(()));
    pod.agent.must(&["promote", "v2", "--expires", "0s"]);
    let status = until("the hold", || {
        let status = pod.wait_for_reason("held");
        status["message"].as_str()?.contains("signature expired at").then_some(status)
    });
    assert_eq!(
        (&status["running"], &status["next"]),
        (&"v1".into(), &"nothing until the pointer is signed again".into())
    );
    assert!(pod.found("SIGNATURE_EXPIRES"), "{:?}", pod.findings());
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let expires = |pod: &Pod| pod.metric("pitstop_pointer_expires_timestamp_seconds").unwrap();
    until("the metric", || (expires(&pod) <= now()).then_some(()));
    // A pod that starts is not held up.
    pod.agent.kill();
    pod.agent.must(&["fetch"]);
    assert_eq!(pod.current(), pod.puma.releases().join("v2").canonicalize().unwrap());
    pod.agent.start();
    pod.agent.must(&["sign", "--pointer"]);
    pod.agent.wait_in_sync("v2");
    assert!(!pod.found("SIGNATURE_EXPIRES"), "{:?}", pod.findings());
    until("the metric", || (expires(&pod) > now() + 86_400.0).then_some(()));
}

#[test]
fn e2e_until_signatures_are_required_their_lack_is_a_warning() {
    let mut pod = signed_pod(false).in_sync();
    assert!(!pod.found("POINTER_NOT_SIGNED"), "{:?}", pod.findings());
    without_keys(&mut pod, |pod| drop(pod.agent.publish(&pod.puma, App::Good, "v2")));
    let digest = fs::read_to_string(pod.agent.store().join("releases/v2.tar.zst.sha256")).unwrap();
    point_to(&pod, &format!(r#"{{"release":"v2","sequence":2,"sha256":"{}"}}"#, &digest[..64]));
    pod.agent.wait_in_sync("v2");
    assert!(pod.found("POINTER_NOT_SIGNED") && pod.found("RELEASE_NOT_SIGNED"), "{:?}", pod.findings());
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    assert!(!pod.found("POINTER_NOT_SIGNED") && !pod.found("RELEASE_NOT_SIGNED"), "{:?}", pod.findings());
}
