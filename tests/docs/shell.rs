//! Runs the shell texts of the documents where there is no program at all: what bash would have started
//! is written down instead, with the words as bash sees them. Then each of these calls is judged.

use std::{fs, process::Command};

use clap::{CommandFactory, Parser, error::ErrorKind};
use pitstop::cli::Cli;
use pitstop_rig::documents::{Block, read, root};

/// What is not ours to check any further than that it is a program, and is called without a mistake in the shell.
const OTHERS: &[&str] = &[
    "apt-get",
    "aws",
    "bundle",
    "bin/rails",
    "cat",
    "cd",
    "chmod",
    "curl",
    "debootstrap",
    "exec",
    "gh",
    "git",
    "grep",
    "head",
    "install",
    "mkdir",
    "npm",
    "openssl",
    "passenger",
    "puma",
    "rails",
    "readlink",
    "rm",
    "ruby",
    "sha256sum",
    "sleep",
    "tar",
    "tr",
    "unshare",
    "uname",
    "tee",
    "sudo",
    "buildah",
    "podman",
    "jq",
    "promtool",
    "nice",
    "ls",
    "cp",
    "mv",
    "ln",
    "echo",
    "psql",
    "id",
    "env",
    "date",
    "du",
    "find",
    "wc",
    "sort",
    "sh",
    "awk",
    "sed",
];

/// Programs by their path, for which bash asks no handler.
const BY_PATH: &[&str] = &[".ci/run", ".ci/setup", "bin/rails", "target/release/pitstop"];

/// What each command of kubectl's that the documents use is.
const KUBECTL: &[&str] = &[
    "annotate",
    "apply",
    "cordon",
    "create",
    "delete",
    "describe",
    "drain",
    "exec",
    "get",
    "logs",
    "patch",
    "port-forward",
    "rollout",
    "scale",
    "set",
    "uncordon",
    "debug",
    "events",
];

/// A program with its arguments.
pub type Call = Vec<String>;

/// The lines of a transcript that somebody types, and those that go on from them.
pub fn typed(text: &str) -> String {
    let (mut script, mut goes_on) = (String::new(), false);
    for line in text.lines() {
        let Some(line) = line.strip_prefix("$ ").or(goes_on.then_some(line)) else { continue };
        goes_on = line.ends_with('\\');
        script += &format!("{line}\n");
    }
    script
}

/// What a text would start. A text that bash does not understand, that names a variable which nobody sets, or
/// that fails before a program is asked, fails the test.
#[track_caller]
pub fn calls(place: &str, script: &str, variables: &[(String, String)]) -> Vec<Call> {
    let writes_elsewhere = script.replace("/dev/null", "").replace("/dev/stdout", "").replace("> /", ">/");
    assert!(!writes_elsewhere.contains(">/"), "{place}: the test would write there");
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join(".calls");
    fs::write(&list, "").unwrap();
    let names = ["cd", "kill", "exec"].iter().chain(BY_PATH);
    let stand_ins: String = names.map(|name| format!("{name}() {{ record {name} \"$@\"; }}\n")).collect();
    let prelude = "record() { printf '%s\\0' \"$#\" \"$@\" >>\"$CALLS\"; }\n\
                   command_not_found_handle() { record \"$@\"; }\n";
    let mut bash = Command::new("/bin/bash");
    bash.arg("-c").arg(format!("{prelude}{stand_ins}set -euo pipefail\n{script}")).current_dir(&dir);
    bash.env_clear().env("PATH", "/nonexistent").env("HOME", dir.path()).env("CALLS", &list);
    let output = bash.envs(variables.iter().cloned()).output().expect("bash");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{place}: {said}\n{script}");
    listed(&fs::read_to_string(&list).unwrap())
}

fn listed(list: &str) -> Vec<Call> {
    let (mut words, mut calls) = (list.split_terminator('\0'), Vec::new());
    while let Some(count) = words.next() {
        calls.push(words.by_ref().take(count.parse().unwrap()).map(str::to_owned).collect());
    }
    calls
}

/// Whether what is called is there, with these options.
#[track_caller]
pub fn judge(place: &str, call: &Call) {
    let (program, arguments) = call.split_first().expect("a program");
    match program.as_str() {
        "pitstop" | "target/release/pitstop" | "/opt/pitstop/pitstop" => ours(place, arguments),
        "make" => made(place, arguments),
        "cargo" => {
            assert!(["build", "nextest", "run", "test", "install", "clippy"].contains(&arguments[0].as_str()))
        }
        "kubectl" => kubectl(place, arguments),
        "docker" => docker(place, arguments),
        "helm" => {
            let known = ["install", "upgrade", "template", "dependency", "uninstall", "lint"];
            assert!(known.contains(&arguments[0].as_str()), "{place}: helm {}", arguments[0]);
        }
        script if BY_PATH.contains(&script) && script.starts_with(".ci/") => {
            assert!(root().join(script).exists(), "{place}: {script}");
        }
        other => assert!(OTHERS.contains(&other), "{place}: what is {other}? ({call:?})"),
    }
    for argument in arguments {
        let ours = ["charts/", "deploy/", "docs/", "docker/", "tests/", "src/"];
        if ours.iter().any(|dir| argument.starts_with(dir)) {
            assert!(root().join(argument).exists(), "{place}: there is no {argument}");
        }
    }
}

/// By the definition that the program itself uses.
#[track_caller]
pub fn ours(place: &str, arguments: &[String]) {
    let words = ["pitstop".to_owned()].into_iter().chain(arguments.iter().cloned());
    if let Err(error) = Cli::try_parse_from(words) {
        let asked = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind());
        assert!(asked, "{place}: pitstop {}: {error}", arguments.join(" "));
    }
}

fn made(place: &str, arguments: &[String]) {
    let makefile = read("Makefile");
    for argument in arguments {
        match argument.split_once('=') {
            Some(("BENCH", name)) => {
                let files = [format!("benches/{name}.rs"), format!("benches/{name}/main.rs")];
                assert!(files.iter().any(|file| root().join(file).exists()), "{place}: {name}");
            }
            Some(_) => {}
            None => assert!(makefile.contains(&format!("\n{argument}:")), "{place}: make {argument}"),
        }
    }
}

fn kubectl(place: &str, arguments: &[String]) {
    let (own, inside) = match arguments.iter().position(|word| word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[][..]),
    };
    assert!(KUBECTL.contains(&own[0].as_str()), "{place}: kubectl {}", own[0]);
    if !inside.is_empty() {
        judge(place, &inside.to_vec());
    }
}

/// What is run in our own image are our own arguments.
fn docker(place: &str, arguments: &[String]) {
    let ours_is = |word: &String| word.split(':').next().is_some_and(|image| image.ends_with("/pitstop"));
    match arguments.iter().position(ours_is) {
        Some(at) if arguments[0] == "run" => ours(place, &arguments[at + 1..]),
        _ => assert!(["build", "push", "run", "exec", "stop"].contains(&arguments[0].as_str()), "{place}"),
    }
}

fn script(block: &Block) -> Option<String> {
    match block.language.as_str() {
        "sh" => Some(block.text.clone()),
        // Its commands are run for good.
        "console" if block.what == "run" => None,
        "console" | "text" => Some(typed(&block.text)).filter(|script| !script.is_empty()),
        _ => None,
    }
}

#[test]
fn every_shell_block_starts_what_there_is_with_options_that_it_has() {
    let mut judged = 0;
    for block in pitstop_rig::documents::all_blocks() {
        for call in script(&block).iter().flat_map(|script| calls(&block.place, script, &[])) {
            judge(&block.place, &call);
            judged += 1;
        }
    }
    assert!(judged >= 40, "{judged}");
}

#[test]
fn every_target_of_make_in_the_text_exists() {
    for document in pitstop_rig::documents::all() {
        for span in read(&document).split('`').filter_map(|span| span.strip_prefix("make ")) {
            let words: Vec<_> = span.split_whitespace().map(str::to_owned).collect();
            // `BENCH=name` stands for any.
            let words: Vec<_> = words.into_iter().filter(|word| word != "BENCH=name").collect();
            made(&document, &words);
        }
    }
}

/// Also in the running text: `pitstop sync --retry`.
#[test]
fn every_command_of_ours_in_the_text_exists() {
    let commands: Vec<_> = Cli::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let mut judged = 0;
    for document in pitstop_rig::documents::all() {
        for (number, line) in read(&document).lines().enumerate() {
            for span in line.split('`').skip(1).step_by(2).filter_map(|span| span.strip_prefix("pitstop ")) {
                // `N` stands for a number.
                let words = span.split_whitespace().map(|word| if word == "N" { "3" } else { word });
                let words: Vec<_> = words.map(str::to_owned).collect();
                let place = format!("{document}:{}", number + 1);
                let known =
                    words.first().is_some_and(|word| commands.contains(word) || word.starts_with('-'));
                assert!(known, "{place}: pitstop {span}");
                if !span.contains(['…', '[', '|']) {
                    let missing = |kind| kind == ErrorKind::MissingRequiredArgument;
                    let parsed = Cli::try_parse_from(["pitstop".to_owned()].into_iter().chain(words));
                    let wrong = parsed
                        .err()
                        .filter(|error| !missing(error.kind()) && error.kind() != ErrorKind::DisplayHelp);
                    assert!(wrong.is_none(), "{place}: {}", wrong.unwrap());
                }
                judged += 1;
            }
        }
    }
    assert!(judged >= 50, "{judged}");
}

/// The checks above are checks.
#[test]
fn what_is_wrong_in_a_shell_block_is_found() {
    let fails = |script: &str| {
        let script = script.to_owned();
        let judged = move || calls("here", &script, &[]).iter().for_each(|call| judge("here", call));
        std::panic::catch_unwind(judged).is_err()
    };
    assert!(!fails("pitstop promote v2 --wait --timeout 5m"));
    for wrong in [
        "pitstop promot v2",
        "pitstop promote v2 --timeout 5m",
        "kubectl exec POD -- pitstop status --fast",
        "kubectl exce POD -- pitstop status",
        "make tests",
        "make bench BENCH=nothing",
        "helm install shop charts/pitstopp",
        "pitstop promote \"$RELEASE\"",
        "if true; then pitstop status",
        "no-such-program",
        "docker run registry.example/pitstop:0.2.0 instal /out",
    ] {
        assert!(fails(wrong), "{wrong}");
    }
}
