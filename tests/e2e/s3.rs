//! `pitstop run` beside a real Puma, with pointer and releases in S3: deploys, and a store that goes away.

use std::{fs, path::Path, time::Duration};

use pitstop_rig::{AgentRig, App, Fault, PumaRig, S3Rig, Setup, until};

use crate::PITSTOP;

struct Pod {
    s3: S3Rig,
    // Before the volume, where its log is.
    agent: AgentRig,
    puma: PumaRig,
}

impl Pod {
    fn in_sync() -> Self {
        let s3 = S3Rig::start();
        let mut puma = PumaRig::empty(Setup::default());
        let mut agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        agent.env.extend(s3.env());
        agent.start_from_v1(&mut puma);
        Self { s3, puma, agent }
    }

    fn deploy(&self, release: &str) {
        self.agent.publish(&self.puma, App::Good, release);
        self.agent.promote(release);
        self.agent.wait_in_sync(release);
        self.puma.wait_for_release(release);
    }

    fn wait_for_reason(&self, reason: &str) {
        until(reason, || self.agent.status().filter(|status| status["reason"] == reason));
    }
}

/// A rollback in the night must not wait for the download of what it undoes.
#[test]
fn e2e_a_move_back_does_not_wait_for_a_download_that_takes_long() {
    let pod = Pod::in_sync();
    let release = pod.agent.build(&pod.puma, App::Good, "v2");
    // Random, so that it comes in many pieces.
    let mut ballast = vec![0; 4_000_000];
    fastrand::Rng::with_seed(1).fill(&mut ballast);
    fs::write(release.join("ballast"), ballast).unwrap();
    pod.agent.must(&["publish", &release.to_string_lossy(), "--release", "v2"]);
    pod.s3.fault(Fault::Slow(Duration::from_secs(5)).of("GET").at("releases/v2.tar.zst"));
    pod.agent.promote("v2");
    until("the download", || pod.agent.status().filter(|status| status["stage"] == "fetching"));
    pod.deploy("v3");
}

#[test]
fn e2e_a_release_in_s3_runs_in_the_pod_and_an_outage_of_s3_is_no_outage_of_the_pod() {
    let mut pod = Pod::in_sync();
    pod.deploy("v2");
    pod.s3.outage();
    pod.wait_for_reason("store_unreachable");
    let status = pod.agent.status().unwrap();
    assert_eq!((&status["running"], &status["stage"]), (&"v2".into(), &"steady".into()), "{status}");
    pod.puma.wait_for_release("v2");
    // Even an agent that starts anew meanwhile is there for the kubelet.
    pod.agent.kill();
    pod.agent.start();
    pod.wait_for_reason("store_unreachable");
    assert_eq!(pod.agent.get("/startup").unwrap().status, 200);
    pod.s3.recover();
    pod.deploy("v3");
    let log = fs::read_to_string(pod.agent.log()).unwrap();
    assert!(
        log.contains("store_unreachable") && log.contains("the pointer pointers/production is read again"),
        "{log}"
    );
    assert!(!log.contains(&pod.s3.keys().secret));
}
