//! The list of faults: each row has its test, and the figures are what the tests have noted.

use std::fs;

use pitstop_rig::documents::{read, root};

const DOCUMENT: &str = "docs/reliability.md";
const MARK: &str = "<!-- faults -->\n";

/// All of the tests' code, and of the code with tests in it.
fn code() -> String {
    fn walk(dir: &std::path::Path, text: &mut String) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    ["src", "tests"].iter().for_each(|dir| walk(&root().join(dir), &mut text));
    text
}

/// The tests that note what they have tried, in the order of the code.
fn noting(code: &str) -> Vec<&str> {
    let names = code.split("let test = \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    names.filter(|name| code.contains(&format!("fn {name}()"))).collect()
}

fn test_of(row: &str) -> &str {
    row.rsplit('`').nth(1).unwrap_or_default()
}

#[test]
fn reliability_each_fault_has_its_test_and_each_test_its_row() {
    let (mut text, code) = (read(DOCUMENT), code());
    if std::env::var_os("PITSTOP_WRITE").is_some() {
        text = written(&text, &noting(&code));
        fs::write(root().join(DOCUMENT), &text).unwrap();
    }
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("- ") && line.ends_with('`')).collect();
    for row in &rows {
        assert!(code.contains(&format!("fn {}(", test_of(row))), "no such test: {row}");
    }
    for test in noting(&code) {
        assert!(rows.iter().any(|row| test_of(row) == test), "{test} is not in {DOCUMENT}: make reliability");
    }
    assert!(text.split_whitespace().count() <= 900, "rows and names of tests included");
}

#[test]
fn each_test_that_the_page_on_security_names_is_there() {
    let (text, code) = (read("docs/security.md"), code());
    let named = text.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() >= 4);
    let named: Vec<_> =
        named.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect();
    assert!(named.len() >= 14, "{named:?}");
    for test in named {
        assert!(code.contains(&format!("fn {test}(")), "docs/security.md: there is no test {test}");
    }
}

/// With what the tests have noted last.
fn written(text: &str, tests: &[&str]) -> String {
    let (head, rest) = text.split_once("\n- ").unwrap();
    let after = rest.split_once(MARK).unwrap().1;
    let note = |test: &&str| {
        let noted = fs::read_to_string(root().join("target/faults").join(test));
        noted.unwrap_or_else(|e| panic!("{test} was not run: {e}")) + "\n"
    };
    let rows: String = tests.iter().map(note).collect();
    format!("{head}\n{rows}{MARK}{after}")
}
