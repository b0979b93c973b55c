//! The core and the app-server trait fit more than Puma: a scripted server that, like Unicorn, starts
//! a second master beside the first, is driven through whole deploys. Its time is the test's own.

use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, future::BoxFuture};
use pitstop::{
    app_server::{AppServer, Description, Look, Wanted},
    core::{
        self, Agent, Cwd, DeployResult, Detection, Effect, Event, Generation, GenerationKey, Mode, Moment,
        Observation, Outcome, Plan, Policy, Problem, Process, ProcessKey, Reason, Record, Recovered,
        ServerCommand, Shift, Stage, Step, Traffic, drain::Budget,
    },
    revision::{RecordEvent, ReleaseId, Revision},
};

const BOOT_MS: u64 = 1_000;

/// A master and its one worker.
#[derive(Debug, Clone)]
struct Master {
    key: u64,
    release: ReleaseId,
    since: u64,
}

#[derive(Debug)]
struct Script {
    now: u64,
    current: ReleaseId,
    masters: Vec<Master>,
    keys: u64,
    acts: Vec<ServerCommand>,
    /// Whether the app answered after each act.
    served: bool,
    /// What the journal says.
    records: Vec<Record>,
}

/// A server of two generations; releases whose name begins with `bad` never boot in it.
#[derive(Clone)]
struct TwoGenerations(Arc<Mutex<Script>>);

impl Script {
    fn boots(&self, master: &Master) -> bool {
        let release = master.release.as_str();
        !release.starts_with("bad") && !release.starts_with("raises") && self.now >= master.since + BOOT_MS
    }

    /// A second master whose release raises before it has a worker.
    fn raises(&mut self) {
        let now = self.now;
        self.masters.retain(|m| !(m.release.as_str().starts_with("raises") && now >= m.since + BOOT_MS / 2));
    }

    fn start(&mut self) {
        self.keys += 1;
        self.masters.push(Master { key: self.keys, release: self.current.clone(), since: self.now });
    }

    fn generation(&self, master: &Master) -> Generation {
        let cwd = Cwd::Release(master.release.clone());
        let booted = self.boots(master);
        Generation {
            key: GenerationKey(master.key),
            master: ProcessKey(master.key),
            signalable: true,
            cwd: cwd.clone(),
            expected: 1,
            processes: vec![Process { key: ProcessKey(master.key + 1_000), cwd, booted }],
        }
    }

    fn act(&mut self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        self.acts.push(command);
        let Some(newest) = self.masters.last().filter(|master| master.key == on.0) else {
            return Err(Problem::new(Reason::MasterGone, format!("{on:?} is not the newest master")));
        };
        match (command, newest.key) {
            (ServerCommand::Restart(_), _) => self.start(),
            (ServerCommand::Commit, newest) => self.masters.retain(|master| master.key == newest),
            (ServerCommand::Abort(_), newest) => self.masters.retain(|master| master.key != newest),
            (ServerCommand::Recover, _) => self.masters.clear(),
            (
                ServerCommand::Switch
                | ServerCommand::Share { .. }
                | ServerCommand::End
                | ServerCommand::Kill,
                _,
            ) => {}
        }
        Ok(())
    }
}

impl AppServer for TwoGenerations {
    fn observe(&self) -> BoxFuture<'_, Look> {
        let mut script = self.0.lock().unwrap();
        script.raises();
        script.served &= script.masters.iter().any(|master| script.boots(master));
        let generations = script.masters.iter().map(|master| script.generation(master)).collect();
        let detection = Detection::Seen(core::AppServer { generations, ..core::AppServer::default() });
        let look = Look {
            detection,
            traffic: Traffic::default(),
            description: Description::default(),
            findings: vec![],
        };
        async { look }.boxed()
    }

    fn plan<'a>(&'a self, _: Wanted<'a>) -> BoxFuture<'a, Result<Plan, Problem>> {
        async { Ok(Plan::new(Mode::Hot)) }.boxed()
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        let result = self.0.lock().unwrap().act(command, on);
        async { result }.boxed()
    }
}

/// The core with a scripted server and a volume that always works.
struct Pod {
    agent: Agent,
    server: TwoGenerations,
    results: Vec<DeployResult>,
}

fn agent(recovered: &Recovered, now: u64) -> Agent {
    let unknown = Problem::new(Reason::VolumeUnavailable, "");
    let mut agent = Agent::new(policy().drain, None, unknown);
    agent.recover(policy(), recovered, Moment(now));
    agent
}

impl Pod {
    fn on(release: &str) -> Self {
        let script = Script {
            now: 10_000,
            current: id(release),
            masters: vec![Master { key: 1, release: id(release), since: 0 }],
            keys: 1,
            acts: vec![],
            served: true,
            records: vec![],
        };
        let records = vec![verified(release)];
        let recovered = Recovered { current: Some(id(release)), records, ..Recovered::default() };
        let agent = agent(&recovered, script.now);
        Self { agent, server: TwoGenerations(Arc::new(Mutex::new(script))), results: vec![] }
    }

    fn script<T>(&self, read: impl FnOnce(&mut Script) -> T) -> T {
        read(&mut self.server.0.lock().unwrap())
    }

    /// Moves the pointer and lets time pass until the deploy is over.
    fn deploy(&mut self, release: &str, sequence: u64) {
        let revision = Revision { release: id(release), sequence: Some(sequence) };
        self.step(Event::Pointer(Ok(revision.into())));
        self.until(|pod| !pod.results.is_empty() && pod.agent.view().stage == Stage::Steady);
    }

    #[track_caller]
    fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            self.pass_time();
            if condition(self) {
                return;
            }
        }
        panic!("it never came: {:?}", self.agent.view());
    }

    /// The agent is killed, and started again.
    fn crash(&mut self) {
        let (now, current, mut records) =
            self.script(|script| (script.now, script.current.clone(), script.records.clone()));
        records.insert(0, verified("v1"));
        let recovered = Recovered { current: Some(current), records, ..Recovered::default() };
        self.agent = agent(&recovered, now);
    }

    /// Moves the pointer, and stops where the core asks for this.
    fn deploy_until(&mut self, release: &str, stop: impl Fn(&Effect) -> bool) {
        let revision = Revision { release: id(release), sequence: Some(1) };
        let mut events = vec![Event::Pointer(Ok(revision.into()))];
        for _ in 0..2_000 {
            while let Some(event) = events.pop() {
                let now = Moment(self.script(|script| script.now));
                for effect in self.agent.step(now, event) {
                    if stop(&effect) {
                        return;
                    }
                    self.script(|script| script.now += 1);
                    events.extend(self.perform(effect));
                }
            }
            self.script(|script| script.now += 100);
            events.push(self.look());
        }
        panic!("it never came: {:?}", self.agent.view());
    }

    fn look(&self) -> Event {
        let began = Moment(self.script(|script| script.now));
        let look = self.server.observe().now_or_never().expect("a scripted look is immediate");
        Event::Observed(Observation::new(began, look.detection, look.traffic))
    }

    fn pass_time(&mut self) {
        self.script(|script| script.now += 100);
        let look = self.look();
        self.step(look);
        self.step(Event::Tick);
    }

    fn step(&mut self, event: Event) {
        let now = Moment(self.script(|script| script.now));
        for effect in self.agent.step(now, event) {
            if let Some(finished) = self.perform(effect) {
                self.script(|script| script.now += 1);
                self.step(finished);
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Event> {
        let (attempt, step, outcome) = match effect {
            Effect::Fetch { attempt, .. } => (attempt, Step::Fetch, Outcome::Done),
            Effect::Check { attempt, release, running, beside, .. } => {
                let wanted = Wanted { running: running.as_ref(), release: &release, beside };
                let plan = self.server.plan(wanted).now_or_never().expect("immediate");
                (attempt, Step::Check, plan.map_or_else(Outcome::Failed, Outcome::Checked))
            }
            Effect::Record { attempt, record } => {
                let step = Step::Record(record.event);
                self.script(|script| script.records.push(record));
                (attempt, step, Outcome::Done)
            }
            Effect::Publish { attempt, release } => {
                self.script(|script| script.current = release);
                (attempt, Step::Publish, Outcome::Done)
            }
            Effect::Perform { attempt, command, on } => {
                let result = self.server.perform(command, on).now_or_never().expect("immediate");
                (attempt, Step::Perform(command), result.map_or_else(Outcome::Failed, |()| Outcome::Done))
            }
            Effect::Conclude { result, .. } => {
                self.results.push(result);
                return None;
            }
            Effect::Notice(_) | Effect::Drain(_) => return None,
        };
        Some(Event::Finished { attempt, step, outcome })
    }

    fn running(&self) -> Vec<String> {
        self.script(|script| script.masters.iter().map(|master| master.release.to_string()).collect())
    }
}

fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

fn verified(release: &str) -> Record {
    let revision = Revision { release: id(release), sequence: Some(0) };
    Record { event: RecordEvent::Verified, revision, reason: None, baseline: None, mode: None }
}

fn policy() -> Policy {
    let drain = Budget {
        min_ms: 5_000,
        quiet_min_ms: 2_000,
        quiet_max_ms: 15_000,
        max_ms: 18_000,
        ..Budget::default()
    };
    Policy {
        hot_timeout_ms: 20_000,
        phased_timeout_ms: 20_000,
        phased_worker_ms: 0,
        second_master: true,
        beside_only: false,
        shift: Shift::default(),
        in_place: false,
        settle_ms: 5_000,
        soak_ms: 1_000,
        probing: false,
        successes: 3,
        naming: false,
        evidence_ms: 0,
        long_request_ms: None,
        wait_in_flight_ms: 0,
        spread_ms: None,
        reports: false,
        wave: 0,
        fallback: false,
        unwell_ms: 1_000,
        unwell_max_ms: 4_000,
        retry_ms: 1_000,
        drain,
    }
}

#[test]
fn the_old_generation_serves_until_the_new_one_is_proven_and_ends_then() {
    let mut pod = Pod::on("v1");
    pod.deploy("v2", 1);
    assert_eq!(pod.results, [DeployResult::Verified]);
    assert_eq!(
        pod.script(|script| script.acts.clone()),
        [ServerCommand::Restart(Mode::Hot), ServerCommand::Commit]
    );
    assert_eq!(pod.running(), ["v2"]);
    assert_eq!(pod.agent.view().running, Some(id("v2")));
    assert!(pod.script(|script| script.served), "there was a moment without a booted generation");
}

#[test]
fn a_new_generation_that_does_not_boot_is_ended_and_the_old_one_never_stopped() {
    let mut pod = Pod::on("v1");
    pod.deploy("bad", 1);
    assert!(matches!(&pod.results[..], [DeployResult::Reverted(why)] if why.reason == Reason::BootTimeout));
    assert_eq!(
        pod.script(|script| script.acts.clone()),
        [ServerCommand::Restart(Mode::Hot), ServerCommand::Abort(Mode::Hot)]
    );
    assert_eq!(pod.running(), ["v1"]);
    assert_eq!(pod.script(|script| script.current.clone()), id("v1"));
    assert!(pod.script(|script| script.served), "there was a moment without a booted generation");
    let view = pod.agent.view();
    assert_eq!((view.running, view.rejected.len(), view.in_sync), (Some(id("v1")), 1, false));
}

#[test]
fn a_second_master_that_ends_by_itself_is_taken_for_a_failed_boot_at_once() {
    let mut pod = Pod::on("v1");
    let began = pod.script(|script| script.now);
    pod.deploy("raises", 1);
    assert!(matches!(&pod.results[..], [DeployResult::Reverted(why)] if why.reason == Reason::BootFailed));
    assert_eq!(
        pod.script(|script| script.acts.clone()),
        [ServerCommand::Restart(Mode::Hot)],
        "there is nobody to be ended"
    );
    let took = pod.script(|script| script.now) - began;
    assert!(took < policy().settle_ms, "nothing was waited for: {took} ms");
    assert_eq!((pod.running(), pod.agent.view().running), (vec!["v1".into()], Some(id("v1"))));
    assert!(pod.script(|script| script.served));
}

#[test]
fn an_agent_that_dies_between_the_proof_and_the_end_of_the_old_master_ends_it_then() {
    let mut pod = Pod::on("v1");
    pod.deploy_until("v2", |effect| matches!(effect, Effect::Perform { command: ServerCommand::Commit, .. }));
    assert_eq!(pod.running(), ["v1", "v2"]);
    pod.crash();
    pod.until(|pod| pod.running() == ["v2"] && pod.agent.view().running == Some(id("v2")));
    assert_eq!(
        pod.script(|script| script.acts.clone()),
        [ServerCommand::Restart(Mode::Hot), ServerCommand::Commit]
    );
}

#[test]
fn an_agent_that_dies_before_the_signal_asks_again_and_starts_one_second_master_only() {
    let mut pod = Pod::on("v1");
    pod.deploy_until("v2", |effect| {
        matches!(effect, Effect::Perform { command: ServerCommand::Restart(_), .. })
    });
    pod.crash();
    let crashed = pod.script(|script| script.now);
    pod.until(|pod| pod.running() == ["v2"] && pod.agent.view().running == Some(id("v2")));
    assert_eq!(
        pod.script(|script| script.acts.clone()),
        [ServerCommand::Restart(Mode::Hot), ServerCommand::Commit]
    );
    let took = pod.script(|script| script.now) - crashed;
    assert!(took < policy().hot_timeout_ms, "the whole time of a restart was waited for: {took} ms");
}

#[test]
fn two_masters_of_other_hands_are_left_alone() {
    let mut pod = Pod::on("v1");
    pod.pass_time();
    pod.script(|script| script.start());
    for _ in 0..300 {
        pod.pass_time();
    }
    assert_eq!(pod.running(), ["v1", "v1"]);
    assert_eq!((pod.script(|script| script.acts.clone()), &pod.results[..]), (vec![], &[][..]));
}
