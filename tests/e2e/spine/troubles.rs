//! Bad input and bad surroundings: one clear reason each, nothing lost, the agent alive.

use std::{fs, net::TcpListener, os::unix::fs::symlink};

use pitstop_rig::{App, PumaRig, Setup, until};

use super::{point_to, put_archive, recovers};
use crate::new_pod;

#[test]
fn e2e_an_unknown_release() {
    let pod = new_pod(Setup::default()).in_sync();
    point_to(&pod, r#"{"release":"v404","sequence":2}"#);
    let status = pod.wait_for_reason("release_unknown");
    assert_eq!((&status["running"], &status["rejected"]), (&"v1".into(), &serde_json::json!([])));
    recovers(&pod);
}

#[test]
fn e2e_a_pointer_that_is_none() {
    let pod = new_pod(Setup::default()).in_sync();
    point_to(&pod, "{nonsense");
    assert_eq!(pod.wait_for_reason("pointer_invalid")["running"], "v1");
    recovers(&pod);
}

#[test]
fn e2e_a_corrupt_archive() {
    let pod = new_pod(Setup::default()).in_sync();
    pod.agent.publish(&pod.puma, App::Good, "v2");
    let archive = pod.agent.store().join("releases/v2.tar.zst");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&archive, bytes).unwrap();
    pod.agent.promote("v2");
    assert_eq!(pod.wait_for_reason("release_corrupt")["running"], "v1");
    assert!(!pod.puma.releases().join("v2").exists(), "complete or absent");
    recovers(&pod);
}

#[test]
fn e2e_a_hostile_archive_touches_nothing_outside() {
    let pod = new_pod(Setup::default()).in_sync();
    let escape = format!("x/../../../../../..{}", pod.puma.scratch().join("outside").display());
    put_archive(&pod, "v2", &archive_with(escape.as_bytes()));
    pod.agent.promote("v2");
    let status = pod.wait_for_reason("release_corrupt");
    assert!(status["message"].as_str().unwrap().contains("has a `..`"), "{status}");
    assert_eq!(pod.metric(r#"pitstop_reason{reason="release_corrupt"}"#), Some(1.0));
    assert!(!pod.puma.scratch().join("outside").exists());
    assert!(!pod.puma.releases().join("v2").exists(), "complete or absent");
    pod.assert_runs("v1");
    recovers(&pod);
}

/// A tar with one file of this name, which no library would pack.
fn archive_with(name: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &b"evil"[..]).unwrap();
    zstd::encode_all(&archive.into_inner().unwrap()[..], 3).unwrap()
}

#[test]
fn e2e_the_store_is_gone() {
    let mut pod = new_pod(Setup::default()).in_sync();
    let (store, away) = (pod.agent.store(), pod.puma.scratch().join("away"));
    fs::rename(&store, &away).unwrap();
    let status = until("a reason", || pod.agent.status().filter(|status| !status["reason"].is_null()));
    assert_eq!(status["running"], "v1");
    pod.agent.kill();
    pod.agent.start();
    until("ready without a store", || (pod.agent.get("/ready").ok()?.status == 200).then_some(()));
    assert_eq!(pod.agent.get("/startup").unwrap().status, 200);
    fs::rename(&away, &store).unwrap();
    recovers(&pod);
}

#[test]
fn e2e_no_app_server() {
    let mut pod = new_pod(Setup::default()).in_sync();
    pod.puma.container().terminate();
    pod.wait_for_reason("app_server_missing");
    assert_eq!(pod.agent.get("/ready").unwrap().status, 200, "it never goes back");
    pod.puma.run();
    recovers(&pod);
}

#[test]
fn e2e_two_app_servers_on_one_volume() {
    let pod = new_pod(Setup::default()).in_sync();
    {
        let mut second = PumaRig::prepare_on(&pod.puma, Setup::default());
        second.run();
        second.wait_for_release("v1");
        pod.wait_for_reason("app_server_ambiguous");
        pod.deploy(App::Good, "v2");
        until("the new move", || (pod.status()["desired"]["release"] == "v2").then_some(()));
        assert_eq!(second.get("/").unwrap().release.as_deref(), Some("v1"), "neither is touched");
    }
    pod.agent.wait_in_sync("v2");
}

#[test]
fn e2e_a_wrong_token_lets_sigterm_through_and_says_so() {
    let mut pod = new_pod(Setup::default()).born();
    let token = pod.puma.scratch().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    pod.set("PITSTOP_TOKEN_FILE", token.to_string_lossy());
    pod.agent.start();
    for path in ["/prestop", "/status", "/metrics"] {
        assert_eq!(pod.agent.get(path).unwrap().status, 401, "{path}");
    }
    assert!(pod.log().contains("without a drain"), "{}", pod.log());
    assert_eq!(pod.agent.get("/live").unwrap().status, 200);
    // Operators need no token: the socket is theirs alone.
    until("in sync", || pod.agent.command(&["status"]).unwrap().status.success().then_some(()));
}

#[test]
fn e2e_a_taken_port_stops_no_deploy() {
    let mut pod = new_pod(Setup::default()).born();
    let other = TcpListener::bind(("127.0.0.1", pod.agent.port())).unwrap();
    pod.agent.launch();
    let status = until("the finding", || {
        let shown = pod.agent.command(&["status", "--json"]).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        (status["findings"][0]["code"] == "PORT_TAKEN" && status["in_sync"] == true).then_some(status)
    });
    let port = pod.agent.port().to_string();
    assert!(status["findings"][0]["message"].as_str().unwrap().contains(&port), "{status}");
    drop(other);
    until("the endpoints", || pod.agent.get("/live").ok());
    recovers(&pod);
}

#[test]
fn e2e_current_is_a_real_directory() {
    let mut pod = new_pod(Setup::default()).born();
    let current = pod.puma.current();
    fs::remove_file(&current).unwrap();
    fs::create_dir(&current).unwrap();
    fs::write(current.join("precious"), "").unwrap();
    pod.agent.start();
    // Until the volume has been looked at, the reason is the same, with another message.
    until("the reason in words", || pod.status()["message"].as_str()?.contains("not a link").then_some(()));
    assert_eq!(pod.status()["reason"], "volume_unavailable");
    assert!(current.join("precious").exists());
    assert_eq!(pod.agent.get("/startup").unwrap().status, 503);
}

#[test]
fn e2e_a_dangling_current_is_mended() {
    let mut pod = new_pod(Setup::default()).published();
    symlink("releases/gone", pod.puma.current()).unwrap();
    pod.agent.start();
    until("current leads to v1", || pod.puma.current().join("REVISION").exists().then_some(()));
    pod.puma.run();
    pod.agent.wait_in_sync("v1");
}

#[test]
fn e2e_a_contradictory_configuration_beside_a_running_puma() {
    let mut pod = new_pod(Setup::default()).born();
    pod.set("PITSTOP_GRACE_PERIOD", "5s");
    pod.agent.start();
    let status = pod.wait_for_reason("config_invalid");
    assert!(status["message"].as_str().unwrap().contains("grace_period"), "{status}");
    assert!(pod.agent.get("/metrics").unwrap().body.contains(r#"pitstop_reason{reason="config_invalid"} 1"#));
    until("ready", || (pod.agent.get("/ready").ok()?.status == 200).then_some(()));
    assert!(pod.prestop()["result"].is_string(), "the hook is answered");
    assert!(!pod.agent.ended());
}

#[test]
fn e2e_a_contradictory_configuration_without_a_puma_is_64() {
    let mut pod = new_pod(Setup::default()).published();
    pod.set("PITSTOP_GRACE_PERIOD", "5s");
    pod.agent.launch();
    assert_eq!(pod.agent.wait_for_end(), Some(64));
    assert!(pod.log().contains("grace_period"), "{}", pod.log());
}

#[test]
fn e2e_a_volume_that_never_answers_holds_up_no_endpoint_and_no_drain() {
    pitstop_rig::needs_root!();
    let pod = new_pod(Setup { hangable: true, ..Setup::default() }).in_sync();
    pod.puma.volume().hang();
    // The store is not on the volume, so that the move arrives; its fetch cannot begin.
    pod.deploy(App::Good, "v2");
    pod.wait_for_reason("volume_unavailable");
    for path in ["/live", "/metrics", "/status", "/ready", "/startup"] {
        assert_eq!(pod.agent.get(path).unwrap().status, 200, "{path}");
    }
    assert_eq!(pod.prestop()["result"], "drained");
    pod.agent.must(&["undrain"]);
    pod.puma.volume().resume();
    pod.agent.wait_in_sync("v2");
}

#[test]
fn e2e_an_agent_born_beside_a_hanging_volume_answers_and_drains() {
    pitstop_rig::needs_root!();
    let mut pod = new_pod(Setup { hangable: true, ..Setup::default() }).born();
    pod.puma.volume().hang();
    pod.agent.start();
    pod.wait_for_reason("volume_unavailable");
    assert_eq!(pod.agent.get("/metrics").unwrap().status, 200);
    assert_eq!(pod.prestop()["result"], "drained");
    pod.agent.must(&["undrain"]);
    pod.puma.volume().resume();
    pod.agent.wait_in_sync("v1");
}
