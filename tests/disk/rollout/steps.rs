//! What happens to a rollout in each of its steps: the store is away, pods are born, clocks are wrong.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use pitstop_rig::{ROLLOUT_POINTS, wait_until};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::Story;

/// Where it stops on the way back.
const BACK: [&str; 2] = ["rollout.aborting.1", "rollout.pointed.back"];

/// A rollout that stops at each of its points until it is let go on.
struct Stepped {
    child: Child,
    at: tempfile::TempDir,
    said: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Stepped {
    fn start(mut command: Command, points: &[&str]) -> Self {
        let at = tempfile::tempdir().unwrap();
        command.env("PITSTOP_FAILPOINTS", points.join(",")).env("PITSTOP_FAILPOINT_DIR", at.path());
        let mut child = command.spawn().unwrap();
        let said = Arc::<Mutex<Vec<String>>>::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stderr.take().unwrap()), Box::new(child.stdout.take().unwrap())];
        let read = |output: Box<dyn Read + Send>| {
            let said = said.clone();
            thread::spawn(move || {
                BufReader::new(output)
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| said.lock().unwrap().push(line));
            })
        };
        let readers = outputs.map(read).into();
        Self { child, at, said, readers }
    }

    fn reaches(&mut self, point: &str) -> PathBuf {
        let reached = self.at.path().join(point);
        wait_until(&format!("the rollout at {point}"), || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before {point}: {:?}", self.said.lock().unwrap());
            reached.exists()
        });
        reached
    }

    fn goes_on(&mut self, point: &str) {
        fs::remove_file(self.reaches(point)).unwrap();
    }

    /// How many lines have this in them.
    fn said(&self, text: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    fn ends(mut self, code: i32) -> String {
        let ended = self.child.wait().unwrap();
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let said = self.said.lock().unwrap().join("\n");
        assert_eq!(ended.code(), Some(code), "{said}");
        said
    }
}

impl Story {
    /// The store is away while the rollout passes this point, until that is noticed.
    fn outage_at(&self, rollout: &mut Stepped, point: &str) {
        const AWAY: &str = "the store does not answer; retrying, and no time-out runs";
        const BACK: &str = "the store answers again";
        rollout.reaches(point);
        let (there, away) = (self.rig.store_dir(), self.rig.dir.path().join("away"));
        let before = (rollout.said(AWAY), rollout.said(BACK));
        fs::write(&away, "no directory").unwrap();
        // At once: whoever writes while there is nothing would make a store of its own.
        let exchange = || renameat_with(CWD, &there, CWD, &away, RenameFlags::EXCHANGE).unwrap();
        exchange();
        rollout.goes_on(point);
        wait_until(&format!("the outage at {point} is noticed"), || rollout.said(AWAY) > before.0);
        exchange();
        wait_until(&format!("the end of the outage at {point} is noticed"), || rollout.said(BACK) > before.1);
    }
}

#[test]
fn an_outage_of_the_store_in_any_step_is_said_and_waited_for() {
    let story = Story::new();
    let log = story.rig.dir.path().join("log");
    let [before, smoke] = ["before", "smoke"].map(|word| format!("echo {word} >> {}", log.display()));
    let args = ["v2", "--before", &before, "--smoke", &smoke, "--bake", "1s", "--step", "1"];
    let mut rollout = Stepped::start(story.command(&args), &ROLLOUT_POINTS);
    for point in ROLLOUT_POINTS {
        story.outage_at(&mut rollout, point);
    }
    assert!(rollout.ends(0).contains("production now points to v2 (move 2): 4 of 4 pods ran it"));
    assert_eq!(
        (story.names(), story.written("2.end")["result"].clone()),
        ((json!("v2"), json!(2)), json!("verified"))
    );
    assert_eq!(fs::read_to_string(log).unwrap(), "before\nsmoke\n", "each ran once");
    // And on the way back.
    story.fleet.rejects(&["web-0"], "v3");
    let mut rollout = Stepped::start(story.command(&["v3"]), &BACK);
    for point in BACK {
        story.outage_at(&mut rollout, point);
    }
    assert!(rollout.ends(2).contains("taken back: rejected by web-0: boot_loop"));
    assert_eq!(story.names(), (json!("v2"), json!(2)));
}

#[test]
fn a_freeze_stops_it_in_any_step_and_the_same_command_goes_on_after_it() {
    let story = Story::new();
    let log = story.rig.dir.path().join("log");
    let [before, smoke] = ["before", "smoke"].map(|word| format!("echo {word} >> {}", log.display()));
    let args = ["v2", "--before", &before, "--smoke", &smoke, "--bake", "1s", "--step", "1"];
    // These it passes as it stops: what its commands have ended with is not lost.
    let passed = ["rollout.canary.1", "rollout.bake.1"];
    let points = ROLLOUT_POINTS.iter().filter(|point| !passed.contains(point));
    for point in points {
        let mut rollout = Stepped::start(story.command(&args), &[*point]);
        rollout.reaches(point);
        let names = story.names();
        story.rig.ok(&["freeze", "production", "--why", "audit"]);
        rollout.goes_on(point);
        if *point == "rollout.pointed.finish" {
            assert!(rollout.ends(0).contains("production now points to v2 (move 2): 4 of 4 pods ran it"));
        } else {
            let said = rollout.ends(4);
            assert!(said.contains("the pointer is frozen") && said.contains("audit"), "{point}: {said}");
        }
        assert_eq!(story.names(), names, "{point}: it moved");
        story.rig.ok(&["unfreeze", "production"]);
    }
    assert_eq!(fs::read_to_string(log).unwrap(), "before\nsmoke\n", "each ran once");
    assert_eq!(story.written("2.end")["result"], "verified");
}

#[test]
fn a_smoke_test_that_fails_under_a_freeze_takes_the_canary_back() {
    let story = Story::new();
    let mut rollout = Stepped::start(story.command(&["v2", "--smoke", "exit 1"]), &["rollout.ran.smoke"]);
    rollout.reaches("rollout.ran.smoke");
    story.rig.ok(&["freeze", "production", "--why", "audit"]);
    rollout.goes_on("rollout.ran.smoke");
    assert!(rollout.ends(2).contains("taken back: --smoke ended with exit code 1; all pods are on v1 again"));
    story.assert_taken_back("--smoke ended with exit code 1");
}

#[test]
fn pods_that_are_born_in_any_step_are_counted_and_those_that_leave_are_not() {
    let story = Story::new();
    let args = [
        "v2",
        "--before",
        "true",
        "--smoke",
        "true",
        "--bake",
        "1s",
        "--step",
        "1",
        "--max-unavailable",
        "2",
    ];
    let mut rollout = Stepped::start(story.command(&args), &ROLLOUT_POINTS);
    let born = ROLLOUT_POINTS.iter().enumerate().map(|(n, point)| {
        rollout.reaches(point);
        let pod = format!("web-1{n}");
        story.fleet.born(&pod);
        wait_until("its first report", || story.rig.store_dir().join("fleet/production").join(&pod).exists());
        if *point == "rollout.smoke.1" {
            story.fleet.leaves("web-3");
            assert_eq!(story.rig.pointer()["canary"]["max_unavailable"], "2", "the agents are told");
        }
        rollout.goes_on(point);
    });
    let all = 4 + born.count() - 1;
    let said = rollout.ends(0);
    assert!(said.contains(&format!("{all} of {all} pods ran it")), "{said}");
    assert_eq!(story.fleet.most_at_first(), 1, "nobody is born onto a canary that is not its own");
    wait_until("all pods run it", || story.fleet.running() == vec!["v2"; all]);
}

#[test]
fn pods_that_are_born_on_the_way_back_start_on_the_release_before() {
    let story = Story::new();
    let mut rollout = Stepped::start(story.command(&["v2", "--smoke", "exit 1"]), &BACK);
    for (n, point) in BACK.iter().enumerate() {
        rollout.reaches(point);
        story.fleet.born(&format!("web-1{n}"));
        rollout.goes_on(point);
    }
    assert!(rollout.ends(2).contains("taken back: --smoke ended with exit code 1; all pods are on v1 again"));
    wait_until("all pods run v1", || story.fleet.running() == vec!["v1"; 6]);
    story.assert_taken_back("--smoke ended with exit code 1");
    assert_eq!(story.fleet.touched(), ["web-0"]);
}

#[test]
fn pods_whose_clocks_are_minutes_off_are_waited_for() {
    for off in [-480, 480] {
        let story = Story::new();
        story.fleet.clocks_off(off);
        story.fleet.hangs("web-3");
        let rollout = Stepped::start(story.command(&["v2", "--step", "1"]), &[]);
        // It looks again and again, and tells of what is new; the last pod counts, whatever the time there.
        for pod in ["web-2", "web-7", "web-8", "web-9"] {
            if pod != "web-2" {
                story.fleet.born(pod);
            }
            wait_until(&format!("{pod} is told of"), || rollout.said(&format!("{pod}: runs it")) == 1);
        }
        assert_eq!((&story.journal()["state"], &story.journal()["step"]), (&json!("step"), &json!(2)));
        story.fleet.goes_on("web-3");
        assert!(rollout.ends(0).contains("7 of 7 pods ran it"));
    }
}

#[test]
fn a_pod_that_does_not_go_back_in_time_is_named_and_the_code_says_so() {
    let story = Story::new();
    let args = ["v2", "--smoke", "exit 1", "--timeout", "5s"];
    let mut rollout = Stepped::start(story.command(&args), &["rollout.smoke.1"]);
    rollout.reaches("rollout.smoke.1");
    story.fleet.hangs("web-0");
    rollout.goes_on("rollout.smoke.1");
    let said = rollout.ends(3);
    let message = "taken back, and not all pods are on v1 again: --smoke ended with exit code 1; not back in time: web-0";
    assert!(said.contains(message), "{said}");
    assert_eq!(
        (story.names(), story.rig.pointer()["canary"].clone()),
        ((json!("v1"), json!(1)), json!(null))
    );
}

#[test]
fn of_two_that_take_a_dead_one_over_at_once_one_goes_on() {
    // Long enough for the one that goes on to say that it lives.
    let story = Story { lease: "5s", ..Story::new() };
    story.killed_at("rollout.pointed.canary.1", &["v2"]);
    let both = [0, 1].map(|_| story.command(&["v2"]).spawn().unwrap());
    let mut codes = both.map(|one| one.wait_with_output().unwrap().status.code());
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(4)]);
    assert_eq!((story.names(), &story.journal()["fence"]), ((json!("v2"), json!(2)), &json!(2)));
}
