//! No parser is left out: each file that reads text of others has its fuzz target, or the reason why it needs none.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::TARGETS;

/// What a file has in it that reads something.
const READS: &[&str] = &[
    "serde_json::from_",
    "serde_saphyr::from_",
    "quick_xml::de",
    "fn parse(",
    ".parse()",
    ".parse::<",
    "from_str_radix",
    "procfs::net::",
];

/// The files, each with the target that reaches it.
const FUZZED: &[(&str, &str)] = &[
    ("app_server/passenger/discovery.rs", "passenger-properties"),
    ("app_server/passenger/pool.rs", "passenger-pool"),
    ("app_server/puma/binds.rs", "puma-title"),
    ("app_server/puma/config_file.rs", "puma-config"),
    ("app_server/puma/control.rs", "puma-control"),
    ("app_server/puma/release_diff.rs", "bundle"),
    ("app_server/puma/title.rs", "puma-title"),
    ("app_server/room.rs", "room"),
    ("app_server/unicorn/title.rs", "unicorn-title"),
    ("cli/rollout/journal.rs", "rollout"),
    ("cli/rollout/lease.rs", "rollout"),
    ("config/advice.rs", "config-values"),
    ("config/check.rs", "config-values"),
    ("config/headers.rs", "config-values"),
    ("config/health_url.rs", "config-values"),
    ("config/keys.rs", "config-values"),
    ("config/listen_address.rs", "learnt"),
    ("config/mod.rs", "config-values"),
    ("config/restart.rs", "config-values"),
    ("config/source.rs", "config-values"),
    ("config/warmup.rs", "config-values"),
    ("config/yaml.rs", "config"),
    ("core/requirement.rs", "requirements"),
    ("effects/drain_journal.rs", "drain"),
    ("effects/unfinished.rs", "unfinished"),
    ("fleet/moves.rs", "move"),
    ("fleet/reports.rs", "report"),
    ("init/ask.rs", "agent-answer"),
    ("init/learnt.rs", "learnt"),
    ("init/questions.rs", "slots-request"),
    ("pointer.rs", "pointer"),
    ("pointer/document.rs", "pointer"),
    ("procs/memory.rs", "control-groups"),
    ("probe.rs", "health"),
    ("releases/fetch_lock.rs", "fetch-lock"),
    ("releases/inside.rs", "archive"),
    ("releases/leases.rs", "lease"),
    ("releases/manifest.rs", "manifest"),
    ("releases/mod.rs", "marker"),
    ("releases/pax.rs", "pax"),
    ("revision.rs", "pointer"),
    ("revision/canary.rs", "pointer"),
    ("revisions_log.rs", "journal"),
    ("slots/client.rs", "slots-reply"),
    ("slots/counts.rs", "counts"),
    ("sockets.rs", "proc-net"),
    ("store/archive.rs", "digest"),
    ("store/inventory.rs", "store-key"),
    ("trust/envelope.rs", "statement"),
    ("trust/floor.rs", "floor"),
    ("trust/pointer.rs", "statement"),
    ("trust/release.rs", "statement"),
];

const AN_ID: &str = "the name of a release, which `pointer` and `journal` read";
const A_NUMBER: &str = "one number";
const ANY_JSON: &str = "any JSON, of which fields are looked up";
const OURS: &str = "what our own agent or command says";

/// The other files, and why.
const NOT_FUZZED: &[(&str, &str)] = &[
    ("app_server/command/discovery.rs", A_NUMBER),
    ("app_server/in_slots.rs", AN_ID),
    ("app_server/passenger/api.rs", ANY_JSON),
    ("app_server/passenger/plan.rs", AN_ID),
    ("app_server/puma/setup.rs", A_NUMBER),
    ("app_server/puma/source_tree.rs", A_NUMBER),
    ("app_server/working_dir.rs", AN_ID),
    ("cli/agent_socket.rs", OURS),
    ("cli/doctor/agent.rs", OURS),
    ("cli/gently.rs", OURS),
    ("cli/prune_store/needed.rs", ANY_JSON),
    ("cli/sign.rs", "the envelope that `statement` reads"),
    ("cli/verify.rs", "the envelope that `statement` reads"),
    ("fleet/canary.rs", "the reports that `report` reads"),
    ("procs.rs", "the table that `proc-net` reads"),
    ("procs/loaded.rs", AN_ID),
    ("releases/assets.rs", AN_ID),
    ("releases/caches.rs", AN_ID),
    ("releases/publish.rs", AN_ID),
    ("releases/trash.rs", AN_ID),
    ("telemetry.rs", "the operator's own log level"),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn each_parser_has_a_target_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for path in files {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let is_of_tests = ["fuzz", "tests", "walk"].iter().any(|word| name.contains(word));
        if is_of_tests || !name.ends_with(".rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let shipped = text.split("#[cfg(test)]").next().unwrap();
        let shipped = shipped.split("#[cfg(any(test").next().unwrap();
        let target = FUZZED.iter().find(|(file, _)| *file == name);
        let reason = NOT_FUZZED.iter().find(|(file, _)| *file == name);
        if READS.iter().any(|call| shipped.contains(call)) {
            assert!(
                target.is_some() != reason.is_some(),
                "src/{name} reads what others wrote: which target of src/fuzz.rs reaches it?"
            );
        }
    }
    for (file, target) in FUZZED {
        assert!(root.join(file).exists(), "{file} is gone");
        assert!(TARGETS.iter().any(|(name, _)| name == target), "{file}: there is no target {target}");
    }
    assert!(NOT_FUZZED.iter().all(|(file, _)| root.join(file).exists()), "a file is gone");
}
