//! A container that `pitstop exec` is the first process of, with a Puma that it starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use pitstop_rig::{AgentRig, App, Container, Image, PATIENCE, PumaRig, Setup, poll, puma::children, until};

use crate::PITSTOP;

pub struct Pod {
    pub agent: AgentRig,
    pub puma: PumaRig,
    container: Option<Container>,
    /// What the shell that `pitstop exec` starts is told.
    pub script: String,
}

impl Pod {
    /// `v1` is in the store and the pointer names it; nothing runs, the volume is empty.
    pub fn unborn(setup: Setup) -> Self {
        let puma = PumaRig::empty(setup);
        let agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        let pod = Self { agent, puma, container: None, script: exec_puma() };
        pod.deploy(App::Good, "v1");
        pod
    }

    /// The agent has proved that `v1` runs.
    pub fn in_sync(setup: Setup, script: String) -> Self {
        let mut pod = Self { script, ..Self::unborn(setup) };
        pod.start();
        pod.agent.wait_in_sync("v1");
        pod
    }

    pub fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.puma, app, id);
        self.agent.promote(id);
    }

    /// Starts the container, for the first time or again.
    pub fn start(&mut self) {
        self.container = None;
        let (config, current, env) = (self.agent.config(), self.puma.current(), self.agent.env.clone());
        let (script, run) = (self.script.clone(), self.puma.scratch().join("run"));
        let (pitstop, image) = (self.pitstop(), self.puma.entrance());
        let recipe = Box::new(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", "unshare", "--pid", "--fork", "--kill-child"]);
            command.arg("--mount-proc");
            image(&mut command);
            command.arg(&pitstop).arg("--config").arg(&config);
            command.args(["exec", "--", "sh", "-c", &script]);
            command.env("CURRENT", &current).env("RIG_RUN", &run).envs(env.iter().cloned());
            command
        });
        self.container = Some(Container::start(recipe, self.log(), false));
        // A port that was taken meanwhile is the test's bad luck; nothing here depends on it.
        until("the agent answers", || self.agent.get("/live").ok());
    }

    /// In another image nothing of this machine is to be seen but the rig's directory.
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

    fn container(&self) -> &Container {
        self.container.as_ref().expect("the container was started")
    }

    /// `pitstop exec`, as this side sees it.
    pub fn first(&self) -> i32 {
        let outer = self.container().pid().expect("the container runs");
        until("pitstop exec", || children(outer).first().copied())
    }

    pub fn term(&self) {
        signal::kill(Pid::from_raw(self.first()), Signal::SIGTERM).unwrap();
    }

    /// The agent, a child of `pitstop exec`.
    pub fn agent_pid(&self) -> i32 {
        let first = self.first();
        let agent = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0run\0--child-of\0")
        };
        until("the agent", || children(first).into_iter().find(agent))
    }

    pub fn kill_agent(&self) {
        signal::kill(Pid::from_raw(self.agent_pid()), Signal::SIGKILL).unwrap();
    }

    /// The end of the whole container, as by the platform when its patience is over.
    pub fn kill(&mut self) {
        self.container = None;
    }

    #[track_caller]
    pub fn wait_for_end(&self) -> Option<i32> {
        let ended = poll(PATIENCE, || self.container().ended().then_some(()));
        assert!(ended.is_some(), "does not end");
        self.container().exit_code()
    }

    /// A request that takes so many seconds from now on, and that Puma serves.
    pub fn slow_request(&self, seconds: u32) -> thread::JoinHandle<Option<u16>> {
        pitstop_rig::slow_request(&self.puma, &self.agent, seconds)
    }

    pub fn log(&self) -> PathBuf {
        self.puma.log()
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn journal(&self) -> String {
        let journal = self.puma.deploy_to().join(".pitstop/pods/rig/revisions.log");
        std::fs::read_to_string(journal).unwrap_or_default()
    }

    pub fn current(&self) -> String {
        let current = self.puma.current().canonicalize().unwrap();
        current.file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// As the README has it.
pub fn exec_puma() -> String {
    r#"cd "$CURRENT" && exec puma -C config/puma.rb"#.into()
}

/// A shell that stays in front of Puma.
pub fn puma_behind_a_shell() -> String {
    r#"cd "$CURRENT" && puma -C config/puma.rb; exit $?"#.into()
}
