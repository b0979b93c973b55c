//! Volumes, stores and pods that are set up wrong, without a Puma.

use std::{fs, os::unix::fs::MetadataExt, os::unix::fs::symlink, path::Path, time::Duration};

use axum::{Router, http::StatusCode, routing::get};

use super::*;
use crate::{config::Verify, core, finding::findings, releases::leases::Lease};

/// A volume with room for releases and an empty store, both in one directory.
fn config(dir: &Path) -> Config {
    let (deploy_to, store) = (dir.join("app"), dir.join("store"));
    fs::create_dir_all(deploy_to.join("releases")).unwrap();
    fs::create_dir_all(&store).unwrap();
    Config {
        deploy_to,
        source: Some(store.display().to_string()),
        state_dir: dir.join("state"),
        pod: Some("web-0".into()),
        ..Config::default()
    }
}

fn codes(checks: &[Check]) -> Vec<&'static str> {
    findings(checks).into_iter().map(|finding| finding.code.code()).collect()
}

async fn of_volume(config: &Config) -> Vec<&'static str> {
    let found = codes(&volume::checks(config).await.unwrap_or_else(|failure| panic!("{failure}")));
    let left = fs::read_dir(&config.deploy_to).into_iter().flatten().flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains("doctor")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    found
}

async fn of_pod(config: &Config) -> Vec<&'static str> {
    codes(&pod::checks(config).await.unwrap_or_else(|failure| panic!("{failure}")))
}

#[tokio::test]
async fn a_volume_that_is_empty_is_fine_and_one_that_is_not_there_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    assert_eq!(of_volume(&config).await, [""; 0]);
    config.deploy_to = dir.path().join("elsewhere");
    assert_eq!(of_volume(&config).await, ["VOLUME_MISSING"]);
}

#[tokio::test]
async fn current_is_a_link_to_a_checked_release_or_is_said_not_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let current = config.current();
    fs::create_dir(&current).unwrap();
    assert_eq!(of_volume(&config).await, ["CURRENT_NOT_A_LINK"]);
    fs::remove_dir(&current).unwrap();
    symlink("releases/v1", &current).unwrap();
    assert_eq!(of_volume(&config).await, ["CURRENT_DANGLING"]);
    fs::create_dir(config.deploy_to.join("releases/v1")).unwrap();
    assert_eq!(of_volume(&config).await, ["CURRENT_UNCHECKED"]);
}

/// Not even root may make files there.
#[tokio::test]
async fn a_volume_that_cannot_be_written_names_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { deploy_to: "/proc/self".into(), ..config(dir.path()) };
    let found = of_volume(&config).await;
    assert_eq!(found.iter().filter(|code| **code == "VOLUME_NOT_WRITABLE").count(), 2, "{found:?}");
}

#[tokio::test]
async fn releases_on_another_file_system_than_their_staging_are_broken() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(dir.path()), device(memory.path()), "this test needs two file systems");
    let config = config(dir.path());
    let releases = config.deploy_to.join("releases");
    let mounted = Mounted::bind(memory.path(), &releases);
    assert_eq!(of_volume(&config).await, ["VOLUME_SPLIT"]);
    drop(mounted);
    fs::remove_dir(&releases).unwrap();
    symlink(memory.path(), &releases).unwrap();
    let found = volume::checks(&config).await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(codes(&found), ["VOLUME_NOT_WRITABLE"]);
    assert!(findings(&found)[0].message.contains("releases is a link"), "{found:?}");
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn bind(what: &Path, at: &'a Path) -> Self {
        let done = std::process::Command::new("mount").arg("--bind").args([what, at]).status();
        assert!(done.unwrap().success(), "mount needs root");
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_pods_own_places_are_its_own_and_writable() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    assert_eq!(of_pod(&config).await, [""; 0]);
    let token = dir.path().join("token");
    fs::write(&token, "\n").unwrap();
    config.token_file = Some(token);
    config.state_dir = "/proc/self/state".into();
    assert_eq!(of_pod(&config).await, ["STATE_DIR_NOT_WRITABLE", "TOKEN_UNREADABLE"]);
    config.token_file = None;
    config.state_dir = config.deploy_to.join("state");
    config.pod_dirs = vec!["log".into()];
    config.pod_dir = config.deploy_to.join("pod");
    assert_eq!(of_pod(&config).await, ["STATE_DIR_ON_VOLUME", "POD_DIR_ON_VOLUME"]);
}

#[tokio::test]
async fn pods_that_share_a_volume_share_no_current() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let write = |pod: &str, ended| {
        let config = Config { pod: Some(pod.into()), ..config.clone() };
        let lease = Lease { v: 1, pod: pod.into(), ended, ..Lease::default() };
        crate::cli::on_volume(&config).write_lease(&lease).unwrap();
    };
    write("web-0", false);
    write("web-9", true);
    assert_eq!(of_pod(&config).await, [""; 0], "itself, and one that has ended");
    write("web-1", false);
    assert_eq!(of_pod(&config).await, ["CURRENT_SHARED"]);
    config.current = Some(dir.path().join("own/current"));
    assert_eq!(of_pod(&config).await, [""; 0]);
}

#[tokio::test]
async fn the_pointer_and_its_release_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let store = dir.path().join("store");
    fs::create_dir_all(store.join("pointers")).unwrap();
    fs::create_dir_all(store.join("releases")).unwrap();
    assert_eq!(codes(&store::checks(&config).await), ["POINTER_UNREADABLE"]);
    let pointer = store.join("pointers/production");
    fs::write(&pointer, "two words").unwrap();
    assert_eq!(codes(&store::checks(&config).await), ["POINTER_INVALID"]);
    fs::write(&pointer, "v1").unwrap();
    assert_eq!(codes(&store::checks(&config).await), ["RELEASE_UNKNOWN"]);
    fs::write(store.join("releases/v1.tar.gz.sha256"), "none").unwrap();
    assert_eq!(codes(&store::checks(&config).await), ["RELEASE_CORRUPT"]);
    fs::write(store.join("releases/v1.tar.gz.sha256"), "ab".repeat(32)).unwrap();
    assert_eq!(codes(&store::checks(&config).await), [""; 0]);
    let keys = |key: &str| vec![format!("RWQ{}", key.repeat(53))];
    let (release_keys, pointer_keys, app) = (keys("a"), keys("b"), Some("shop".into()));
    config.trust = config::Trust { release_keys, pointer_keys, app, ..config::Trust::default() };
    assert_eq!(codes(&store::checks(&config).await), ["POINTER_NOT_SIGNED", "RELEASE_NOT_SIGNED"]);
    config.trust.required = true;
    assert_eq!(codes(&store::checks(&config).await), ["POINTER_NOT_SIGNED"]);
    config.trust = config::Trust::default();
    config.pointer = format!("file:{}", dir.path().join("nowhere").display());
    assert_eq!(codes(&store::checks(&config).await), ["POINTER_UNREADABLE"]);
}

/// In single mode there are no workers, and the one process serves.
#[test]
fn what_runs_is_what_all_that_serve_run() {
    let serving = |releases: &[&str]| {
        let process = |release: &&str| core::Process {
            key: core::ProcessKey(0),
            cwd: Cwd::Release(release.parse().unwrap()),
            booted: true,
        };
        let processes: Vec<_> = releases.iter().map(process).collect();
        let generation = core::Generation {
            key: core::GenerationKey(0),
            master: core::ProcessKey(0),
            signalable: true,
            cwd: Cwd::Release("v1".parse().unwrap()),
            expected: processes.len(),
            processes,
        };
        let server =
            core::AppServer { generations: vec![generation], old_workers: false, ..Default::default() };
        running(&Detection::Seen(server)).map(|release| release.to_string())
    };
    assert_eq!(serving(&["v1"]).as_deref(), Some("v1"));
    assert_eq!(serving(&["v2", "v2"]).as_deref(), Some("v2"));
    assert_eq!((serving(&["v1", "v2"]), serving(&[]), running(&Detection::Unclear)), (None, None, None));
}

#[tokio::test]
async fn the_health_path_answers_as_the_release_that_runs() {
    let app = Router::new()
        .route("/up", get(async || [("x-release", "v2")]))
        .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let ask = async |path: &str, header: &str, running: &str| {
        let (url, release_header) = (format!("http://{address}{path}"), Some(header.to_owned()));
        let section = Verify { url: Some(url), release_header, ..Verify::default() };
        let check = health::checks(&section, Some(&running.parse().unwrap())).await;
        codes(&check.into_iter().collect::<Vec<_>>())
    };
    assert_eq!(ask("/up", "X-Release", "v2").await, [""; 0]);
    assert_eq!(ask("/up", "X-Release", "v1").await, ["RELEASE_HEADER_WRONG"]);
    assert_eq!(ask("/up", "X-Other", "v2").await, ["RELEASE_HEADER_WRONG"]);
    assert_eq!(ask("/broken", "X-Release", "v2").await, ["HEALTH_PATH_FAILS"]);
}

#[test]
fn a_request_that_may_not_survive_a_restart_is_risky_only_if_nobody_waits_for_it() {
    let mut config = Config::default();
    let found = |config: &Config, age_ms| {
        let check = long_requests(age_ms, config);
        check.finding().map(|finding| (finding.code.code(), format!("{:?}", finding.severity)))
    };
    assert_eq!(found(&config, None), None);
    assert_eq!(found(&config, Some(14_000)), None);
    assert_eq!(found(&config, Some(15_000)), Some(("LONG_REQUESTS", "Note".into())));
    config.restart.long_requests = LongRequests::Proceed;
    assert_eq!(found(&config, Some(15_000)), Some(("LONG_REQUESTS", "Risky".into())));
    config.puma.worker_shutdown_timeout = Duration::from_secs(60);
    assert_eq!(found(&config, Some(15_000)), None);
}

#[tokio::test]
async fn a_volume_that_does_not_answer_hangs() {
    let lane = Lane::start("test").unwrap();
    let (release, hang) = std::sync::mpsc::channel::<()>();
    let look = move || hang.recv().map_or_else(|_| Vec::new(), |()| Vec::new());
    let checks = volume::within(Duration::from_millis(1), &lane, Path::new("/srv/app"), look).await;
    assert_eq!(codes(&checks), ["VOLUME_HANGS"]);
    drop(release);
}

#[test]
fn a_volume_without_room_or_locks() {
    let found = |check: Check| codes(&[check]);
    assert_eq!(found(volume::room_for((500, 10), 1_000, 20)), [""; 0]);
    assert_eq!(found(volume::room_for((500, 10), 999, 20)), ["VOLUME_NEARLY_FULL"]);
    assert_eq!(found(volume::room_for((500, 10), 1_000, 19)), ["VOLUME_NEARLY_FULL"]);
    assert_eq!(volume::no_locks("two take the same lock").code.code(), "VOLUME_WITHOUT_LOCKS");
}

/// As the agent calls it, so does doctor.
#[test]
fn every_trouble_of_a_store_has_a_code_of_its_own() {
    use crate::core::Reason;
    for (reason, code) in [
        (Reason::StoreDenied, "STORE_DENIED"),
        (Reason::StoreUnreachable, "STORE_UNREACHABLE"),
        (Reason::ConfigInvalid, "CONFIG_INVALID"),
        (Reason::ReleaseUnknown, "RELEASE_UNKNOWN"),
    ] {
        assert_eq!(store::named(&Problem::new(reason, "it is so")).code.code(), code);
    }
}

#[tokio::test]
async fn an_agent_that_hangs_up_and_an_address_that_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.listen = "192.0.2.1:9750".parse().unwrap();
    let none = agent::checks(&config).await.own;
    assert_eq!(codes(&none), ["AGENT_NOT_RUNNING", "NOT_LISTENING"]);
    fs::create_dir(&config.state_dir).unwrap();
    let listener = tokio::net::UnixListener::bind(config.state_dir.join("admin.sock")).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let silent = agent::checks(&config).await.own;
    assert_eq!(codes(&silent)[0], "AGENT_SILENT");
}

#[test]
fn a_release_that_could_not_be_restarted_onto_is_broken_and_says_why() {
    use crate::core::Reason;
    let v2: ReleaseId = "v2".parse().unwrap();
    let refused = planned(&v2, Err(Problem::new(Reason::NeedsImage, "it wants Ruby 9.9")));
    let finding = refused.finding().unwrap();
    assert_eq!(finding.code.code(), "RESTART_IMPOSSIBLE");
    assert!(finding.message.contains("needs_image") && finding.message.contains("Ruby 9.9"), "{finding:?}");
    assert!(planned(&v2, Ok(Plan::new(Mode::Phased))).finding().is_none());
}
