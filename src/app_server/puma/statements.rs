//! The statements of a Ruby text, as far as they can be told without running it: where each begins, and whether it
//! stands by itself, under no condition and in no block.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// The line that it begins in, from 1.
    pub(crate) line: usize,
    /// Without its comment; lines that go on are joined.
    pub(crate) text: String,
    /// The same with nothing in its quotes.
    pub(crate) bare: String,
    /// It is carried out once, whatever the environment says.
    pub(crate) sure: bool,
}

/// Begin something that an `end` closes.
const OPENERS: [&str; 10] =
    ["if", "unless", "case", "while", "until", "for", "begin", "def", "class", "module"];

/// Leave a file early. (What such a line closes over is unknown, so all that follows is.)
const LEAVERS: [&str; 5] = ["return", "exit", "abort", "raise", "next"];

/// Between a statement and what it depends on.
const CONDITIONS: [&str; 10] =
    [" if ", " unless ", " while ", " until ", " rescue ", " and ", " or ", " && ", " || ", " ? "];

/// All of them, in their order.
pub(super) fn of(text: &str) -> Vec<Statement> {
    let mut reader = Reader::default();
    for (line, text) in joined(text) {
        pieces(&text).into_iter().for_each(|piece| reader.take(line, piece));
    }
    reader.found
}

#[derive(Default)]
struct Reader {
    found: Vec<Statement>,
    /// How many blocks are open.
    depth: usize,
    /// The file may have been left.
    left: bool,
}

impl Reader {
    fn take(&mut self, line: usize, text: String) {
        let bare = without_strings(&text);
        let first = bare.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if first == "end" || bare.starts_with('}') {
            self.depth = self.depth.saturating_sub(1);
            return;
        }
        let (opens, last) = (opened(&bare, first), bare.split_whitespace().last());
        let sure = self.depth == 0
            && !self.left
            && opens == 0
            && last != Some("end")
            && !OPENERS.contains(&first)
            && !has_block(&bare)
            && !CONDITIONS.iter().any(|condition| bare.contains(condition));
        self.left |= LEAVERS.contains(&first);
        self.depth += opens;
        self.found.push(Statement { line, text, bare, sure });
    }
}

/// In braces; those of a hash stand behind a comma, a bracket or a sign.
fn has_block(bare: &str) -> bool {
    let before = |(at, _)| bare[..at].trim_end().chars().next_back();
    bare.match_indices('{').any(|brace| !matches!(before(brace), Some(',' | '(' | '[' | '=' | ':' | '>')))
}

/// How many blocks a statement leaves open.
fn opened(bare: &str, first: &str) -> usize {
    let braces = bare.matches('{').count().saturating_sub(bare.matches('}').count());
    let mut words = bare.split_whitespace();
    if words.next_back() == Some("end") {
        return braces;
    }
    let assigned = bare.split_once("= ").and_then(|(_, value)| value.split_whitespace().next());
    let block = bare.ends_with(" do") || (bare.contains(" do |") && bare.ends_with('|'));
    let opens = OPENERS.contains(&first) || block || assigned.is_some_and(|word| OPENERS.contains(&word));
    braces + usize::from(opens)
}

/// A line's number, and its text.
type Numbered = (usize, String);

/// Lines without comments; those that go on in the next one are joined, and what is only text is left out.
fn joined(text: &str) -> Vec<Numbered> {
    let (mut found, mut open): (Vec<Numbered>, Option<Numbered>) = (Vec::new(), None);
    let (mut in_comment, mut until): (bool, Option<String>) = (false, None);
    for (number, line) in text.lines().enumerate() {
        if line == "__END__" {
            break;
        }
        in_comment |= line.starts_with("=begin");
        if in_comment {
            in_comment = !line.starts_with("=end");
            continue;
        }
        if let Some(mark) = &until {
            until = (line.trim() != mark).then(|| mark.clone());
            continue;
        }
        let code = without_comment(line).trim();
        until = heredoc(code);
        let (began, all) = match open.take() {
            Some((began, before)) => (began, format!("{} {code}", before.trim_end_matches('\\').trim_end())),
            None => (number + 1, code.to_owned()),
        };
        match goes_on(&all) {
            true => open = Some((began, all)),
            false => found.push((began, all)),
        }
    }
    found.extend(open);
    found
}

fn goes_on(text: &str) -> bool {
    let bare = without_strings(text);
    let open = bare.matches(['(', '[']).count() > bare.matches([')', ']']).count();
    open || bare.ends_with([',', '\\']) || bare.ends_with("&&") || bare.ends_with("||")
}

/// `<<~TEXT`: the word that ends it.
fn heredoc(code: &str) -> Option<String> {
    let (_, rest) = code.split_once("<<~").or_else(|| code.split_once("<<-"))?;
    let mark = rest.trim_start_matches(['"', '\'']);
    let end = mark.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(mark.len());
    (end > 0).then(|| mark[..end].to_owned())
}

/// Each byte of a line, and whether it stands in quotes (those included).
fn quoted(text: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices().map(move |(at, c)| {
        let inside = quote.is_some();
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
            _ => {}
        }
        (at, c, inside || quote.is_some())
    })
}

fn without_comment(line: &str) -> &str {
    let comment = quoted(line).find(|(_, c, in_quotes)| *c == '#' && !in_quotes);
    comment.map_or(line, |(at, ..)| &line[..at])
}

fn without_strings(text: &str) -> String {
    quoted(text).filter(|(.., in_quotes)| !in_quotes).map(|(_, c, _)| c).collect()
}

/// What stands between semicolons.
fn pieces(text: &str) -> Vec<String> {
    let ends = quoted(text).filter(|(_, c, in_quotes)| *c == ';' && !in_quotes).map(|(at, ..)| at);
    let mut from = 0;
    let mut found = Vec::new();
    for end in ends.chain([text.len()]) {
        let piece = text[from..end].trim();
        found.extend((!piece.is_empty()).then(|| piece.to_owned()));
        from = end + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sure, with its line.
    fn sure(text: &str) -> Vec<(usize, String)> {
        of(text).into_iter().filter(|one| one.sure).map(|one| (one.line, one.text)).collect()
    }

    #[test]
    fn what_stands_by_itself_is_sure() {
        let text =
            "# workers 9\nworkers 2 # two\npreload_app!; prune_bundler\nlog \"a # b; c\"\n\n  port 3000\n";
        let lines = [
            (2, "workers 2"),
            (3, "preload_app!"),
            (3, "prune_bundler"),
            (4, "log \"a # b; c\""),
            (6, "port 3000"),
        ];
        assert_eq!(sure(text), lines.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn what_depends_on_something_is_not() {
        for text in [
            "if ENV['X']\n  workers 2\nelse\n  workers 3\nend",
            "workers 2 if ENV['X']",
            "workers 2 unless ENV['X']",
            "ENV['X'] && workers(2)",
            "ENV['X'] ? workers(2) : workers(3)",
            "on_worker_boot do |index|\n  workers 2\nend",
            "before_fork {\n  workers 2\n}",
            "[2].each { |n| workers n }",
            "case ENV['X']\nwhen 'a' then workers 2\nend",
            "if ENV['X'] then workers 2 end",
            "count = if ENV['X']\n  workers 2\nend",
            "return if ENV['X']\nworkers 2",
            "text = <<~WORDS\n  workers 2\nWORDS",
            "=begin\nworkers 2\n=end",
            "__END__\nworkers 2",
        ] {
            let found = sure(text);
            assert!(!found.iter().any(|(_, text)| text.contains("workers")), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_follows_a_block_is_sure_again() {
        for block in [
            "if ENV['X']\n  a\nelsif b\n  c\nend",
            "on_worker_boot do\n  a if b\nend",
            "x = case y\nwhen 1 then 2\nend",
            "if a then b end",
            "before_fork {\n  a\n}",
            "lowlevel_error_handler do |e|\n  [500, {}, ['x']]\nend",
            "while x do\n  y\nend",
        ] {
            let found = sure(&format!("{block}\nworkers 2"));
            assert_eq!(found.last().map(|(_, text)| text.as_str()), Some("workers 2"), "{block}");
        }
    }

    #[test]
    fn lines_that_go_on_are_one_statement() {
        assert_eq!(sure("a 'x', { b: 1 }").len(), 1, "a hash is no block");
        let text =
            "activate_control_app(\n  'unix:///x',\n  no_token: true\n)\nstate_path \\\n  '/x'\nworkers 2";
        let found = sure(text);
        assert_eq!(found[0], (1, "activate_control_app( 'unix:///x', no_token: true )".to_owned()));
        assert_eq!(found[1], (5, "state_path '/x'".to_owned()));
        assert_eq!(found[2], (7, "workers 2".to_owned()));
    }
}
