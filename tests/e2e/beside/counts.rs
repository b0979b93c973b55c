//! What each server has served: counted by the app's middleware, else by Puma.

use std::path::Path;

use pitstop_rig::{App, ExecPod, Image, Setup, Signal, http, needs_root, signal, until};
use serde_json::Value;

use crate::PITSTOP;

const RACKUP: &str = r#"
require File.join(Dir.pwd, 'pitstop_counts')
use PitstopCounts
RELEASE = File.read('REVISION')
run lambda { |env|
  raise 'this request fails on purpose' if env['PATH_INFO'] == '/raises'
  [env['PATH_INFO'] == '/fails' ? 503 : 200, { 'X-Release' => RELEASE, 'Content-Type' => 'text/plain' }, ["ok\n"]]
}
"#;

fn counting(setup: Setup) -> Setup {
    let middleware = include_str!("../../../src/cli/middleware/pitstop_counts.rb");
    Setup { files: vec![("pitstop_counts.rb", middleware.into()), ("config.ru", RACKUP.into())], ..setup }
}

fn in_sync(setup: Setup) -> ExecPod {
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), setup)
        .with("PITSTOP_RESTART_MODE", "beside")
        .with("PITSTOP_RESTART_TIMEOUT", "30s");
    pod.parent_listens();
    pod.in_sync()
}

/// Requests and errors of the live server, as /status has them.
fn live(pod: &ExecPod) -> Option<(u64, Value)> {
    let status = pod.agent.status()?;
    let slots = status["app_server"]["slots"].as_array()?;
    let slot = slots.iter().find(|slot| slot["role"] == "live")?;
    Some((slot["requests"].as_u64()?, slot["errors"].clone()))
}

fn asks(pod: &ExecPod) {
    for (path, times) in [("/", 20), ("/fails", 3), ("/raises", 2)] {
        for _ in 0..times {
            http::get(pod.puma.port(), path).expect("an answer");
        }
    }
}

/// The agent's own probes count for nothing, so that the numbers are exact.
fn are_counted(setup: Setup) {
    let pod = in_sync(counting(setup));
    let before = until("the count", || live(&pod)).0;
    asks(&pod);
    until("all of them", || (live(&pod)? == (before + 25, 5.into())).then_some(()));
    // A restart by other hands stays in its slot, and its count goes on.
    signal(pod.outside(pod.status()["app_server"]["pid"].as_i64().unwrap()).unwrap(), Signal::USR2);
    until("all that, and more", || {
        http::get(pod.puma.port(), "/fails").ok()?;
        let (requests, errors) = live(&pod)?;
        (requests > before + 25 && errors.as_u64()? > 5).then_some(())
    });
    pod.agent.wait_in_sync("v1");
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    asks(&pod);
    until("those of the second server alone", || {
        let (requests, errors) = live(&pod)?;
        (requests >= 25 && requests < before + 50 && errors == 5).then_some(())
    });
}

#[test]
fn e2e_requests_and_errors_of_each_server_are_counted() {
    are_counted(Setup::preloading());
}

#[test]
fn e2e_requests_and_errors_of_a_single_process_are_counted() {
    are_counted(Setup::single());
}

#[test]
fn e2e_requests_and_errors_of_each_server_are_counted_on_6_6() {
    needs_root!();
    are_counted(Setup::default().from(Image::Trixie));
}

#[test]
fn e2e_without_the_middleware_pumas_own_count_is_told_and_no_errors() {
    let pod = in_sync(Setup::default());
    let before = until("the count", || live(&pod)).0;
    asks(&pod);
    until("at least those", || {
        let (requests, errors) = live(&pod)?;
        (requests >= before + 25 && errors.is_null()).then_some(())
    });
}
