//! `pitstop doctor --config-only --app DIR`: the traps that an app's own files show, before there is a pod.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

const CONFIG: &str = "\
source: /srv/store
grace_period: 2m
drain: { reserve: 30s }
pod_dirs: [log, tmp]
puma: { state_file: /run/puma/puma.state }
verify: { url: 'http://127.0.0.1:3000/up', release_header: X-Release }
";

/// As docs/rails.md wants it, with plain numbers.
const WELL: &str = r#"
directory "/srv/app/current"
workers 2
preload_app! false
worker_shutdown_timeout 30
worker_check_interval 1
activate_control_app "unix:///run/puma/control.sock"
state_path "/run/puma/puma.state"
persistent_timeout 75
plugin :tmp_restart
"#;

/// What a checkout has besides its code.
struct App(tempfile::TempDir);

impl App {
    fn with(puma: &str) -> Self {
        let app = Self(tempfile::tempdir().unwrap());
        app.write("pitstop.yml", CONFIG);
        app.write("config/puma.rb", puma);
        app.bundles("6.6.0");
        app
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.dir().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn bundles(&self, version: &str) {
        let lock = format!("GEM\n  remote: https://rubygems.org/\n  specs:\n    puma ({version})\n");
        self.write("Gemfile.lock", &lock);
    }

    fn doctor(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        pitstop.args(["doctor", "--config-only", "--config", "pitstop.yml"]).args(args);
        pitstop.current_dir(self.dir()).env_clear();
        let output = pitstop.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn report(&self) -> Value {
        let (code, said) = self.doctor(&["--json", "--app", "."]);
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let broken = found(&report).iter().any(|(_, severity)| severity == "broken");
        assert_eq!(code, Some(i32::from(broken)), "{report:#}");
        report
    }
}

fn found(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| (text(&finding["code"]), text(&finding["severity"]))).collect()
}

/// What could not be told, in one text.
fn unknown(report: &Value) -> String {
    let lines = report["unknown"].as_array().unwrap().iter();
    lines.map(|line| format!("{}: {}\n", line["about"], line["message"])).collect()
}

/// With these lines behind what is well (the last one counts), exactly that is found.
#[track_caller]
fn finds(expected: &[(&str, &str)], lines: &str) -> Value {
    let report = App::with(&format!("{WELL}{lines}\n")).report();
    let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(found(&report), expected, "{lines}: {report:#}");
    report
}

#[test]
fn an_app_that_is_set_up_well_has_nothing_to_be_found_fault_with() {
    let report = finds(&[], "");
    let fine = report["fine"].to_string();
    for part in ["6.6.0 is in the bundle", "config/puma.rb", "phased: possible", "control server"] {
        assert!(fine.contains(part), "{part}: {report:#}");
    }
    assert!(unknown(&report).contains("how it is started"), "{report:#}");
}

#[test]
fn each_trap_that_the_files_show_is_found() {
    for (code, severity, lines) in [
        ("PHASED_RESTART_UNAVAILABLE", "note", "preload_app!"),
        ("PHASED_RESTART_UNAVAILABLE", "note", "workers 1"),
        ("PHASED_RESTART_UNAVAILABLE", "note", "workers 0"),
        ("RESTART_DIR_UNPROVEN", "risky", "directory '/app'"),
        ("RESTART_DIR_UNPROVEN", "risky", "directory File.expand_path('..', __dir__)"),
        ("RESTART_DIR_UNPROVEN", "risky", "directory File.realpath('/srv/app/current')"),
        ("RESTART_DIR_PINNED", "broken", "directory '/srv/app/releases/v1'"),
        ("PATH_NAMES_RELEASE", "risky", "rackup '/srv/app/releases/v1/config.ru'"),
        ("RESTART_COMMAND_GIVEN", "note", "restart_command 'bin/puma'"),
        ("CHECK_INTERVAL_LONG", "risky", "worker_check_interval 30"),
        ("WORKER_TIMEOUT_LONG", "note", "worker_timeout 3600"),
        ("WORKER_TIMEOUT_LONG", "note", "worker_boot_timeout(300)"),
        ("SHUTDOWN_TIMEOUT_DIFFERS", "risky", "worker_shutdown_timeout 10"),
        ("KEEPALIVE_SHORT", "note", "persistent_timeout 20"),
    ] {
        finds(&[(code, severity)], lines);
    }
}

#[test]
fn a_stop_that_takes_longer_than_the_pod_has_is_found() {
    let differs = ("SHUTDOWN_TIMEOUT_DIFFERS", "note");
    finds(&[differs, ("STOP_TIME_SHORT", "note")], "worker_shutdown_timeout 60");
    finds(&[("STOP_TIME_SHORT", "risky"), differs], "worker_shutdown_timeout 180");
}

#[test]
fn the_strategy_that_was_configured_decides_how_bad_it_is() {
    let app = App::with(&format!("{WELL}preload_app!\n"));
    app.write("pitstop.yml", &format!("{CONFIG}restart: {{ mode: phased }}\n"));
    assert_eq!(found(&app.report()), [("PHASED_RESTART_UNAVAILABLE".into(), "risky".into())]);
}

#[test]
fn a_control_server_that_nobody_activates_or_finds_is_found() {
    let absent = [("CONTROL_SERVER_ABSENT".to_owned(), "risky".to_owned())];
    let without = |word: &str| {
        let kept: Vec<_> = WELL.lines().filter(|line| !line.starts_with(word)).collect();
        App::with(&kept.join("\n"))
    };
    let app = without("activate_control_app");
    assert!(unknown(&app.report()).contains("--control-url"), "the agent is told where it is");
    app.write("pitstop.yml", &CONFIG.replace("puma: {", "# {"));
    assert_eq!(found(&app.report()), absent);
    let app = without("state_path");
    assert!(unknown(&app.report()).contains("(-S)"));
    app.write("pitstop.yml", &CONFIG.replace("puma: {", "# {"));
    assert_eq!(found(&app.report()), absent);
}

#[test]
fn a_file_that_restarts_every_pod_is_found_where_tmp_is_not_the_pods_own() {
    let app = App::with(WELL);
    app.write("pitstop.yml", &CONFIG.replace("[log, tmp]", "[log]"));
    assert_eq!(found(&app.report()), [("TMP_RESTART_SHARED".into(), "note".into())]);
}

/// By default a cluster preloads from 7.0 on; before, its environment decides.
#[test]
fn the_version_in_the_bundle_decides_what_holds_by_default() {
    let app = App::with(&WELL.replace("preload_app! false\n", "").replace("persistent_timeout 75\n", ""));
    let keepalive = ("KEEPALIVE_SHORT".to_owned(), "note".to_owned());
    let report = app.report();
    assert_eq!(found(&report), [keepalive]);
    assert!(unknown(&report).contains("WEB_CONCURRENCY is above 1"), "{report:#}");
    app.bundles("8.0.2");
    assert_eq!(found(&app.report()), [("PHASED_RESTART_UNAVAILABLE".into(), "note".into())]);
    app.write("config/puma.rb", &format!("{}prune_bundler\n", WELL.replace("preload_app! false\n", "")));
    assert_eq!(found(&app.report()), []);
    fs::remove_file(app.dir().join("Gemfile.lock")).unwrap();
    let report = app.report();
    assert_eq!(found(&report), []);
    assert!(unknown(&report).contains("no Gemfile.lock has it"), "{report:#}");
}

/// Computed, or under a condition: said to be unknown with its place, and never found fault with.
#[test]
fn what_is_decided_where_puma_runs_is_unknown() {
    for (about, lines) in [
        ("restarts", "workers ENV.fetch('WEB_CONCURRENCY') { 1 }"),
        ("restarts", "workers 1 if ENV['SMALL']"),
        ("restarts", "if ENV['RAILS_ENV'] == 'production'\n  preload_app!\nend"),
        ("restarts", "ENV['X'] ? preload_app!(true) : preload_app!(false)"),
        ("restarts", "send(\"preload_app!\")"),
        ("restarts", "directory ENV['APP_DIR']"),
        ("restarts", "directory '/app' unless ENV['APP_DIR']"),
        ("restarts", "restart_command ENV['AGAIN']"),
        ("control server", "activate_control_app(ENV['CONTROL']) if ENV['CONTROL']"),
        ("control server", "state_path ENV['STATE']"),
        ("time-outs", "worker_timeout 3600 if ENV.fetch('RAILS_ENV', 'development') == 'development'"),
        ("time-outs", "persistent_timeout Integer(ENV['KEEPALIVE'])"),
        ("time-outs", "worker_shutdown_timeout ENV.fetch('STOP', 10).to_i"),
    ] {
        let report = finds(&[], lines);
        let line = WELL.lines().count() + 1;
        let told = unknown(&report);
        let place =
            |line: &&str| line.contains("config/puma.rb, line") && line.starts_with(&format!("\"{about}\""));
        assert!(told.lines().any(|line| place(&line)), "{lines}: {told}");
        assert!(
            told.contains(&format!("line {line}")) || told.contains(&format!("line {}", line + 1)),
            "{told}"
        );
    }
    let elsewhere = App::with("load 'config/shared.rb'\n").report();
    assert_eq!(found(&elsewhere), [], "whatever it sets is not known: {elsewhere:#}");
    assert!(unknown(&elsewhere).contains("load 'config/shared.rb'"), "{elsewhere:#}");
}

/// What Rails generates, and what Rails 7.1 did.
#[test]
fn the_file_that_rails_generates_is_read() {
    let generated = r#"
threads_count = ENV.fetch("RAILS_MAX_THREADS", 3)
threads threads_count, threads_count
port ENV.fetch("PORT", 3000)
plugin :tmp_restart
plugin :solid_queue if ENV["SOLID_QUEUE_IN_PUMA"]
pidfile ENV["PIDFILE"] if ENV["PIDFILE"]
"#;
    let app = App::with(generated);
    app.write("pitstop.yml", &CONFIG.replace("puma: {", "# {"));
    let codes = |report: &Value| found(report).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    assert_eq!(codes(&app.report()), ["CONTROL_SERVER_ABSENT", "KEEPALIVE_SHORT"]);
    let earlier = r#"
if ENV["RAILS_ENV"] == "production"
  require "concurrent-ruby"
  worker_count = Integer(ENV.fetch("WEB_CONCURRENCY") { Concurrent.physical_processor_count })
  workers worker_count if worker_count > 1
end
worker_timeout 3600 if ENV.fetch("RAILS_ENV", "development") == "development"
preload_app! false
"#;
    app.write("config/puma.rb", &format!("{generated}{earlier}"));
    let report = app.report();
    assert_eq!(codes(&report), ["CONTROL_SERVER_ABSENT", "KEEPALIVE_SHORT"]);
    assert!(unknown(&report).contains("workers worker_count if worker_count > 1"), "{report:#}");
}

#[test]
fn the_file_is_the_one_that_puma_reads() {
    let app = App::with(WELL);
    app.write("config/puma/production.rb", &format!("{WELL}workers 1\n"));
    assert_eq!(found(&app.report()), [("PHASED_RESTART_UNAVAILABLE".into(), "note".into())]);
    app.write("deploy/puma.rb", &format!("{WELL}worker_timeout 90\n"));
    let (code, said) = app.doctor(&["--app", ".", "--puma-config", "deploy/puma.rb"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("note    WORKER_TIMEOUT_LONG") && !said.contains("PHASED_RESTART"), "{said}");
    for file in ["config/puma/production.rb", "config/puma.rb"] {
        fs::remove_file(app.dir().join(file)).unwrap();
    }
    let report = app.report();
    assert!(unknown(&report).contains("--puma-config") && found(&report).is_empty(), "{report:#}");
}

#[test]
fn what_cannot_be_read_is_wrong_usage() {
    let app = App::with(WELL);
    for args in [&["--app", "nowhere"][..], &["--app", ".", "--puma-config", "nowhere.rb"]] {
        let (code, said) = app.doctor(args);
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains("nowhere"), "{said}");
    }
    let (code, said) = app.doctor(&["--puma-config", "config/puma.rb"]);
    assert_eq!(code, Some(64), "{said}");
    let unicorn = App::with(WELL);
    unicorn.write("pitstop.yml", "source: /srv/store\napp_server: unicorn\n");
    assert!(unknown(&unicorn.report()).contains("only Puma's files"));
}
