//! What outlives a release: written by the app of one, found by the next.

use std::fs;

use pitstop_rig::{App, Pod, Setup};

use super::put_archive;
use crate::new_pod;

/// Each boot and each worker writes where it stands, as Rails does.
const WRITES: &str = "File.write('storage/boots', \"#{File.read('REVISION')}\\n\", mode: 'a')\n\
                      File.write('log/production.log', \"#{File.read('REVISION')}\\n\", mode: 'a')\n\
                      File.write('tmp/pids/app.pid', Process.pid.to_s)\n";

fn deploy(pod: &Pod, id: &str) {
    let app = pod.agent.build(&pod.puma, App::Good, id);
    for placeholder in ["log/.keep", "tmp/pids/.keep"] {
        fs::create_dir_all(app.join(placeholder).parent().unwrap()).unwrap();
        fs::write(app.join(placeholder), "").unwrap();
    }
    let rackup = fs::read_to_string(app.join("config.ru")).unwrap();
    fs::write(app.join("config.ru"), format!("{WRITES}{rackup}")).unwrap();
    pod.agent.must(&["publish", &app.to_string_lossy(), "--release", id]);
    pod.agent.promote(id);
}

#[test]
fn e2e_what_the_app_writes_into_linked_directories_survives_its_releases() {
    let mut pod = new_pod(Setup::default()).published();
    let pod_dir = pod.puma.scratch().join("pod");
    fs::create_dir(&pod_dir).unwrap();
    pod.set("PITSTOP_LINKED_DIRS", "storage");
    pod.set("PITSTOP_POD_DIRS", "log,tmp");
    pod.set("PITSTOP_POD_DIR", pod_dir.to_string_lossy());
    deploy(&pod, "v2");
    pod.agent.must(&["fetch"]);
    pod.puma.run();
    pod.puma.wait_for_release("v2");
    pod.agent.start();
    pod.agent.wait_in_sync("v2");
    for id in ["v3", "v4"] {
        deploy(&pod, id);
        pod.agent.wait_in_sync(id);
        pod.assert_runs(id);
    }
    for written in [pod.puma.deploy_to().join("shared/storage/boots"), pod_dir.join("log/production.log")] {
        let mut releases: Vec<_> = fs::read_to_string(&written).unwrap().lines().map(str::to_owned).collect();
        releases.sort();
        releases.dedup();
        assert_eq!(releases, ["v2", "v3", "v4"], "{}", written.display());
    }
    assert!(pod_dir.join("tmp/pids/app.pid").exists());
    // A release that brings its own is refused, and the pod stays as it is.
    let app = pod.agent.build(&pod.puma, App::Good, "v5");
    fs::create_dir_all(app.join("log")).unwrap();
    fs::write(app.join("log/development.log"), "from a laptop").unwrap();
    let tar = std::process::Command::new("tar").args(["--zstd", "-cC"]).arg(&app).arg(".").output().unwrap();
    put_archive(&pod, "v5", &tar.stdout);
    pod.agent.promote("v5");
    let status = pod.wait_for_reason("release_corrupt");
    assert!(status["message"].as_str().unwrap().contains("`pod_dirs`"), "{status}");
    pod.assert_runs("v4");
}
