//! The spine: `pitstop run` as a process beside a real Puma, from the pointer to the proof.

mod births;
mod by_other_hands;
mod crash;
mod deploys;
mod end;
mod fleet;
mod hooks;
mod linked;
mod log;
mod needs_image;
mod notify;
mod on_6_6;
mod restart_dir;
mod signed;
mod surroundings;
mod troubles;
mod warmup;

use pitstop_rig::{App, Pod};

/// After the problem, a good release goes through.
#[track_caller]
fn recovers(pod: &Pod) {
    pod.deploy(App::Good, "v9");
    pod.agent.wait_in_sync("v9");
    pod.assert_runs("v9");
}

/// Puts an archive into the store as a CI would, past `publish`.
fn put_archive(pod: &Pod, id: &str, bytes: &[u8]) {
    use sha2::{Digest, Sha256};
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let archive = pod.agent.store().join(format!("releases/{id}.tar.zst"));
    std::fs::write(&archive, bytes).unwrap();
    std::fs::write(archive.with_extension("zst.sha256"), hex).unwrap();
}

/// Writes the pointer past `promote`, which would refuse.
fn point_to(pod: &Pod, text: &str) {
    std::fs::write(pod.agent.store().join("pointers/production"), text).unwrap();
}
