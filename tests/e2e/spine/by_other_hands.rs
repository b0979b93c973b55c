//! What other hands do to the volume below a running Puma.

use std::{fs, os::unix::fs::symlink};

use pitstop_rig::{App, Pod, Setup, until};

use crate::new_pod;

fn in_sync(setup: Setup) -> Pod {
    new_pod(Setup { restarted: true, worker_shutdown_timeout: 3, ..setup }).in_sync()
}

/// The next deploy goes through, in the container that is there.
fn takes_the_next_one(pod: &Pod) {
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    assert_eq!(pod.puma.starts(), 1, "Puma was never down");
}

/// A phased restart would end the whole Puma now.
#[test]
fn e2e_current_dangles_below_a_running_puma_and_no_signal_is_sent_before_it_leads_somewhere() {
    let pod = in_sync(Setup::default());
    let (current, next) = (pod.puma.current(), pod.puma.deploy_to().join("next"));
    symlink("releases/gone", &next).unwrap();
    fs::rename(&next, &current).unwrap();
    takes_the_next_one(&pod);
}

/// A worker that ends now could not be replaced.
#[test]
fn e2e_the_running_release_is_deleted_and_the_next_one_is_deployed_all_the_same() {
    let pod = in_sync(Setup::default());
    fs::remove_dir_all(pod.puma.releases().join("v1")).unwrap();
    until("it is noticed", || {
        let status = pod.status();
        (status["running"] != "v1" || !status["reason"].is_null()).then_some(())
    });
    takes_the_next_one(&pod);
}
