//! The runbook has a heading for every alert, reason and stage, and no other; the findings have theirs in docs/doctor.md,
//! and each metric a row in docs/metrics.md. Each heading says the same four things.

use std::{collections::BTreeSet, fs};

use pitstop::{
    core::{Reason, Stage},
    finding::Code,
    metrics::Metrics,
};
use pitstop_rig::documents::{read, root};

use super::tables::rust_files;

/// The headings of this level below a heading of the second, each with its text.
fn sections(document: &str, below: Option<&str>) -> Vec<(String, String)> {
    let text = read(document);
    let chapters = text.split("\n## ").skip(1);
    let wanted = chapters.filter(|chapter| below.is_none_or(|name| chapter.lines().next() == Some(name)));
    let sections = wanted.flat_map(|chapter| chapter.split("\n### ").skip(1));
    let split = |section: &str| {
        let (heading, text) = section.split_once('\n').unwrap_or((section, ""));
        (heading.to_owned(), text.to_owned())
    };
    sections.map(split).collect()
}

/// Codes among the headings, of which none may stand twice.
fn codes(sections: &[(String, String)]) -> BTreeSet<&str> {
    let codes = sections.iter().filter_map(|(heading, _)| heading.strip_prefix('`')?.strip_suffix('`'));
    let codes: Vec<_> = codes.collect();
    let once: BTreeSet<_> = codes.iter().copied().collect();
    assert_eq!(once.len(), codes.len(), "a heading stands twice: {codes:?}");
    once
}

#[test]
fn every_reason_has_a_heading_and_no_other_code_has_one() {
    let sections = sections("docs/runbook.md", None);
    assert_eq!(codes(&sections), Reason::ALL.iter().map(|reason| reason.code()).collect());
}

/// When it looks bad, and what to do then.
#[test]
fn every_metric_has_a_row_that_says_what_to_do_when_it_looks_bad() {
    let page = read("docs/metrics.md");
    let chapter = page.split("\n## ").find(|chapter| chapter.starts_with("When a metric looks bad")).unwrap();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows: Vec<_> = rows.collect();
    let metrics = Metrics::new();
    let names: Vec<_> = metrics.families().iter().map(|family| family.name.as_str()).collect();
    let named: BTreeSet<_> = rows.iter().map(|(name, _)| *name).collect();
    assert_eq!((rows.len(), named), (names.len(), names.iter().copied().collect()));
    for (name, rest) in rows {
        let told = rest.trim_end_matches(" |").split(" | ").filter(|cell| !cell.trim().is_empty());
        assert_eq!(told.count(), 2, "{name}");
    }
}

#[test]
fn every_stage_that_can_last_has_a_heading() {
    let sections = sections("docs/runbook.md", Some("Stages"));
    let headings: Vec<_> = sections.iter().map(|(heading, _)| heading.as_str()).collect();
    let lasting = Stage::ALL.iter().filter(|stage| **stage != Stage::Steady);
    let wanted: Vec<_> = lasting.map(|stage| format!("The stage stays `{}`", stage.name())).collect();
    assert_eq!(headings, wanted);
}

#[test]
fn every_alert_has_a_heading_and_no_other_alert_has_one() {
    let rules = read("charts/pitstop/rules/pitstop.yml");
    let alerts: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let sections = sections("docs/runbook.md", Some("Alerts"));
    assert_eq!(sections.iter().map(|(heading, _)| heading.as_str()).collect::<BTreeSet<_>>(), alerts);
}

#[test]
fn every_finding_has_a_heading_and_no_other_code_has_one() {
    let sections = sections("docs/doctor.md", None);
    assert_eq!(codes(&sections), Code::ALL.iter().map(|code| code.code()).collect());
    assert!(read("docs/runbook.md").contains("](doctor.md)"), "the runbook leads to them");
}

/// What a test looks for stands in its code as a text; what nobody looks for is never made.
#[test]
fn every_finding_is_looked_for_by_a_test() {
    let mut tests = String::new();
    for file in rust_files(&["src", "tests"]) {
        let text = fs::read_to_string(&file).unwrap();
        let whole = file.ends_with("tests.rs") || !file.starts_with(root().join("src"));
        tests += if whole { &text } else { text.split("\nmod tests {").nth(1).unwrap_or_default() };
    }
    let sought = |code: &&Code| tests.contains(&format!("\"{}\"", code.code()));
    let never: Vec<_> = Code::ALL.iter().filter(|code| !sought(code)).collect();
    assert_eq!(never, Vec::<&Code>::new());
}

/// What it means, how to see it, what to do, what not to do.
#[test]
fn each_of_these_headings_says_the_four_things() {
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| format!("`{}`", reason.code())).collect();
    for (heading, text) in sections("docs/runbook.md", None) {
        let parts: &[&str] = match heading.as_str() {
            // How each of them is seen stands above them, once: by its code.
            code if reasons.contains(code) => &["**Means:**", "**pitstop:**", "**You:**", "**Not:**"],
            stage if stage.starts_with("The stage stays") => {
                &["**Means:**", "**See:**", "**You:**", "**Not:**"]
            }
            alert if alert.starts_with("Pitstop") => &["**Means:**", "**See:**", "**You:**", "**Not:**"],
            _ => &[],
        };
        let missing: Vec<_> = parts.iter().filter(|part| !text.contains(**part)).collect();
        assert!(missing.is_empty(), "{heading} has no {missing:?}");
    }
}

/// How a reason is seen is the same for all, and true: each is a value of the metric's label.
#[test]
fn every_reason_is_seen_in_the_metric_under_its_own_code() {
    let page = read("docs/runbook.md");
    assert!(page.contains("`pitstop_reason{reason=\"CODE\"}`"));
    let metrics = Metrics::new();
    let reason = metrics.families().iter().find(|family| family.name == "pitstop_reason").unwrap();
    assert_eq!(reason.labels, ["reason"]);
}
