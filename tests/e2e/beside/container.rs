//! A container whose first process is `pitstop exec --sidecar`, with a Puma and without an agent: what an agent would
//! ask, the test asks.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use pitstop_rig::{App, Container, Image, PATIENCE, PumaRig, Setup, Signal, puma::children, signal, until};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use serde_json::{Value, json};

use crate::PITSTOP;

/// Connections from here reach the candidate.
pub const PROBE_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 97, 50, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// As an image's CMD.
pub const PUMA: &str = r#"cd "$CURRENT" && exec puma -C config/puma.rb"#;

pub struct Parent {
    container: Option<Container>,
    pub agent: FakeAgent,
    pub puma: PumaRig,
    pub script: String,
    /// Further variables of the container.
    pub env: Vec<(String, String)>,
}

/// Nothing that two servers would fight over.
pub fn plain() -> Setup {
    Setup { control: false, state_file: false, host: "0.0.0.0".into(), ..Setup::default() }
}

impl Parent {
    /// The releases `v1` and `v2` are on the volume, `current` is `v1`; nothing runs.
    pub fn prepare(setup: Setup) -> Self {
        let host = setup.host.clone();
        let puma = PumaRig::prepare(setup);
        puma.release("v2", App::Good);
        let listen = format!("tcp://{host}:{}", puma.port());
        let env = vec![("PITSTOP_EXEC_LISTEN".into(), listen)];
        let state_dir = puma.scratch().join("state");
        fs::create_dir(&state_dir).expect("the directory of the state");
        Self { container: None, agent: FakeAgent::start(&state_dir), puma, script: PUMA.into(), env }
    }

    /// And it serves `v1` in slot a.
    pub fn serving(setup: Setup) -> Self {
        let mut parent = Self::prepare(setup);
        parent.start();
        parent.puma.wait_for_release("v1");
        until("slot a is known to listen", || (parent.run("a")["inherited"] == true).then_some(()));
        parent
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
    }

    pub fn start(&mut self) {
        self.container = None;
        let (current, state, env) = (self.puma.current(), self.state_dir(), self.env.clone());
        let (script, run) = (self.script.clone(), self.puma.scratch().join("run"));
        let (pitstop, image) = (self.pitstop(), self.puma.entrance());
        let recipe = Box::new(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", "unshare", "--pid", "--fork", "--kill-child"]);
            command.arg("--mount-proc");
            image(&mut command);
            command.arg(&pitstop).args(["exec", "--sidecar", "--", "sh", "-c", &script]);
            command.env("CURRENT", &current).env("RIG_RUN", &run).env("PITSTOP_STATE_DIR", &state);
            command.env("PITSTOP_LOG_FORMAT", "text").envs(env.iter().cloned());
            command
        });
        self.container = Some(Container::start(recipe, self.puma.log(), false));
    }

    fn pitstop(&self) -> PathBuf {
        if self.puma.setup().image == Image::Machine {
            return PITSTOP.into();
        }
        let copy = self.puma.scratch().join("pitstop");
        if !copy.exists() {
            fs::copy(PITSTOP, &copy).expect("a copy of pitstop");
        }
        copy
    }

    pub fn state_dir(&self) -> PathBuf {
        self.puma.scratch().join("state")
    }

    pub fn container(&self) -> &Container {
        self.container.as_ref().expect("the container was started")
    }

    /// `pitstop exec`, as this side sees it.
    pub fn first(&self) -> i32 {
        let outer = self.container().pid().expect("the container runs");
        until("pitstop exec", || children(outer).first().copied())
    }

    pub fn term(&self) {
        signal(self.first(), Signal::TERM);
    }

    #[track_caller]
    pub fn wait_for_end(&self) -> Option<i32> {
        self.container().wait_for_end()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.puma.log()).unwrap_or_default()
    }

    /// One request to the parent, as an agent would send it.
    pub fn ask(&self, request: &Value) -> Value {
        ask(&self.state_dir(), request)
    }

    /// One that has to be done; what is there afterwards.
    #[track_caller]
    pub fn must(&self, request: &Value) -> Value {
        let reply = self.ask(request);
        assert_eq!(reply["error"], Value::Null, "{request}");
        reply["list"].clone()
    }

    /// What it refuses, and why.
    #[track_caller]
    pub fn refused(&self, request: &Value) -> String {
        let reply = self.ask(request);
        reply["error"].as_str().unwrap_or_else(|| panic!("{request} was done")).to_owned()
    }

    pub fn list(&self) -> Value {
        self.must(&json!({ "do": "list" }))
    }

    /// What was started in this slot last.
    pub fn run(&self, slot: &str) -> Value {
        self.list()["slots"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|state| state["slot"] == slot)
            .map_or(Value::Null, |state| state["run"].clone())
    }

    pub fn start_in(&self, slot: &str, aside: &[PathBuf]) -> u64 {
        let request = json!({ "do": "start", "slot": slot, "release": "v2", "aside": aside });
        let list = self.must(&request);
        let run = list["slots"].as_array().into_iter().flatten().find(|state| state["slot"] == slot);
        run.and_then(|state| state["run"]["number"].as_u64()).expect("a run in the slot")
    }

    /// `v2` was started in this slot and answers its probes.
    pub fn candidate_in(&self, slot: &str) -> u64 {
        self.puma.flip("v2");
        let run = self.start_in(slot, &[]);
        until("the candidate's answer", || (self.get(PROBE_SOURCE)? == "v2").then_some(()));
        until("it is known to listen", || (self.run(slot)["inherited"] == true).then_some(()));
        run
    }

    pub fn steer(&self, run: u64) {
        self.must(&json!({ "do": "steer", "run": run }));
    }

    pub fn stop(&self, run: u64) {
        self.must(&json!({ "do": "stop", "run": run, "kill": false }));
    }

    pub fn wait_until_ended(&self, slot: &str) {
        until("the server's end", || (self.run(slot)["ended"] != Value::Null).then_some(()));
    }

    /// The only server, as this side sees it.
    pub fn server(&self) -> i32 {
        until("the server", || children(self.first()).first().copied())
    }

    /// A connection that says nothing yet.
    pub fn connect(&self, from: Ipv4Addr) -> Option<TcpStream> {
        let socket =
            net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        net::bind(&socket, &SocketAddr::from((from, 0))).ok()?;
        net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], self.puma.port()))).ok()?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        Some(stream)
    }

    /// The release that answers a fresh connection from there.
    pub fn get(&self, from: Ipv4Addr) -> Option<String> {
        read(self.asking(from)?)
    }

    /// A request whose answer is not read yet.
    pub fn asking(&self, from: Ipv4Addr) -> Option<TcpStream> {
        let mut stream = self.connect(from)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        Some(stream)
    }
    /// Each of several fresh connections is answered by this release.
    #[track_caller]
    pub fn assert_answers(&self, from: Ipv4Addr, release: &str) {
        let answers: Vec<_> = (0..20).map(|_| self.get(from)).collect();
        assert!(answers.iter().all(|answer| answer.as_deref() == Some(release)), "{from}: {answers:?}");
    }
}

/// One request to the parent whose `state_dir` this is, as an agent would send it.
pub fn ask(state_dir: &Path, request: &Value) -> Value {
    until("an answer of the parent", || {
        let mut stream = UnixStream::connect(state_dir.join("parent.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    })
}

/// The release that answers.
pub fn read(mut stream: impl Read) -> Option<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let body: Value = serde_json::from_str(body.trim()).ok()?;
    body["release"].as_str().map(str::to_owned)
}

/// Answers what a parent asks an agent: yes, or not yet.
pub struct FakeAgent {
    yes: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl FakeAgent {
    pub fn start(state_dir: &Path) -> Self {
        let listener = UnixListener::bind(state_dir.join("admin.sock")).expect("the admin socket");
        let agent = Self { yes: Arc::new(AtomicBool::new(true)), asked: Arc::default() };
        let (yes, asked) = (agent.yes.clone(), agent.asked.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 512]);
                let status = if yes.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        agent
    }

    pub fn says(&self, yes: bool) {
        self.yes.store(yes, Ordering::SeqCst);
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
