//! A volume or a user that is not as it should be. Needs root, for mounts and users.

use std::{fs::File, io::Write};

use pitstop_rig::{App, Pod, Setup};

use super::recovers;
use crate::new_pod;

const ROOM_BYTES: u64 = 4 << 20;

fn on_a_volume_of(bytes: u64) -> Pod {
    new_pod(Setup { volume_bytes: Some(bytes), ..Setup::default() }).in_sync()
}

/// What a deploy that cannot begin leaves: everything as it was, and one reason everywhere.
#[track_caller]
fn assert_untouched(pod: &Pod, reason: &str) {
    pod.assert_runs("v1");
    assert_eq!(pod.status()["rejected"], serde_json::json!([]));
    assert_eq!(pod.metric(&format!(r#"pitstop_reason{{reason="{reason}"}}"#)), Some(1.0));
    assert_eq!(pod.agent.get("/live").unwrap().status, 200);
    assert_eq!(pod.metric(r#"pitstop_restarts_total{mode="phased",result="sent"}"#).unwrap_or(0.0), 0.0);
}

#[test]
fn e2e_a_release_that_does_not_fit_waits_for_room() {
    pitstop_rig::needs_root!();
    let pod = on_a_volume_of(ROOM_BYTES);
    // Its archive is much smaller than itself, so that no check beforehand can know.
    let dir = pod.agent.build(&pod.puma, App::Good, "v2");
    std::fs::write(dir.join("big"), vec![7; 2 * usize::try_from(ROOM_BYTES).unwrap()]).unwrap();
    pod.agent.must(&["publish", &dir.to_string_lossy(), "--release", "v2"]);
    pod.agent.promote("v2");
    let status = pod.wait_for_reason("no_space");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("big") && message.contains("free space"), "{message}");
    assert_untouched(&pod, "no_space");
    assert!(!pod.puma.releases().join("v2").exists(), "complete or absent");
    pod.puma.small_volume().resize(8 * ROOM_BYTES);
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
}

#[test]
fn e2e_a_full_volume_that_takes_no_journal_line_moves_nothing() {
    pitstop_rig::needs_root!();
    let pod = on_a_volume_of(ROOM_BYTES);
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    // The way back needs no fetch, but a line, and that a page of its own.
    fill_page(&pod.puma.deploy_to().join(".pitstop/pods/rig/revisions.log"));
    pod.puma.small_volume().fill();
    pod.agent.must(&["rollback"]);
    let status = pod.wait_for_reason("no_space");
    assert!(status["message"].as_str().unwrap().contains("revisions.log"), "{status}");
    pod.assert_runs("v2");
    pod.puma.small_volume().free();
    pod.agent.wait_in_sync("v1");
    pod.assert_runs("v1");
}

/// Fills the file's last page with a line that means nothing.
fn fill_page(path: &std::path::Path) {
    let mut file = File::options().append(true).open(path).unwrap();
    let page = rustix::param::page_size();
    let used = usize::try_from(file.metadata().unwrap().len()).unwrap() % page;
    let mut line = vec![b'#'; page - used - 1];
    line.push(b'\n');
    file.write_all(&line).unwrap();
}

#[test]
fn e2e_a_read_only_volume_is_named_and_waited_for() {
    pitstop_rig::needs_root!();
    let pod = on_a_volume_of(4 * ROOM_BYTES);
    pod.puma.small_volume().read_only();
    pod.deploy(App::Good, "v2");
    let status = pod.wait_for_reason("volume_unavailable");
    let message = status["message"].as_str().unwrap();
    let volume = pod.puma.deploy_to();
    assert!(message.contains("read-only") && message.contains(&*volume.to_string_lossy()), "{message}");
    assert_untouched(&pod, "volume_unavailable");
    assert_eq!(pod.prestop()["result"], "drained");
    pod.agent.must(&["undrain"]);
    pod.puma.small_volume().writable();
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
}

const PUMAS_UID: u32 = 65534;
const ANOTHER_UID: u32 = 65533;

/// A Puma of one user, an agent of another, or of the same.
fn pod_of(agents_uid: u32) -> Pod {
    let mut pod = new_pod(Setup { uid: Some(PUMAS_UID), ..Setup::default() }).published();
    pod.agent.run_as(&pod.puma, Some(agents_uid));
    pod.agent.must(&["fetch"]);
    pod.puma.run();
    pod.puma.wait_for_release("v1");
    pod
}

#[test]
fn e2e_a_puma_of_another_user_is_left_alone() {
    pitstop_rig::needs_root!();
    let mut pod = pod_of(ANOTHER_UID);
    let master = pod.puma.master();
    pod.agent.start();
    pod.deploy(App::Good, "v2");
    let status = pod.wait_for_reason("not_permitted");
    assert!(status["message"].as_str().unwrap().contains("runAsUser"), "{status}");
    pod.wait_until_fetched("v2");
    pod.wait_for_reason("not_permitted");
    assert_untouched(&pod, "not_permitted");
    pod.agent.kill();
    // Root may signal it, and would follow whatever its user has planted on the volume.
    pod.agent.run_as(&pod.puma, None);
    pod.agent.start();
    pod.wait_for_reason("not_permitted");
    let findings = pod.status()["findings"].to_string();
    assert!(
        findings.contains("APP_SERVER_NOT_PERMITTED") && findings.contains("root would follow"),
        "{findings}"
    );
    assert_untouched(&pod, "not_permitted");
    pod.agent.kill();
    pod.agent.run_as(&pod.puma, Some(PUMAS_UID));
    pod.agent.start();
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    assert_eq!(pod.puma.master(), master, "the same pod, the same master");
}

#[test]
fn e2e_an_agent_of_the_same_user_needs_no_privilege() {
    pitstop_rig::needs_root!();
    let mut pod = pod_of(PUMAS_UID);
    pod.agent.start();
    pod.agent.wait_in_sync("v1");
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.deploy(App::RaisesOnBoot, "v3");
    pod.wait_for_reason("rejected");
    pod.agent.must(&["pause"]);
    assert_eq!(pod.prestop()["result"], "drained");
    recovers_after_drain(&pod);
}

fn recovers_after_drain(pod: &Pod) {
    pod.agent.must(&["undrain"]);
    pod.agent.must(&["resume"]);
    recovers(pod);
}
