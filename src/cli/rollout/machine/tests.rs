use std::time::Duration;

use super::{
    super::{
        journal::Options,
        seen::{changed, standing},
    },
    *,
};
use crate::{pointer::document::Document, revision::Note};

mod fleet;

pub(in super::super) fn journal(options: Options) -> Journal {
    Journal {
        v: 1,
        id: "r".into(),
        release: "v42".parse().unwrap(),
        sequence: 8,
        sha256: "ab".repeat(32),
        base: crate::pointer::parse(BASE).unwrap().revision,
        replaces: None,
        state: State::Before,
        step: 0,
        since: String::new(),
        fence: 1,
        holder: Some("ci".into()),
        heartbeat: 1,
        options,
        before: Some(Before::Pending),
        started: Note::default(),
        result: None,
        why: None,
    }
}

pub(super) const BASE: &[u8] = br#"{"release":"v41","sequence":7,"previous":"v40"}"#;

pub(in super::super) fn options() -> Options {
    Options {
        steps: vec![PodCount::Pods(1), PodCount::Percent(50), ALL],
        smoke: true,
        bake: Duration::from_secs(10),
        max_failed: 1,
        timeout: Duration::from_secs(600),
        revert: true,
        max_unavailable: None,
        lease: Duration::from_secs(30),
    }
}

pub(super) fn pod(name: &str, place: Place) -> Pod {
    let on_release = place != Place::Elsewhere;
    Pod {
        name: name.into(),
        address: None,
        runs: None,
        place,
        on_release,
        silent_ms: 0,
        patience_ms: 360_000,
        stays_out: false,
    }
}

/// A rollout whose every action is done at once, with pods that the test moves.
struct Story {
    journal: Journal,
    machine: Machine,
    document: Document,
    pods: Vec<Pod>,
    frozen: Option<String>,
    now_ms: u64,
    /// How the commands end.
    before: Result<(), String>,
    smoke: Result<(), String>,
    stopped: Option<String>,
}

impl Story {
    fn new(options: Options) -> Self {
        Self {
            journal: journal(options),
            machine: Machine::default(),
            document: Document::of(BASE),
            pods: ["a", "b", "c", "d"].map(|name| pod(name, Place::Elsewhere)).into(),
            frozen: None,
            now_ms: 0,
            before: Ok(()),
            smoke: Ok(()),
            stopped: None,
        }
    }

    /// With one pod on the release.
    fn in_canary(options: Options) -> Self {
        let mut story = Self::new(options);
        assert_eq!(story.on(), State::Canary);
        story.arrives(0);
        story
    }

    fn arrives(&mut self, at: usize) {
        let name = self.pods[at].name.clone();
        self.pods[at] = pod(&name, Place::Arrived);
    }

    fn fails(&mut self, at: usize) {
        let name = self.pods[at].name.clone();
        self.pods[at] = pod(&name, Place::Failed("boot_loop".into()));
    }

    /// Until it waits, or is over.
    fn on(&mut self) -> State {
        for _ in 0..50 {
            let seen = Seen {
                standing: standing(&self.document, &self.journal),
                frozen: self.frozen.clone(),
                pods: self.pods.clone(),
                ever: true,
            };
            match self.machine.step(&self.journal, &seen, self.now_ms) {
                Action::Wait => return self.journal.state,
                Action::Stop(why) => {
                    self.stopped = Some(why);
                    return self.journal.state;
                }
                Action::Enter(journal) => self.journal = *journal,
                Action::Point(point) => self.document = changed(&self.document, &self.journal, point, "now"),
                Action::Run(Which::Before) => self.machine.ran(self.before.clone()),
                Action::Run(Which::Smoke) => self.machine.ran(self.smoke.clone()),
            }
        }
        panic!("it never waits: {:?}", self.journal);
    }

    fn after(&mut self, seconds: u64) -> State {
        self.now_ms += seconds * 1000;
        self.on()
    }

    fn ended(&self) -> (Outcome, &str) {
        (self.journal.result.expect("the end"), self.journal.why.as_deref().unwrap_or_default())
    }

    fn canary(&self) -> serde_json::Value {
        self.document.get("canary").unwrap_or_default()
    }
}

#[test]
fn a_good_rollout_goes_step_by_step_to_all_pods() {
    let mut story = Story::in_canary(options());
    assert_eq!(story.canary()["pods"], 1);
    assert_eq!(story.on(), State::Bake, "the smoke test has passed");
    assert_eq!(story.after(9), State::Bake);
    assert_eq!((story.after(1), story.journal.step), (State::Step, 2));
    assert_eq!((&story.canary()["percent"], story.canary().get("pods")), (&50.into(), None));
    story.arrives(1);
    assert_eq!(story.on(), State::Bake);
    assert_eq!((story.after(10), story.journal.step), (State::Step, 3));
    story.arrives(2);
    story.pods[3] = pod("d", Place::Coming("verifying".into()));
    assert_eq!(story.on(), State::Step);
    story.arrives(3);
    assert_eq!(story.on(), State::Bake);
    assert_eq!(story.after(10), State::Done);
    assert_eq!(story.ended(), (Outcome::Done, "4 of 4 pods ran it"));
    let pointer = story.document.pointer.clone().unwrap();
    assert_eq!((pointer.revision, pointer.previous.unwrap().as_str()), (story.journal.revision(), "v41"));
    assert!(story.canary().is_null());
}

#[test]
fn a_migration_that_fails_moves_nothing() {
    let mut story = Story::new(options());
    story.before = Err("--before ended with exit code 3".into());
    assert_eq!(story.on(), State::Aborted);
    assert_eq!(story.ended(), (Outcome::Failed, "--before ended with exit code 3"));
    assert_eq!(story.document.text(), Document::of(BASE).text());
}

#[test]
fn a_smoke_test_that_fails_takes_the_canary_back() {
    let mut story = Story::in_canary(options());
    story.smoke = Err("--smoke ended with exit code 1".into());
    assert_eq!(story.on(), State::Aborting, "the pod is not back yet");
    let aborted: serde_json::Value = story.document.get("aborted").unwrap();
    assert_eq!((&aborted["release"], &aborted["sequence"]), (&"v42".into(), &8.into()));
    assert_eq!(aborted["why"], "--smoke ended with exit code 1");
    assert!(story.canary().is_null());
    let pointer = story.document.pointer.clone().unwrap();
    assert_eq!((pointer.revision, pointer.rolled_back.len()), (story.journal.base.clone(), 1));
    story.pods[0] = pod("a", Place::Elsewhere);
    assert_eq!(story.on(), State::Aborted);
    assert_eq!(story.ended(), (Outcome::TakenBack, "--smoke ended with exit code 1"));
}

#[test]
fn one_pod_that_fails_is_enough_in_the_canary_and_one_too_many_later() {
    let mut story = Story::new(options());
    story.on();
    story.fails(0);
    assert_eq!(story.on(), State::Aborting);
    let mut story = Story::in_canary(options());
    story.on();
    story.after(10);
    story.fails(1);
    assert_eq!(story.on(), State::Bake, "one may fail");
    story.fails(2);
    assert_eq!(story.on(), State::Aborting);
    assert_eq!(story.journal.why.as_deref(), Some("rejected by b: boot_loop, c: boot_loop"));
}

#[test]
fn a_pod_that_falls_during_the_bake_starts_it_anew() {
    let mut story = Story::in_canary(options());
    story.on();
    story.after(9);
    story.pods[0] = pod("a", Place::Coming("restarting".into()));
    assert_eq!(story.after(1), State::Bake);
    story.arrives(0);
    assert_eq!(story.after(1), State::Bake);
    assert_eq!(story.after(9), State::Bake);
    assert_eq!(story.after(1), State::Step);
}

#[test]
fn a_step_without_progress_is_taken_back_and_a_slow_one_is_not() {
    let mut story = Story::in_canary(Options { steps: vec![PodCount::Pods(1), ALL], ..options() });
    story.on();
    story.after(10);
    for pod in 1..3 {
        assert_eq!(story.after(590), State::Step);
        story.arrives(pod);
        story.on();
    }
    story.pods[3] = pod("d", Place::Coming("verifying".into()));
    assert_eq!(story.after(600), State::Aborting);
    assert_eq!(
        story.journal.why.as_deref(),
        Some("step 2 made no progress for 10m: 3 of 4 pods arrived; waiting for d (verifying)")
    );
    assert_eq!(story.after(599), State::Aborting);
    assert_eq!(story.after(1), State::Aborted, "and the pods do not go back either");
    assert_eq!(story.ended().0, Outcome::TimedOut);
}

#[test]
fn with_no_revert_everything_stays_as_it_is() {
    let stays = || Options { revert: false, ..options() };
    let mut story = Story::in_canary(stays());
    story.smoke = Err("--smoke ended with exit code 1".into());
    assert_eq!(story.on(), State::Aborted);
    assert_eq!((story.ended().0, &story.canary()["pods"]), (Outcome::Stays, &1.into()));
    let mut story = Story::new(stays());
    story.on();
    assert_eq!(story.after(600), State::Aborted);
    assert_eq!((story.ended().0, &story.canary()["pods"]), (Outcome::TimedOut, &1.into()));
}

#[test]
fn whoever_promotes_or_freezes_meanwhile_stops_it() {
    let mut story = Story::in_canary(options());
    story.document = Document::of(br#"{"release":"v43","sequence":9}"#);
    assert_eq!(story.on(), State::Aborted);
    assert_eq!(story.ended(), (Outcome::Lost, "it names v43#9 now"));
    let mut story = Story::in_canary(options());
    story.frozen = Some("by ann: audit".into());
    assert_eq!(story.on(), State::Canary);
    assert!(story.stopped.is_some());
    // What an operator takes back is taken back.
    story.journal = story.journal.entering(State::Aborting, 1);
    story.pods[0] = pod("a", Place::Elsewhere);
    assert_eq!(story.on(), State::Aborted);
    assert_eq!(story.ended().0, Outcome::TakenBack);
    // The pointer names it already: there is nothing left to be stopped.
    let mut story = Story::in_canary(options());
    story.frozen = Some("audit".into());
    story.document = Document::of(br#"{"release":"v42","sequence":8}"#);
    story.journal = story.journal.entering(State::Finish, 2);
    assert_eq!(story.on(), State::Done);
}

#[test]
fn a_migration_that_was_done_when_the_pointer_was_frozen_is_not_run_again() {
    let mut story = Story::new(options());
    story.machine.step(&story.journal.clone(), &seen(&story), 0);
    story.journal.before = Some(Before::Running);
    story.machine.ran(Ok(()));
    story.frozen = Some("audit".into());
    assert_eq!(story.on(), State::Canary);
    assert_eq!(story.journal.before, Some(Before::Done));
}

fn seen(story: &Story) -> Seen {
    Seen { standing: Standing::Before, frozen: None, pods: story.pods.clone(), ever: true }
}

#[test]
fn a_pod_that_never_reports_again_is_waited_for_no_longer_than_it_may_be_silent() {
    let mut story = Story::in_canary(Options { steps: vec![PodCount::Pods(1), ALL], ..options() });
    story.on();
    story.after(10);
    (1..3).for_each(|pod| story.arrives(pod));
    story.pods[3] = Pod { silent_ms: 3_600_000, ..pod("d", Place::Elsewhere) };
    assert_eq!(story.after(350), State::Step, "it may not have read the pointer yet");
    assert_eq!(story.after(20), State::Bake);
}

#[test]
fn pods_that_are_none_of_the_step_do_not_stand_for_those_that_are_missing() {
    let mut story = Story::in_canary(options());
    story.on();
    story.after(10);
    // One of the two pods of half the fleet has arrived. The others are at rest, and one of them is to come.
    story.pods.iter_mut().skip(1).for_each(|pod| (pod.silent_ms, pod.stays_out) = (500_000, true));
    assert_eq!(story.after(500), State::Step, "they are silent since nothing is new to them");
    story.arrives(1);
    assert_eq!(story.on(), State::Bake);
    // In the last step all are to come.
    assert_eq!((story.after(10), story.journal.step), (State::Step, 3));
    story.arrives(2);
    story.pods[3].silent_ms = 600_000;
    assert_eq!(story.after(350), State::Step);
    assert_eq!(story.after(20), State::Bake);
}

#[test]
fn of_many_pods_that_fail_some_are_named() {
    let mut story = Story::in_canary(options());
    story.pods.extend((0..300).map(|n| pod(&format!("web-{n}"), Place::Failed("boot_loop".into()))));
    assert_eq!(story.on(), State::Aborting);
    let why = story.journal.why.clone().unwrap();
    assert!(why.ends_with("web-9: boot_loop, and 290 more") && why.len() < 300, "{why}");
}

#[test]
fn where_no_pod_ever_reports_nobody_waits_for_long() {
    let mut story = Story::new(options());
    story.on();
    let none =
        |ever| Seen { standing: standing(&story.document, &story.journal), frozen: None, pods: vec![], ever };
    assert_eq!(story.machine.step(&story.journal, &none(true), 130_000), Action::Wait);
    let Action::Enter(next) = story.machine.step(&story.journal, &none(false), 130_000) else { panic!() };
    assert_eq!(next.state, State::Aborting);
    assert!(next.why.unwrap().starts_with("no pod has ever reported"));
}

#[test]
fn who_drove_it_before_writes_nothing_more() {
    let mut story = Story::in_canary(options());
    story.on();
    let before = story.journal.clone();
    story.journal.fence = 2;
    story.machine = Machine::default();
    story.on();
    assert_eq!(story.canary()["rollout"]["fence"], 2);
    assert_eq!(standing(&story.document, &before), Standing::Moved("the rollout was taken over".into()));
}
