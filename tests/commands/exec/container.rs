//! A container whose first process is `pitstop exec`, and its volume.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use pitstop_rig::{Signal, poll, puma::children, signal, until};
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

const PITSTOP: &str = env!("CARGO_BIN_EXE_pitstop");
const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// What will run.
pub struct Recipe {
    dir: TempDir,
    /// Before `pitstop exec`: another init, for instance.
    outer: Vec<String>,
    env: Vec<(String, OsString)>,
}

/// What runs.
pub struct Running {
    recipe: Recipe,
    child: Child,
    /// `pitstop exec`, as this side sees it; `None` when it had ended before it was looked for.
    first: Option<i32>,
}

impl Recipe {
    /// The first process of a PID namespace; the store has no release.
    pub fn new() -> Self {
        let outer = NAMESPACE.map(str::to_owned).to_vec();
        let dir = TempDir::with_prefix_in("rig", "/tmp").unwrap();
        for name in ["store", "app"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let path = |name: &str| dir.path().join(name).into_os_string();
        let text = |text: &str| OsString::from(text);
        let env = [
            ("PITSTOP_SOURCE", path("store")),
            ("PITSTOP_DEPLOY_TO", path("app")),
            ("PITSTOP_STATE_DIR", path("state")),
            ("PITSTOP_LISTEN", text("127.0.0.1:0")),
            ("PITSTOP_LOG_FORMAT", text("text")),
            ("PITSTOP_POLL_INTERVAL", text("500ms")),
            ("PITSTOP_RESTART_SPREAD", text("0s")),
            ("PITSTOP_DRAIN_MIN", text("0s")),
            ("PITSTOP_POD", text("rig")),
            ("DIR", dir.path().into()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { dir, outer, env }
    }

    /// With a release that the agent puts in place, so that the command starts.
    pub fn with_release() -> Self {
        let recipe = Self::new();
        recipe.release();
        recipe
    }

    /// Publishes `v1` and moves the pointer to it.
    pub fn release(&self) {
        let tree = self.dir.path().join("build");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("REVISION"), "v1").unwrap();
        for arguments in [&["publish", tree.to_str().unwrap(), "--release", "v1"][..], &["promote", "v1"]] {
            let done = self.command(Path::new(PITSTOP)).args(arguments).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }

    /// Not the first process, but below others.
    pub fn below(mut self, outer: &[&str]) -> Self {
        self.outer.extend(outer.iter().map(|word| (*word).to_owned()));
        self
    }

    /// In the test's own PID namespace.
    pub fn without_namespace(mut self) -> Self {
        self.outer.clear();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PITSTOP_") {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a script as the container's command.
    pub fn script(self, script: &str) -> Running {
        self.run(&["sh", "-c", script])
    }

    /// Runs a script as the command at a terminal of its own.
    pub fn at_a_terminal(self, script: &str) -> Running {
        let file = self.dir.path().join("script");
        fs::write(&file, script).unwrap();
        let line = format!("{PITSTOP} exec -- sh {}", file.display());
        self.start(&["script", "--quiet", "--return", "--command", &line, "/dev/null"])
    }

    /// Runs a command.
    pub fn run(self, line: &[&str]) -> Running {
        self.start(&[&[PITSTOP, "exec", "--"], line].concat())
    }

    fn start(self, line: &[&str]) -> Running {
        let mut command = self.command(Path::new("setpriv"));
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.outer).args(line);
        let log = File::create(self.dir.path().join("log")).unwrap();
        command.stdin(Stdio::piped()).stdout(File::create(self.dir.path().join("out")).unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let first = until("pitstop exec", || {
            let first = first_process(child.id().cast_signed());
            (first.is_some() || child.try_wait().unwrap().is_some()).then_some(first)
        });
        Running { recipe: self, child, first }
    }
}

/// The process that is `pitstop exec` itself.
fn first_process(above: i32) -> Option<i32> {
    let line = fs::read(format!("/proc/{above}/cmdline")).ok()?;
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    let ours = words[0].ends_with(b"pitstop") && words.get(1) == Some(&&b"exec"[..]);
    if ours { Some(above) } else { first_process(*children(above).first()?) }
}

impl Running {
    /// A file that the command writes.
    pub fn file(&self, name: &str) -> PathBuf {
        self.recipe.dir.path().join(name)
    }

    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    #[track_caller]
    pub fn wait_for_file(&self, name: &str) -> String {
        let path = self.file(name);
        until(&format!("{name}; the log: {}", self.log()), || {
            fs::read_to_string(&path).ok().filter(|text| !text.is_empty())
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let found = poll(pitstop_rig::PATIENCE, || self.log().contains(text).then_some(()));
        assert!(found.is_some(), "waited in vain for {text:?} in\n{}", self.log());
    }

    /// Sends a signal to `pitstop exec`, or to what stands before it.
    pub fn kill(&self, which: Signal) {
        signal(self.first(), which);
    }

    /// The process directly below the namespace: the other init, where there is one.
    pub fn outermost(&self) -> i32 {
        *children(self.child.id().cast_signed()).first().unwrap()
    }

    pub fn first(&self) -> i32 {
        self.first.expect("pitstop exec runs")
    }

    /// The child of `pitstop exec` whose command line has this text.
    #[track_caller]
    pub fn child(&self, text: &str) -> i32 {
        let found = || {
            children(self.first()).into_iter().find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.contains(text) && !line.contains("exec --child-of")
            })
        };
        until(&format!("a child {text}; the log: {}", self.log()), found)
    }

    pub fn agent(&self) -> i32 {
        self.child("pitstop run")
    }

    /// Closes the command's input.
    pub fn write(&mut self, input: &str) {
        use std::io::Write;
        let mut stdin = self.child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
    }

    /// Types at the terminal, which stays open.
    pub fn press(&mut self, keys: &[u8]) {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// Its exit code, once it has ended.
    #[track_caller]
    pub fn code(&mut self) -> Option<i32> {
        let ended = poll(pitstop_rig::PATIENCE, || self.child.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("does not end; the log:\n{}", self.log())).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With the first process of a namespace all of it goes. It may have ended by itself.
        if let (Some(first), Ok(None)) = (self.first.and_then(Pid::from_raw), self.child.try_wait()) {
            let _ = kill_process(first, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
