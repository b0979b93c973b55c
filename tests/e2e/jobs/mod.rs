//! The recipe of docs/job-workers.md, with its script and its configuration as they stand there: Debian's
//! Sidekiq, a real Redis, and releases that come while jobs run.

mod pod;

use std::thread;

use pitstop_rig::until;

use pod::{Pod, eventually};

#[test]
fn e2e_no_job_is_cut_off_or_run_twice() {
    let mut pod = Pod::in_sync();
    // A deploy waits for the job that runs, and leaves the next one to the new release.
    pod.enqueue("a", 8);
    eventually("a runs", || pod.journal().contains(&"begin a v1".to_owned()));
    pod.deploy("v2", "");
    eventually("v1 is quiet", || pod.title().contains("stopping"));
    pod.enqueue("b", 0);
    pod.wait_in_sync("v2");
    eventually("b has run", || pod.journal().contains(&"end b v2".to_owned()));
    // A release that does not boot goes back, and no job goes with it.
    pod.deploy("v3", "raise 'broken on purpose'\n");
    eventually("v2 is quiet", || pod.title().contains("stopping"));
    pod.enqueue("c", 0);
    eventually("v3 is rejected, and v2 runs", || {
        let status = pod.agent.status().unwrap_or_default();
        status["running"] == "v2" && status["stage"] == "steady" && status["reason"] == "rejected"
    });
    eventually("c has run", || pod.journal().contains(&"end c v2".to_owned()));
    // The end of the pod waits as well, and takes nothing along.
    pod.enqueue("d", 6);
    eventually("d runs", || pod.journal().contains(&"begin d v2".to_owned()));
    let told = pod.agent.prestop().join().unwrap().unwrap();
    assert_eq!(told["result"], "drained", "{told}");
    let mut worker = pod.worker.take().unwrap();
    let ending = thread::spawn(move || worker.terminate());
    eventually("v2 is quiet", || pod.title().contains("stopping"));
    pod.enqueue("e", 0);
    until("the end of the container", || ending.is_finished().then_some(()));
    ending.join().unwrap();
    let expected = ["a v1", "b v2", "c v2", "d v2"];
    let expected: Vec<_> =
        expected.iter().flat_map(|job| [format!("begin {job}"), format!("end {job}")]).collect();
    assert_eq!(pod.journal(), expected);
    assert_eq!(pod.waiting(), "1", "e is left to the next pod");
}
