//! The documents stay short, each page is on a reader's path, and figures stand in one place with their command.

use std::collections::BTreeSet;

use pitstop_rig::documents::{all, read};

use super::links::prose;

/// The words of docs/*.md as `wc -w` counts them: tables and blocks too.
const WORDS: usize = 20_000;
const README_LINES: usize = 220;

fn pages() -> Vec<String> {
    all().into_iter().filter(|name| name.starts_with("docs/") && name.matches('/').count() == 1).collect()
}

#[test]
fn the_readme_fits_on_a_few_screens() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
}

#[test]
fn the_pages_have_no_more_words_than_somebody_reads() {
    let words = |page: &String| read(page).split_whitespace().count();
    let total: usize = pages().iter().map(words).sum();
    let each: Vec<_> = pages().iter().map(|page| format!("{} {page}", words(page))).collect();
    assert!(total <= WORDS, "docs/*.md have {total} words:\n{}", each.join("\n"));
}

/// A row of the README's last table for each reader, and every page in exactly one of them.
#[test]
fn every_page_is_on_the_path_of_one_reader() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("\n## Where to read on\n").expect("the readers' paths");
    let path = |reader: &str| {
        let row = table.lines().find(|line| line.starts_with(&format!("| {reader} it |")));
        let row = row.unwrap_or_else(|| panic!("README.md has no path for who wants to {reader} it"));
        row.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).collect::<Vec<_>>()
    };
    let on_paths: Vec<_> = ["try", "adopt", "operate", "change"].into_iter().flat_map(path).collect();
    for page in pages() {
        let times = on_paths.iter().filter(|one| **one == page).count();
        assert_eq!(times, 1, "{page} is on {times} paths of the README");
    }
}

/// `397 ms`, `10.1 MiB`, `19 times`: what somebody measured.
fn figures(text: &str) -> BTreeSet<String> {
    let words: Vec<_> = prose(text)
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| "().,;:|*`".contains(c)).to_owned())
        .collect();
    let number = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit())
            && word.bytes().all(|b| b.is_ascii_digit() || b".,".contains(&b))
    };
    let unit = |word: &str| ["ms", "KiB", "MiB", "GiB", "kB", "MB", "%", "times"].contains(&word);
    words.windows(2).filter(|pair| number(&pair[0]) && unit(&pair[1])).map(|pair| pair.join(" ")).collect()
}

#[test]
fn every_figure_of_the_readme_stands_with_its_command_in_one_place() {
    let page = read("docs/figures.md");
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    for section in &sections {
        let command = section.contains("`make bench BENCH=") || section.contains("`make soak");
        assert!(command, "docs/figures.md: nothing says how this was measured: {section}");
    }
    let there: BTreeSet<_> = sections.iter().flat_map(|section| figures(section)).collect();
    let stated = figures(&read("README.md"));
    assert!(!stated.is_empty(), "the README states no figure");
    let missing: Vec<_> = stated.difference(&there).collect();
    assert!(missing.is_empty(), "README.md states what docs/figures.md does not have: {missing:?}");
}

#[test]
fn a_figure_is_found_in_text_and_in_tables() {
    let text = "It is 19 times faster (397 ms), with `10.1 MiB`.\n| a | 1312 ms |\n";
    assert_eq!(figures(text).into_iter().collect::<Vec<_>>(), ["10.1 MiB", "1312 ms", "19 times", "397 ms"]);
}
