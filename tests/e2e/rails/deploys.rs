//! What a team does to its app in a week, under load.

use std::fs;

use pitstop_rig::{
    Load, PATIENCE, http,
    load::{Plan, Records},
    until,
};

use super::{app::Change, browser::Browser, pod::Pod};

fn load(pod: &Pod) -> Load {
    let path = "/visit".into();
    Load::start(
        Plan { path, fresh_per_second: 20, patience: 4 * PATIENCE, ..Plan::modest(pod.puma.port()) },
        "deploys",
    )
}

/// Puma 6.6 now and then closes a kept connection while another thread reads its next request, when the worker stops: a
/// 500, and this in its log.
const PUMAS_OWN: &str = "Read: #<IOError: stream closed in another thread>";

/// Gives how many requests Puma itself could not read.
#[track_caller]
fn assert_none_failed(records: &Records, pod: &Pod) -> usize {
    let said = pod.errors();
    let excused = said.iter().filter(|line| line.ends_with(PUMAS_OWN)).count();
    let (pumas, failed): (Vec<_>, Vec<_>) =
        records.failures(&[]).partition(|one| one.reused && one.status == Some(500));
    assert!(pumas.len() <= excused && failed.is_empty(), "{pumas:?} {failed:?}; what Rails said: {said:#?}");
    pumas.len()
}

#[test]
fn e2e_a_rails_app_is_deployed_under_load() {
    let Some(mut pod) = Pod::in_sync("exec bundle exec puma -C config/puma.rb") else { return };
    let (load, browser) = (load(&pod), Browser::open(pod.puma.port()));
    let master = pod.puma.master();
    // Only code, and a column that the old code does not know.
    for (change, id, sent) in [(Change::Code, "v2", [1.0, 0.0]), (Change::Migration, "v3", [2.0, 0.0])] {
        pod.deploy(change, id);
        pod.wait_in_sync(id);
        assert_eq!(pod.assert_serves(id)["xmlrpc"], false);
        assert_eq!(pod.sent(), sent, "phased");
    }
    pod.deploy(Change::Gem, "v4");
    pod.wait_in_sync("v4");
    assert_eq!(pod.assert_serves("v4")["xmlrpc"], true, "the new gem is loaded");
    assert_eq!(pod.sent(), [2.0, 1.0], "hot, because of the bundle");
    pod.deploy(Change::BrokenInitializer, "v5");
    pod.wait_back_on("v4");
    pod.assert_serves("v4");
    assert_eq!((pod.puma.master(), pod.puma.starts()), (master, 1), "the same pod, the same master");
    let seen = browser.close();
    assert!(seen.missing.is_empty() && seen.stylesheets > 100, "{seen:?}");
    assert_caches_are_the_releases_own(&pod);
    let records = end(&mut pod, load);
    let unread = assert_none_failed(&records, &pod);
    let tally = records.tally(&[]);
    let visits = pod.puma.run_inside(&pod.puma.current(), "bin/rails runner 'puts Visit.count'");
    let visits: usize = visits.trim().parse().unwrap();
    assert!(
        (tally.requests - unread..=tally.requests + tally.resets).contains(&visits),
        "{visits} rows of {tally:?}"
    );
}

/// Bootsnap keeps what it compiled by path, in a directory of each release. With paths through `current`, one would get another's.
fn assert_caches_are_the_releases_own(pod: &Pod) {
    let ids = ["v1", "v2", "v3", "v4"];
    for id in ids {
        let cache = pod.puma.scratch().join(format!("pod/bootsnap/{id}/bootsnap/load-path-cache"));
        let cache = String::from_utf8_lossy(&fs::read(cache).unwrap()).into_owned();
        let named = |other: &&str| cache.contains(&format!("/srv/app/releases/{other}/lib"));
        assert_eq!(ids.into_iter().filter(named).collect::<Vec<_>>(), [id]);
        assert!(!cache.contains("/srv/app/current"));
    }
    assert!(!pod.puma.scratch().join("pod/tmp/cache/bootsnap").exists());
}

/// The pod is deleted while requests come in, which end when its removal has spread.
fn end(pod: &mut Pod, load: Load) -> Records {
    let answer = pod.agent.prestop();
    until("the drain", || pod.status()["drain"].is_object().then_some(()));
    load.stop_sending();
    let told = answer.join().unwrap().unwrap();
    assert_eq!((&told["result"], &told["requests_left"]), (&"drained".into(), &0.into()), "{told}");
    pod.puma.container().terminate();
    assert!(http::get(pod.puma.port(), "/").is_err());
    load.finish()
}
