//! A second server beside the first, in the same container.

mod cells;
mod container;
mod counts;
mod deploys;
mod fit;
mod parent;
mod shift;
mod soak;
mod unicorn;

use std::time::Duration;

use pitstop_rig::{ExecPod, until, until_within};
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
