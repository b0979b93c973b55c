//! By what it is known which release a worker runs.

use super::*;

/// Changes the agent's configuration.
type Configured = fn(String) -> String;

const HEADER: &str = "  release_header: X-Release\n";

/// The app names its release in a field of its answer.
fn by_field(yaml: String) -> String {
    yaml.replace(HEADER, "  release_field: release\n")
}

/// The app does not name its release.
fn unnamed(yaml: String) -> String {
    yaml.replace(HEADER, "")
}

/// Every process works in the new release, and the code is v1's: Puma takes the path of its rackup file from its
/// environment, as from an `-r` with an absolute path.
fn a_pod_with_the_code_of_v1(app: App, configured: impl Fn(String) -> String, mode: &str) -> Pod {
    let config = "rackup ENV['RIG_RACKUP'] if ENV['RIG_RACKUP']".to_owned();
    let mut pod = new_pod(Setup { config, ..Setup::default() });
    let rackup = pod.puma.inside(&pod.puma.releases().join("v1/config.ru"));
    pod.puma.set_env("RIG_RACKUP", rackup.display().to_string());
    pod.configured(configured).with("PITSTOP_RESTART_MODE", mode).born_from(app).started()
}

#[track_caller]
fn is_undone(pod: &Pod, app: App) {
    pod.deploy(app, "v2");
    let status = until("the rejection", || {
        let status = pod.status();
        (status["reason"] == "rejected" && status["stage"] == "steady").then_some(status)
    });
    assert_eq!(status["rejected"][0]["reason"], "release_mismatch", "{status}");
    until("v1 again", || (pod.status()["running"] == "v1").then_some(()));
    assert_eq!(pod.current(), pod.puma.releases().join("v1"), "it was flipped back");
}

/// By a header, or by a field of the answer.
#[test]
fn e2e_each_worker_is_heard() {
    let ways: [(&str, Configured); 2] = [("by a header", |yaml| yaml), ("by a field", by_field)];
    side_by_side(ways.map(|(name, configured)| (name.to_owned(), configured)), |configured| {
        let setup = Setup { workers: 3, ..Setup::default() };
        let pod = new_pod(setup).configured(configured).in_sync();
        // What was there before the agent is heard as well.
        wait_for_proof(&pod, "v1", "every_worker");
        pod.deploy(App::Good, "v2");
        let status = wait_for_proof(&pod, "v2", "every_worker");
        assert!(status["proof_message"].as_str().unwrap().contains("each of 3"), "{status}");
        let shown = pod.agent.must(&["status"]);
        assert!(shown.contains("each of 3 named the release"), "{shown}");
    });
}

/// By what the app says of itself, and else by the file that it keeps open.
#[test]
fn e2e_a_path_into_an_old_release_is_caught_by_the_name_or_by_the_files_that_are_open() {
    let rows: [(&str, App, Configured); 3] =
        [("hot", App::Good, by_field), ("phased", App::Good, by_field), ("hot", App::KeepsFileOpen, unnamed)];
    side_by_side(rows.map(|row| (format!("{}, {:?}", row.0, row.1), row)), |(mode, app, configured)| {
        is_undone(&a_pod_with_the_code_of_v1(app, configured, mode), app);
    });
}

#[test]
fn e2e_without_a_name_files_are_a_proof_and_else_the_directory_is() {
    let pod = new_pod(Setup::default()).configured(unnamed).born_from(App::KeepsFileOpen).started();
    wait_for_proof(&pod, "v1", "files");
    pod.deploy(App::KeepsFileOpen, "v2");
    wait_for_proof(&pod, "v2", "files");
    pod.deploy(App::Good, "v3");
    wait_for_proof(&pod, "v3", "cwd");
}
