//! Thirty agents in one process, with the real supervisor, store client and reports, beside a simulated app server; and a
//! few of them with an S3 server of another make, which holds them to the documented rights.

mod agents;
mod asked;
mod rig;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use asked::{Asked, BUDGET, Documented};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use pitstop::{
    config::{self, S3Location},
    store::{
        Body, Condition, Found, Store,
        s3::{S3Store, Settings},
    },
};
use pitstop_rig::{S3Rig, s3::Moto};
use rig::{Env, Fleet, PATIENCE};
use serde_json::{Value, json};

/// So many; others by `FLEET_AGENTS`.
const AGENTS: usize = 30;

/// No test of its own: the process of the agents, which the others start.
#[test]
fn process_of_the_agents() {
    if std::env::var_os(agents::PODS).is_some() {
        agents::run();
    }
}

fn agents() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "process_of_the_agents", "--nocapture"]);
    command
}

/// Where releases and pointers are, and what processes of each role are given.
struct Place {
    source: String,
    endpoint: String,
    keys: (String, String),
    agent: Env,
    ci: Env,
    promoter: Env,
}

/// What writes the pointer as somebody does by hand.
struct Hand(Arc<dyn Store>, tokio::runtime::Runtime);

impl Hand {
    fn of(place: &Place) -> Self {
        let (access, secret) = place.keys.clone();
        let credentials = Credentials::new(access, secret, None, None, "the test");
        let region = Some(pitstop_rig::s3::REGION.into());
        let settings = Settings {
            keys: config::S3 { region, endpoint: Some(place.endpoint.clone()), path_style: true },
            credentials: Some(SharedCredentialsProvider::new(credentials)),
            ..Settings::default()
        };
        let location = S3Location::parse(&place.source).unwrap().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Self(Arc::new(S3Store::new(location, settings)), runtime)
    }

    fn point(&self, pointer: &Value) {
        let body = Body::Bytes(pointer.to_string().into_bytes());
        self.1.block_on(self.0.put("pointers/production", body, Condition::Any)).unwrap();
    }

    fn read(&self, key: &str) -> Option<Value> {
        match self.1.block_on(self.0.get(key, None, 1 << 16)).unwrap() {
            Found::Object { bytes, .. } => serde_json::from_slice(&bytes).ok(),
            _ => None,
        }
    }
}

trait Pods {
    /// What `pitstop fleet --json` says of them.
    fn pods(&self) -> Vec<Value>;

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut(&[Value]) -> bool) -> Vec<Value> {
        let since = Instant::now();
        loop {
            let pods = self.pods();
            if holds(&pods) {
                println!("{:5.1} s: {what}", since.elapsed().as_secs_f64());
                return pods;
            }
            assert!(since.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{pods:#?}");
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// All of so many pods run this, proved.
    #[track_caller]
    fn all_run(&self, pods: usize, release: &str) -> Vec<Value> {
        self.until(&format!("{pods} pods run {release}"), |all| {
            all.iter().filter(|pod| pod["running"] == release && pod["state"] == "in_sync").count() == pods
        })
    }
}

impl Pods for Fleet {
    fn pods(&self) -> Vec<Value> {
        let told: Value = serde_json::from_str(&self.pitstop(&["fleet", "production", "--json"])).unwrap();
        told["pointers"][0]["pods"].as_array().unwrap().clone()
    }
}

fn runs(pods: &[Value], release: &str) -> usize {
    pods.iter().filter(|pod| pod["running"] == release).count()
}

/// Pods that run `v1`, for this one was rejected: by themselves, or by one that had tried it before them.
fn rejected(pods: &[Value]) -> usize {
    pods.iter().filter(|pod| pod["reason"] == "rejected" && pod["running"] == "v1").count()
}

/// At rest, a pod reads the pointer and nothing else; a report in ten minutes comes on top. What a deploy takes of a larger
/// fleet is counted by `make bench BENCH=fleet`.
#[test]
fn what_pods_ask_of_the_store_costs_no_more_than_documented() {
    const PODS: usize = 6;
    let documented = Documented::read();
    let Documented { day, deploy, prices } = documented;
    let dollars = 1_000.0 * (day.dollars(prices) + deploy.dollars(prices));
    assert!(dollars <= BUDGET, "1,000 pods, a day with a deploy: ${dollars:.2}");
    let s3 = S3Rig::start();
    ["v1", "v2"].iter().for_each(|release| Fleet::publish(&s3.env(), release));
    let agent = [s3.env(), vec![("PITSTOP_POLL_INTERVAL".into(), "1s".into())]].concat();
    let fleet = Fleet::start(agents(), PODS, &agent, s3.env());
    // Of the requests since then, those for the pointer, and the others.
    let since = |from: usize| {
        let seen = s3.seen().split_off(from);
        seen.into_iter().partition::<Vec<_>, _>(|one| one.key == "pointers/production")
    };
    fleet.pitstop(&["promote", "v1", "--create"]);
    rig::arrived(&s3, PODS, "v1", 1);
    let ended = |sequence: u64| s3.object(&format!("moves/production/{sequence}.end"));
    pitstop_rig::until_within(PATIENCE, "the end of the first move", || ended(1));
    let (from, began) = (s3.seen().len(), Instant::now());
    fleet.pitstop(&["promote", "v2"]);
    let by_promote = since(from).1.len();
    rig::arrived(&s3, PODS, "v2", 2);
    let seconds = began.elapsed().as_secs_f64();
    pitstop_rig::until_within(PATIENCE, "the end of the second move", || ended(2));
    pitstop_rig::until_within(PATIENCE, "pods that ask for the pointer alone", || {
        let from = s3.seen().len();
        pitstop_rig::until_within(PATIENCE, "looks", || (since(from).0.len() >= 5 * PODS).then_some(()));
        since(from).1.is_empty().then_some(())
    });
    let asked = Asked::by(&since(from).1[by_promote..], PODS);
    println!("a deploy of one of {PODS} pods: {asked:?} in {seconds:.1} s");
    // While a pod waits for its turn it reads the reports of so small a fleet every three seconds, give or take a fifth,
    // and lists them every thirty.
    let (gets, lists) = (20.0 + (seconds / 2.4 + 1.0) * (PODS as f64 - 1.0), deploy.lists + seconds / 30.0);
    assert!(asked.gets <= gets && asked.puts <= deploy.puts && asked.lists <= lists, "{asked:?}");
}

/// A fleet, and the hand that writes its pointer.
struct Story {
    hand: Hand,
    fleet: Fleet,
    all: usize,
}

impl Story {
    /// So many pods that all run `v1`.
    fn begin(place: &Place, all: usize) -> Self {
        ["v1", "v2", "v3", "v4", "bad"].iter().for_each(|release| Fleet::publish(&place.ci, release));
        // Many agents of one process take longer for everything.
        let slower = [("PITSTOP_POLL_INTERVAL", "10s"), ("PITSTOP_RESTART_TIMEOUT", "30s")];
        let slower =
            slower.iter().filter(|_| all > AGENTS).map(|(name, value)| ((*name).into(), (*value).into()));
        let agent = place.agent.iter().cloned().chain(slower).collect();
        let fleet = Fleet::start(agents(), all, &agent, place.promoter.clone());
        fleet.pitstop(&["promote", "v1", "--create"]);
        fleet.all_run(all, "v1");
        Self { hand: Hand::of(place), fleet, all }
    }

    /// Nobody moves the pointer, and the pods go on with what it names.
    fn freeze(&self) {
        self.fleet.pitstop(&["freeze", "production", "--why", "audit"]);
        self.fleet.ends(&["promote", "v3"], 4);
        let pods = self.fleet.pods();
        let well = pods.iter().filter(|pod| pod["running"] == "v1" && pod["state"] == "in_sync").count();
        assert_eq!(well, self.all, "{pods:#?}");
        self.fleet.pitstop(&["unfreeze", "production"]);
    }

    fn canary(&self, release: &str, sequence: u64, share: (&str, u8)) {
        let mut canary = json!({ "release": release, "sequence": sequence });
        canary[share.0] = share.1.into();
        self.hand.point(&json!({ "release": "v1", "sequence": 1, "canary": canary }));
    }

    fn abort(&self, release: &str, sequence: u64) {
        let aborted = json!({ "release": release, "sequence": sequence, "why": "p95 is up" });
        self.hand
            .point(&json!({ "release": "v1", "sequence": 1, "aborted": aborted, "rolled_back": [release] }));
        self.fleet.all_run(self.all, "v1");
    }

    /// All pods have read of this canary.
    fn know(&self, pods: &[Value], sequence: u64) -> bool {
        pods.iter().all(|pod| {
            let report = self.hand.read(&format!("fleet/production/{}", pod["pod"].as_str().unwrap()));
            report.is_some_and(|report| report["canary_sequence"] == sequence)
        })
    }

    /// Three pods claim it, and no others follow it.
    fn canary_of_three(&self) -> Vec<Value> {
        self.canary("v2", 2, ("pods", 3));
        let pods = self.fleet.until("three pods run v2, and all know of it", |pods| {
            assert!(runs(pods, "v2") <= 3);
            runs(pods, "v2") == 3 && self.know(pods, 2)
        });
        pods.iter().filter(|pod| pod["running"] == "v2").map(|pod| pod["pod"].clone()).collect()
    }

    /// A pod that is born meanwhile starts on the release of the others: no claim is free.
    fn birth(&mut self) {
        let born = format!("web-{}", self.all);
        self.fleet.tell(&format!("start {born}"));
        self.all += 1;
        self.fleet.until("the new pod runs v1", |pods| {
            pods.iter().any(|pod| pod["pod"] == *born && pod["running"] == "v1") && self.know(pods, 2)
        });
    }

    /// It stays with the pods that were to try it.
    fn bad_canary(&self) {
        self.canary("bad", 3, ("pods", 2));
        self.fleet.until("two pods have rejected it", |pods| {
            rejected(pods) == 2 && runs(pods, "v1") == self.all && self.know(pods, 3)
        });
        self.abort("bad", 3);
    }

    /// A quarter at a time, and one pod writes down how it ended.
    fn move_of_all(&mut self, sequence: u64) {
        self.fleet.most_at_once();
        self.fleet.pitstop(&["promote", "v3"]);
        self.fleet.all_run(self.all, "v3");
        let (most, all) = (self.fleet.most_at_once(), self.all);
        assert!((1..=(all / 4).max(1)).contains(&most), "{most} pods restarted at the same time");
        let end = format!("moves/production/{sequence}.end");
        let end = pitstop_rig::until_within(PATIENCE, "the end of the move", || self.hand.read(&end));
        let message = format!("{all} of {all} pods ran it");
        assert_eq!((&end["result"], &end["message"]), (&json!("verified"), &json!(message)));
    }

    /// They hold nobody up for ever.
    fn lost_agents(&mut self, sequence: u64) {
        let lost = self.all / 6;
        (0..lost).for_each(|pod| self.fleet.tell(&format!("kill web-{pod}")));
        self.fleet.pitstop(&["promote", "v4"]);
        self.fleet.all_run(self.all - lost, "v4");
        let end = self.hand.read(&format!("moves/production/{sequence}.end"));
        assert_eq!(end, None, "some pods have not arrived");
    }
}

#[test]
fn a_fleet_of_agents_follows_canaries_aborts_and_moves() {
    let s3 = S3Rig::start();
    let (source, endpoint, keys) = (s3.source(), s3.endpoint(), s3.keys());
    let keys = (keys.access, keys.secret);
    let env = || s3.env();
    let agents = std::env::var("FLEET_AGENTS").map_or(AGENTS, |agents| agents.parse().unwrap());
    let mut story =
        Story::begin(&Place { source, endpoint, keys, agent: env(), ci: env(), promoter: env() }, agents);
    story.freeze();
    let first = story.canary_of_three();
    story.birth();
    // Half of them, a quarter at a time; those three stay.
    story.fleet.most_at_once();
    story.canary("v2", 2, ("percent", 50));
    let pods = story.fleet.until("half of the pods run v2", |pods| runs(pods, "v2") >= agents / 2);
    let most = story.fleet.most_at_once();
    assert!((1..=story.all / 4).contains(&most), "{most} pods restarted at the same time");
    assert!(pods.iter().all(|pod| !first.contains(&pod["pod"]) || pod["running"] == "v2"));
    // All of them go back, and nobody has rejected anything.
    story.abort("v2", 2);
    story.bad_canary();
    story.move_of_all(4);
    story.lost_agents(5);
}

/// What takes rights: claims, reports, and the end of a move.
#[test]
fn agents_with_the_documented_rights_do_the_same_with_another_server() {
    let Some(moto) = Moto::start() else { return };
    let (source, endpoint, keys) = (moto.source(), moto.endpoint(), moto.keys("promoter"));
    let [agent, ci, promoter] = ["agent", "ci", "promoter"].map(|who| moto.env(who));
    let mut story = Story::begin(&Place { source, endpoint, keys, agent, ci, promoter }, 6);
    story.canary_of_three();
    story.abort("v2", 2);
    story.move_of_all(3);
}
