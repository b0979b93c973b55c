//! What people see of pitstop through Prometheus: the metrics' reference, the alerts, the dashboard.
//!
//! promtool and Prometheus are Debian's (`.ci/setup prometheus`).

mod alerts;
mod dashboard;
mod prometheus;
mod reference;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use pitstop::metrics::Metrics;

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap()
}

/// Runs promtool with this on its standard input; all that it said, which is nothing when it is content.
fn promtool(args: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command
        .args(args)
        .current_dir(path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool; .ci/setup prometheus installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The names of our metrics in an expression or a page, without a histogram's suffixes.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("pitstop_"));
    ours.map(|word| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).into()
    })
    .collect()
}

fn exported() -> BTreeSet<String> {
    Metrics::new().families().iter().map(|family| family.name.clone()).collect()
}
