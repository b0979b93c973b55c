//! What an agent keeps of the memory that a fetch took.

use std::fs;

use pitstop_rig::{until, wait_until};

use crate::{rig::Rig, superseded::Agent};

/// More than waits for the volume at once.
const FILES: usize = 8_000;
/// For threads that go on, and for what is left over between blocks in use.
const KEPT_KIB: u64 = 10 << 10;

/// A release whose content does not compress.
fn app(rig: &Rig, release: &str) -> String {
    let app = rig.app(release);
    let mut random = fastrand::Rng::with_seed(3);
    for number in 0..FILES {
        let dir = app.join(format!("vendor/{}", number % 200));
        fs::create_dir_all(&dir).unwrap();
        let bytes: Vec<u8> = (0..random.usize(100..10_000)).map(|_| random.u8(..)).collect();
        fs::write(dir.join(format!("{number}.rb")), bytes).unwrap();
    }
    app.to_string_lossy().into_owned()
}

/// The agent's own memory, without the program's pages.
fn own_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The process that does the work, which `pitstop run` starts.
fn agent(keeper: &Agent) -> u32 {
    let pid = keeper.0.id();
    until("the agent is started", || {
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
    })
}

#[test]
fn an_agent_that_has_fetched_needs_hardly_more_memory_than_before() {
    let rig = Rig::new();
    rig.ok(&["publish", &app(&rig, "v1"), "--release", "v1"]);
    fs::create_dir_all(&rig.deploy_to).unwrap();
    let keeper = Agent::start(&rig, &["run"], 6);
    let agent = agent(&keeper);
    wait_until("the agent answers", || rig.dir.path().join("state/admin.sock").exists());
    let before = own_kib(agent);
    rig.promote("v1");
    wait_until("v1 is current", || rig.release_at_current().as_deref() == Some("v1"));
    wait_until("what the fetch took is returned", || own_kib(agent) <= before + KEPT_KIB);
}
