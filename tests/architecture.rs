//! The house rules that a reader relies on, checked on the files themselves: who may import whom,
//! that the core is pure, that files stay short and name no place outside of the tree.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Top to bottom. A module may import what stands in a lower line, and nothing else: so there is
/// no cycle either.
const LAYERS: &[&[&str]] = &[
    &["fuzz"],
    &["main"],
    &["cli"],
    &["init"],
    &["supervisor", "server"],
    &["effects", "fleet", "notify"],
    &["handle", "telemetry"],
    &["status", "metrics"],
    &["app_server", "pointer", "releases", "warmup"],
    &["trust"],
    &["store", "probe", "hook", "revisions_log"],
    &["slots", "user_command"],
    &["http_get", "procs", "lane", "sockets", "volume"],
    &["config", "failpoint"],
    &["beneath"],
    &["plain_file"],
    &["core"],
    &["finding", "revision"],
];

/// Lower, and still none of its business: the endpoints get handles, not the ones who act.
const FORBIDDEN: &[(&str, &str)] =
    &[("server", "effects"), ("server", "releases"), ("server", "store"), ("core", "config")];

/// What has no place in the core: clocks, waiting, the outside, logs.
const IMPURE: &[&str] = &[
    "std::time",
    "Instant",
    "SystemTime",
    "tokio",
    "futures_util",
    ".await",
    "async ",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "tracing",
    "nix::",
    "rustix::",
    "procfs::",
    "println!",
];

const LINES_AT_MOST: usize = 500;

struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

#[track_caller]
fn assert_none(violations: &[Violation]) {
    let lines: Vec<_> = violations.iter().map(Violation::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

struct File {
    /// From the package's root.
    path: PathBuf,
    text: String,
}

impl File {
    /// `src/core/drain/quiet.rs` belongs to `core`.
    fn module(&self) -> Option<String> {
        let below = self.path.strip_prefix("src").ok()?;
        let first = below.components().next()?.as_os_str().to_str()?;
        Some(first.trim_end_matches(".rs").to_owned())
    }

    /// Its lines without comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
    }

    fn at(&self, line: usize, what: String) -> Violation {
        Violation { file: self.path.clone(), line, what }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All text files below these places, without what is built or fetched.
fn files(places: &[&str]) -> Vec<File> {
    let mut open: Vec<PathBuf> = places.iter().map(|place| root().join(place)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            open.extend(entries.filter(|path| !path.ends_with("target") && !path.ends_with(".git")));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            found.push(File { path: path.strip_prefix(root()).unwrap().to_owned(), text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every top-level module that a file names, with the line: by `crate::name`, `crate::{name, …}`,
/// and in the program by `pitstop::…`.
fn imports(file: &File) -> Vec<(usize, String)> {
    let code: String = file.code().map(|(_, line)| format!("{line}\n")).collect();
    let prefix = if file.path.ends_with("src/main.rs") { "pitstop::" } else { "crate::" };
    code.match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        .flat_map(|(at, _)| {
            let line = code[..at].matches('\n').count() + 1;
            heads(&code[at + prefix.len()..]).into_iter().map(move |name| (line, name))
        })
        .collect()
}

/// The first names of a path or of a group of paths.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut depth = 0_usize;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn judge(from: &str, to: &str) -> Option<String> {
    let (Some(own), Some(other)) = (layer(from), layer(to)) else {
        return Some(format!("{from} or {to} has no layer: give it one in tests/architecture.rs"));
    };
    let rule = "imports go down: the layers are in tests/architecture.rs";
    match (from == to, FORBIDDEN.contains(&(from, to)), other > own) {
        (true, ..) | (false, false, true) => None,
        (false, true, _) => Some(format!("{from} must not import {to}: hand it what it needs instead")),
        (false, false, false) => Some(format!("{from} must not import {to}: {rule}")),
    }
}

#[test]
fn imports_go_down_and_never_back() {
    let mut violations = Vec::new();
    for file in files(&["src"]) {
        let Some(from) = file.module().filter(|module| module != "lib") else { continue };
        let found = imports(&file);
        let judged = found.iter().filter_map(|(line, to)| Some(file.at(*line, judge(&from, to)?)));
        violations.extend(judged);
    }
    assert_none(&violations);
}

#[test]
fn modules_name_others_by_crate_and_not_by_super() {
    let at_the_top = |file: &&File| match file.path.components().count() {
        2 => true,
        3 => file.path.ends_with("mod.rs"),
        _ => false,
    };
    let mut violations = Vec::new();
    for file in files(&["src"]).iter().filter(at_the_top) {
        let own = file
            .code()
            .take_while(|(_, line)| !line.contains("#[cfg(test)]") && !line.contains("#[cfg(any(test"));
        let climbing = own.filter(|(_, line)| line.contains("super::"));
        violations
            .extend(climbing.map(|(n, _)| file.at(n, "write crate::, so that the direction shows".into())));
    }
    assert_none(&violations);
}

#[test]
fn no_adapter_of_an_app_server_imports_another() {
    let kinds = ["command", "passenger", "puma", "unicorn"];
    let mut violations = Vec::new();
    for kind in kinds {
        let of_kind = [format!("src/app_server/{kind}"), format!("src/app_server/{kind}.rs")];
        for file in of_kind.iter().flat_map(|place| files(&[place.as_str()])) {
            for other in kinds.into_iter().filter(|other| *other != kind) {
                let imports = |line: &str| {
                    line.contains(&format!("app_server::{other}::"))
                        || line.trim().starts_with(&format!("{other}::"))
                };
                let found = file.code().filter(|(_, line)| imports(line));
                violations.extend(found.map(|(n, _)| {
                    file.at(n, format!("{kind} imports from {other}: move what both need to src/app_server"))
                }));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn the_core_is_pure() {
    let mut violations = Vec::new();
    // The walk belongs to the tests: it may say how far it came.
    let pure = files(&["src/core", "src/revision.rs"])
        .into_iter()
        .filter(|file| !file.path.starts_with("src/core/walk"));
    for file in pure {
        for (n, line) in file.code() {
            let found = IMPURE.iter().filter(|word| line.contains(**word));
            violations.extend(found.map(|word| {
                file.at(n, format!("{word} in the core: it takes events and `now`, and returns effects"))
            }));
        }
    }
    assert_none(&violations);
}

#[test]
fn only_the_commands_see_the_whole_configuration() {
    let mut violations = Vec::new();
    for file in
        files(&["src"]).iter().filter(|file| !matches!(file.module().as_deref(), Some("config" | "cli")))
    {
        let whole = file.code().filter(|(_, line)| {
            line.contains("config::Config") || line.contains("&Config") || line.contains(": Config")
        });
        violations
            .extend(whole.map(|(n, _)| file.at(n, "takes the whole Config: pass it its own section".into())));
    }
    assert_none(&violations);
}

#[test]
fn files_are_short() {
    let places =
        ["src", "tests", "benches", "examples"].into_iter().filter(|place| root().join(place).exists());
    let mut long = files(&places.collect::<Vec<_>>());
    long.retain(|file| file.path.extension().is_some_and(|ending| ending == "rs"));
    long.retain(|file| file.text.lines().count() > LINES_AT_MOST);
    let rule = format!("a file has at most {LINES_AT_MOST} lines: split it by noun");
    let violations: Vec<_> =
        long.iter().map(|file| file.at(file.text.lines().count(), rule.clone())).collect();
    assert_none(&violations);
}

#[test]
fn nothing_is_left_half_done() {
    let words = [
        ["to", "do!("],
        ["unimple", "mented!("],
        ["FIX", "ME"],
        ["#[ign", "ore"],
        ["#[al", "low("],
        ["#![al", "low("],
    ]
    .map(|[a, b]| format!("{a}{b}"));
    let mut violations = Vec::new();
    for file in files(&["src", "tests"]) {
        for (n, line) in file.text.lines().enumerate() {
            let found = words.iter().filter(|word| line.contains(word.as_str()));
            violations
                .extend(found.map(|word| file.at(n + 1, format!("{word} has no place in finished code"))));
        }
    }
    assert_none(&violations);
}

#[test]
fn the_tree_names_no_place_outside_of_it() {
    let places = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["../sh", "ared"],
        [".libr", "ary"],
        ["crates", ".io"],
        ["/tmp/br", "ief"],
    ]
    .map(|[a, b]| format!("{a}{b}"));
    let mut violations = Vec::new();
    for file in files(&["."]).iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (n, line) in file.text.lines().enumerate() {
            let found = places.iter().filter(|place| line.contains(place.as_str()));
            violations
                .extend(found.map(|place| file.at(n + 1, format!("{place} exists on one machine only"))));
        }
    }
    assert_none(&violations);
}

#[test]
fn the_scanner_finds_every_form_of_import() {
    let text = "use crate::{\n    core::{Event, deploy::X},\n    volume,\n};\nfn f() { crate::procs::g() } // crate::store\n";
    let file = File { path: "src/probe.rs".into(), text: text.into() };
    let found = imports(&file);
    let expected = [(1, "core"), (1, "volume"), (5, "procs")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(found, expected);
    assert_eq!(judge("probe", "core"), None);
    assert!(judge("core", "probe").unwrap().contains("core must not import probe"));
    assert!(judge("server", "effects").unwrap().contains("hand it"));
    assert!(judge("probe", "novelty").unwrap().contains("no layer"));
}
