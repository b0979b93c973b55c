//! Nothing is left out: each fail point is one that tests kill at, and each file that changes something on a volume
//! is one whose steps are tried.

use std::{collections::BTreeSet, fs, path::Path};

use pitstop::{effects, init, releases, revisions_log};

/// The files that change something on a volume, in a store or in `state_dir`, each with the test that has a fault at
/// each of its steps.
const CHANGES: &[(&str, &str)] = &[
    ("beneath.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("effects/drain_journal.rs", "an_agent_killed_at_any_change_of_a_drain"),
    ("effects/once_ready.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("effects/unfinished.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("releases/assets.rs", "a_fetch_killed_at_each_change"),
    ("releases/delete.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("releases/fetch.rs", "a_fetch_killed_at_each_change"),
    ("releases/fetch_lock.rs", "a_fetch_killed_at_each_change"),
    ("releases/leases.rs", "a_fetch_killed_at_each_change"),
    ("releases/pack.rs", "publish_killed_at_each_change"),
    ("releases/places.rs", "a_first_fetch_killed_at_each_change"),
    ("releases/prune.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("releases/publish.rs", "a_fetch_killed_at_each_change"),
    ("releases/spare_making.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("releases/spare_update.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("releases/staging.rs", "a_fetch_killed_at_each_change"),
    ("releases/trash.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("releases/tree_finish.rs", "a_fetch_killed_at_each_change"),
    ("releases/unpack.rs", "a_fetch_killed_at_each_change"),
    ("releases/writers.rs", "a_fetch_killed_at_each_change"),
    ("revisions_log.rs", "an_agent_killed_at_any_change_of_a_deploy"),
    ("store/dir.rs", "publish_killed_at_each_change"),
    ("trust/floor.rs", "a_pod_killed_at_any_change_of_state_dir"),
];

/// Rooms that change nothing of this kind, or only what a process or the caller of a command has for itself.
const OTHERS: &[&str] = &[
    "app_server",
    "cli",
    "config",
    "hook",
    "init",
    "procs",
    "server",
    "slots",
    "notify",
    "metrics",
    "core",
    "failpoint.rs",
    "fuzz",
    "plain_file.rs",
    "procs.rs",
];

const CALLS: &[&str] = &[
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::write(",
    "fs::hard_link(",
    "File::create",
    "create_new(",
    ".persist(",
    "symlink(",
    "mkdirat(",
    " unlinkat(",
    "renameat(",
    " linkat(",
    " symlinkat(",
    "OFlags::CREATE",
];

fn sources() -> Vec<(String, String)> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(root, &entry, found);
            } else {
                let name = entry.strip_prefix(root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&entry).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found
}

/// Without what is in a file only for its tests.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap().split("#[cfg(any(test").next().unwrap()
}

#[test]
fn each_fail_point_is_one_that_tests_kill_at() {
    let lists = [
        releases::FAIL_POINTS,
        releases::spare_making::FAIL_POINTS,
        revisions_log::FAIL_POINTS,
        init::FAIL_POINTS,
    ];
    let listed: BTreeSet<&str> =
        lists.concat().into_iter().chain(effects::FAIL_POINTS.iter().copied()).collect();
    let all: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut placed = BTreeSet::new();
    for call in ["failpoint::hit(\"", "failpoint::wanted(\"", "pause_at(\""] {
        placed.extend(all.split(call).skip(1).map(|rest| rest.split('"').next().unwrap()));
    }
    let unlisted: Vec<_> = placed.difference(&listed).collect();
    assert_eq!(unlisted, Vec::<&&str>::new(), "no test kills there: put them into a list of FAIL_POINTS");
    for point in &listed {
        assert!(
            all.matches(&format!("\"{point}\"")).count() > 1,
            "{point} is listed, and nowhere in the code"
        );
    }
    // Those of a rollout have the name of its stage in them, those of the parent that of an order.
    for made in all.split("failpoint::hit(&format!(\"").skip(1).map(|rest| rest.split('{').next().unwrap()) {
        let mut listed = pitstop_rig::ROLLOUT_POINTS.iter().chain(init::ORDER_POINTS);
        assert!(listed.any(|point| point.starts_with(made)), "{made}");
    }
}

#[test]
fn each_file_that_changes_something_on_a_volume_has_its_steps_tried() {
    let tests: String = ["kills.rs", "agent_faults.rs", "drain.rs", "../signed/memory.rs"]
        .map(|name| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/disk/faults").join(name);
            fs::read_to_string(path).unwrap()
        })
        .concat();
    let is_other = |name: &str| OTHERS.iter().any(|room| name.starts_with(room));
    for (name, text) in sources() {
        let changes = CALLS.iter().any(|call| shipped(&text).contains(call));
        if !changes || is_other(&name) || name.ends_with("tests.rs") {
            continue;
        }
        let listed = CHANGES.iter().find(|(file, _)| *file == name);
        let (_, test) =
            listed.unwrap_or_else(|| panic!("src/{name} changes files: which test has faults at its steps?"));
        assert!(tests.contains(&format!("fn {test}")), "{name}: there is no test {test}");
    }
    for (file, _) in CHANGES {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file).exists(), "{file} is gone");
    }
}
