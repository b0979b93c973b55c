//! Ends of pods.

use std::time::Duration;

use pitstop_rig::{containers::What, http};

use super::shop::{PORT, Shop, classic, native};

/// What Puma makes of SIGTERM, once it has served what it had.
const PUMA_ENDED: i32 = 143;

/// Deletes a pod that has a request of five seconds in flight.
#[track_caller]
fn delete_under_a_request(shop: &Shop) {
    let request = shop
        .pod
        .in_network(|| std::thread::spawn(|| http::get_within(PORT, "/slow?s=5", Duration::from_secs(60))));
    shop.pod.wait("the request in flight", || {
        shop.agent("/metrics")?.contains("pitstop_puma_requests_in_flight 1").then_some(())
    });
    shop.pod.delete();
    assert_eq!(request.join().unwrap().expect("the request was cut off").status, 200);
    // Not whether it was "drained": on a machine that is busy the kubelet's probes may pass for clients up to the deadline.
    assert_eq!(shop.hook().expect("the hook's answer")["requests_left"], 0);
    for (container, code) in [("app", PUMA_ENDED), ("pitstop", 0)] {
        assert_eq!(shop.pod.when(container, &What::Killed), None, "{container} was killed");
        shop.when(container, &What::Exited(code));
    }
}

#[test]
fn e2e_pod_native_order_drains_puma_then_ends_it_then_the_agent_on_6_6() {
    pitstop_rig::needs_root!();
    let shop = Shop::born(native(), "trixie");
    delete_under_a_request(&shop);
    let [term, gone] = [What::Term, What::Exited(PUMA_ENDED)].map(|what| shop.when("app", &what));
    assert!(term < gone && gone <= shop.when("pitstop", &What::Term), "{:#?}", shop.pod.events());
}

#[test]
fn e2e_pod_classic_agent_outlives_its_sigterm_until_puma_is_gone() {
    pitstop_rig::needs_root!();
    let shop = Shop::born(classic(), "bookworm");
    let fetched = shop.pod.events().into_iter().rfind(|event| event.container == "pitstop-fetch").unwrap();
    assert_eq!(fetched.what, What::Exited(0));
    assert!(fetched.at.as_secs_f64() < shop.when("app", &What::Started), "Puma waits for the first release");
    delete_under_a_request(&shop);
    let term = shop.when("pitstop", &What::Term);
    assert!(term < shop.when("app", &What::Term), "both hear of the end at once: {:#?}", shop.pod.events());
    // Seen by two observers, a tick apart.
    assert!(shop.when("app", &What::Exited(PUMA_ENDED)) < shop.when("pitstop", &What::Exited(0)) + 1.0);
}
