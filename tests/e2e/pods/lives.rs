//! A pod from its first release on.

use pitstop_rig::{
    App, Signal,
    containers::{Manifest, What},
};

use serde_json::Value;

use super::shop::{AGENT_PORT, Shop, in_the_apps_image, native};

/// Born without a release, then a good one, a better one, and one that cannot boot.
fn lives(manifest: Manifest, suite: &'static str) -> Shop {
    let shop = Shop::launch(manifest, suite);
    shop.pod.wait("the agent", || shop.pod.get(AGENT_PORT, "/live", &[]).ok());
    shop.pod.wait("a startup probe that says no", || {
        (shop.pod.get(AGENT_PORT, "/startup", &[]).ok()?.status == 503).then_some(())
    });
    assert_eq!(shop.pod.starts("app"), 0, "Puma before the first release");
    shop.deploy(App::Good, "v1");
    shop.wait_in_sync("v1");
    shop.deploy(App::Good, "v2");
    shop.wait_in_sync("v2");
    shop.deploy(App::RaisesOnBoot, "v3");
    shop.pod.wait("v3 is rejected, v2 runs", || {
        let status = shop.status();
        let back = (&status["running"], &status["stage"]) == (&"v2".into(), &"steady".into());
        (back && status["reason"] == "rejected").then_some(())
    });
    assert_eq!(shop.release().as_deref(), Some("v2"));
    assert_eq!(
        (shop.pod.starts("pitstop"), shop.pod.starts("app")),
        (1, 1),
        "in the containers that are there"
    );
    shop
}

#[test]
fn e2e_pod_puma_waits_for_the_first_release_then_deploys_and_reverts() {
    pitstop_rig::needs_root!();
    let shop = lives(native(), "bookworm");
    for container in ["pitstop", "app"] {
        shop.assert_restricted(container);
    }
    // The control server's socket is on an emptyDir, in another mount namespace at the same path.
    // As the chart's notes say it.
    let doctor = shop.pod.exec("pitstop", &["pitstop", "doctor", "--json"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{doctor:?}"));
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    assert!(found.iter().all(|finding| !of_control_server(finding)), "{said}");
    // That v3 is not running is no fault of the set-up.
    let broken = found.iter().filter(|finding| finding["severity"] == "broken");
    assert!(broken.clone().all(|finding| finding["code"] == "NOT_IN_SYNC"), "{said}");
}

fn of_control_server(finding: &Value) -> bool {
    finding["code"].as_str().is_some_and(|code| code.starts_with("CONTROL_SERVER"))
}

#[test]
fn e2e_pod_puma_waits_for_the_first_release_then_deploys_and_reverts_on_6_6() {
    pitstop_rig::needs_root!();
    lives(native(), "trixie");
}

/// `pitstop install` in an init container: the binary of our image runs in the app's.
#[test]
fn e2e_pod_the_agent_runs_in_the_apps_image() {
    pitstop_rig::needs_root!();
    let shop = Shop::born(in_the_apps_image(), "bookworm");
    assert!(shop.when("pitstop-install", &What::Exited(0)) < shop.when("pitstop", &What::Started));
    let ruby = shop.pod.exec("pitstop", &["ruby", "--version"]);
    assert!(ruby.status.success(), "hooks have Ruby: {ruby:?}");
    shop.deploy(App::Good, "v2");
    shop.wait_in_sync("v2");
}

/// The pod gets no requests before its first server is warm, which the app is once there is a file `go`.
fn waits_for_its_warm_up(mut manifest: Manifest, container: &str) -> Shop {
    manifest.container("app").set("RIG_RUN", "/run/puma");
    let shop = Shop::launch(manifest, "bookworm");
    shop.deploy(App::Good, "v1");
    shop.wait_in_sync("v1");
    shop.pod.wait("the warm-up", || {
        let ready = shop.pod.get(AGENT_PORT, "/ready", &[]).ok()?;
        (ready.status == 503 && ready.body == r#"{"pending":["warmup"]}"#).then_some(())
    });
    assert!(!shop.pod.is_ready(container), "{:#?}", shop.pod.events());
    shop.pod.exec("app", &["touch", "/run/puma/go"]);
    shop.pod.wait("a ready pod", || shop.pod.is_ready(container).then_some(()));
    shop
}

#[test]
fn e2e_pod_gets_no_requests_before_its_first_server_is_warm_and_waits_for_no_later_agent() {
    pitstop_rig::needs_root!();
    let manifest = Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_warm.snap"));
    let shop = waits_for_its_warm_up(manifest, "pitstop");
    shop.pod.exec("app", &["rm", "/run/puma/go"]);
    shop.pod.signal("pitstop", Signal::KILL);
    shop.pod.wait("the agent's second start", || (shop.pod.starts("pitstop") == 2).then_some(()));
    shop.pod.wait("a pod that is ready at once", || shop.pod.is_ready("pitstop").then_some(()));
}

#[test]
fn e2e_pod_gets_no_requests_before_its_first_server_is_warm_with_the_agent_in_its_container() {
    pitstop_rig::needs_root!();
    let manifest = Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_warm_exec.snap"));
    waits_for_its_warm_up(manifest, "app");
}
