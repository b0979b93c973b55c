//! A second server beside the first, in the same container.

mod assets;
mod cells;
mod command;
mod container;
mod counts;
mod deploys;
mod fit;
mod kills;
mod nginx;
mod parent;
mod refused;
mod shift;
mod unicorn;
mod unix;

use std::time::Duration;

use pitstop_rig::{ExecPod, Load, until, until_within};
use serde_json::Value;

/// How long the end of a server may take on a busy machine.
const RECOVERY: Duration = Duration::from_secs(120);

/// The slot with this role, as /status has it.
fn slot(pod: &ExecPod, role: &str) -> Option<Value> {
    let status = pod.agent.status()?;
    status["app_server"]["slots"].as_array()?.iter().find(|slot| slot["role"] == role).cloned()
}

fn master(pod: &ExecPod) -> Value {
    until("the master", || {
        Some(pod.agent.status()?["app_server"]["pid"].clone()).filter(|pid| !pid.is_null())
    })
}

fn wait_until_no_server_is(pod: &ExecPod, role: &str) {
    until_within(RECOVERY, "the server's end", || {
        let status = pod.agent.status()?;
        let slots = status["app_server"]["slots"].as_array()?;
        (!slots.is_empty() && slots.iter().all(|slot| slot["role"] != role)).then_some(())
    });
}

/// Nothing failed, and only these releases have answered.
#[track_caller]
fn assert_unnoticed(load: Load, releases: &[&str]) {
    // A deploy that fails at once may be over before.
    until("clients that would notice", || (load.tally().requests > 20).then_some(()));
    let records = load.finish();
    records.assert_nothing_lost();
    let strange = records
        .requests()
        .iter()
        .find(|one| !one.release.as_deref().is_some_and(|release| releases.contains(&release)));
    assert!(strange.is_none(), "{strange:?}");
}
