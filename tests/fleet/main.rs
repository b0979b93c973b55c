//! Thirty agents in one process, with the real supervisor, store client and reports, beside a simulated app server; and a
//! few of them with an S3 server of another make, which holds them to the documented rights. `make bench BENCH=fleet` has
//! up to 300.

mod agents;
mod rig;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

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

fn rejected(pods: &[Value]) -> usize {
    pods.iter().filter(|pod| pod["desired"]["release"] == "bad" && pod["running"] == "v1").count()
}

#[test]
fn a_fleet_of_agents_follows_canaries_aborts_and_moves() {
    let s3 = S3Rig::start();
    let (source, endpoint, keys) = (s3.source(), s3.endpoint(), s3.keys());
    let keys = (keys.access, keys.secret);
    let env = || s3.env();
    story(&Place { source, endpoint, keys, agent: env(), ci: env(), promoter: env() }, 30);
    let seen = s3.seen();
    let asks = |what: &str| seen.iter().filter(|one| one.method == what).count() / 30;
    println!("a pod has asked {} times and written {} times", asks("GET"), asks("PUT"));
}

#[test]
fn agents_with_the_documented_rights_do_the_same_with_another_server() {
    let Some(moto) = Moto::start() else { return };
    let (source, endpoint, keys) = (moto.source(), moto.endpoint(), moto.keys("promoter"));
    let [agent, ci, promoter] = ["agent", "ci", "promoter"].map(|who| moto.env(who));
    story(&Place { source, endpoint, keys, agent, ci, promoter }, 6);
}

fn story(place: &Place, all: usize) {
    let hand = Hand::of(place);
    ["v1", "v2", "v3", "v4", "bad"].iter().for_each(|release| Fleet::publish(&place.ci, release));
    let mut fleet = Fleet::start(agents(), all, &place.agent, place.promoter.clone());
    fleet.pitstop(&["promote", "v1", "--create"]);
    fleet.all_run(all, "v1");

    // Three pods claim the canary, and no others follow it.
    let canary = |release: &str, sequence: u64, share: (&str, u8)| {
        let mut canary = json!({ "release": release, "sequence": sequence });
        canary[share.0] = share.1.into();
        json!({ "release": "v1", "sequence": 1, "canary": canary })
    };
    hand.point(&canary("v2", 2, ("pods", 3)));
    let know = |pods: &[Value], sequence: u64| {
        let knows = |pod: &&Value| {
            let report = hand.read(&format!("fleet/production/{}", pod["pod"].as_str().unwrap()));
            report.is_some_and(|report| report["canary_sequence"] == sequence)
        };
        pods.iter().filter(knows).count()
    };
    let pods = fleet.until("three pods run v2, and all know of it", |pods| {
        assert!(runs(pods, "v2") <= 3);
        runs(pods, "v2") == 3 && know(pods, 2) == all
    });
    let first: Vec<_> =
        pods.iter().filter(|pod| pod["running"] == "v2").map(|pod| pod["pod"].clone()).collect();
    // Half of them: those three stay.
    hand.point(&canary("v2", 2, ("percent", 50)));
    let pods = fleet.until("half of the pods run v2", |pods| runs(pods, "v2") >= all / 2);
    assert!(pods.iter().all(|pod| !first.contains(&pod["pod"]) || pod["running"] == "v2"));
    // It is aborted: all of them go back, and nobody has rejected anything.
    let aborted = json!({ "release": "v2", "sequence": 2, "why": "p95 is up" });
    hand.point(&json!({ "release": "v1", "sequence": 1, "aborted": aborted, "rolled_back": ["v2"] }));
    fleet.all_run(all, "v1");

    // A canary that is bad stays with the pods that were to try it.
    hand.point(&canary("bad", 3, ("pods", 2)));
    fleet.until("two pods have tried it and are back", |pods| {
        let back = rejected(pods) == 2 && runs(pods, "v1") == all;
        back && know(pods, 3) == all
    });
    let aborted = json!({ "release": "bad", "sequence": 3, "why": "boot_loop" });
    hand.point(&json!({ "release": "v1", "sequence": 1, "aborted": aborted, "rolled_back": ["bad"] }));
    fleet.all_run(all, "v1");

    // A move for all of them: a quarter at a time, and one pod writes down how it ended.
    fleet.most_at_once();
    fleet.pitstop(&["promote", "v3"]);
    fleet.all_run(all, "v3");
    let most = fleet.most_at_once();
    assert!((1..=(all / 4).max(1)).contains(&most), "{most} pods restarted at the same time");
    fleet.until("the end of the move is written down", |_| hand.read("moves/production/4.end").is_some());
    let end = hand.read("moves/production/4.end").unwrap();
    assert_eq!(
        (&end["result"], &end["message"]),
        (&json!("verified"), &json!(format!("{all} of {all} pods ran it")))
    );

    // Agents that are lost hold nobody up for ever.
    let lost = all / 6;
    (0..lost).for_each(|pod| fleet.tell(&format!("kill web-{pod}")));
    fleet.pitstop(&["promote", "v4"]);
    fleet.all_run(all - lost, "v4");
    assert_eq!(hand.read("moves/production/5.end"), None, "some pods have not arrived");
    assert!(!fleet.pitstop(&["history", "--json"]).is_empty());
}
