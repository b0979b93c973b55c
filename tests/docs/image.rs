//! Dockerfiles in the documents: instructions that there are, lists that are lists, and what they start.

use pitstop_rig::documents::{Block, in_language};

use super::shell::{calls, judge, ours};

const INSTRUCTIONS: &[&str] =
    &["ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"];

/// Its instructions, with the lines that go on from them.
fn instructions(block: &Block) -> Vec<(String, String)> {
    let text = block.text.replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            assert!(INSTRUCTIONS.contains(&word), "{}: {word}", block.place);
            (word.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

fn list(block: &Block, rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| {
        serde_json::from_str(rest).unwrap_or_else(|error| panic!("{}: {rest}: {error}", block.place))
    })
}

#[test]
fn dockerfiles_start_what_there_is() {
    for block in in_language("dockerfile") {
        let mut started: Vec<String> = Vec::new();
        for (word, rest) in instructions(&block) {
            match word.as_str() {
                "ENTRYPOINT" | "CMD" => match list(&block, &rest) {
                    Some(words) => started.extend(words),
                    None => calls(&block.place, &rest, &[]).iter().for_each(|call| judge(&block.place, call)),
                },
                "RUN" => calls(&block.place, &rest, &[]).iter().for_each(|call| judge(&block.place, call)),
                _ => {}
            }
        }
        if let Some((_, arguments)) =
            started.split_first().filter(|(first, rest)| *first == "pitstop" && !rest.is_empty())
        {
            ours(&block.place, arguments);
        }
    }
}
