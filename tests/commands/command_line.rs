//! What a user sees of the command line: exit codes, messages, the effective configuration.

use std::path::Path;

use assert_cmd::Command;

fn pitstop(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitstop"));
    command.args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PITSTOP_") {
            command.env_remove(name);
        }
    }
    command
}

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn written(dir: &Path, text: &str) -> String {
    let file = dir.join("pitstop.yml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn help_is_an_answer_and_lists_every_command() {
    let help = output(&mut pitstop(&["--help"]));
    assert_eq!(help.code, Some(0));
    for command in [
        "run",
        "exec",
        "fetch",
        "publish",
        "promote",
        "rollback",
        "rollout",
        "fleet",
        "history",
        "pointers",
        "freeze",
        "unfreeze",
        "status",
        "sync",
        "pause",
        "resume",
        "undrain",
        "revert",
        "releases",
        "prune",
        "verify-tree",
        "install",
        "doctor",
        "config",
    ] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command} is missing in\n{}", help.stdout);
    }
}

#[test]
fn wrong_usage_ends_with_64() {
    for args in [
        &[][..],
        &["deploy"],
        &["promote"],
        &["promote", "../etc"],
        &["publish", "dir"],
        &["status", "x"],
        &["prune", "--keep", "0"],
    ] {
        let wrong = output(&mut pitstop(args));
        assert_eq!(wrong.code, Some(64), "{args:?}: {}", wrong.stderr);
        assert!(wrong.stdout.is_empty() && !wrong.stderr.is_empty());
    }
}

#[test]
fn a_release_id_that_is_none_is_explained() {
    let wrong = output(&mut pitstop(&["promote", "../etc"]));
    assert!(wrong.stderr.contains("beginning with a letter or digit"), "{}", wrong.stderr);
}

#[test]
fn a_wrong_configuration_ends_with_64_and_names_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "grace_priod: 60s\ndrain:\n  min: never\n");
    let wrong = output(pitstop(&["config", "--config", &file]).env("PITSTOP_LOG_FORMAT", "xml"));
    assert_eq!(wrong.code, Some(64));
    for part in [
        "pitstop.yml:1: grace_priod: unknown key, did you mean grace_period?",
        "pitstop.yml:3: drain.min: ",
        "PITSTOP_LOG_FORMAT: log.format: unknown variant `xml`, expected `json` or `text`",
        "config_invalid",
    ] {
        assert!(wrong.stderr.contains(part), "{part} is missing in\n{}", wrong.stderr);
    }
}

#[test]
fn with_json_an_error_is_json_too() {
    let wrong = output(pitstop(&["--json", "config"]).env("PITSTOP_DRIAN_MIN", "1s"));
    assert_eq!(wrong.code, Some(64));
    let error: serde_json::Value = serde_json::from_str(&wrong.stderr).unwrap();
    assert_eq!(error["reason"], "config_invalid");
    assert_eq!(error["error"], "PITSTOP_DRIAN_MIN: unknown variable, did you mean PITSTOP_DRAIN_MIN?");
}

#[test]
fn the_effective_configuration_tells_where_each_value_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "deploy_to: /srv/shop\npuma:\n  control_token: hush\n");
    let shown = output(pitstop(&["config", "--config", &file, "--json"]).env("PITSTOP_GRACE_PERIOD", "1m"));
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(!shown.stdout.contains("hush"));
    let keys: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(keys["deploy_to"]["from"], format!("{file}:1"));
    assert_eq!(keys["grace_period"]["from"], "PITSTOP_GRACE_PERIOD");
    assert_eq!(keys["current"]["value"], "/srv/shop/current");
    assert_eq!(keys["current"]["from"], "derived");
    assert_eq!(keys["drain.max"]["value"], "48s");
}

#[test]
fn without_an_agent_every_question_to_it_says_so_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), &format!("state_dir: {}\n", dir.path().display()));
    for command in ["status", "sync", "pause", "resume", "undrain", "revert"] {
        let asked = output(&mut pitstop(&[command, "--config", &file]));
        assert_eq!((asked.code, &*asked.stdout), (Some(1), ""), "{command}");
        assert!(
            asked.stderr.contains("no agent runs here") && asked.stderr.contains("--config"),
            "{}",
            asked.stderr
        );
    }
    let asked = output(&mut pitstop(&["status", "--json", "--config", &file]));
    let error: serde_json::Value = serde_json::from_str(&asked.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("admin.sock"), "{error}");
}

#[test]
fn a_configuration_can_be_examined_on_any_machine() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "source: /srv/store\ngrace_period: 17s\n");
    let examined = output(&mut pitstop(&["doctor", "--config-only", "--json", "--config", &file]));
    assert_eq!(examined.code, Some(0), "{}", examined.stderr);
    let report: serde_json::Value = serde_json::from_str(&examined.stdout).unwrap();
    assert_eq!(report["findings"][0]["code"], "DRAIN_BUDGET_TIGHT", "{report:#}");
    assert_eq!(report["findings"][0]["severity"], "risky");
    let left_out: Vec<_> = report["unknown"].as_array().unwrap().iter().map(|line| &line["about"]).collect();
    assert!(left_out.iter().any(|about| *about == "Puma"), "{report:#}");
    for args in [&["doctor", "--init", "--config-only"][..], &["doctor", "--everything"]] {
        assert_eq!(output(&mut pitstop(args)).code, Some(64), "{args:?}");
    }
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pitstop"))
        .arg("config")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn commands_of_the_store_ask_for_a_source() {
    let wrong = output(&mut pitstop(&["releases"]));
    assert_eq!(wrong.code, Some(64));
    assert!(wrong.stderr.contains("pitstop: source: is not set"), "{}", wrong.stderr);
}

/// An entry of docs/configuration.md: the key, and its default if it has one (`drain.min: 5s`).
fn entry(line: &str) -> Option<[String; 2]> {
    let (name, _) = line.strip_prefix("- `")?.split_once("`: ")?;
    let (key, default) = name.split_once(": ").unwrap_or((name, ""));
    Some([key, default].map(str::to_owned))
}

#[test]
fn the_documented_keys_are_those_that_there_are() {
    let text = include_str!("../../docs/configuration.md");
    let mut documented: Vec<_> = text.lines().filter_map(entry).collect();
    documented.sort();
    let defaults = pitstop::config::load(None, std::iter::empty()).unwrap().values();
    let mut real: Vec<_> = defaults
        .into_iter()
        .map(|(key, value, _)| {
            let default = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Number(number) => number.to_string(),
                serde_json::Value::Bool(truth) => truth.to_string(),
                serde_json::Value::Array(items) if !items.is_empty() => {
                    let items: Vec<_> = items.iter().filter_map(serde_json::Value::as_str).collect();
                    format!("[{}]", items.join(", "))
                }
                _ => String::new(),
            };
            [key, default]
        })
        .collect();
    real.sort();
    assert_eq!(documented, real);
}
