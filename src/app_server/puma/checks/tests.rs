//! Each trap of a Puma's set-up, made from what a look would have given.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::{
    app_server::inspector::Surroundings,
    app_server::puma::{
        Memory,
        command_line::{Arguments, CommandLine, InFront},
        config_file::Settings,
        control::Stats,
        discovery::{Other, Server, ServerProcesses, Worker},
        setup::{RestartDir, Setup, Tmp},
        started_by::StartedBy,
        title::Master,
    },
    config,
    core::Cwd,
    finding::findings,
    procs::{Image, ProcessId},
};

const MASTER: i32 = 100;

/// A cluster of two that is set up well, seen to work in v1.
pub(super) fn well(version: &str) -> Snapshot {
    let id = |pid| ProcessId { pid, start: 1 };
    let image = Image { process: id(MASTER), at_random: 7 };
    let workers = [101, 102].map(|pid| Worker { id: id(pid), serves: true });
    let title = Master { version: version.into(), binds: vec!["tcp://0.0.0.0:3000".into()] };
    let stats = r#"{"workers":2,"old_workers":0,"worker_status":[]}"#;
    let stats: Stats = serde_json::from_str(stats).unwrap();
    Snapshot {
        processes: ServerProcesses {
            image,
            title: Some(title),
            command_line: None,
            catches_phased: true,
            catches_hot: true,
            skips_hot: false,
            server: Server::default(),
            ports: vec![3000],
            workers: workers.into(),
            others: vec![],
        },
        surroundings: Surroundings {
            cwds: HashMap::from([(MASTER, Cwd::Release("v1".parse().unwrap()))]),
            ..Surroundings::default()
        },
        control: Control::Stats(Box::new(stats)),
        memory: Memory { image: Some((image, Some(true))), setup: Some(setup(version)), ..Memory::default() },
        mode: RestartMode::Auto,
        told: config::Puma::default(),
        shifts: false,
        beside: Vec::new(),
        parent: None,
    }
}

/// What suits the plan of a restart, and a balancer.
const WELL: &str = "preload_app! false\npersistent_timeout 75";

fn settings(text: &str) -> Settings {
    Settings::scan(Path::new("config/puma.rb"), text).started_with(Arguments::default())
}

fn setup(version: &str) -> Setup {
    let major = version.split('.').next().unwrap().parse().ok();
    let files = Setup::of_files(major, settings(WELL), Path::new("/srv/app/current"), &["tmp".into()]);
    Setup { restart_dir: Some(RestartDir::Follows), web_concurrency: Evidence::Default, ..files }
}

pub(super) fn found(snapshot: &Snapshot) -> Vec<(&'static str, Severity)> {
    findings(&of(snapshot)).into_iter().map(|finding| (finding.code.code(), finding.severity)).collect()
}

/// With this changed, exactly that is found.
#[track_caller]
fn finds(expected: (&'static str, Severity), change: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = well("6.6.0");
    change(&mut snapshot);
    assert_eq!(found(&snapshot), [expected]);
    for finding in findings(&of(&snapshot)) {
        assert!(!finding.message.is_empty() && !finding.fix.contains('\n'), "{finding:?}");
    }
}

pub(super) fn with(snapshot: &mut Snapshot, change: impl FnOnce(&mut Setup)) {
    change(snapshot.memory.setup.as_mut().unwrap());
}

pub(super) fn configured(snapshot: &mut Snapshot, text: &str) {
    with(snapshot, |setup| setup.settings = settings(&format!("{WELL}\n{text}")));
}

use Severity::{Broken, Note, Risky};

#[test]
fn a_puma_that_is_set_up_well_has_nothing_to_be_found_fault_with() {
    for version in ["5.6.5", "6.6.0", "8.0.2"] {
        assert_eq!(found(&well(version)), []);
    }
}

#[test]
fn where_a_restart_goes() {
    let evidence = || "PWD was not set".to_owned();
    finds(("RESTART_DIR_UNPROVEN", Risky), |snapshot| {
        with(snapshot, |setup| setup.restart_dir = Some(RestartDir::Fixed(evidence())));
    });
    finds(("RESTART_DIR_PINNED", Broken), |snapshot| {
        with(snapshot, |setup| setup.restart_dir = Some(RestartDir::Never(evidence())));
    });
    let mut moved = well("5.6.5");
    with(&mut moved, |setup| setup.restart_dir = Some(RestartDir::Never(evidence())));
    moved.memory.moved = true;
    assert_eq!(found(&moved), [], "it was seen to follow, whatever the evidence says");
}

#[test]
fn paths_that_name_one_release() {
    let old = || Some("/srv/app/releases/v1/config.ru".to_owned());
    let given = |arguments| CommandLine { arguments: Some(arguments), ..CommandLine::default() };
    finds(("PATH_NAMES_RELEASE", Risky), |snapshot| {
        with(snapshot, |setup| setup.settings.rackup = Evidence::given(old(), Place::Process));
    });
    finds(("PATH_NAMES_RELEASE", Risky), |snapshot| {
        configured(snapshot, "rackup '/srv/app/releases/v1/config.ru'")
    });
    finds(("PATH_NAMES_RELEASE", Risky), |snapshot| {
        with(snapshot, |setup| setup.command_line.gemfile = Some("/srv/app/releases/v1/Gemfile".into()));
    });
    finds(("CONFIG_NAMES_RELEASE", Risky), |snapshot| {
        let config = Some("/srv/app/releases/v1/config/puma.rb".to_owned());
        with(snapshot, |setup| setup.command_line = given(Arguments { config, ..Arguments::default() }));
    });
}

#[test]
fn who_has_started_it() {
    let in_front = |is_shell, title: &str| Some(InFront { pid: 99, title: title.into(), is_shell });
    finds(("SHELL_IN_FRONT", Risky), |snapshot| {
        with(snapshot, |setup| setup.command_line.in_front = in_front(true, "sh -c puma; true"));
    });
    let mut init = well("6.6.0");
    with(&mut init, |setup| setup.command_line.in_front = in_front(false, "tini -- puma"));
    assert_eq!(found(&init), []);
    let rackup = |snapshot: &mut Snapshot| with(snapshot, |setup| setup.command_line.by_rackup = true);
    finds(("STARTED_BY_RACKUP", Broken), rackup);
    finds(("STARTED_BY_RACKUP", Risky), |snapshot| {
        rackup(snapshot);
        snapshot.processes.ports = vec![9292];
    });
    finds(("RESTART_COMMAND_GIVEN", Note), |snapshot| configured(snapshot, "restart_command 'bin/puma'"));
}

#[test]
fn a_number_that_rails_keeps_where_the_next_container_finds_it() {
    let keeps = |snapshot: &mut Snapshot| {
        with(snapshot, |setup| setup.pid_files = vec!["tmp/pids/server.pid".into()]);
        snapshot.memory.image = Some((snapshot.processes.image, Some(false)));
        snapshot.mode = RestartMode::Hot;
    };
    let codes = |started_by| {
        let mut snapshot = well("6.6.0");
        keeps(&mut snapshot);
        snapshot.memory.started_by = started_by;
        found(&snapshot)
    };
    let phased = ("PHASED_RESTART_UNAVAILABLE", Note);
    assert_eq!(codes(Some(StartedBy::RailsServer)), [("RAILS_PID_FILE_STAYS", Risky), phased]);
    assert_eq!(codes(Some(StartedBy::Puma)), [phased], "Puma writes it, and never asks for it");
    assert_eq!(codes(None), [phased]);
    let mut seen = well("6.6.0");
    keeps(&mut seen);
    seen.memory.command_line = Some("ruby bin/rails server -b 0.0.0.0".into());
    assert_eq!(found(&seen), [("RAILS_PID_FILE_STAYS", Risky), phased]);
}

#[test]
fn a_bundle_that_a_phased_restart_keeps() {
    let bundled = |snapshot: &mut Snapshot| with(snapshot, |setup| setup.command_line.by_bundler = true);
    finds(("BUNDLE_KEPT_BY_PHASED", Note), bundled);
    finds(("BUNDLE_KEPT_BY_PHASED", Risky), |snapshot| {
        bundled(snapshot);
        snapshot.mode = RestartMode::Phased;
    });
    let mut through_link = well("5.6.5");
    bundled(&mut through_link);
    with(&mut through_link, |setup| setup.command_line.gemfile = Some("/srv/app/current/Gemfile".into()));
    assert_eq!(found(&through_link), []);
    let mut pruned = well("5.6.5");
    bundled(&mut pruned);
    configured(&mut pruned, "prune_bundler");
    assert_eq!(found(&pruned), []);
}

#[test]
fn a_file_that_restarts_more_than_one_pod() {
    for (tmp, severity) in [(Tmp::OnNetwork, Some(Risky)), (Tmp::OnVolume, Some(Note)), (Tmp::Own, None)] {
        let mut snapshot = well("6.6.0");
        configured(&mut snapshot, "plugin :tmp_restart");
        with(&mut snapshot, |setup| setup.tmp = tmp);
        assert_eq!(
            found(&snapshot),
            severity.map(|severity| ("TMP_RESTART_SHARED", severity)).into_iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn restarts_that_are_not_to_be_had() {
    finds(("HOT_RESTART_UNAVAILABLE", Broken), |snapshot| snapshot.processes.skips_hot = true);
    finds(("PHASED_RESTART_UNAVAILABLE", Note), |snapshot| configured(snapshot, "preload_app!"));
    finds(("PHASED_RESTART_UNAVAILABLE", Risky), |snapshot| {
        snapshot.mode = RestartMode::Phased;
        let one = r#"{"workers":1,"old_workers":0,"worker_status":[]}"#;
        snapshot.control = Control::Stats(Box::new(serde_json::from_str(one).unwrap()));
    });
    let mut single = well("6.6.0");
    single.memory.image = Some((single.processes.image, Some(false)));
    assert_eq!(found(&single), [("PHASED_RESTART_UNAVAILABLE", Note)]);
}

#[test]
fn another_version_of_puma_in_the_next_bundle() {
    let differs =
        |snapshot: &mut Snapshot| snapshot.memory.next_puma = Some(("5.6.5".into(), "6.6.0".into()));
    finds(("PUMA_VERSION_DIFFERS", Note), differs);
    finds(("PUMA_VERSION_DIFFERS", Risky), |snapshot| {
        differs(snapshot);
        snapshot.mode = RestartMode::Phased;
    });
}

#[test]
fn a_control_server_that_cannot_be_asked() {
    for (code, control) in [
        ("CONTROL_SERVER_ABSENT", Control::Absent),
        ("CONTROL_SERVER_DENIED", Control::Denied),
        ("CONTROL_SERVER_SILENT", Control::Silent("unix:///x: refused".into())),
        ("STATE_FILE_STALE", Control::StaleStateFile(PathBuf::from("/x/puma.state"))),
    ] {
        finds((code, Risky), |snapshot| snapshot.control = control);
    }
}

#[test]
fn time_outs_of_puma_against_ours() {
    finds(("SHUTDOWN_TIMEOUT_DIFFERS", Risky), |snapshot| configured(snapshot, "worker_shutdown_timeout 10"));
    finds(("SHUTDOWN_TIMEOUT_DIFFERS", Note), |snapshot| configured(snapshot, "worker_shutdown_timeout 90"));
    finds(("CHECK_INTERVAL_LONG", Note), |snapshot| configured(snapshot, "worker_check_interval 8"));
    finds(("CHECK_INTERVAL_LONG", Risky), |snapshot| configured(snapshot, "worker_check_interval 30"));
    finds(("WORKER_TIMEOUT_LONG", Note), |snapshot| configured(snapshot, "worker_timeout 3600"));
    finds(("WORKER_TIMEOUT_LONG", Note), |snapshot| configured(snapshot, "worker_boot_timeout 300"));
    let mut development = well("6.6.0");
    configured(&mut development, "worker_timeout 3600 if ENV['RAILS_ENV'] == 'development'");
    assert_eq!(found(&development), [], "a condition that nobody knows");
}

#[test]
fn time_outs_of_puma_against_the_longest_request_that_was_seen() {
    let seen = |snapshot: &mut Snapshot, seconds: u64| snapshot.memory.longest_request_ms = seconds * 1_000;
    finds(("LONG_REQUESTS", Note), |snapshot| seen(snapshot, 40));
    finds(("WORKER_TIMEOUT_SHORT", Note), |snapshot| {
        configured(snapshot, "worker_timeout 15");
        seen(snapshot, 20);
    });
    let mut short = well("6.6.0");
    seen(&mut short, 10);
    assert_eq!(found(&short), []);
}

#[test]
fn idle_connections_that_puma_closes_before_a_balancer_does() {
    let keepalive = |version: &str, text: &str| {
        let mut snapshot = well(version);
        with(&mut snapshot, |setup| setup.settings = settings(&format!("preload_app! false\n{text}")));
        found(&snapshot)
    };
    let short = [("KEEPALIVE_SHORT", Note)];
    assert_eq!(keepalive("5.6.5", ""), short);
    assert_eq!(keepalive("8.0.2", ""), [], "65 s by default, from 7.0 on");
    assert_eq!(keepalive("8.0.2", "persistent_timeout 60"), short);
    assert_eq!(keepalive("6.6.0", "persistent_timeout 620"), []);
    assert_eq!(keepalive("6.6.0", "persistent_timeout ENV.fetch('X')"), []);
    let told = Duration::from_secs(30);
    assert_eq!(well("6.6.0").told.worker_shutdown_timeout, told, "as Puma's own default");
}

#[test]
fn a_child_of_the_master_that_is_no_worker() {
    let child = |snapshot: &mut Snapshot, age_ms, is_child| {
        let id = ProcessId { pid: 200, start: 1 };
        let title = "solid-queue-supervisor".into();
        snapshot.processes.others = vec![Other { id, title, is_child, serves: false, age_ms }];
    };
    finds(("CHILD_KEPT_BY_PHASED", Note), |snapshot| child(snapshot, 60_000, true));
    finds(("CHILD_KEPT_BY_PHASED", Risky), |snapshot| {
        child(snapshot, 60_000, true);
        snapshot.mode = RestartMode::Phased;
    });
    let mut snapshot = well("6.6.0");
    for (age_ms, is_child) in [(100, true), (60_000, false)] {
        child(&mut snapshot, age_ms, is_child);
        assert_eq!(found(&snapshot), [], "a moment's work, or a worker's own child");
    }
    child(&mut snapshot, 60_000, true);
    snapshot.mode = RestartMode::Hot;
    assert_eq!(found(&snapshot), []);
}

#[test]
fn a_configuration_that_loads_what_cannot_be_told() {
    let unclear = |snapshot: &mut Snapshot| {
        with(snapshot, |setup| setup.unclear = Some("config/puma.rb, line 2, `load extra`".into()));
    };
    finds(("PHASED_RESTART_UNAVAILABLE", Note), unclear);
    let mut snapshot = well("6.6.0");
    unclear(&mut snapshot);
    snapshot.mode = RestartMode::Phased;
    assert_eq!(found(&snapshot), [], "it was chosen");
}
