//! `pitstop run` beside a real Puma, with pointer and releases in S3: deploys, and a store that goes away.

use std::{fs, time::Duration};

use pitstop_rig::{App, Fault, Pod, S3Rig, Setup, until};

use crate::new_pod;

fn in_sync(s3: &S3Rig) -> Pod {
    let mut pod = new_pod(Setup::default());
    pod.agent.env.extend(s3.env());
    pod.in_sync()
}

#[track_caller]
fn deploys(pod: &Pod, release: &str) {
    pod.deploy(App::Good, release);
    pod.agent.wait_in_sync(release);
    pod.puma.wait_for_release(release);
}

/// A rollback in the night must not wait for the download of what it undoes.
#[test]
fn e2e_a_move_back_does_not_wait_for_a_download_that_takes_long() {
    let s3 = S3Rig::start();
    let pod = in_sync(&s3);
    // Random, so that it comes in many pieces.
    let mut ballast = vec![0; 4_000_000];
    fastrand::Rng::with_seed(1).fill(&mut ballast);
    pod.publish_changed("v2", |dir| fs::write(dir.join("ballast"), ballast).unwrap());
    s3.fault(Fault::Slow(Duration::from_secs(5)).of("GET").at("releases/v2.tar.zst"));
    pod.agent.promote("v2");
    until("the download", || pod.agent.status().filter(|status| status["stage"] == "fetching"));
    deploys(&pod, "v3");
}

#[test]
fn e2e_a_release_in_s3_runs_in_the_pod_and_an_outage_of_s3_is_no_outage_of_the_pod() {
    let s3 = S3Rig::start();
    let mut pod = in_sync(&s3);
    deploys(&pod, "v2");
    s3.outage();
    pod.wait_for_reason("store_unreachable");
    let status = pod.agent.status().unwrap();
    assert_eq!((&status["running"], &status["stage"]), (&"v2".into(), &"steady".into()), "{status}");
    pod.puma.wait_for_release("v2");
    // Even an agent that starts anew meanwhile is there for the kubelet.
    pod.agent.kill();
    pod.agent.start();
    pod.wait_for_reason("store_unreachable");
    assert_eq!(pod.agent.get("/startup").unwrap().status, 200);
    s3.recover();
    deploys(&pod, "v3");
    let log = pod.log();
    assert!(
        log.contains("store_unreachable")
            && log.contains("the pointer pointers/production is readable again"),
        "{log}"
    );
    assert!(!log.contains(&s3.keys().secret));
}
