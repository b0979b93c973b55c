//! Links between the documents lead to files and headings that are there.

use std::{collections::BTreeSet, path::Path};

use pitstop_rig::documents::{all, read, root};

/// Without what stands in fences.
pub fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for from in all() {
        let text = read(&from);
        let dir = Path::new(&from).parent().unwrap();
        let prose = prose(&text);
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { Path::new(&from).to_owned() } else { dir.join(file) };
            assert!(root().join(&target).exists(), "{from} links to {link}, which is not there");
            if !heading.is_empty() {
                let there = anchors(&read(target.to_str().unwrap()));
                assert!(there.contains(heading), "{from} links to {link}: there is no such heading");
            }
        }
    }
}

/// Files of the project that the text names, in backticks.
#[test]
fn paths_in_the_text_are_there() {
    let mut named = 0;
    for document in all() {
        let prose = prose(&read(&document));
        for span in prose.split('`').filter(|span| !span.contains(['*', '…', '<', '\n', ' '])) {
            let ours = ["src/", "tests/", "docs/", "charts/", "deploy/", "docker/", "benches/", ".ci/"];
            if ours.iter().any(|dir| span.starts_with(dir)) {
                assert!(root().join(span).exists(), "{document}: there is no {span}");
                named += 1;
            }
        }
    }
    assert!(named >= 30, "{named}");
}

#[test]
fn the_readme_leads_to_every_document() {
    let readme = read("README.md");
    for document in all().iter().filter(|name| name.starts_with("docs/")) {
        assert!(readme.contains(&format!("({document}")), "README.md does not lead to {document}");
    }
}
