//! The runbook has a heading for every alert and reason and an entry for every stage, and no other; the findings have
//! their headings in docs/doctor.md, and each metric an entry in docs/metrics.md. Each says the same three things.

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

/// What it means, what to do, what not to do.
#[test]
fn every_stage_that_can_last_has_an_entry() {
    let page = read("docs/runbook.md");
    let chapter = page.split("\n## ").find(|chapter| chapter.starts_with("Stages\n")).unwrap();
    let entries = chapter.lines().filter_map(|line| line.strip_prefix("- `")?.split_once("`: "));
    let (named, texts): (Vec<_>, Vec<_>) = entries.unzip();
    let lasting = Stage::ALL.iter().filter(|stage| **stage != Stage::Steady);
    assert_eq!(named, lasting.map(|stage| stage.name()).collect::<Vec<_>>());
    assert!(texts.iter().all(|text| text.contains(" Do not ")), "{texts:?}");
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

/// What it means, what to do, what not to do. How each is seen stands above them, once: by its code.
#[test]
fn each_of_these_headings_says_the_three_things() {
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| format!("`{}`", reason.code())).collect();
    let told = |(heading, _): &(String, String)| reasons.contains(heading) || heading.starts_with("Pitstop");
    for (heading, text) in sections("docs/runbook.md", None).iter().filter(|section| told(section)) {
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        let [meaning, you, not] = lines[..] else { panic!("{heading}: {lines:?}") };
        assert!(!meaning.starts_with("**") && meaning.split(' ').count() >= 4, "{heading}: {meaning}");
        assert!(you.starts_with("**You:** ") && not.starts_with("**Not:** "), "{heading}: {lines:?}");
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
