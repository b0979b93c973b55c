//! A fleet: a store, a process with all agents, and the program as people use it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use pitstop_rig::{S3Rig, until_within};
use serde_json::Value;

use super::agents::{DIR, PODS};

/// Whatever is waited for comes within this.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Variables for a process.
pub type Env = Vec<(String, String)>;

pub struct Fleet {
    process: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    promoter: Env,
    _dir: tempfile::TempDir,
}

impl Fleet {
    /// So many agents in a process of their own, which `agents` is the command of.
    pub fn start(mut agents: Command, pods: usize, agent: &Env, promoter: Env) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = [
            ("PITSTOP_POLL_INTERVAL", "2s"),
            ("PITSTOP_VERIFY_SOAK", "300ms"),
            ("PITSTOP_RESTART_TIMEOUT", "12s"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        // What the caller sets counts.
        agents.envs(keys).envs(agent.iter().cloned()).env(PODS, pods.to_string()).env(DIR, dir.path());
        let mut process = agents.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { input: process.stdin.take().unwrap(), process, lines, promoter, _dir: dir }
    }

    /// A release of one file.
    pub fn publish(promoter: &Env, release: &str) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.ru"), format!("# {release}\nrun App\n")).unwrap();
        ended(promoter, &["publish", dir.path().to_str().unwrap(), "--release", release], 0);
    }

    pub fn pitstop(&self, args: &[&str]) -> String {
        self.ends(args, 0)
    }

    /// It ends with this exit code.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> String {
        ended(&self.promoter, args, code)
    }

    /// To the process of the agents.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// How many app servers restarted at the same time since this was asked last.
    pub fn most_at_once(&mut self) -> usize {
        self.tell("most");
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("the agents answer");
            if let Some(most) = line.strip_prefix("most ") {
                return most.parse().unwrap();
            }
        }
    }
}

/// Waits until all pods run it, proved. Looks into the store's files, which is no request.
#[track_caller]
pub fn arrived(s3: &S3Rig, pods: usize, release: &str, sequence: u64) {
    let says = |pod: usize| {
        let bytes = s3.object(&format!("fleet/production/web-{pod}"))?;
        let report: Value = serde_json::from_slice(&bytes).ok()?;
        let desired = report["desired"]["sequence"] == sequence;
        (report["in_sync"] == true && report["running"] == release && desired).then_some(())
    };
    until_within(3 * PATIENCE, &format!("{release} in all {pods} pods"), || {
        (0..pods).all(|pod| says(pod).is_some()).then_some(())
    });
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn ended(env: &Env, args: &[&str], code: i32) -> String {
    let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
    let output = pitstop.args(args).env_clear().envs(env.iter().cloned()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{why}");
    said
}
