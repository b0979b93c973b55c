//! A rollout: killed at each request, it goes on or is taken back; a store that fails at each is waited for.

use std::{
    fs,
    process::{Command, Stdio},
};

use pitstop_rig::{S3Rig, tried};
use serde_json::Value;

use super::{Trouble, at_each_request, run, served};
use crate::{moves::promoted, rig::Rig, rollout::fleet::Fleet};

/// A rollout makes some eighty requests, most of them looks.
const APART: u32 = 3;

/// `v1` runs in three pods, and `v2` is to be rolled out: to one of them, then to all.
struct Trial {
    fleet: Fleet,
    s3: S3Rig,
    context: String,
}

/// The pods that may run the release, by what the store has of the rollout.
fn allowed(journal: &Value) -> usize {
    match (journal["state"].as_str(), journal["step"].as_u64()) {
        (None | Some("before"), _) => 0,
        (_, Some(0 | 1)) => 1,
        _ => 3,
    }
}

impl Trial {
    fn new(rig: &Rig, context: String) -> Self {
        let s3 = served(&rig.store_dir());
        let fleet = Fleet::start(&s3.objects(), &["web-0", "web-1", "web-2"]);
        Self { fleet, s3, context }
    }

    fn rollout(&self, rig: &Rig, args: &[&str]) -> Command {
        let mut command = rig.command(&[&["rollout", "--lease", "2s"], args].concat());
        command.envs(self.s3.env());
        command
    }

    fn forward(&self, rig: &Rig) -> Command {
        self.rollout(rig, &["v2", "--step", "1", "--before", "true", "--smoke", "true"])
    }

    fn object(&self, key: &str) -> Value {
        serde_json::from_slice(&self.s3.object(key).unwrap_or_default()).unwrap_or_default()
    }

    fn on(&self, release: &str) -> usize {
        self.fleet.running().iter().filter(|runs| *runs == release).count()
    }

    /// What must hold at any moment.
    #[track_caller]
    fn assert_within_its_step(&self) {
        let (pods, journal) = (self.on("v2"), self.object("rollouts/production"));
        assert!(pods <= allowed(&journal), "{}: {pods} pods, and {journal}", self.context);
        assert!(self.fleet.most_at_first() <= 1, "{}: one pod has it first", self.context);
        let pointer = self.object("pointers/production");
        assert!(["v1", "v2"].iter().any(|one| pointer["release"] == *one), "{}: {pointer}", self.context);
    }

    /// All pods run it, and the pointer says that and no more.
    #[track_caller]
    fn assert_ends_on(&self, release: &str) {
        let context = &self.context;
        pitstop_rig::wait_until(&format!("{context}: all pods on {release}"), || self.on(release) == 3);
        let pointer = self.object("pointers/production");
        assert_eq!((&pointer["release"], &pointer["canary"]), (&release.into(), &Value::Null), "{context}");
        let state = self.object("rollouts/production")["state"].clone();
        assert!(state.is_null() || state == "done" || state == "aborted", "{context}: {state}");
    }
}

fn before() -> Rig {
    let rig = promoted(&["v1"]);
    rig.publish("v2");
    rig
}

fn said(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    (output.status.code(), said)
}

/// Killed at each request, and what the next command makes of it.
fn killed_at_each(next: impl Fn(&Trial, &Rig) + Sync) -> u64 {
    let rig = before();
    at_each_request(&Trouble::KILLS, APART, |request, trouble| {
        let trial = Trial::new(&rig, format!("rollout {trouble:?} at request {request}"));
        let ended = run(trial.forward(&rig), &trial.s3, request, trouble);
        trial.assert_within_its_step();
        assert!(ended.met || ended.code == Some(0), "{}: {}", trial.context, ended.said);
        let is_over = trial.object("rollouts/production")["state"] == "done";
        next(&trial, &rig);
        // A second rollout of what all pods run is another one.
        assert!(is_over || trial.fleet.most_at_first() <= 1, "{}: one pod has it first", trial.context);
        ended.met
    })
}

#[test]
fn a_rollout_killed_at_each_request_goes_on_and_arrives() {
    let kills = killed_at_each(|trial, rig| {
        let (code, said) = said(trial.forward(rig));
        assert_eq!(code, Some(0), "{}: {said}", trial.context);
        trial.assert_ends_on("v2");
    });
    assert!(kills >= 12, "only {kills}");
    let test = "a_rollout_killed_at_each_request_goes_on_and_arrives";
    tried(test, "kill -9 at each third request of `rollout`", kills, "no pod beyond its step");
}

#[test]
fn a_rollout_killed_at_each_request_can_be_aborted() {
    let kills = killed_at_each(|trial, rig| {
        let (code, said) = said(trial.rollout(rig, &["--abort", "--by", "ann"]));
        let journal = trial.object("rollouts/production");
        match code {
            // It had come to its end before.
            Some(0) if journal["state"] == "done" => trial.assert_ends_on("v2"),
            Some(0) => trial.assert_ends_on("v1"),
            // There is none: not yet, or not any more.
            Some(1) if said.contains("there is no unfinished rollout of production") => {
                trial.assert_ends_on(if journal.is_null() { "v1" } else { "v2" });
            }
            code => panic!("{}: {code:?} {said}", trial.context),
        }
    });
    assert!(kills >= 12, "only {kills}");
    let test = "a_rollout_killed_at_each_request_can_be_aborted";
    tried(test, "the same, then `--abort`", kills, "");
}

#[test]
fn a_rollout_whose_store_fails_at_each_request_arrives() {
    let rig = before();
    let met = at_each_request(&Trouble::FAILURES, APART, |request, trouble| {
        let trial = Trial::new(&rig, format!("rollout {trouble:?} at request {request}"));
        let ended = run(trial.forward(&rig), &trial.s3, request, trouble);
        trial.assert_within_its_step();
        if ended.code != Some(0) {
            // It had not begun, or says how it goes on.
            assert_eq!(ended.code, Some(1), "{}: {}", trial.context, ended.said);
            assert!(ended.said.contains("the store"), "{}: {}", trial.context, ended.said);
            let (code, said) = said(trial.forward(&rig));
            assert_eq!(code, Some(0), "{}: first {}; then {said}", trial.context, ended.said);
        }
        trial.assert_ends_on("v2");
        ended.met
    });
    assert!(met >= 12, "only {met}");
    let test = "a_rollout_whose_store_fails_at_each_request_arrives";
    tried(test, "errors, no or lost answers there", met, "");
}

#[test]
fn an_abort_killed_at_each_request_is_finished_by_the_next() {
    let rig = before();
    // What a rollout leaves that is killed while its first pod runs the release.
    let stopped = Trial::new(&rig, "before the abort".into());
    let over = rig.dir.path().join("over");
    let smoke = format!("until [ -e {} ]; do sleep 0.05; done", over.display());
    let mut child = stopped
        .rollout(&rig, &["v2", "--step", "1", "--smoke", &smoke])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    pitstop_rig::wait_until("the smoke test", || stopped.object("rollouts/production")["state"] == "smoke");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(over, "").unwrap();
    for name in ["rollouts", "pointers", "moves"] {
        let _ = fs::remove_dir_all(rig.store_dir().join(name));
        super::copy(&stopped.s3.objects().join(name), &rig.store_dir().join(name));
    }
    drop(stopped);
    let abort = ["--abort", "--by", "ann"];
    let met = at_each_request(&Trouble::KILLS, 1, |request, trouble| {
        let trial = Trial::new(&rig, format!("abort {trouble:?} at request {request}"));
        let ended = run(trial.rollout(&rig, &abort), &trial.s3, request, trouble);
        assert!(ended.met || ended.code == Some(0), "{}: {}", trial.context, ended.said);
        assert!(trial.on("v2") <= 1, "{}", trial.context);
        let (code, said) = said(trial.rollout(&rig, &abort));
        let over = said.contains("there is no unfinished rollout of production");
        assert!(code == Some(0) || code == Some(1) && over, "{}: {code:?} {said}", trial.context);
        trial.assert_ends_on("v1");
        ended.met
    });
    assert!(met >= 10, "only {met}");
    let test = "an_abort_killed_at_each_request_is_finished_by_the_next";
    tried(test, "kill -9 at each of `--abort`", met, "");
}
