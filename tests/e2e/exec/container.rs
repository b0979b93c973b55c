//! A container that `pitstop exec` is the first process of, with a Puma that it starts.

use std::{fs, path::PathBuf, process::Command};

use pitstop_rig::{Container, Image, PATIENCE, Setup, Signal, poll, puma::children, signal, until};

use crate::{PITSTOP, new_pod};

pub struct Pod {
    container: Option<Container>,
    /// What the shell that `pitstop exec` starts is told.
    pub script: String,
    /// Its agent and its Puma are in the container; the rig starts neither.
    pod: pitstop_rig::Pod,
}

extends_pod!(Pod);

impl Pod {
    /// `v1` is in the store and the pointer names it; nothing runs, the volume is empty.
    pub fn unborn(setup: Setup) -> Self {
        Self { container: None, script: exec_puma(), pod: new_pod(setup).published() }
    }

    /// The agent has proved that `v1` runs.
    pub fn in_sync(setup: Setup, script: String) -> Self {
        let mut pod = Self { script, ..Self::unborn(setup) };
        pod.start();
        pod.agent.wait_in_sync("v1");
        pod
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
        self.container = Some(Container::start(recipe, self.puma.log(), false));
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
        signal(self.first(), Signal::TERM);
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
        signal(self.agent_pid(), Signal::KILL);
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

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.puma.log()).unwrap_or_default()
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
