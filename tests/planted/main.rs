//! The walk finds the mistakes that it is there for. Each file beside this one plants one of them: it is applied to a
//! copy of the core, and the walk there must break the rule that the file names.
//!
//! ```text
//! What the mistake is.
//! rule: how the message starts with which the walk finds it
//! walk: start(CLUSTER, Mode::Hot, Nature::Good), 0      (a world, and how many disturbances it is given)
//! in core/deploy/restart.rs
//! <<<<
//! what stands there, once
//! ====
//! what is put in its place
//! >>>>
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const MANIFEST: &str = r#"
[package]
name = "planted"
version = "0.0.0"
edition = "2024"

[workspace]

[features]
default = ["walk"]
walk = []

[dependencies]
serde = { version = "1", features = ["derive"] }
thiserror = "2"

[profile.dev]
opt-level = 1
debug = false
incremental = true
"#;

/// What the copied core runs in the place of its tests.
const MAIN: &str = "
pub mod core;
pub mod revision;

fn main() {
    core::walk_planted();
}
";

struct Change {
    file: String,
    old: String,
    new: String,
}

struct Defect {
    name: String,
    rule: String,
    walks: Vec<String>,
    changes: Vec<Change>,
}

impl Defect {
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(path).unwrap();
        let (mut rule, mut walks, mut changes) = (None, vec![], vec![]);
        let (mut file, mut lines) = (String::new(), text.lines());
        while let Some(line) = lines.next() {
            if let Some(words) = line.strip_prefix("rule: ") {
                rule = Some(words.to_owned());
            } else if let Some(words) = line.strip_prefix("walk: ") {
                walks.push(words.to_owned());
            } else if let Some(words) = line.strip_prefix("in ") {
                file = words.to_owned();
            } else if line == "<<<<" {
                let mut until = |end| lines.by_ref().take_while(|l| *l != end).collect::<Vec<_>>().join("\n");
                changes.push(Change { file: file.clone(), old: until("===="), new: until(">>>>") });
            }
        }
        assert!(!walks.is_empty() && !changes.is_empty(), "{name} plants nothing");
        Self { rule: rule.unwrap_or_else(|| panic!("{name} names no rule")), name, walks, changes }
    }

    /// The files that it changes, as they become.
    fn apply(&self) -> Result<Vec<(PathBuf, String)>, String> {
        let mut changed: Vec<(PathBuf, String)> = vec![];
        for Change { file, old, new } in &self.changes {
            let path = PathBuf::from(file);
            let known = changed.iter().position(|(p, _)| *p == path);
            let text = match known {
                Some(at) => changed.remove(at).1,
                None => fs::read_to_string(source().join(file)).map_err(|e| format!("{file}: {e}"))?,
            };
            if text.matches(old.as_str()).count() != 1 {
                return Err(format!(
                    "{}: no longer applies to {file}, where this has to stand once:\n{old}",
                    self.name
                ));
            }
            changed.push((path, text.replace(old.as_str(), new)));
        }
        Ok(changed)
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn defects() -> Vec<Defect> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "planted"));
    files.sort();
    files.iter().map(|path| Defect::read(path)).collect()
}

/// The core as a program of its own, without its tests, which take long to compile.
struct Copy(PathBuf);

impl Copy {
    fn make() -> Self {
        let copy = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted"));
        let _ = fs::remove_dir_all(copy.0.join("src"));
        fs::create_dir_all(copy.0.join("src")).unwrap();
        fs::write(copy.0.join("Cargo.toml"), MANIFEST).unwrap();
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
        fs::copy(lock, copy.0.join("Cargo.lock")).unwrap();
        copy.write(Path::new("main.rs"), MAIN);
        copy.write(Path::new("revision.rs"), &fs::read_to_string(source().join("revision.rs")).unwrap());
        copy.tree(Path::new("core"));
        copy.tree(Path::new("revision"));
        copy
    }

    fn tree(&self, dir: &Path) {
        for entry in fs::read_dir(source().join(dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => self.tree(&path),
                false => self.write(&path, &fs::read_to_string(entry.path()).unwrap()),
            }
        }
    }

    fn write(&self, path: &Path, text: &str) {
        let path = self.0.join("src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, without_tests(text)).unwrap();
    }

    /// What the walks say, one line each.
    fn walk(&self, walks: &[String]) -> Result<Vec<String>, String> {
        let core = fs::read_to_string(source().join("core/mod.rs")).unwrap();
        let run = "\npub fn walk_planted() { walk::planted(); }\n";
        self.write(Path::new("core/mod.rs"), &(core + run));
        let walked = fs::read_to_string(source().join("core/walk/mod.rs")).unwrap();
        let print = |walk: &String| {
            format!("let found = walk({walk}).violation; println!(\"{{:?}}\", found.unwrap_or_default());")
        };
        let body: String = walks.iter().map(print).collect();
        let run = format!("\nuse super::Mode;\npub fn planted() {{ {body} }}\n");
        self.write(Path::new("core/walk/mod.rs"), &(walked + &run));
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "rustc",
            "--quiet",
            "--offline",
            "--bin",
            "planted",
            "--",
            "--cfg",
            "test",
            "--cap-lints",
            "allow",
        ]);
        let built =
            cargo.current_dir(&self.0).env("CARGO_TARGET_DIR", self.0.join("target")).output().unwrap();
        if !built.status.success() {
            return Err(format!("it does not compile: {}", String::from_utf8_lossy(&built.stderr)));
        }
        let ran = Command::new(self.0.join("target/debug/planted")).output().unwrap();
        Ok(String::from_utf8_lossy(&ran.stdout).lines().map(str::to_owned).collect())
    }
}

/// A module of tests ends its file.
fn without_tests(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let text = text.replace("#[cfg(test)]\nmod tests;\n", "");
    text.replace("#[cfg(test)]\npub(super) mod tests;\n", "")
}

#[test]
fn every_planted_defect_applies_to_the_core_as_it_is() {
    let stale: Vec<String> = defects().iter().filter_map(|defect| defect.apply().err()).collect();
    assert!(stale.is_empty(), "{}", stale.join("\n\n"));
}

#[test]
fn the_walk_finds_every_planted_defect_by_its_rule() {
    let copy = Copy::make();
    let mut missed = vec![];
    for defect in defects() {
        let Ok(changed) = defect.apply() else { continue };
        for (path, text) in &changed {
            copy.write(path, text);
        }
        match copy.walk(&defect.walks) {
            Ok(found) => {
                let named = |found: &&String| !found.starts_with(&format!("\"{}", defect.rule));
                missed.extend(found.iter().filter(named).map(|f| format!("{}: {f}", defect.name)));
                if found.len() != defect.walks.len() {
                    missed.push(format!("{}: a walk did not end", defect.name));
                }
            }
            Err(problem) => missed.push(format!("{}: {problem}", defect.name)),
        }
        for (path, _) in changed {
            copy.write(&path, &fs::read_to_string(source().join(&path)).unwrap());
        }
    }
    assert!(
        missed.is_empty(),
        "not found, or by another rule than the one that is there for it:\n{}",
        missed.join("\n")
    );
}
