use std::{fs, path::Path};

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// `docs/s3.md:12`.
    pub place: String,
    /// `docs/s3.md`.
    pub document: String,
    /// The first word behind the fence: `yaml`.
    pub language: String,
    /// What else stands there: `values`.
    pub what: String,
    /// Its lines, without the indent of the list that it stands in.
    pub text: String,
}

impl Block {
    /// Both words.
    pub fn info(&self) -> String {
        format!("{} {}", self.language, self.what).trim_end().to_owned()
    }
}

/// A file of the project.
///
/// # Panics
/// When it is not there.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The project's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).expect("tests/support is two deep")
}

/// Every document for people, sorted.
///
/// # Panics
/// When a directory cannot be read.
pub fn all() -> Vec<String> {
    let mut found = vec!["CONTRIBUTING.md".to_owned(), "README.md".to_owned()];
    let mut todo: Vec<_> = ["docs", "charts", "deploy", "docker"].map(|dir| root().join(dir)).into();
    todo.retain(|dir| dir.is_dir());
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                todo.push(entry);
            } else if entry.extension().is_some_and(|ext| ext == "md") {
                let name = entry.strip_prefix(root()).unwrap();
                found.push(name.to_str().expect("plain names").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The fenced blocks of a document, those in lists too.
///
/// # Panics
/// When one does not end.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<usize> = None;
    for (number, line) in read(document).lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim().strip_prefix("```"), open) {
            (Some(info), None) => {
                let (language, what) = info.split_once(' ').unwrap_or((info, ""));
                found.push(Block {
                    place: format!("{document}:{}", number + 1),
                    document: document.into(),
                    language: language.into(),
                    what: what.into(),
                    text: String::new(),
                });
                open = Some(indent);
            }
            (Some(_), Some(_)) => open = None,
            (None, Some(outer)) => {
                found.last_mut().unwrap().text += &format!("{}\n", line.get(outer..).unwrap_or_default());
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{document}: a block does not end");
    found
}

/// The blocks of all documents.
pub fn all_blocks() -> Vec<Block> {
    all().iter().flat_map(|document| blocks(document)).collect()
}

/// Those of a language.
pub fn in_language(language: &str) -> Vec<Block> {
    all_blocks().into_iter().filter(|block| block.language == language).collect()
}

/// Notes for docs/reliability.md how often a test has tried its fault, and what was seen besides what holds for all.
/// `make reliability` writes it there.
///
/// # Panics
/// When it cannot be noted.
pub fn tried(test: &str, fault: &str, times: u64, seen: &str) {
    println!("{test}: {fault}: {times} times");
    let dir = root().join("target/faults");
    fs::create_dir_all(&dir).expect("a directory for notes");
    let seen = if seen.is_empty() { String::new() } else { format!(": {seen}") };
    fs::write(dir.join(test), format!("- {fault} ({times}){seen}. `{test}`")).expect("a note");
}
