//! Behind a unix socket, as with nginx in the pod: each server has a socket of its own, and the public name leads to
//! the one that serves.

use std::path::{Path, PathBuf};

use pitstop_rig::{App, ExecPod, Load, Setup, load::Plan, until, until_within};

use super::{RECOVERY, assert_unnoticed, nginx::Nginx, slot, wait_until_no_server_is};
use crate::PITSTOP;

/// `v1` serves behind nginx; a release is to get its clients by steps.
fn pod() -> (ExecPod, Nginx, PathBuf) {
    let config = "clear_binds!\nbind 'unix://{run}/puma.sock?umask=0111'\n".into();
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), Setup { config, ..Setup::preloading() });
    let socket = pod.puma.run_dir().join("puma.sock");
    pod.set("PITSTOP_EXEC_LISTEN", format!("unix://{}?umask=0111", socket.display()));
    pod.set("PITSTOP_VERIFY_URL", format!("unix://{}:/up", socket.display()));
    pod.set("PITSTOP_RESTART_MODE", "beside");
    pod.set("PITSTOP_RESTART_SHIFT", "10%,100%");
    let pod = pod.in_sync();
    until("Puma took the socket", || slot(&pod, "live"));
    let nginx = Nginx::start(&format!("unix:{}", socket.display()));
    (pod, nginx, socket)
}

#[test]
fn e2e_beside_behind_a_unix_socket_a_good_release_is_met_after_its_check_and_a_bad_one_by_nobody() {
    let (pod, nginx, socket) = pod();
    until("no shares are said", || pod.found("SHARES_UNAVAILABLE").then_some(()));
    let load = Load::start(Plan::modest(nginx.port), "deploys");
    for (id, app) in [("v2", App::SlowBoot), ("v3", App::Good)] {
        pod.deploy(app, id);
        until_within(RECOVERY, "the switch", || (pod.agent.status()?["running"] == id).then_some(()));
        // What ends takes the name of its socket with it, unless another one made that.
        // /status may show the roles from before the switch.
        until_within(RECOVERY, "the end of the earlier one", || (pod.servers().len() == 1).then_some(()));
    }
    for (id, app, reason) in
        [("bad1", App::RaisesOnBoot, "boot_failed"), ("bad2", App::UnhealthyPath, "probe_failed")]
    {
        pod.deploy(app, id);
        until_within(RECOVERY, "the rejection", || {
            let rejected = pod.agent.status()?["rejected"].clone();
            let found = rejected.as_array()?.iter().find(|one| one["release"] == id)?.clone();
            (found["reason"] == reason).then_some(())
        });
        wait_until_no_server_is(&pod, "candidate");
    }
    assert!(pod.current().ends_with("v3"));
    assert_unnoticed(load, &["v1", "v2", "v3"]);
    nginx.assert_answered();
    assert_eq!(pod.starts(), 1);
    let own = |name: &str| socket.with_file_name(format!("puma.sock.pitstop-{name}")).exists();
    assert_eq!(["a", "b", "c", "probe", "new"].map(own), [true, true, true, false, false]);
}
