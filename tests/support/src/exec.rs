use std::{
    fs,
    io::{BufRead, BufReader, Write},
    ops::{Deref, DerefMut},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use crate::{Container, Image, Pod, Setup, puma::children, signal, until};

/// A container whose first process is `pitstop exec`: the app server and the agent are in it, and the rig starts
/// neither. As root it has a PID namespace of its own.
pub struct ExecPod {
    container: Option<Container>,
    binary: PathBuf,
    /// What the shell that `pitstop exec` starts is told.
    pub script: String,
    /// The agent is beside it, in a container of its own that shares its processes.
    pub sidecar: bool,
    pod: Pod,
}

impl Deref for ExecPod {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl DerefMut for ExecPod {
    fn deref_mut(&mut self) -> &mut Pod {
        &mut self.pod
    }
}

impl ExecPod {
    /// The volume and the store are empty. Nothing runs. `binary` is the built pitstop.
    pub fn prepare(binary: &Path, setup: Setup) -> Self {
        let pod = Pod::prepare(binary, setup);
        Self { container: None, binary: binary.to_owned(), script: exec_puma(), sidecar: false, pod }
    }

    /// Sets a variable of the container's environment, for its next start.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// The parent holds the server's address, so that a second server can stand beside the first.
    pub fn parent_listens(&mut self) {
        let listen = format!("tcp://127.0.0.1:{}", self.puma.port());
        self.set("PITSTOP_EXEC_LISTEN", listen);
    }

    /// `v1` is in the store and the pointer names it; nothing runs, the volume is empty.
    #[must_use]
    pub fn published(mut self) -> Self {
        self.pod = self.pod.published();
        self
    }

    /// The agent has proved that `v1` runs, which is published.
    #[must_use]
    pub fn in_sync(self) -> Self {
        let mut pod = self.published();
        pod.start();
        pod.agent.wait_in_sync("v1");
        pod
    }

    /// Starts the container, for the first time or again, and waits until the agent answers.
    pub fn start(&mut self) {
        self.run(false);
    }

    /// The same, and it is started again whenever it ends, as by a kubelet without back-off.
    pub fn start_kept(&mut self) {
        self.run(true);
    }

    fn run(&mut self, restart: bool) {
        self.container = None;
        let (config, current, env) = (self.agent.config(), self.puma.current(), self.agent.env.clone());
        let (setup, port) = (self.puma.setup().clone(), self.puma.port());
        let (script, run) = (self.script.clone(), self.puma.inside(&self.puma.run_dir()));
        let (pitstop, image, sidecar) = (self.pitstop(), self.puma.entrance(), self.sidecar);
        let recipe = Box::new(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]);
            if geteuid().is_root() && !sidecar {
                command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
            }
            image(&mut command);
            command.arg(&pitstop).arg("--config").arg(&config);
            command.arg("exec").args(sidecar.then_some("--sidecar")).args(["--", "sh", "-c", &script]);
            command.env("CURRENT", &current).env("RIG_RUN", &run).env("RIG_PORT", port.to_string());
            command.env("RIG_BOOT_SECONDS", setup.boot_seconds.to_string());
            command.envs(setup.env.iter().cloned()).envs(env.iter().cloned());
            command
        });
        self.container = Some(Container::start(recipe, self.puma.log(), restart));
        if self.sidecar {
            self.pod.agent.start();
        }
        // A port that was taken meanwhile is the test's bad luck; nothing here depends on it.
        until("the agent answers", || self.agent.get("/live").ok());
    }

    /// In another image nothing of this machine is to be seen but the rig's directory.
    fn pitstop(&self) -> PathBuf {
        if self.puma.setup().image == Image::Machine {
            return self.binary.clone();
        }
        let copy = self.puma.scratch().join("pitstop");
        if !copy.exists() {
            fs::copy(&self.binary, &copy).expect("a copy of pitstop");
        }
        copy
    }

    fn container(&self) -> &Container {
        self.container.as_ref().expect("the container was started")
    }

    /// How often the container was started.
    pub fn starts(&self) -> usize {
        self.container.as_ref().map_or(0, Container::starts)
    }

    /// `pitstop exec`, as this side sees it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn first(&self) -> i32 {
        until("pitstop exec", || {
            let outer = self.container().pid()?;
            if geteuid().is_root() && !self.sidecar { children(outer).first().copied() } else { Some(outer) }
        })
    }

    /// SIGTERM to the container's first process.
    pub fn term(&self) {
        signal(self.first(), Signal::TERM);
    }

    /// The agent, a child of `pitstop exec`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn agent_pid(&self) -> i32 {
        let first = self.first();
        let agent = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0run\0--child-of\0")
        };
        until("the agent", || children(first).into_iter().find(agent))
    }

    /// SIGKILL to the agent, which `pitstop exec` starts again.
    pub fn kill_agent(&self) {
        signal(self.agent_pid(), Signal::KILL);
    }

    /// SIGKILL to an agent that is a sidecar, which the platform starts again.
    pub fn kill_sidecar(&mut self) {
        self.pod.agent.kill();
        self.pod.agent.start();
    }

    /// A process of the container by its name inside, as this side sees it; `None` when it is gone.
    pub fn outside(&self, inside: i64) -> Option<i32> {
        descendants(self.first()).into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let names = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            names.and_then(|names| names.split_whitespace().last()?.parse().ok()) == Some(inside)
        })
    }

    /// The servers that run, as `pitstop exec` says itself at this moment; none while it gives no answer.
    pub fn servers(&self) -> Vec<Server> {
        self.list().unwrap_or_default()
    }

    fn list(&self) -> Option<Vec<Server>> {
        let mut parent = UnixStream::connect(self.agent.state_dir().join("parent.sock")).ok()?;
        parent.write_all(b"{\"do\":\"list\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(parent).read_line(&mut line).ok()?;
        let reply: Value = serde_json::from_str(&line).ok()?;
        let runs = reply["list"]["slots"].as_array()?.iter().map(|slot| &slot["run"]);
        let running = runs.filter(|run| run.is_object() && run["ended"].is_null());
        let text = |run: &Value, key: &str| run[key].as_str().unwrap_or_default().to_owned();
        let server = |run: &Value| Server {
            role: text(run, "role"),
            release: text(run, "release"),
            pid: run["pid"].as_i64().unwrap_or_default(),
        };
        Some(running.map(server).collect())
    }

    /// The end of the whole container, as by the platform when its patience is over.
    pub fn kill(&mut self) {
        self.container = None;
    }

    /// Waits until it ends, and gives its exit code.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn wait_for_end(&self) -> Option<i32> {
        self.container().wait_for_end()
    }

    /// What all in the container have written.
    pub fn said(&self) -> String {
        fs::read_to_string(self.puma.log()).unwrap_or_default()
    }
}

/// A server below `pitstop exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `live`, `candidate` or `lingering`.
    pub role: String,
    /// What it was started for.
    pub release: String,
    /// Its first process, by its name in the container ([`ExecPod::outside`]).
    pub pid: i64,
}

/// The children of a process, theirs, and so on.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut next = 0;
    while let Some(&of) = all.get(next) {
        all.extend(children(of));
        next += 1;
    }
    all
}

/// As the README has it.
pub fn exec_puma() -> String {
    r#"cd "$CURRENT" && exec puma -C config/puma.rb"#.into()
}

/// A shell that stays in front of Puma.
pub fn puma_behind_a_shell() -> String {
    r#"cd "$CURRENT" && puma -C config/puma.rb; exit $?"#.into()
}
