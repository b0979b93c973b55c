//! What goes wrong in pods.

use pitstop_rig::{App, containers::What};
use rustix::process::Signal;

use super::shop::{PORT, Shop, native};

#[test]
fn e2e_pod_an_agent_that_is_killed_comes_back_and_deploys() {
    pitstop_rig::needs_root!();
    let shop = Shop::born(native(), "bookworm");
    shop.pod.signal("pitstop", Signal::KILL);
    shop.pod.wait("the agent's second start", || (shop.pod.starts("pitstop") == 2).then_some(()));
    shop.wait_in_sync("v1");
    shop.deploy(App::Good, "v2");
    shop.wait_in_sync("v2");
    assert_eq!(shop.pod.starts("app"), 1, "Puma has not noticed");
}

#[test]
fn e2e_pod_a_puma_that_runs_out_of_memory_is_back_on_the_same_release() {
    pitstop_rig::needs_root!();
    let mut manifest = native();
    let app = manifest.container("app");
    // A single process: of a cluster the kernel would end one worker, and Puma itself starts it again.
    app.set("SHOP_WORKERS", "0");
    app.resources.limits.insert("memory".into(), "256Mi".into());
    let shop = Shop::born(manifest, "bookworm");
    shop.deploy(App::Good, "v2");
    shop.wait_in_sync("v2");
    let _ = shop.pod.get(PORT, "/eat", &[]);
    shop.pod.wait("Puma's second start", || (shop.pod.starts("app") == 2).then_some(()));
    shop.when("app", &What::Exited(137));
    assert_eq!(shop.pod.when("app", &What::Killed), None, "by the kernel, not by the kubelet");
    shop.wait_in_sync("v2");
    shop.deploy(App::Good, "v3");
    shop.wait_in_sync("v3");
    assert_eq!(shop.pod.starts("pitstop"), 1);
}

/// With a liveness probe that the chart refuses to render.
#[test]
fn e2e_pod_a_liveness_kill_in_a_hot_restart_leaves_a_pod_that_deploys() {
    pitstop_rig::needs_root!();
    let mut manifest = native();
    manifest.set("PITSTOP_RESTART_MODE", "hot");
    manifest.end_within(20);
    let app = manifest.container("app");
    app.readiness_probe.as_mut().unwrap().timeout_seconds = 1;
    let liveness = app.liveness_probe.as_mut().unwrap();
    (liveness.period_seconds, liveness.failure_threshold, liveness.timeout_seconds) = (1, 2, 1);
    let shop = Shop::born(manifest, "bookworm");
    shop.publish(App::Good, "v2", "sleep 12");
    shop.point_to("v2");
    shop.pod.wait("the liveness probe's failure", || shop.pod.when("app", &What::Unwell));
    shop.pod.wait("Puma's second start", || (shop.pod.starts("app") == 2).then_some(()));
    shop.pod.wait("the end of the drain that was none", || shop.status()["drain"].is_null().then_some(()));
    shop.deploy(App::Good, "v3");
    shop.wait_in_sync("v3");
    assert_eq!(shop.pod.starts("pitstop"), 1);
}

#[test]
fn e2e_pod_different_users_are_named_and_nothing_is_touched() {
    pitstop_rig::needs_root!();
    let mut manifest = native();
    let app = manifest.container("app");
    app.security_context.run_as_user = 1001;
    // Without a control server it takes ten of them to tell a prober from a client.
    (app.readiness_probe, app.liveness_probe) = (None, None);
    let shop = Shop::launch(manifest, "bookworm");
    shop.deploy(App::Good, "v1");
    shop.pod.wait("v1", || (shop.release().as_deref() == Some("v1")).then_some(()));
    let finding = shop.pod.wait("the finding", || {
        let status = shop.status();
        let findings = status["findings"].as_array()?.clone();
        findings.into_iter().find(|finding| finding["code"] == "APP_SERVER_NOT_PERMITTED")
    });
    for part in ["1000", "1001"] {
        assert!(finding["message"].as_str().unwrap().contains(part), "{finding}");
    }
    shop.deploy(App::Good, "v2");
    shop.pod.wait("the refusal", || (shop.status()["reason"] == "not_permitted").then_some(()));
    assert_eq!(shop.release().as_deref(), Some("v1"));
    // Its end is still waited for.
    shop.pod.delete();
    assert_eq!(shop.pod.when("app", &What::Killed), None);
    assert!(shop.hook().is_some(), "{:#?}", shop.pod.events());
}
