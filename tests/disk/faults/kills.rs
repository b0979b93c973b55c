//! Killed before each change, and started again.

use std::fs;

use pitstop_rig::{needs_root, slow_volume::Gone};

use super::{Work, every, tried};
use crate::rig::Rig;

/// Kills it at each change in turn, in one way of the two or in both, and says how often.
fn kill_at_each(work: &Work, check: impl Fn(&Rig, &str)) -> u64 {
    let mut kills = 0;
    for at in 1.. {
        let ways = [Gone::Written, Gone::Lost];
        let ways = if every() { &ways[..] } else { &ways[(at % 2) as usize..][..1] };
        for gone in ways {
            let Some(_volume) = work.killed_at(at, *gone) else { return kills };
            kills += 1;
            check(
                &work.rig,
                &format!("{:?} killed at change {at}, what it wrote last is {gone:?}", work.args),
            );
        }
    }
    kills
}

fn of_fetches(ran: &[&str], at_least: u64) -> u64 {
    let work = Work::fetch(ran);
    let kills = kill_at_each(&work, |rig, context| {
        let current = rig.release_at_current();
        let allowed = current.as_deref().is_none_or(|is| is == "new" || ran.last() == Some(&is));
        assert!(allowed && (current.is_some() || ran.is_empty()), "{context}: {current:?}");
        rig.assert_whole();
        rig.assert_arrives(context);
    });
    assert!(kills >= at_least, "only {kills}");
    kills
}

#[test]
fn a_first_fetch_killed_at_each_change_is_complete_or_absent_and_the_next_start_arrives() {
    needs_root!();
    let kills = of_fetches(&[], 40);
    let test = "a_first_fetch_killed_at_each_change_is_complete_or_absent_and_the_next_start_arrives";
    tried(
        test,
        "kill -9 before each change of the first `pitstop fetch`",
        kills,
        "a complete release or none",
    );
}

#[test]
fn a_fetch_killed_at_each_change_leaves_current_complete_and_the_next_start_arrives() {
    needs_root!();
    let kills = of_fetches(&["v1", "v2"], 40);
    let test = "a_fetch_killed_at_each_change_leaves_current_complete_and_the_next_start_arrives";
    tried(test, "the same of a later one", kills, "");
}

/// What the next run of the command makes of it.
fn of_the_store(test: &str, work: &Work, at_least: u64, check: impl Fn(&Rig, &str)) {
    let kills = kill_at_each(work, |rig, context| {
        // Pods see a whole pointer, to a release that can be fetched.
        let promoted = fs::read_to_string(rig.store_dir().join("pointers/production")).unwrap();
        let pointer: serde_json::Value = serde_json::from_str(&promoted).unwrap();
        let fetched = rig.fetch(pointer["release"].as_str().unwrap());
        fetched.unwrap_or_else(|problem| panic!("{context}: {promoted}: {}", problem.message));
        check(rig, context);
    });
    assert!(kills >= at_least, "only {kills}");
    let fault = match work.args[0] {
        "publish" => "kill -9 before each change of `pitstop publish`".to_owned(),
        other => format!("the same of `{other}`"),
    };
    tried(test, &fault, kills, "");
}

#[test]
fn publish_killed_at_each_change_is_repeated_and_no_release_is_half_published() {
    needs_root!();
    let work = Work::store(&["publish", "APP", "--release", "new"], &["v1"]);
    let test = "publish_killed_at_each_change_is_repeated_and_no_release_is_half_published";
    of_the_store(test, &work, 8, |rig, context| {
        let before = rig.fetch("new");
        assert!(before.is_ok() || !rig.store_dir().join("releases/new.tar.zst.sha256").exists(), "{context}");
        rig.publish("new");
        rig.ok(&["promote", "new"]);
        rig.assert_arrives(context);
        let _ = fs::remove_dir_all(&rig.deploy_to);
    });
}

#[test]
fn promote_killed_at_each_change_has_moved_the_pointer_or_not_and_is_repeated() {
    needs_root!();
    let work = Work::store(&["promote", "new"], &["v1"]);
    let test = "promote_killed_at_each_change_has_moved_the_pointer_or_not_and_is_repeated";
    of_the_store(test, &work, 5, |rig, context| {
        rig.ok(&["promote", "new"]);
        rig.assert_arrives(context);
        let _ = fs::remove_dir_all(&rig.deploy_to);
    });
}

#[test]
fn rollback_killed_at_each_change_has_moved_the_pointer_or_not_and_is_repeated() {
    needs_root!();
    let work = Work::store(&["rollback", "--to", "v1"], &["v1", "v2"]);
    let test = "rollback_killed_at_each_change_has_moved_the_pointer_or_not_and_is_repeated";
    of_the_store(test, &work, 5, |rig, context| {
        rig.ok(&["rollback", "--to", "v1"]);
        rig.ok(&["fetch"]);
        assert_eq!(rig.release_at_current().as_deref(), Some("v1"), "{context}");
        let _ = fs::remove_dir_all(&rig.deploy_to);
    });
}

#[test]
fn prune_killed_at_each_change_leaves_releases_whole_or_gone_and_is_repeated() {
    needs_root!();
    let work = Work::store(
        &["prune", "--store", "--yes", "--min-age", "0s", "--moves", "1", "--settle", "0s"],
        &["v1", "v2", "v3"],
    );
    let test = "prune_killed_at_each_change_leaves_releases_whole_or_gone_and_is_repeated";
    of_the_store(test, &work, 6, |rig, context| {
        // What can be fetched is whole; `new` was never promoted.
        for release in ["v1", "new"] {
            let digest = rig.store_dir().join(format!("releases/{release}.tar.zst.sha256"));
            assert_eq!(rig.fetch(release).is_ok(), digest.exists(), "{context}: {release}");
        }
        rig.ok(work.args);
        let left = |release: &str| rig.store_dir().join(format!("releases/{release}.tar.zst")).exists();
        assert_eq!(["v1", "v2", "v3", "new"].map(left), [false, true, true, false], "{context}");
        let _ = fs::remove_dir_all(&rig.deploy_to);
    });
}
