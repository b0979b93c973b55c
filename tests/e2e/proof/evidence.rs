//! By what it is known which release a worker runs.

use super::*;
use crate::PITSTOP;

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

/// Puma takes the path of its rackup file from its environment, as from an `-r` with an absolute path.
fn absolute(setup: Setup) -> (Setup, impl Fn(&PumaRig) -> String) {
    let config = "rackup ENV['RIG_RACKUP'] if ENV['RIG_RACKUP']".to_owned();
    (Setup { config, ..setup }, |puma: &PumaRig| {
        puma.inside(&puma.releases().join("v1/config.ru")).display().to_string()
    })
}

/// Every process works in the new release, and the code is v1's.
fn a_pod_with_the_code_of_v1(app: App, configured: impl Fn(String) -> String, mode: &str) -> Pod {
    let (setup, path) = absolute(Setup::default());
    let mut puma = PumaRig::empty(setup);
    let path = path(&puma);
    puma.set_env("RIG_RACKUP", path);
    let mut agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
    let yaml = std::fs::read_to_string(agent.config()).unwrap();
    std::fs::write(agent.config(), configured(yaml)).unwrap();
    agent.env.push(("PITSTOP_RESTART_MODE".into(), mode.into()));
    let mut pod = Pod { agent, puma };
    pod.deploy(app, "v1");
    pod.agent.must(&["fetch"]);
    pod.puma.run();
    pod.puma.wait_for_release("v1");
    pod.started()
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
    let path = pod.puma.current().canonicalize().unwrap();
    assert_eq!(path, pod.puma.releases().join("v1"), "it was flipped back");
}

/// By a header, or by a field of the answer.
#[test]
fn e2e_each_worker_is_heard() {
    let ways: [(&str, Configured); 2] = [("by a header", |yaml| yaml), ("by a field", by_field)];
    side_by_side(ways.map(|(name, configured)| (name.to_owned(), configured)), |configured| {
        let setup = Setup { workers: 3, ..Setup::default() };
        let pod = Pod::born(setup, App::Good, configured, &[]).started();
        // What was there before the agent is heard as well.
        pod.wait_for_proof("v1", "every_worker");
        pod.deploy(App::Good, "v2");
        let status = pod.wait_for_proof("v2", "every_worker");
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
    let pod = Pod::born(Setup::default(), App::KeepsFileOpen, unnamed, &[]).started();
    pod.wait_for_proof("v1", "files");
    pod.deploy(App::KeepsFileOpen, "v2");
    pod.wait_for_proof("v2", "files");
    pod.deploy(App::Good, "v3");
    pod.wait_for_proof("v3", "cwd");
}
