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
        "docs/app-servers.md",
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

/// All Rust below these directories, as one text.
fn code(dirs: &[&str]) -> String {
    let mut todo: Vec<_> = dirs.iter().map(|dir| Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).collect();
    let mut text = String::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn every_test_that_the_table_of_app_servers_names_is_there() {
    let (page, code) = (read("docs/app-servers.md"), code(&["tests", "src"]));
    let rows = page.lines().filter(|line| line.starts_with('|'));
    // Names of tests are the long ones; `busy_threads` and the like are Puma's words.
    let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|name| {
        name.matches('_').count() >= 3 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    let absent: Vec<_> = named.filter(|name| !code.contains(&format!("fn {name}()"))).collect();
    assert_eq!(absent, ["PUMA_SKIP_SIGUSR2"; 0]);
}
