//! A container whose process is `pitstop run`.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use pitstop_rig::{Signal, http, ports::free_port, puma::children, signal, until};
use tempfile::TempDir;

/// The pod's own places.
pub struct Pod {
    pub dir: TempDir,
    pub port: u16,
    env: Vec<(String, String)>,
}

/// What runs in it.
pub struct Running {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Pod {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix_in("rig", "/tmp").unwrap();
        for name in ["store", "app"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let port = free_port();
        let env = [
            ("PITSTOP_SOURCE", path("store")),
            ("PITSTOP_DEPLOY_TO", path("app")),
            ("PITSTOP_STATE_DIR", path("state")),
            ("PITSTOP_LISTEN", format!("127.0.0.1:{port}")),
            ("PITSTOP_LOG_FORMAT", "text".into()),
            ("PITSTOP_POD", "rig".into()),
        ];
        Self { dir, port, env: env.map(|(name, value)| (name.to_owned(), value)).to_vec() }
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// With these words before `pitstop run`.
    pub fn launch(&self, before: &[&str], log: &str) -> Running {
        let log = self.dir.path().join(log);
        let output = File::create(&log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(before).args([env!("CARGO_BIN_EXE_pitstop"), "run"]);
        command.envs(self.env.iter().cloned()).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Running { child: command.spawn().unwrap(), port: self.port, log }
    }

    /// Runs and answers.
    pub fn start(&self, before: &[&str]) -> Running {
        let running = self.launch(before, "log");
        until("the agent answers", || running.status("/live").filter(|status| *status == 200));
        running
    }
}

impl Running {
    /// The process of the container.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The agent below it.
    pub fn agent(&self) -> Option<i32> {
        children(self.pid()).first().copied()
    }

    pub fn status(&self, path: &str) -> Option<u16> {
        http::get(self.port, path).ok().map(|answer| answer.status)
    }

    pub fn signal(&self, which: Signal) {
        signal(self.pid(), which);
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn wait_for_end(&mut self) -> ExitStatus {
        until("the container's end", || self.child.try_wait().unwrap())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let port = self.port;
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
            return;
        }
        until("the agent's end with its parent", || TcpListener::bind(("127.0.0.1", port)).ok());
    }
}
