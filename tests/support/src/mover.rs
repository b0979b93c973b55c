use std::{
    ops::Deref,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{App, ExecPod, Pod, PumaRig, Setup, exec::Server, until_within};

/// Which restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One worker after the other.
    Phased,
    /// All at once.
    Hot,
    /// A second server in the same container, and then the switch.
    Beside,
}

impl Mode {
    /// As `restart.mode` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Phased => "phased",
            Self::Hot => "hot",
            Self::Beside => "beside",
        }
    }

    /// The same by hand, or what comes nearest: nothing but Puma's own restarts is at hand for a second server.
    pub fn by_hand(self) -> &'static str {
        match self {
            Self::Phased => "ln -sfn && kill -USR1",
            Self::Hot | Self::Beside => "ln -sfn && kill -USR2",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Phased => Signal::USR1,
            Self::Hot | Self::Beside => Signal::USR2,
        }
    }
}

/// How long a move may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Moves a running Puma from release to release.
pub trait Mover {
    /// The Puma.
    fn puma(&self) -> &PumaRig;
    /// The process that all others of the container descend from.
    fn first(&self) -> i32;
    /// Puts a good release where a move finds it.
    fn prepare(&self, id: &str);
    /// Makes Puma run a release that was prepared, and returns when it does. Gives the last moment at which the
    /// release was certainly not proved yet: what it answered before was not checked by anybody.
    fn move_to(&self, id: &str) -> Instant;
    /// Waits until no server of an earlier release is left.
    fn settle(&self) {}
}

/// By pitstop.
pub struct ByPitstop(Place);

enum Place {
    /// Puma in a container of its own.
    Sidecar(Pod),
    /// Below `pitstop exec`.
    Exec(ExecPod),
}

impl Deref for Place {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        match self {
            Self::Sidecar(pod) => pod,
            Self::Exec(pod) => pod,
        }
    }
}

impl ByPitstop {
    /// A Puma that pitstop has proved to run `v1`. `binary` is the built pitstop.
    pub fn start(binary: &Path, setup: Setup, mode: Mode) -> Self {
        Self::start_with(binary, setup, mode, &[])
    }

    /// The same with further variables of the agent's.
    pub fn start_with(binary: &Path, setup: Setup, mode: Mode, more: &[(&str, &str)]) -> Self {
        let env = [("PITSTOP_RESTART_MODE", mode.name()), ("PITSTOP_RESTART_TIMEOUT", "60s")];
        let env = || env.iter().chain(more).copied();
        let pod = if mode == Mode::Beside {
            let mut pod = ExecPod::prepare(binary, setup);
            env().for_each(|(name, value)| pod.set(name, value));
            let listen = format!("tcp://{}:{}", pod.puma.setup().host, pod.puma.port());
            Place::Exec(pod.with("PITSTOP_EXEC_LISTEN", listen).in_sync())
        } else {
            let mut pod = Pod::prepare(binary, setup);
            env().for_each(|(name, value)| pod.set(name, value));
            Place::Sidecar(pod.in_sync())
        };
        Self(pod)
    }

    /// Publishes a release and moves the pointer to it, whatever becomes of it.
    pub fn deploy(&self, app: App, id: &str) {
        self.0.deploy(app, id);
    }

    /// Whether the release has not passed its check yet.
    fn unproved(&self, id: &str) -> bool {
        if let Place::Exec(pod) = &self.0 {
            // The parent's own word, which no look delays.
            let live = |server: &Server| server.role == "live" && server.release == id;
            return !pod.servers().iter().any(live);
        }
        let status = self.0.status();
        status["in_sync"] != true || status["running"] != id
    }
}

impl Mover for ByPitstop {
    fn puma(&self) -> &PumaRig {
        &self.0.puma
    }

    fn first(&self) -> i32 {
        match &self.0 {
            Place::Sidecar(pod) => pod.puma.master().expect("Puma runs"),
            Place::Exec(pod) => pod.first(),
        }
    }

    fn prepare(&self, id: &str) {
        self.0.agent.publish(&self.0.puma, App::Good, id);
    }

    fn move_to(&self, id: &str) -> Instant {
        self.0.agent.promote(id);
        let mut last = Instant::now();
        until_within(PATIENCE, &format!("proof of {id}"), || {
            let now = Instant::now();
            let unproved = self.unproved(id);
            if unproved {
                last = now;
            }
            (!unproved).then_some(())
        });
        self.0.agent.wait_in_sync_within(PATIENCE, id);
        last
    }

    fn settle(&self) {
        if let Place::Exec(pod) = &self.0 {
            until_within(PATIENCE, "the end of the earlier server", || {
                (pod.servers().len() == 1).then_some(())
            });
        }
    }
}

/// By the link flipped and a bare `kill`.
pub struct ByHand {
    puma: PumaRig,
    mode: Mode,
}

impl ByHand {
    /// A Puma that answers with `v1`.
    pub fn start(setup: Setup, mode: Mode) -> Self {
        Self { puma: PumaRig::start(setup), mode }
    }
}

impl Mover for ByHand {
    fn puma(&self) -> &PumaRig {
        &self.puma
    }

    fn first(&self) -> i32 {
        self.puma.master().expect("Puma runs")
    }

    fn prepare(&self, id: &str) {
        self.puma.release(id, App::Good);
    }

    fn move_to(&self, id: &str) -> Instant {
        self.puma.flip(id);
        let master = self.puma.master().and_then(Pid::from_raw).expect("Puma runs");
        kill_process(master, self.mode.signal()).expect("Puma may be signalled");
        // Nobody proves anything here: twenty answers in a row from the new release are taken for the end.
        let mut in_a_row = 0;
        until_within(PATIENCE, "answers of the new release only", || {
            let answered = self.puma.get("/").ok().and_then(|answer| answer.release);
            in_a_row = if answered.as_deref() == Some(id) { in_a_row + 1 } else { 0 };
            (in_a_row == 20).then_some(())
        });
        Instant::now()
    }
}
