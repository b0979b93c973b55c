//! What tables name is there: tests, and the agent's keys.

use std::{fs, path::PathBuf};

use pitstop::config::Config;
use pitstop_rig::documents::{all, read, root};

/// All Rust below these directories, as one text.
fn code(dirs: &[&str]) -> String {
    rust_files(dirs).iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

pub fn rust_files(dirs: &[&str]) -> Vec<PathBuf> {
    let mut todo: Vec<_> = dirs.iter().map(|dir| root().join(dir)).collect();
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

/// What stands in backticks in a document's lines that begin so.
fn spans(document: &str, begin: &str) -> Vec<String> {
    let page = read(document);
    let rows = page.lines().filter(|line| line.starts_with(begin));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn every_test_that_a_table_or_list_names_is_there() {
    let code = code(&["tests", "src"]);
    let (tables, lists) = ("|", "- ");
    for (document, begin, at_least) in [
        ("docs/app-servers.md", tables, 10),
        ("docs/security.md", lists, 6),
        ("docs/architecture.md", lists, 15),
    ] {
        // Names of tests are the long ones in small letters; `busy_threads` and the like are Puma's words.
        let named: Vec<_> = spans(document, begin)
            .into_iter()
            .filter(|name| {
                let small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
                name.matches('_').count() >= 3 && name.bytes().all(small)
            })
            .collect();
        assert!(named.len() >= at_least, "{document}: {}", named.len());
        let absent: Vec<_> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
        assert!(absent.is_empty(), "{document}: {absent:?}");
    }
}

/// The agent's keys with a dot are known by their section: `drain.min`, `verify.url: http://…`.
#[test]
fn every_key_that_a_document_names_is_there() {
    let keys = serde_json::to_value(Config::default()).unwrap();
    let sections: Vec<_> = keys.as_object().unwrap().iter().filter(|(_, value)| value.is_object()).collect();
    // Files of Puma's, whose names look like keys.
    let files = ["puma.rb", "puma.state", "puma.sock", "puma.pid"];
    let mut named = 0;
    for document in all() {
        for span in read(&document).split('`').filter(|span| !span.contains(['\n', '/', '('])) {
            let word = span.split([':', ' ', '=']).next().unwrap_or_default();
            let Some((section, key)) = word.split_once('.') else { continue };
            let Some((_, fields)) = sections.iter().find(|(name, _)| *name == section) else { continue };
            if !files.contains(&word) && !key.contains(['*', '…', '|']) {
                assert!(fields.get(key).is_some(), "{document}: there is no key {word}");
                named += 1;
            }
        }
    }
    assert!(named >= 60, "{named}");
}

/// Words of the other side (`set :linked_dirs`) are in other columns.
#[test]
fn every_key_that_the_migration_leads_to_is_there() {
    let keys = serde_json::to_value(Config::default()).unwrap();
    let page = read("docs/migration.md");
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let with_us = row.split('|').nth(2).unwrap_or_default();
        for span in with_us.split('`').skip(1).step_by(2) {
            let Some((key, _)) = span.split_once(": ") else { continue };
            let there = keys.pointer(&format!("/{}", key.replace('.', "/"))).is_some();
            assert!(there, "docs/migration.md: there is no key {key}");
            named += 1;
        }
    }
    assert!(named >= 5, "{named}");
}
