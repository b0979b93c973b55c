//! Releases that say what they need of the image, beside a real Ruby.

use std::{fs, io::Write};

use pitstop_rig::{App, Pod, Setup, Signal, signal, until};

use super::recovers;
use crate::new_pod;

/// Publishes a release that needs this, and promotes it.
fn deploy(pod: &Pod, id: &str, requires: &str) {
    let dir = pod.agent.build(&pod.puma, App::Good, id);
    pod.agent.must(&["publish", &dir.to_string_lossy(), "--release", id, "--requires", requires]);
    pod.agent.promote(id);
}

#[test]
fn e2e_a_release_waits_for_the_image_that_it_needs() {
    let pod = new_pod(Setup { restarted: true, ..Setup::default() }).in_sync();
    let lib = pod.puma.run_dir().join("libnew.so");
    let arch = std::env::consts::ARCH;
    deploy(&pod, "v2", &format!("ruby=9.9,arch={arch},libc=glibc=2.17,file=/usr/bin/env"));
    let status = pod.wait_for_reason("needs_image");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("ruby=9.9 (found ") && !message.contains("arch"), "{message}");
    assert!(!message.contains("libc") && !message.contains("/usr/bin/env"), "{message}");
    let ruby = message.split("(found ").nth(1).unwrap().split(')').next().unwrap().to_owned();
    assert_eq!((pod.attempts("v2"), &status["rejected"]), (0, &serde_json::json!([])));
    pod.assert_runs("v1");
    // This very Ruby is there; a file is not, until another container brings it.
    deploy(&pod, "v3", &format!("ruby={ruby},file={}", pod.puma.inside(&lib).display()));
    let status = until("the other lack", || {
        pod.agent
            .status()
            .filter(|s| s["message"].as_str().is_some_and(|m| m.contains("libnew.so (not there)")))
    });
    assert!(!status["message"].as_str().unwrap().contains("ruby"), "{status}");
    fs::write(&lib, "").unwrap();
    signal(pod.puma.master().unwrap(), Signal::KILL);
    pod.agent.wait_in_sync("v3");
    pod.assert_runs("v3");
    assert_eq!(pod.attempts("v2"), 0);
}

#[test]
fn e2e_a_requirement_of_a_later_version_is_refused_by_its_name() {
    let pod = new_pod(Setup::default()).in_sync();
    pod.agent.publish(&pod.puma, App::Good, "v2");
    let digest = pod.agent.store().join("releases/v2.tar.zst.sha256");
    let mut digest = fs::File::options().append(true).open(digest).unwrap();
    writeln!(digest, "# requires gpu=yes").unwrap();
    pod.agent.promote("v2");
    let status = pod.wait_for_reason("needs_image");
    assert!(status["message"].as_str().unwrap().contains("gpu=yes"), "{status}");
    pod.assert_runs("v1");
    let dir = pod.agent.build(&pod.puma, App::Good, "v3");
    let refused = ["publish", &dir.to_string_lossy(), "--release", "v3", "--requires", "gpu=yes"];
    let refused = pod.agent.command(&refused).unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("gpu=yes"), "{refused:?}");
    recovers(&pod);
}
