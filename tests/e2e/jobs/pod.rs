//! A worker's pod: Redis somewhere else, Sidekiq under the script, the agent beside it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pitstop_rig::{Container, PATIENCE, PumaRig, Setup, until_within};

use crate::new_pod;

/// Each job writes down when it begins and when it has ended, and as which release.
const JOBS: &str = r##"require 'sidekiq'
Sidekiq.configure_server { |config| config.redis = { path: ENV.fetch('REDIS') } }
class Job
  include Sidekiq::Worker

  def perform(id, seconds)
    note("begin #{id}")
    sleep(seconds)
    note("end #{id}")
  end

  def note(text) = File.write(ENV.fetch('JOURNAL'), "#{text} #{File.basename(__dir__)}\n", mode: 'a')
end
"##;

pub struct Pod {
    /// Ended before Redis and the volume.
    pub worker: Option<Container>,
    _redis: Container,
    /// Its volume and its agent; no Puma runs.
    pod: pitstop_rig::Pod,
}

extends_pod!(Pod);

/// Sidekiq boots for seconds on a busy machine, and tells of its jobs every five.
const JOBS_PATIENCE: Duration = PATIENCE.saturating_mul(5);

#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    until_within(JOBS_PATIENCE, what, || condition().then_some(()));
}

impl Pod {
    /// `v1` runs, and the agent has proved it.
    pub fn in_sync() -> Self {
        let mut pod = new_pod(Setup::default());
        fs::create_dir(pod.puma.scratch().join("pod")).unwrap();
        fs::write(pod.agent.config(), configuration(&pod.puma)).unwrap();
        for (key, value) in [
            ("PITSTOP_SOURCE", pod.agent.store().display().to_string()),
            ("PITSTOP_STATE_DIR", pod.agent.state_dir().display().to_string()),
            ("PITSTOP_LISTEN", format!("127.0.0.1:{}", pod.agent.port())),
            ("PITSTOP_POD", "jobs".into()),
            ("PITSTOP_POLL_INTERVAL", "500ms".into()),
            ("PITSTOP_VERIFY_SOAK", "1s".into()),
            ("PITSTOP_RESTART_SPREAD", "0s".into()),
            ("PITSTOP_COMMAND_TIMEOUT", "60s".into()),
        ] {
            pod.set(key, value);
        }
        pod.agent.env.extend(places(&pod.puma));
        let mut pod = Self { worker: None, _redis: redis(&pod.puma), pod };
        pod.deploy("v1", "");
        pod.agent.must(&["fetch"]);
        pod.worker = Some(worker(&pod.puma));
        pod.agent.start();
        pod.wait_in_sync("v1");
        pod
    }

    /// Publishes a release with these further lines, and moves the pointer to it.
    pub fn deploy(&self, id: &str, lines: &str) {
        let release = self.puma.scratch().join("build").join(id);
        fs::create_dir_all(&release).unwrap();
        fs::write(release.join("jobs.rb"), format!("{JOBS}{lines}")).unwrap();
        self.agent.publish_dir(&release, id);
        self.agent.promote(id);
    }

    #[track_caller]
    pub fn wait_in_sync(&self, id: &str) {
        self.agent.wait_in_sync_within(JOBS_PATIENCE, id);
    }

    /// Puts a job into the queue that takes so many seconds.
    pub fn enqueue(&self, id: &str, seconds: u32) {
        let job = serde_json::json!({
            "class": "Job", "args": [id, seconds], "jid": id, "retry": true, "queue": "default",
            "created_at": 0.0, "enqueued_at": 0.0,
        });
        self.redis(&["lpush", "queue:default", &job.to_string()]);
    }

    /// How many jobs are left in the queue.
    pub fn waiting(&self) -> String {
        self.redis(&["llen", "queue:default"])
    }

    fn redis(&self, words: &[&str]) -> String {
        let output =
            Command::new("redis-cli").arg("-s").arg(socket(&self.puma)).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What the jobs wrote.
    pub fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.puma.scratch().join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What Sidekiq calls itself.
    pub fn title(&self) -> String {
        let pid = fs::read_to_string(self.puma.scratch().join("pod/job-worker.pid")).unwrap_or_default();
        fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default()
    }
}

impl Drop for Pod {
    /// A failed test shows what the jobs did.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}\n{}", self.journal(), self.title());
        }
    }
}

/// The block of docs/job-workers.md, with the places of this test.
fn configuration(volume: &PumaRig) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let page = fs::read_to_string(docs.join("job-workers.md")).unwrap();
    let block = page.split("```yaml\n").find(|rest| rest.starts_with("# pitstop.yml\n"));
    let block =
        block.and_then(|rest| rest.split("```").next()).expect("the configuration in docs/job-workers.md");
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    block
        .replace("/srv/app", &text(volume.deploy_to()))
        .replace("/srv/pod", &text(volume.scratch().join("pod")))
        .replace("/opt/jobs", &text(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/pitstop/files")))
}

/// What the script and the jobs are told by their environment.
fn places(volume: &PumaRig) -> [(String, String); 4] {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    [
        ("CURRENT".into(), text(volume.current())),
        ("PID_FILE".into(), text(volume.scratch().join("pod/job-worker.pid"))),
        ("REDIS".into(), text(socket(volume))),
        ("JOURNAL".into(), text(volume.scratch().join("journal"))),
    ]
}

fn socket(volume: &PumaRig) -> PathBuf {
    volume.run_dir().join("redis.sock")
}

/// Debian's package of tools has the server as well: the program goes by the name that it is called by. The package of
/// the server would start one on this machine.
fn redis(volume: &PumaRig) -> Container {
    let (program, socket) = (volume.scratch().join("redis-server"), socket(volume));
    symlink("/usr/bin/redis-check-rdb", &program).unwrap();
    let listens = socket.clone();
    let recipe = Box::new(move || {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&program);
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&listens);
        command
    });
    let container = Container::start(recipe, volume.scratch().join("redis.log"), false);
    eventually("Redis listens", || socket.exists());
    container
}

fn worker(volume: &PumaRig) -> Container {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/pitstop/files/job-worker");
    let env = places(volume);
    let recipe = Box::new(move || {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&script).arg("run");
        command.args(["sidekiq", "--require", "./jobs.rb", "--concurrency", "2"]).envs(env.iter().cloned());
        command
    });
    Container::start(recipe, volume.scratch().join("worker.log"), false)
}
