//! What a proof rests on, and what becomes of it when others restart Puma: with real Pumas.

mod evidence;
mod others;

use pitstop_rig::{App, Pod, Setup, side_by_side, until};
use serde_json::Value;

use crate::new_pod;

/// In sync with the release, and proved as well as this.
#[track_caller]
fn wait_for_proof(pod: &Pod, release: &str, proof: &str) -> Value {
    until(&format!("the proof {proof} of {release}"), || {
        let status = pod.status();
        let there = status["in_sync"] == true && status["running"] == release;
        (there && status["proof"] == proof).then_some(status)
    })
}
