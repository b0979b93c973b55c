//! The agent is killed at each step of a deploy, and started again.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pitstop::{effects::FAIL_POINTS, releases, revisions_log};
use pitstop_rig::{App, Pod, Setup, until};

use crate::new_pod;

/// Kills the agent where it has just blocked, and starts a new one.
fn kill_at(pod: &mut Pod, point: &str, app: App, id: &str) {
    stop_at(pod, point);
    pod.deploy(app, id);
    kill_there(pod, point);
    pod.agent.start();
}

/// Starts an agent that will block at the point.
fn stop_at(pod: &mut Pod, point: &str) {
    let marks = marks(pod);
    fs::create_dir_all(&marks).unwrap();
    pod.set("PITSTOP_FAILPOINTS", point);
    pod.set("PITSTOP_FAILPOINT_DIR", marks.to_string_lossy());
    pod.agent.kill();
    pod.agent.start();
}

/// Kills the agent when it blocks there.
fn kill_there(pod: &mut Pod, point: &str) {
    let mark = marks(pod).join(point);
    until(&format!("the agent at {point}"), || mark.exists().then_some(()));
    pod.agent.env.retain(|(name, _)| !name.starts_with("PITSTOP_FAILPOINT"));
    pod.agent.kill();
    fs::remove_file(mark).unwrap();
    assert!(pod.puma.current().join("REVISION").exists(), "current dangles after a kill at {point}");
}

fn marks(pod: &Pod) -> PathBuf {
    pod.puma.scratch().join("marks")
}

fn on_the_way_back(point: &str) -> bool {
    point.contains("rejected") || point.contains("reverted")
}

#[test]
fn e2e_killed_at_any_step_forward_a_good_release_arrives() {
    // Each release is a new worker's: now and then one of Puma 6.6 or 8.0 stops only when it is ended.
    let mut pod = new_pod(Setup { worker_shutdown_timeout: 2, ..Setup::default() }).born();
    // After a kill between the `signalled` line and the signal nobody knows whether it was sent: the
    // restart is asked for again when its time has run out. Both workers may have to be ended in it.
    pod.set("PITSTOP_RESTART_TIMEOUT", "8s");
    let mut pod = pod.started();
    let forward = FAIL_POINTS.iter().filter(|point| !on_the_way_back(point));
    for (number, point) in forward.enumerate() {
        let id = format!("v{}", number + 2);
        kill_at(&mut pod, point, App::Good, &id);
        pod.agent.wait_in_sync(&id);
        pod.assert_runs(&id);
    }
}

#[test]
fn e2e_killed_at_any_step_back_a_bad_release_stays_rejected() {
    let mut pod = new_pod(Setup::default()).in_sync();
    for (number, point) in FAIL_POINTS.iter().filter(|point| on_the_way_back(point)).enumerate() {
        let id = format!("bad{number}");
        kill_at(&mut pod, point, App::RaisesOnBoot, &id);
        until(&format!("v1 again after a kill at {point}"), || {
            let status = pod.status();
            (status["running"] == "v1" && status["stage"] == "steady" && status["reason"] == "rejected")
                .then_some(())
        });
        pod.assert_runs("v1");
    }
}

/// An agent that ends three times in one fetch gives the release up; here the ends are not the release's fault.
fn forget_unfinished(pod: &Pod) {
    let _ = fs::remove_file(pod.agent.state_dir().join("unfinished.json"));
}

/// The points inside the steps. Each row is one deploy, killed at each of its points in turn: as long as
/// the release is not on the volume, the next agent comes by the next point.
const DEPLOYS: &[&[&str]] = &[
    &[
        "fetch.locked",
        "fetch.staged",
        "fetch.mid_download",
        "fetch.downloaded",
        "fetch.mid_unpack",
        "fetch.unpacked",
        "fetch.linked",
        "fetch.synced",
        "fetch.marker_written",
        "fetch.marked",
        "fetch.renamed",
        "journal.half_written",
        "publish.linked",
    ],
    &["fetch.done", "journal.written"],
    &["journal.synced"],
    &["fetch.abandoned", "publish.renamed"],
    &["fetch.unlocked", "publish.synced"],
    // Each clears away what the one before has left.
    &["prune.renamed", "prune.unmarked", "prune.mid_delete"],
    &["lease.written", "lease.renamed"],
];

#[test]
fn e2e_killed_inside_of_any_step_current_is_complete_at_every_moment() {
    let every_point: Vec<_> = releases::FAIL_POINTS.iter().chain(revisions_log::FAIL_POINTS).collect();
    for point in every_point {
        assert!(DEPLOYS.concat().contains(point), "no deploy is killed at {point}");
    }
    let mut pod = new_pod(Setup::default()).born();
    pod.set("PITSTOP_VERIFY_SOAK", "100ms");
    pod.set("PITSTOP_KEEP_RELEASES", "1");
    // The release that goes would become it.
    pod.set("PITSTOP_FETCH_SPARE", "false");
    let mut pod = pod.started();
    let current = Current::of(&pod);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| current.watch(&over));
        let _end = Ends(&over);
        for (number, points) in DEPLOYS.iter().enumerate() {
            kill_in_turn(&mut pod, points, &format!("v{}", number + 2));
        }
        over.store(true, Ordering::SeqCst);
        assert!(watching.join().unwrap() > 0, "it was looked at");
    });
}

fn kill_in_turn(pod: &mut Pod, points: &[&str], id: &str) {
    for (number, point) in points.iter().enumerate() {
        stop_at(pod, point);
        if number == 0 {
            pod.deploy(App::Good, id);
        }
        kill_there(pod, point);
        forget_unfinished(pod);
    }
    pod.agent.start();
    pod.agent.wait_in_sync(id);
    pod.assert_runs(id);
    until(&format!("no leftovers after {points:?}"), || {
        let left = |dir: &str| fs::read_dir(pod.puma.deploy_to().join(dir)).into_iter().flatten().count();
        (left(".pitstop/staging") + left(".pitstop/trash") == 0).then_some(())
    });
}

/// The link that the app server boots from, at any moment.
struct Current(PathBuf);

impl Current {
    fn of(pod: &Pod) -> Self {
        Self(pod.puma.current())
    }

    /// How often it was looked at until the end.
    fn watch(&self, over: &AtomicBool) -> usize {
        let mut looks = 0;
        while !over.load(Ordering::SeqCst) {
            // Resolved once, as it may move at any moment.
            let tree = self.0.canonicalize().expect("current leads somewhere");
            let revision = fs::read_to_string(tree.join("REVISION")).expect("a whole release");
            assert_eq!(tree.file_name().unwrap(), revision.as_str());
            assert!(tree.join("config.ru").exists() && tree.join("config/puma.rb").exists(), "{revision}");
            looks += 1;
            // It shares two cores with what it watches.
            thread::sleep(Duration::from_millis(1));
        }
        looks
    }
}

/// Ends the watch also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
