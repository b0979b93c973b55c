//! `pitstop rollout` itself, with pods that do nothing but read the pointer and write their reports: each way in which it
//! ends, its death at every step, and two at once.

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
};

use pitstop_rig::{signal, until, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{moves::promoted, rig::Rig};

pub mod fleet;
mod steps;
mod terminal;

use fleet::Fleet;

/// A store in which the pointer names `v1` (move 1), `v2` and `v3` are published, and four pods follow.
struct Story {
    fleet: Fleet,
    rig: Rig,
    /// After so long the next rollout takes a dead one over.
    lease: &'static str,
}

impl Story {
    fn new() -> Self {
        let rig = promoted(&["v1"]);
        ["v2", "v3"].iter().for_each(|release| rig.publish(release));
        Self {
            fleet: Fleet::start(&rig.store_dir(), &["web-0", "web-1", "web-2", "web-3"]),
            rig,
            lease: "3s",
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.rig.command(&[&["rollout"], args].concat());
        command.args(["--lease", self.lease]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> String {
        ended(self.command(args).output().unwrap(), code)
    }

    fn journal(&self) -> Value {
        let text = fs::read(self.rig.store_dir().join("rollouts/production")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn written(&self, name: &str) -> Value {
        let path = self.rig.store_dir().join("moves/production").join(name);
        serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default()
    }

    fn names(&self) -> (Value, Value) {
        let pointer = self.rig.pointer();
        (pointer["release"].clone(), pointer["sequence"].clone())
    }

    fn is_unlocked(&self, dir: &str) -> bool {
        let lock = fs::File::open(self.rig.store_dir().join(dir).join(".lock"));
        lock.is_ok_and(|lock| lock.try_lock().is_ok())
    }

    /// Killed when it has come to this point.
    fn killed_at(&self, point: &str, args: &[&str]) {
        let at = tempfile::tempdir().unwrap();
        let mut command = self.command(args);
        command.env("PITSTOP_FAILPOINTS", point).env("PITSTOP_FAILPOINT_DIR", at.path());
        let mut child = command.spawn().unwrap();
        wait_until(&format!("the rollout at {point}"), || {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {point}");
            at.path().join(point).exists()
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Everything is as before, and says why.
    #[track_caller]
    fn assert_taken_back(&self, why: &str) {
        assert_eq!(self.names(), (json!("v1"), json!(1)));
        let pointer = self.rig.pointer();
        assert_eq!((&pointer["canary"], &pointer["rolled_back"]), (&Value::Null, &json!(["v2"])));
        assert!(pointer["aborted"]["why"].as_str().unwrap().contains(why), "{pointer}");
        assert!(self.fleet.running().iter().all(|runs| runs == "v1"), "{:?}", self.fleet.running());
        assert_eq!(self.written("2.end")["result"], "rejected");
    }
}

#[track_caller]
fn ended(output: Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn finished(child: Child, code: i32) -> String {
    ended(child.wait_with_output().unwrap(), code)
}

#[test]
fn a_good_rollout_is_told_line_by_line_and_written_down() {
    let story = Story::new();
    let before = story.rig.dir.path().join("before");
    let smoke = story.rig.dir.path().join("smoke");
    let first = format!("echo $PITSTOP_RELEASE $PITSTOP_SEQUENCE $PITSTOP_POINTER >> {}", before.display());
    let second = format!("echo \"$PITSTOP_CANARY_PODS\" >> {}; echo looked", smoke.display());
    let said = story.ends(
        &["v2", "--before", &first, "--smoke", &second, "--bake", "1s", "--why", "ticket 7", "--by", "ann"],
        0,
    );
    for line in [
        "rollout of v2#2 to production: --before runs; no pod has the release yet",
        "rollout of v2#2 to production: step 1 of 3 (1 pod)",
        "rollout of v2#2 to production: step 1 of 3 (1 pod): watched for 1s",
        "rollout of v2#2 to production: step 3 of 3 (all pods)",
        "production now points to v2 (move 2): 4 of 4 pods ran it",
        "looked",
    ] {
        assert!(said.lines().any(|one| one.trim() == line), "{line}: {said}");
    }
    assert!(!said.contains(['\u{1b}', '\r']), "a job's log has plain lines only: {said:?}");
    assert_eq!(fs::read_to_string(before).unwrap(), "v2 2 production\n");
    assert_eq!(fs::read_to_string(smoke).unwrap(), "web-0\n");
    let pointer = story.rig.pointer();
    assert_eq!((&pointer["previous"], &pointer["canary"]), (&json!("v1"), &Value::Null));
    let whole: Value = serde_json::from_str(&story.rig.pointer_text()).unwrap();
    assert_eq!((&whole["moved_by"], &whole["why"]), (&json!("ann"), &json!("ticket 7")));
    assert_eq!(
        (&story.written("2")["how"], &story.written("1.end")["result"]),
        (&json!("rollout"), &json!("verified"))
    );
    assert_eq!(
        (story.names(), &story.written("2.end")["result"]),
        ((json!("v2"), json!(2)), &json!("verified"))
    );
    assert_eq!(story.fleet.most_at_first(), 1, "one pod alone had it first");
    // The next one, for programs.
    let said = story.command(&["v3", "--json"]).output().unwrap().stdout;
    let lines: Vec<Value> =
        said.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert!(events.contains(&"state") && events.contains(&"pod"), "{lines:?}");
    let end = lines.last().unwrap();
    assert_eq!(
        (&end["event"], &end["result"], &end["exit_code"]),
        (&json!("end"), &json!("done"), &json!(0))
    );
    assert_eq!((&end["release"], &end["sequence"]), (&json!("v3"), &json!(3)));
}

#[test]
fn what_fails_before_anything_moved_moves_nothing() {
    let story = Story::new();
    let before = story.rig.pointer_text();
    let said = story.ends(&["v2", "--before", "echo no database; exit 3"], 1);
    assert!(
        said.contains("failed: --before ended with exit code 3; nothing was moved, all pods stay on v1"),
        "{said}"
    );
    assert!(said.contains("no database"), "{said}");
    let killed = story.ends(&["v2", "--before", "kill -9 $$"], 1);
    assert!(killed.contains("--before was killed by signal 9"), "{killed}");
    assert!(story.ends(&["v9"], 1).contains("v9"));
    assert_eq!(story.rig.pointer_text(), before);
    assert_eq!(story.fleet.most_at_first(), 0);
    assert_eq!(story.written("2.end")["message"], "--before ended with exit code 3");
    let absent = story.command(&["v2"]).env("PITSTOP_POINTER", "prodution").output().unwrap();
    assert!(ended(absent, 1).contains("did you mean production?"));
    assert!(story.ends(&["v2", "--step", "0"], 64).contains("is no pod at all"));
    assert!(story.ends(&["--abort"], 1).contains("there is no unfinished rollout of production"));
    story.rig.ok(&["freeze", "production", "--why", "audit"]);
    assert!(story.ends(&["v2", "--before", "echo ran"], 4).contains("production is frozen"));
    assert!(!story.journal()["options"].to_string().contains("database"), "commands stay here");
}

#[test]
fn a_canary_that_fails_is_taken_back_and_nobody_else_was_touched() {
    let story = Story::new();
    let said = story.ends(&["v2", "--smoke", "exit 1"], 2);
    assert!(said.contains("taken back: --smoke ended with exit code 1; all pods are on v1 again"), "{said}");
    story.assert_taken_back("--smoke ended with exit code 1");
    assert_eq!(story.fleet.touched(), ["web-0"]);
    // A number is used once only, and the next one begins anew.
    story.fleet.rejects(&["web-0"], "v3");
    assert!(story.ends(&["v3"], 2).contains("taken back: rejected by web-0: boot_loop"));
    assert_eq!(story.written("3")["release"], "v3");
    assert_eq!(story.rig.pointer()["rolled_back"], json!(["v3", "v2"]));
}

#[test]
fn pods_that_fail_later_are_tolerated_up_to_a_number() {
    let story = Story::new();
    story.fleet.rejects(&["web-3"], "v2");
    assert!(story.ends(&["v2", "--step", "1"], 0).contains("3 of 4 pods ran it"));
    story.fleet.rejects(&["web-2", "web-3"], "v3");
    let said = story.ends(&["v3"], 2);
    assert!(said.contains("taken back: rejected by web-2: boot_loop, web-3: boot_loop"), "{said}");
    assert_eq!(story.names(), (json!("v2"), json!(2)));
    assert_eq!(story.fleet.running(), ["v2", "v2", "v2", "v1"]);
}

#[test]
fn without_a_way_back_what_stands_is_said_and_stays() {
    let story = Story::new();
    let said = story.ends(&["v2", "--smoke", "exit 1", "--no-revert"], 2);
    assert!(said.contains("by --no-revert 1 pod stay on v2, the others on v1"), "{said}");
    assert_eq!(story.rig.pointer()["canary"]["release"], "v2");
    let said = story.ends(&["--abort", "--by", "ann"], 0);
    assert!(said.contains("taken back: aborted by ann; all pods are on v1 again"), "{said}");
    assert_eq!(story.rig.pointer()["canary"], Value::Null);
    story.fleet.hangs("web-1");
    let said = story.ends(&["v2", "--step", "2", "--timeout", "5s", "--no-revert"], 3);
    assert!(
        said.contains("step 1 made no progress for 5s: 1 of 2 pods arrived; waiting for web-1"),
        "{said}"
    );
    // The next one takes the place of what was left there.
    story.fleet.goes_on("web-1");
    story.ends(&["v3"], 0);
    assert_eq!(story.names(), (json!("v3"), json!(4)));
}

#[test]
fn killed_at_every_step_and_started_again_it_goes_on() {
    let story = Story { lease: "1s", ..Story::new() };
    let log = story.rig.dir.path().join("log");
    let [before, smoke] = ["before", "smoke"].map(|word| format!("echo {word} >> {}", log.display()));
    let args = ["v2", "--before", &before, "--smoke", &smoke, "--bake", "1s", "--step", "1"];
    for point in pitstop_rig::ROLLOUT_POINTS {
        story.killed_at(point, &args);
    }
    let said = story.ends(&args, 0);
    assert!(said.contains("going on with the rollout of v2: all pods run it"), "{said}");
    assert_eq!(
        (story.names(), story.journal()["fence"].clone()),
        ((json!("v2"), json!(2)), json!(pitstop_rig::ROLLOUT_POINTS.len() + 1))
    );
    assert_eq!(story.fleet.running(), ["v2", "v2", "v2", "v2"]);
    // Once more for each death while it ran, or before that was written down.
    let ran = fs::read_to_string(log).unwrap();
    let count = |word: &str| ran.lines().filter(|line| *line == word).count();
    assert_eq!((count("before"), count("smoke")), (2, 2), "{ran}");
    // The same on the way back.
    story.fleet.rejects(&["web-0"], "v3");
    for point in ["rollout.aborting.1", "rollout.pointed.back"] {
        story.killed_at(point, &["v3"]);
    }
    assert!(story.ends(&["v3"], 2).contains("taken back: rejected by web-0"));
    assert_eq!(
        (story.names(), story.rig.pointer()["canary"].clone()),
        ((json!("v2"), json!(2)), Value::Null)
    );
}

#[test]
fn two_at_once_exclude_each_other_and_an_abort_wins() {
    // Nobody takes over from one that lives, however long a write takes it.
    let story = Story { lease: "10s", ..Story::new() };
    let asked = story.rig.dir.path().join("go");
    let smoke = format!("until [ -e {} ]; do sleep 0.05; done", asked.display());
    let args = ["v2", "--smoke", &smoke];
    let mut first = story.command(&args).spawn().unwrap();
    wait_until("the smoke test", || story.journal()["state"] == "smoke");
    let said = story.ends(&args, 4);
    assert!(
        said.contains("a rollout of v2 to production is under way") && said.contains("drives it"),
        "{said}"
    );
    let said = story.ends(&["v3"], 4);
    assert!(
        said.contains("`pitstop rollout v2` goes on with it") && said.contains("`pitstop rollout --abort`"),
        "{said}"
    );
    assert!(story.ends(&["v2"], 64).contains("--smoke that did not end yet: give it again"));
    assert!(first.try_wait().unwrap().is_none());
    story.ends(&["--abort", "--by", "ann", "--why", "p95"], 0);
    let said = finished(first, 4);
    assert!(said.contains("the rollout of v2 was taken over by "), "{said}");
    story.assert_taken_back("aborted by ann: p95");
    // A promote wins as well, and a signal leaves it to the next one at once.
    let first = story.command(&args).spawn().unwrap();
    wait_until("the smoke test", || story.journal()["state"] == "smoke");
    signal(i32::try_from(first.id()).unwrap(), Signal::TERM);
    assert!(finished(first, 143).contains("interrupted; the rollout of v2 stands: step 1 of 3 (1 pod)"));
    assert_eq!(story.journal()["holder"], Value::Null);
    let mut first = story.command(&args).spawn().unwrap();
    wait_until("the smoke test", || story.journal()["fence"] == 2 && story.journal()["state"] == "smoke");
    // Of two that write the pointer at once one is refused.
    wait_until("its first write", || story.rig.pointer()["canary"]["rollout"]["fence"] == 2);
    story.rig.ok(&["promote", "v3"]);
    fs::write(asked, "").unwrap();
    assert!(
        finished_child(&mut first, 4).contains("lost: somebody else has changed production: it names v3#")
    );
    assert_eq!(story.names().0, "v3");
    until("all pods", || story.fleet.running().iter().all(|runs| runs == "v3").then_some(()));
}

fn finished_child(child: &mut Child, code: i32) -> String {
    use std::io::Read;
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code), "{said}");
    said
}

#[test]
fn one_that_hangs_while_another_takes_over_writes_nothing_more() {
    let story = Story::new();
    story.fleet.hangs("web-0");
    let first = story.command(&["v2", "--timeout", "60s"]).spawn().unwrap();
    wait_until("the canary", || story.rig.pointer()["canary"]["release"] == "v2");
    let pid = i32::try_from(first.id()).unwrap();
    wait_until("it is stopped, and holds no lock of the directory's", || {
        signal(pid, Signal::STOP);
        let free = ["rollouts", "pointers"].iter().all(|dir| story.is_unlocked(dir));
        if !free {
            signal(pid, Signal::CONT);
        }
        free
    });
    let mut second = story.command(&["v2"]).spawn().unwrap();
    wait_until("the takeover", || {
        assert!(second.try_wait().unwrap().is_none(), "it ended");
        story.rig.pointer()["canary"]["rollout"]["fence"] == 2
    });
    signal(pid, Signal::CONT);
    assert!(finished(first, 4).contains("was taken over by "));
    story.fleet.goes_on("web-0");
    finished(second, 0);
    assert_eq!((story.names(), story.journal()["fence"].clone()), ((json!("v2"), json!(2)), json!(2)));
    assert_eq!(story.written("2.end")["result"], "verified", "the first one has not written an end");
}

#[test]
fn a_freeze_stops_it_where_it_is_and_the_way_back_stays_open() {
    let story = Story::new();
    story.fleet.hangs("web-0");
    let first = story.command(&["v2"]).spawn().unwrap();
    wait_until("the canary", || story.rig.pointer()["canary"]["release"] == "v2");
    story.rig.ok(&["freeze", "production", "--why", "audit"]);
    let said = finished(first, 4);
    assert!(said.contains("the pointer is frozen") && said.contains("audit"), "{said}");
    assert!(said.contains("`pitstop rollout v2` goes on with it"), "{said}");
    story.fleet.goes_on("web-0");
    assert!(story.ends(&["v2"], 4).contains("frozen"));
    story.ends(&["--abort"], 0);
    assert_eq!(story.names(), (json!("v1"), json!(1)));
    story.rig.ok(&["unfreeze", "production"]);
    story.rig.ok(&["pause", "--fleet", "--why", "database"]);
    let second = story.command(&["v2"]).spawn().unwrap();
    wait_until("the canary", || story.rig.pointer()["canary"]["release"] == "v2");
    story.rig.ok(&["resume", "--fleet"]);
    assert!(finished(second, 0).contains("the pods of production are paused"), "it says why nothing happens");
}
