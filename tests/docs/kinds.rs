//! No block of a document goes unchecked: what its first line says is what somebody checks, or it stands here
//! why nobody can.

use std::{io::Write, process::Stdio};

use pitstop_rig::documents::{Block, all_blocks, in_language, root};

/// Who checks a kind of block. A YAML block that names a file is that file (`chart`).
const CHECKED: &[(&str, &str)] = &[
    ("console", "shell: each command is started, where no program is, and judged"),
    ("console run", "transcript: run, and what it prints is compared"),
    ("sh", "shell"),
    ("text sums", "sums: every sum is worked out again"),
    ("ruby", "here: by `ruby -c`"),
    ("dockerfile", "image: every instruction; what it starts"),
    ("json", "here: it is JSON"),
    ("json agent", "policies, and s3: an independent server holds the roles to them"),
    ("json ci", "policies, and s3"),
    ("json promoter", "policies, and s3"),
    ("json pruner", "policies, and s3"),
    ("json kms", "policies"),
    ("json kms-writer", "policies"),
    ("yaml", "chart: a manifest against Kubernetes' schemas; anything else is the agent's configuration"),
    ("yaml values", "chart: rendered, and against the schemas"),
    ("yaml env", "chart: variables that the agent takes"),
    ("yaml github", "pipelines"),
    ("yaml gitlab", "pipelines"),
    ("yaml prometheus", "monitoring: by promtool"),
    ("diff native", "chart: both sides"),
];

/// What nobody can check, and why.
const UNCHECKED: &[(&str, &str)] = &[
    (
        "text",
        "what programs print on another day, or a drawing; a line with a prompt is checked all the same",
    ),
    ("nginx", "no test has an nginx; it was tried by hand"),
];

#[test]
fn every_block_is_of_a_kind_that_is_checked_or_says_why_not() {
    let blocks = all_blocks();
    for Block { place, what, .. } in &blocks {
        let info = blocks.iter().find(|one| one.place == *place).unwrap().info();
        // `tests/chart` holds these against their files.
        let names_a_file = info.starts_with("diff ") && root().join(what).exists();
        let known = CHECKED.iter().chain(UNCHECKED).any(|(kind, _)| *kind == info);
        assert!(known || names_a_file, "{place}: nobody checks a block of the kind {info:?}");
    }
    for (kind, _) in CHECKED.iter().chain(UNCHECKED) {
        assert!(blocks.iter().any(|block| block.info() == *kind), "there is no block of the kind {kind:?}");
    }
}

#[test]
fn json_is_json() {
    for block in in_language("json") {
        let read = serde_json::from_str::<serde_json::Value>(&block.text);
        assert!(read.is_ok(), "{}: {}", block.place, read.unwrap_err());
    }
}

#[test]
fn ruby_is_ruby() {
    for block in in_language("ruby") {
        let mut ruby = std::process::Command::new("ruby");
        let ruby = ruby.arg("-c").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let Ok(mut ruby) = ruby else {
            assert!(std::env::var_os("CI").is_none(), "no ruby: .ci/setup puma installs it");
            return eprintln!("skipped: .ci/setup puma installs ruby");
        };
        ruby.stdin.take().unwrap().write_all(block.text.as_bytes()).unwrap();
        let output = ruby.wait_with_output().unwrap();
        assert!(output.status.success(), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
    }
}
