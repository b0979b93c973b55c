use super::*;
use crate::{
    core::{
        Attempt, Cwd, Generation, GenerationKey, Moment, Problem, Process, Traffic,
        drain::{DrainResult, Evidence},
    },
    revision::Revision,
    slots::{Role, Slot},
};

/// The contract's names, less those that nothing feeds yet.
const NAMES: [(&str, &str); 28] = [
    ("pitstop_build_info", "gauge"),
    ("pitstop_release_info", "gauge"),
    ("pitstop_in_sync", "gauge"),
    ("pitstop_stage", "gauge"),
    ("pitstop_reason", "gauge"),
    ("pitstop_pointer_checks_total", "counter"),
    ("pitstop_pointer_last_success_timestamp_seconds", "gauge"),
    ("pitstop_pointer_expires_timestamp_seconds", "gauge"),
    ("pitstop_deploys_total", "counter"),
    ("pitstop_deploy_duration_seconds", "histogram"),
    ("pitstop_stage_duration_seconds", "histogram"),
    ("pitstop_restarts_total", "counter"),
    ("pitstop_restart_requests_cut_total", "counter"),
    ("pitstop_restart_duration_seconds", "histogram"),
    ("pitstop_fetch_bytes_total", "counter"),
    ("pitstop_fetch_files_total", "counter"),
    ("pitstop_drains_total", "counter"),
    ("pitstop_drain_duration_seconds", "histogram"),
    ("pitstop_drain_requests_left", "gauge"),
    ("pitstop_slot_weight", "gauge"),
    ("pitstop_slot_memory_bytes", "gauge"),
    ("pitstop_slot_requests_total", "counter"),
    ("pitstop_slot_errors_total", "counter"),
    ("pitstop_puma_requests_in_flight", "gauge"),
    ("pitstop_puma_requests_total", "counter"),
    ("pitstop_puma_backlog", "gauge"),
    ("pitstop_puma_workers", "gauge"),
    ("pitstop_puma_threads", "gauge"),
];

fn release(id: &str) -> ReleaseId {
    id.parse().unwrap()
}

fn view() -> View {
    View {
        stage: Stage::Verifying,
        attempt: Attempt(3),
        desired: Some(Revision { release: release("v2"), sequence: Some(2) }),
        canary: None,
        running: Some(release("v1")),
        proof: None,
        previous: None,
        in_sync: false,
        turn: None,
        problem: Some(Problem::new(Reason::BootLoop, "workers die")),
        rejected: Vec::new(),
        hold: None,
        back: None,
        retry_at: None,
        moving: None,
        sharing: None,
    }
}

fn look(workers: Option<Vec<WorkerLoad>>) -> Observation {
    let process = Process { key: ProcessKey(1), cwd: Cwd::Unknown, booted: true };
    let generation = Generation {
        key: GenerationKey(1),
        master: ProcessKey(1),
        signalable: true,
        cwd: Cwd::Unknown,
        expected: 2,
        processes: vec![process],
    };
    let detection = Detection::Seen(AppServer {
        generations: vec![generation],
        old_workers: false,
        ..Default::default()
    });
    Observation::new(Moment(1), detection, Traffic { workers, sockets: None })
}

fn worker(key: u64, requests: u64) -> WorkerLoad {
    WorkerLoad { key: ProcessKey(key), requests, busy: 2, backlog: 1, checkin: 1 }
}

fn fed() -> Metrics {
    let metrics = Metrics::new();
    metrics.view(&view());
    metrics.observed(&look(Some(vec![worker(1, 10)])));
    metrics.slots(&[SlotDescription {
        slot: Slot::B,
        role: Role::Candidate,
        release: None,
        pid: 7,
        weight: 5,
        memory_bytes: Some(1 << 20),
        requests: Some(97),
        errors: Some(5),
        p95_ms: Some(63),
    }]);
    metrics.pointer_checked(None, 1.5e9);
    metrics.pointer_expires(Some(1_600_000_000));
    metrics.concluded(&DeployResult::Refused(Problem::new(Reason::NoSpace, "full")), 3.0);
    metrics.stage_left(Stage::Fetching, 1.0);
    metrics.restart_sent(Mode::Phased, true);
    metrics.restart_proved(Mode::Phased, 2.0);
    metrics.fetched(&Fetched { downloaded_bytes: 4096, was_there: false, entries: 3, bytes: 9000 });
    metrics.drained(&Answer {
        drain_id: 1,
        result: DrainResult::Drained,
        held_ms: 5_000,
        requests_left: 0,
        waited_for: Vec::new(),
        waits: Vec::new(),
        last_peer: None,
        evidence: Evidence::default(),
        upgraded: 0,
        left: Vec::new(),
        stuck_ms: None,
    });
    metrics
}

#[test]
fn every_name_of_the_contract_comes_with_help_and_type() {
    let text = fed().render().unwrap();
    for (name, kind) in NAMES {
        assert!(text.contains(&format!("# HELP {name} ")), "no HELP for {name}\n{text}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "no TYPE {kind} for {name}\n{text}");
    }
    let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(families, NAMES.len(), "an unlisted metric\n{text}");
}

#[test]
fn one_stage_and_one_reason_hold() {
    let text = fed().render().unwrap();
    let of = |name: &str| text.lines().filter(|l| l.starts_with(name)).collect::<Vec<_>>();
    assert_eq!(of("pitstop_stage{").len(), Stage::ALL.len());
    assert_eq!(of("pitstop_reason{").len(), 1, "no series for what does not hold");
    let hot = of("pitstop_").into_iter().filter(|l| l.contains("{stage=") || l.contains("{reason="));
    let hot: Vec<_> = hot.filter(|l| l.ends_with("} 1") && !l.contains("_total")).collect();
    assert_eq!(
        hot.iter().filter(|l| !l.contains("_seconds")).collect::<Vec<_>>(),
        [&"pitstop_reason{reason=\"boot_loop\"} 1", &"pitstop_stage{stage=\"verifying\"} 1"]
    );
}

#[test]
fn requests_are_counted_on_across_restarts_of_workers() {
    let metrics = Metrics::new();
    metrics.observed(&look(Some(vec![worker(1, 10), worker(2, 5)])));
    metrics.observed(&look(Some(vec![worker(2, 6), worker(3, 1)])));
    metrics.observed(&look(Some(vec![worker(1, 10), worker(3, 1)])));
    let text = metrics.render().unwrap();
    assert!(text.contains("pitstop_puma_requests_total 17\n"), "{text}");
}

#[test]
fn what_nobody_knows_is_not_exported() {
    let metrics = fed();
    metrics.observed(&look(None));
    let text = metrics.render().unwrap();
    assert!(!text.contains("pitstop_puma_requests_in_flight"), "{text}");
    assert!(!text.contains("pitstop_puma_backlog"), "{text}");
    assert!(text.contains("pitstop_puma_workers{state=\"booted\"} 1\n"), "{text}");
}

#[test]
fn a_release_that_runs_no_more_is_not_exported() {
    let metrics = fed();
    let mut later = view();
    later.running = Some(release("v2"));
    metrics.view(&later);
    let text = metrics.render().unwrap();
    assert!(text.contains("pitstop_release_info{release=\"v2\",role=\"running\"} 1\n"), "{text}");
    assert!(!text.contains("release=\"v1\""), "{text}");
}

#[test]
fn what_was_downloaded_is_told_from_what_the_volume_had() {
    let metrics = Metrics::new();
    let downloaded = Fetched { downloaded_bytes: 100, was_there: false, entries: 7, bytes: 400 };
    metrics.fetched(&downloaded);
    metrics.fetched(&Fetched { downloaded_bytes: 0, was_there: true, entries: 7, bytes: 400 });
    // Downloaded, and then another pod was faster.
    metrics.fetched(&Fetched { was_there: true, ..downloaded });
    let text = metrics.render().unwrap();
    for line in [
        r#"pitstop_fetch_bytes_total{from="store"} 200"#,
        r#"pitstop_fetch_bytes_total{from="volume"} 400"#,
        r#"pitstop_fetch_files_total{how="unpacked"} 7"#,
        r#"pitstop_fetch_files_total{how="found"} 14"#,
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
