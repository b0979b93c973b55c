//! Where a restart goes to is decided when Puma starts. Each way in which it may be told: what pitstop chooses, and
//! what it proves or takes back.

use std::{fs, time::Duration};

use pitstop_rig::{App, Directory, Pod, Setup, Wrapper, poll, side_by_side, until};
use serde_json::Value;

use crate::new_pod;

/// Eight Pumas share two cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// The new release was proved to run.
    Runs,
    /// It was tried, noticed, and the old release runs again.
    Back(&'static str),
    /// It was not tried: no restart would have loaded it.
    Refused(&'static str),
}

use Came::{Back, Refused, Runs};

/// A way to start Puma, and what comes of a deploy with `restart.mode` phased, hot and auto.
struct Row {
    name: &'static str,
    setup: Setup,
    came: [Came; 3],
}

/// The configuration is outside of the releases.
const OUTSIDE: &str = "{run}/outside.rb";

fn rows() -> Vec<Row> {
    let pwd = || Setup { directory: Directory::Pwd, worker_shutdown_timeout: 3, ..Setup::default() };
    let with = |config: &str| Setup { config: config.into(), ..pwd() };
    let config = |path: &str, setup: Setup| Setup { env: vec![("RIG_CONFIG".into(), path.into())], ..setup };
    let row = |name, setup, came| Row { name, setup, came };
    let never = [Back("wrong_cwd"), Back("restart_dir_pinned"), Back("restart_dir_pinned")];
    vec![
        row("directory, literal", with("directory '{current}'"), [Runs; 3]),
        row("PWD through the link", pwd(), [Runs; 3]),
        row("PWD resolved", Setup { directory: Directory::Pinned, ..pwd() }, never),
        row("PWD unset", Setup { wrapper: Wrapper::WithoutPwd, ..pwd() }, never),
        row("directory by __dir__", with("directory File.expand_path('..', __dir__)"), never),
        row(
            "directory by realpath, from outside",
            config(OUTSIDE, with("directory File.realpath('{current}')")),
            [Back("wrong_cwd"), Runs, Runs],
        ),
        row(
            "rackup file of a release",
            with("directory '{current}'\nrackup '{releases}/v1/config.ru'"),
            [Refused("restart_dir_pinned"); 3],
        ),
        row("configuration of a release", config("{releases}/v1/config/puma.rb", pwd()), [Runs; 3]),
    ]
}

fn born(setup: Setup, mode: &str) -> Pod {
    let outside = setup.env.iter().any(|(_, value)| value == OUTSIDE);
    let mut pod = new_pod(setup).published();
    pod.set("PITSTOP_RESTART_MODE", mode);
    pod.agent.must(&["fetch"]);
    if outside {
        let config = pod.puma.releases().join("v1/config/puma.rb");
        fs::copy(config, pod.puma.run_dir().join("outside.rb")).unwrap();
    }
    pod.puma.run();
    pod.puma.wait_for_release("v1");
    pod.started()
}

fn came_of(pod: &Pod, release: &str) -> Came {
    let over = |status: &Value| {
        if status["in_sync"] == true && status["running"] == release {
            return Some(Runs);
        }
        if status["stage"] == "checking" && status["reason"] == "restart_dir_pinned" {
            return Some(Refused("restart_dir_pinned"));
        }
        let rejected = status["rejected"].as_array()?.iter().find(|known| known["release"] == release)?;
        let reason = rejected["reason"].as_str()?.to_owned();
        (status["running"] == "v1" && status["stage"] == "steady").then(|| Back(reason.leak()))
    };
    poll(PATIENCE, || over(&pod.status())).expect("the deploy ends, one way or the other")
}

/// One mode after the other: with all of them at once the agents' looks alone take both cores, and Puma starves.
fn comes_as_told(rows: &[Row]) {
    for (index, mode) in ["phased", "hot", "auto"].into_iter().enumerate() {
        let each =
            rows.iter().map(|row| (format!("{}, {mode}", row.name), (row.setup.clone(), row.came[index])));
        side_by_side(each, |(setup, came)| {
            let pod = born(setup, mode);
            pod.deploy(App::Good, "v2");
            assert_eq!(came_of(&pod, "v2"), came, "{:?}", pod.status());
            pod.assert_runs(if came == Runs { "v2" } else { "v1" });
            let tried = usize::from(!matches!(came, Refused(_)));
            assert_eq!((pod.attempts("v2"), pod.puma.starts()), (tried, 1));
        });
    }
}

#[test]
fn e2e_wherever_a_restart_goes_to_it_is_proved_or_taken_back() {
    comes_as_told(&rows());
}

/// Without `directory`, a Puma that finds `current` elsewhere than itself as it starts goes back to its own release
/// in every restart from then on.
#[test]
fn e2e_current_does_not_move_between_exec_and_title() {
    let mut pod = new_pod(Setup { directory: Directory::Pwd, ..Setup::default() }).published();
    let (gate, lib) = (pod.puma.run_dir().join("gate"), pod.puma.run_dir().join("gate.rb"));
    fs::write(&lib, "sleep 0.05 while File.exist?(File.join(ENV['RIG_RUN'], 'gate'))\n").unwrap();
    pod.puma.set_env("RUBYOPT", format!("-r{}", pod.puma.inside(&lib).display()));
    pod.set("PITSTOP_RESTART_MODE", "hot");
    pod.agent.must(&["fetch"]);
    pod.puma.run();
    let pod = pod.started();
    fs::write(&gate, "").unwrap();
    pod.deploy(App::Good, "v2");
    let titled =
        |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|t| t.starts_with("puma "));
    until("the gap between exec and title", || (!titled(pod.puma.master()?)).then_some(()));
    pod.agent.promote("v1");
    until("the new move", || (pod.status()["desired"]["release"] == "v1").then_some(()));
    let looks = || pod.metric(r#"pitstop_pointer_checks_total{result="ok"}"#);
    let before = looks();
    until("it has looked again", || (looks() > before).then_some(()));
    assert_eq!(pod.current(), pod.puma.releases().join("v2"), "moved while Puma starts");
    assert_eq!(pod.status()["in_sync"], false, "Puma is on its way to v2");
    fs::remove_file(&gate).unwrap();
    pod.agent.wait_in_sync("v1");
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    pod.assert_runs("v3");
}
