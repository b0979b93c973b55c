//! A store, and the commands of pitstop with it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pitstop_rig::SlowVolume;

use crate::measure::{Measured, resident_mib, run};

/// As many as an NFS client has.
pub const SLOTS: usize = 64;
/// For what has to come without a measured limit.
const PATIENCE: Duration = Duration::from_secs(300);

/// A store with releases of one tree, and where their volumes are mounted.
pub struct Rig {
    /// The trees `v1` and `v2` are here.
    pub home: PathBuf,
    pub delay: Duration,
    /// Where the store is, and how to reach it.
    store: Vec<(&'static str, String)>,
}

impl Rig {
    /// With a store in a directory.
    pub fn in_a_directory(home: &Path, delay: Duration) -> Self {
        let store = vec![("PITSTOP_SOURCE", home.join("store").display().to_string())];
        Self { home: home.to_owned(), delay, store }
    }

    /// With the same trees and a bucket as the store.
    pub fn in_s3(&self, server: &Moto) -> Self {
        let store = vec![
            ("PITSTOP_SOURCE", format!("s3://{BUCKET}/shop")),
            ("PITSTOP_S3_ENDPOINT", server.endpoint.clone()),
            ("PITSTOP_S3_PATH_STYLE", "true".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "a-key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "a-secret".to_owned()),
        ];
        Self { home: self.home.clone(), delay: self.delay, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    pub fn volume(&self, name: &str) -> SlowVolume {
        SlowVolume::mount(&self.path(name), self.delay, SLOTS)
    }

    /// pitstop as a pod has it, with its volume at `deploy_to`.
    pub fn pitstop(&self, args: &[&str], deploy_to: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        command.args(args).envs(self.store.iter().cloned()).env("PITSTOP_DEPLOY_TO", deploy_to);
        command.env("PITSTOP_POD", "web-0").env("PITSTOP_STATE_DIR", self.path("state"));
        command
    }

    pub fn fetch(&self, deploy_to: &Path, in_flight: Option<usize>) -> Command {
        let mut command = self.pitstop(&["fetch"], deploy_to);
        if let Some(in_flight) = in_flight {
            command.env("PITSTOP_FETCH_IN_FLIGHT", in_flight.to_string());
        }
        command
    }

    /// Publishes one of the trees as this release.
    pub fn publish(&self, tree: &str, release: &str) -> Measured {
        let dir = self.path(tree);
        let args = ["publish", dir.to_str().expect("a plain path"), "--release", release];
        run("publish", &mut self.pitstop(&args, &self.path("nowhere")), None)
    }

    pub fn promote(&self, release: &str) {
        let mut promote = self.pitstop(&["promote", release, "--create"], &self.path("nowhere"));
        assert!(promote.output().is_ok_and(|output| output.status.success()), "promote {release}");
    }

    pub fn archive(&self, release: &str) -> PathBuf {
        self.path(&format!("store/releases/{release}.tar.zst"))
    }

    pub fn agent(&self, deploy_to: &Path, in_flight: Option<usize>) -> Agent {
        let mut run = self.pitstop(&["run"], deploy_to);
        run.env("PITSTOP_STATE_DIR", self.path("idle")).env("PITSTOP_LISTEN", "127.0.0.1:0");
        run.envs(in_flight.map(|in_flight| ("PITSTOP_FETCH_IN_FLIGHT", in_flight.to_string())));
        Agent(run.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the agent starts"))
    }

    /// How much memory an agent has that waits: one that has fetched this release, and one that found it.
    pub fn idle_mib(&self, release: &str, deploy_to: &Path) -> (f64, f64) {
        self.promote(release);
        std::fs::create_dir(deploy_to).expect("a directory");
        let idle = || {
            let agent = self.agent(deploy_to, None);
            let since = Instant::now();
            while !deploy_to.join("current/config.ru").exists() {
                assert!(since.elapsed() < PATIENCE, "the agent does not fetch {release}");
                std::thread::sleep(Duration::from_millis(100));
            }
            agent.settled_mib()
        };
        (idle(), idle())
    }
}

/// `pitstop run` without an app server; killed when it is dropped.
pub struct Agent(Child);

impl Agent {
    /// Of the process that does the work: the only child of `pitstop run`.
    fn pid(&self) -> u32 {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.expect("it runs").trim().parse().expect("one child")
    }

    /// Once it has been the same for three seconds.
    fn settled_mib(&self) -> f64 {
        let (mut last, mut same) = (0.0, 0);
        while same < 3 {
            std::thread::sleep(Duration::from_secs(1));
            let now = resident_mib(self.pid());
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BUCKET: &str = "bench";

/// A server of S3's protocol by other people, with an empty bucket. Ends when it is dropped.
pub struct Moto {
    process: Child,
    endpoint: String,
}

const SERVER: &str = "
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
url = 'http://%s:%d' % server.get_host_and_port()
keys = dict(aws_access_key_id='a-key', aws_secret_access_key='a-secret', region_name='us-east-1')
boto3.client('s3', endpoint_url=url, **keys).create_bucket(Bucket=sys.argv[1])
print(url, flush=True)
sys.stdin.read()
server.stop()
";

impl Moto {
    /// `None` where `.ci/setup moto` has not installed it.
    pub fn start() -> Option<Self> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/moto/bin/python");
        let mut server = Command::new(python);
        server
            .args(["-c", SERVER, BUCKET])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = server.spawn().ok()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take()?).read_line(&mut line).ok()?;
        assert!(line.starts_with("http"), "moto does not start");
        Some(Self { process, endpoint: line.trim().to_owned() })
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
