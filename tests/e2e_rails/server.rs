//! `rails server`, which loads the app before Puma begins.

use crate::{app::Change, pod::Pod};

#[test]
fn e2e_rails_server_gets_hot_restarts_because_a_phased_one_would_keep_the_old_code() {
    let Some(pod) = Pod::in_sync("exec bin/rails server") else { return };
    let master = pod.puma.master();
    let found = pod.status()["findings"].to_string();
    assert!(found.contains("PHASED_RESTART_UNAVAILABLE") && found.contains("`rails server`"), "{found}");
    pod.deploy(Change::Code, "v2");
    pod.wait_in_sync("v2");
    pod.assert_serves("v2");
    // From now on without a control server that could be asked who started Puma.
    pod.shop.edit("config/puma.rb", |text| text.replace("activate_control_app", "# activate_control_app"));
    for (id, sent) in [("v3", [0.0, 2.0]), ("v4", [0.0, 3.0])] {
        pod.deploy(Change::Code, id);
        pod.wait_in_sync(id);
        pod.assert_serves(id);
        assert_eq!(pod.sent(), sent);
    }
    let found = pod.status()["findings"].to_string();
    assert!(found.contains("CONTROL_SERVER_ABSENT") && found.contains("loaded in Puma's master"), "{found}");
    assert_eq!((pod.puma.master(), pod.puma.starts()), (master, 1), "the same pod, the same master");
    pod.deploy(Change::BrokenInitializer, "v5");
    pod.wait_back_on("v4");
    pod.assert_serves("v4");
}
