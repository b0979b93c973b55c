//! `pitstop rollout` with four real Pumas, a real S3 server, and clients that ask all the time.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use pitstop_rig::{App, Directory, Load, Pod, S3Rig, Setup, load::Plan, until_within, wait_until};
use serde_json::Value;

use crate::{PITSTOP, new_pod};

/// How long four restarts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The same release runs in every pod, so each finds its own places by its environment.
const PUMA_CONFIG: &str = r##"
run = ENV.fetch('RIG_RUN')
bind "tcp://127.0.0.1:#{ENV.fetch('RIG_PORT')}"
threads 1, 3
workers 2
worker_check_interval 1
worker_boot_timeout 10
worker_shutdown_timeout 10
preload_app! false
persistent_timeout 75
activate_control_app "unix://#{run}/control.sock", { auth_token: 'rig-token' }
state_path "#{run}/puma.state"
"##;

/// Four pods of one Deployment.
struct Shop {
    pods: Vec<Pod>,
    loads: Vec<Load>,
    s3: S3Rig,
    dir: tempfile::TempDir,
}

impl Shop {
    /// `v1` runs everywhere, under load.
    fn new() -> Self {
        let s3 = S3Rig::start();
        let pods = (0..4).map(|n| {
            let mut pod = new_pod(Setup { directory: Directory::Pwd, ..Setup::default() })
                .with("PITSTOP_POD", format!("web-{n}"))
                .with("PITSTOP_ADDRESS", format!("10.0.0.{n}"))
                .with("PITSTOP_VERIFY_SOAK", "200ms");
            pod.agent.env.extend(s3.env());
            if n == 0 {
                publish(&pod, App::Good, "v1");
                pod.agent.promote("v1");
            }
            pod.boot();
            pod.started()
        });
        let pods: Vec<_> = pods.collect();
        let load = |pod: &Pod| {
            let plan = Plan { keep_alive: 2, fresh_per_second: 10, ..Plan::modest(pod.puma.port()) };
            Load::start(plan, "rollout")
        };
        let shop =
            Self { loads: pods.iter().map(load).collect(), pods, s3, dir: tempfile::tempdir().unwrap() };
        // Whoever does not report takes no part.
        let reported = |n: usize| shop.s3.object(&format!("fleet/production/web-{n}")).is_some();
        wait_until("four reports", || (0..4).all(reported));
        shop
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PITSTOP);
        command.args(["rollout", "--lease", "3s"]).args(args).current_dir(&self.dir);
        command
            .env_clear()
            .envs(self.s3.env())
            .env("PITSTOP_POINTER", "production")
            .env("PATH", "/usr/bin:/bin");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> String {
        ended(self.command(args).output().unwrap(), code)
    }

    fn pointer(&self) -> Value {
        serde_json::from_slice(&self.s3.object("pointers/production").unwrap()).unwrap()
    }

    fn runs(&self, pod: usize) -> String {
        self.pods[pod].puma.get("/").ok().and_then(|answer| answer.release).unwrap_or_default()
    }

    /// How often each pod has started a deploy of this release, by its journal.
    fn attempts(&self, id: &str) -> Vec<usize> {
        let count = |(n, pod): (usize, &Pod)| {
            let log = pod.puma.deploy_to().join(format!(".pitstop/pods/web-{n}/revisions.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            records.filter(|record| record["event"] == "attempt" && record["release"] == id).count()
        };
        self.pods.iter().enumerate().map(count).collect()
    }

    #[track_caller]
    fn all_run(&self, id: &str) {
        until_within(PATIENCE, &format!("{id} everywhere"), || {
            (0..self.pods.len()).all(|pod| self.runs(pod) == id).then_some(())
        });
    }

    /// No request was lost, and at least as many as this were sent.
    fn assert_no_request_failed(self) {
        for (pod, load) in self.loads.into_iter().enumerate() {
            let tally = load.finish().tally(&[]);
            assert_eq!(tally.failed, 0, "web-{pod}: {tally:?}");
            assert!(tally.requests > 100, "web-{pod}: {tally:?}");
        }
    }
}

fn publish(pod: &Pod, app: App, id: &str) {
    let dir = pod.agent.build(&pod.puma, app, id);
    fs::write(dir.join("config/puma.rb"), PUMA_CONFIG).unwrap();
    pod.agent.publish_dir(&dir, id);
}

#[track_caller]
fn ended(output: Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// Takes what is posted to it.
struct Hook {
    port: u16,
    posted: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, posted) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let shared: Arc<Mutex<Vec<Value>>> = posted.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line != "\r\n" {
                    if let Some((name, value)) = line.split_once(':')
                        && name.eq_ignore_ascii_case("content-length")
                    {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_ok() {
                    shared.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                }
                let _ = reader
                    .get_mut()
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { port, posted }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hush", self.port)
    }

    fn events(&self) -> Vec<String> {
        let posted = self.posted.lock().unwrap();
        posted.iter().map(|news| news["event"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn e2e_a_rollout_moves_nothing_or_one_pod_and_back_or_all_pods_without_a_failed_request() {
    let shop = Shop::new();
    let hook = Hook::start();
    for id in ["v2", "v3"] {
        publish(&shop.pods[0], App::Good, id);
    }
    publish(&shop.pods[0], App::RaisesOnBoot, "v4");
    // The migration fails.
    let before = shop.pointer();
    shop.ends(&["v2", "--before", "exit 3", "--notify", &hook.url()], 1);
    assert_eq!((shop.pointer(), shop.attempts("v2")), (before, vec![0; 4]));
    // The smoke test fails: it looks at the one pod.
    let smoke = "echo \"$PITSTOP_CANARY_PODS $PITSTOP_CANARY_ADDRESSES\" > looked; exit 1";
    let said = shop.ends(&["v2", "--smoke", smoke, "--notify", &hook.url()], 2);
    assert!(said.contains("taken back: --smoke ended with exit code 1; all pods are on v1 again"), "{said}");
    let canary: Vec<_> = (0..4).filter(|pod| shop.attempts("v2")[*pod] > 0).collect();
    assert_eq!(canary.len(), 1, "{said}");
    let looked = fs::read_to_string(shop.dir.path().join("looked")).unwrap();
    assert_eq!(looked, format!("web-{0} 10.0.0.{0}\n", canary[0]));
    shop.all_run("v1");
    assert!(
        shop.pods[canary[0]].status()["rejected"].as_array().is_some_and(Vec::is_empty),
        "it is no rejection"
    );
    // The canary rejects the release itself.
    let said = shop.ends(&["v4", "--notify", &hook.url()], 2);
    assert!(said.contains("taken back: rejected by web-"), "{said}");
    assert_eq!(shop.attempts("v4").iter().sum::<usize>(), 1);
    shop.all_run("v1");
    // A good one.
    let said =
        shop.ends(&["v3", "--smoke", "true", "--bake", "2s", "--step", "1,50%", "--notify", &hook.url()], 0);
    assert!(said.contains("production now points to v3"), "{said}");
    shop.all_run("v3");
    assert_eq!(shop.attempts("v3"), [1; 4], "the pointer's move is no second deploy");
    let expected = ["rollout_started", "rollout_aborted"].repeat(3).into_iter();
    let expected: Vec<_> = expected.chain(["rollout_started", "rollout_done"]).collect();
    assert_eq!(hook.events(), expected);
    shop.assert_no_request_failed();
}

impl Shop {
    /// Killed at this point; then the store is away for a while, and it is started again.
    fn killed_at(&self, point: &str, args: &[&str]) {
        let mut command = self.command(args);
        command.env("PITSTOP_FAILPOINTS", point).env("PITSTOP_FAILPOINT_DIR", self.dir.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Killed(command.spawn().unwrap());
        until_within(PATIENCE, &format!("the rollout at {point}"), || {
            assert!(child.0.try_wait().unwrap().is_none(), "it ended before {point}");
            self.dir.path().join(point).exists().then_some(())
        });
    }
}

/// Ended when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn e2e_a_rollout_that_is_killed_at_every_step_goes_on_and_outages_of_the_store_delay_it_only() {
    let shop = Shop::new();
    publish(&shop.pods[0], App::Good, "v2");
    let args = [
        "v2",
        "--before",
        "echo before >> log",
        "--smoke",
        "echo smoke >> log",
        "--bake",
        "1s",
        "--step",
        "1",
    ];
    for point in pitstop_rig::ROLLOUT_POINTS {
        shop.killed_at(point, &args);
        // The pods go on without the store, and so does whoever starts while it is away.
        if point.starts_with("rollout.pointed") || point.starts_with("rollout.bake") {
            shop.s3.outage();
            thread::sleep(Duration::from_secs(1));
            shop.s3.recover();
        }
    }
    shop.ends(&args, 0);
    shop.all_run("v2");
    assert_eq!(shop.attempts("v2"), [1; 4]);
    let pointer = shop.pointer();
    assert_eq!(
        (&pointer["release"], &pointer["sequence"], &pointer["canary"]),
        (&"v2".into(), &2.into(), &Value::Null)
    );
    assert_eq!(fs::read_to_string(shop.dir.path().join("log")).unwrap(), "before\nbefore\nsmoke\nsmoke\n");
    shop.assert_no_request_failed();
}
