//! A move in the middle of a large fetch.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use pitstop_rig::{SlowVolume, needs_root, wait_until};

use crate::{
    operations::{FILES, large_app},
    rig::Rig,
};

/// `pitstop run` without an app server.
pub struct Agent(pub Child);

impl Agent {
    pub fn start(rig: &Rig, arguments: &[&str], in_flight: u32) -> Self {
        let mut run = rig.command(arguments);
        run.env("PITSTOP_STATE_DIR", rig.dir.path().join("state")).env("PITSTOP_LISTEN", "127.0.0.1:0");
        run.env("PITSTOP_FETCH_IN_FLIGHT", in_flight.to_string()).stderr(Stdio::null());
        Self(run.spawn().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_newer_move_waits_for_no_file_of_the_fetch_that_it_ends() {
    needs_root!();
    let rig = Rig::new();
    large_app(&rig, "v1");
    rig.publish("v2");
    let volume = SlowVolume::mount(&rig.deploy_to, Duration::from_millis(5), 64);
    let us = std::process::id().to_string();
    // One file after the other, all of it would take a quarter of a minute.
    let _agent = Agent::start(&rig, &["run", "--child-of", &us], 1);
    wait_until("a part of v1 is written", || volume.counts().by_name["write"] > FILES / 4);
    rig.ok(&["promote", "v2"]);
    wait_until("v2 is current", || rig.release_at_current().as_deref() == Some("v2"));
    assert!(!rig.deploy_to.join("releases/v1").exists(), "nobody wants it any more");
    assert_eq!(rig.abandoned().len(), 1, "what was written of v1 is deleted when there is time for it");
}
