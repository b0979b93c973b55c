//! The documents keep up with the code.

use std::{collections::BTreeSet, fs, path::Path};

use pitstop::{core::Reason, finding::Code};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_reason_has_a_heading_in_the_runbook_and_no_other_code_has_one() {
    let runbook = read("docs/runbook.md");
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let headings: Vec<_> = headings.collect();
    let once: BTreeSet<_> = headings.iter().copied().collect();
    assert_eq!(once.len(), headings.len(), "a heading stands twice: {headings:?}");
    assert_eq!(once, Reason::ALL.iter().map(|reason| reason.code()).collect());
}

#[test]
fn every_finding_has_a_heading_and_no_other_code_has_one() {
    let page = read("docs/doctor.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let headings: Vec<_> = headings.collect();
    let once: BTreeSet<_> = headings.iter().copied().collect();
    assert_eq!(once.len(), headings.len(), "a heading stands twice: {headings:?}");
    assert_eq!(once, Code::ALL.iter().map(|code| code.code()).collect());
}

#[test]
fn each_of_these_headings_says_what_it_means_what_pitstop_does_and_what_to_do() {
    let runbook = read("docs/runbook.md");
    for section in runbook.split("\n### `").skip(1) {
        let (code, text) = section.split_once('`').unwrap();
        let text = text.split("\n#").next().unwrap();
        for part in ["**Means:**", "**pitstop:**", "**You:**"] {
            assert!(text.contains(part), "{code} has no {part}");
        }
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for from in [
        "README.md",
        "docs/runbook.md",
        "docs/doctor.md",
        "docs/drain.md",
        "docs/exec.md",
        "docs/s3.md",
        "docs/configuration.md",
        "docs/architecture.md",
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
        for link in read(from).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let found = file.is_empty() || file.contains("://") || dir.with_file_name(file).exists();
            assert!(found, "{from} links to {link}, which is not there");
        }
    }
}
