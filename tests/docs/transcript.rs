//! Transcripts that a reader can type along (`console run`) are run with the real program, one document in one
//! shell, and print what the document says; `…` stands for anything.

use std::{path::Path, process::Command};

use pitstop_rig::documents::{all, blocks};

use super::shell::typed;

/// A command, and what it is said to print.
struct Step {
    place: String,
    command: String,
    prints: Vec<String>,
}

fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in blocks(document).into_iter().filter(|block| block.info() == "console run") {
        for line in block.text.lines() {
            match line.starts_with("$ ") {
                true => {
                    steps.push(Step { place: block.place.clone(), command: typed(line), prints: Vec::new() })
                }
                false => steps.last_mut().expect("a command first").prints.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Runs all of them; what each has printed.
fn printed(steps: &[Step]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mark = "\u{1e}\n";
    let script: String =
        steps.iter().map(|step| format!("printf '%s' '{mark}'\n{}\n", step.command)).collect();
    let program = Path::new(env!("CARGO_BIN_EXE_pitstop")).parent().unwrap();
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(format!("exec 2>&1; umask 022\n{script}")).current_dir(&dir).env_clear();
    bash.env("PATH", format!("{}:/usr/bin:/bin", program.display())).env("HOME", dir.path());
    let output = String::from_utf8(bash.output().unwrap().stdout).unwrap();
    output.split(mark).skip(1).map(str::to_owned).collect()
}

fn fits(said: &str, pattern: &str) -> bool {
    let mut rest = said;
    let mut parts = pattern.split('…');
    let Some(after) = rest.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    rest = after;
    let mut ends_open = false;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, ends_open) = (after, part.is_empty());
    }
    rest.is_empty() || ends_open
}

#[test]
fn what_a_reader_types_along_prints_what_the_document_says() {
    let mut run = 0;
    for document in all() {
        let steps = steps(&document);
        let printed = printed(&steps);
        assert_eq!(printed.len(), steps.len(), "{document}: the shell ended early: {printed:?}");
        for (step, said) in steps.iter().zip(&printed) {
            let lines: Vec<_> = said.lines().collect();
            let same = lines.len() == step.prints.len();
            let fit = lines.iter().zip(&step.prints).all(|(said, wanted)| fits(said, wanted));
            let Step { place, command, prints } = step;
            assert!(same && fit, "{place}: {command}printed\n{said}instead of\n{}", prints.join("\n"));
            run += 1;
        }
    }
    assert!(run >= 10, "{run}");
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    assert!(fits("published v1 (74 bytes)", "published v1 (… bytes)") && fits("a b c", "a …"));
    assert!(!fits("published v2", "published v1") && !fits("a b", "a"));
}
