//! A second server beside the first, in pods that may do nothing else: preloading Pumas, each release boots unnoticed.

use std::time::Duration;

use pitstop_rig::{
    App,
    containers::{Manifest, What},
    http,
    load::{Load, Plan},
};
use serde_json::Value;

use super::shop::{PORT, Shop};

/// The agent in a container of its own.
fn beside() -> Manifest {
    Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_beside.snap"))
}

/// And in Puma's container.
fn beside_exec() -> Manifest {
    Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_beside_exec.snap"))
}

/// A Puma that preloads and may not miss one readiness probe.
fn strict(mut manifest: Manifest) -> Manifest {
    manifest.set("PITSTOP_RESTART_TIMEOUT", "8s");
    let app = manifest.container("app");
    app.set("SHOP_PRELOADS", "yes");
    let readiness = app.readiness_probe.as_mut().unwrap();
    (readiness.period_seconds, readiness.failure_threshold, readiness.timeout_seconds) = (1, 1, 1);
    manifest
}

fn born(manifest: Manifest, suite: &'static str) -> Shop {
    let shop = Shop::born(strict(manifest), suite);
    shop.pod.wait("the slots", || slot(&shop.status(), "live"));
    shop
}

/// Who has this role among the slots.
fn slot(status: &Value, role: &str) -> Option<Value> {
    status["app_server"]["slots"].as_array()?.iter().find(|slot| slot["role"] == role).cloned()
}

/// How often the pod was taken out of the Service.
fn outages(shop: &Shop) -> usize {
    shop.pod
        .events()
        .iter()
        .filter(|event| event.container == "app" && event.what == What::Ready(false))
        .count()
}

/// Releases that raise, that hang, and that take their time to boot, under load: no client meets the bad ones or waits for
/// the good one, and the pod is ready all the time.
fn releases(shop: &Shop) {
    let load = shop.pod.in_network(|| Load::start(Plan::modest(PORT), "beside"));
    for (app, id) in [(App::RaisesOnBoot, "v2"), (App::HangsOnBoot, "v3")] {
        shop.deploy(app, id);
        shop.pod.wait(&format!("{id} is rejected, v1 runs"), || {
            let status = shop.status();
            let rejected = status["rejected"].as_array()?.iter().any(|rejected| rejected["release"] == id);
            (rejected && status["stage"] == "steady" && status["running"] == "v1").then_some(())
        });
    }
    shop.publish(App::Good, "v4", "sleep 3");
    shop.point_to("v4");
    shop.wait_in_sync("v4");
    let records = load.finish();
    records.assert_nothing_lost();
    let met = records.requests().iter().filter_map(|record| record.release.as_deref());
    assert!(met.clone().all(|release| ["v1", "v4"].contains(&release)), "a bad release was met");
    assert_eq!(outages(shop), 0, "{:#?}", shop.pod.events());
    assert_eq!(shop.pod.starts("app"), 1, "nothing was restarted");
}

/// A candidate that boots and does not end to.
fn boots_for_ever(shop: &Shop, id: &str) {
    shop.deploy(App::HangsOnBoot, id);
    shop.pod.wait(&format!("{id} boots"), || {
        let candidate = slot(&shop.status(), "candidate")?;
        (candidate["release"] == id).then_some(())
    });
}

/// The live server is killed while a candidate boots: the container comes up on the release from before.
fn killed(shop: &Shop) {
    boots_for_ever(shop, "v5");
    let live = slot(&shop.status(), "live").unwrap();
    let pid = &live["pid"];
    shop.pod.exec("app", &["sh", "-c", &format!("kill -9 {pid}")]);
    shop.pod.wait("the container's second start", || (shop.pod.starts("app") == 2).then_some(()));
    shop.pod.wait("v4 serves", || (shop.release().as_deref() == Some("v4")).then_some(()));
}

/// The pod ends while a candidate boots: what is in flight is answered, and nobody has to be killed.
fn deleted(shop: &Shop, starts: u32) {
    boots_for_ever(shop, "v6");
    assert_eq!(shop.pod.starts("app"), starts, "{:#?}", shop.pod.events());
    let slow = |port| http::get_within(port, "/slow?s=5", Duration::from_secs(60));
    let request = shop.pod.in_network(|| std::thread::spawn(move || slow(PORT)));
    shop.pod.wait("the request in flight", || {
        shop.agent("/metrics")?.contains("pitstop_puma_requests_in_flight 1").then_some(())
    });
    shop.pod.delete();
    assert_eq!(request.join().unwrap().expect("the request was cut off").status, 200);
    assert_eq!(shop.pod.when("app", &What::Killed), None, "{:#?}", shop.pod.events());
}

#[test]
fn e2e_pod_a_release_boots_beside_the_one_that_serves() {
    pitstop_rig::needs_root!();
    let shop = born(beside(), "bookworm");
    shop.assert_restricted("app");
    releases(&shop);
    killed(&shop);
    deleted(&shop, 2);
}

#[test]
fn e2e_pod_a_release_boots_beside_the_one_that_serves_with_the_agent_in_the_same_container_on_6_6() {
    pitstop_rig::needs_root!();
    let shop = born(beside_exec(), "trixie");
    shop.assert_restricted("app");
    releases(&shop);
    killed(&shop);
    deleted(&shop, 2);
}
