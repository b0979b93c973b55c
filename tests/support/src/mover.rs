use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::{App, Pod, PumaRig, Setup, until};

/// Which restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One worker after the other.
    Phased,
    /// All at once.
    Hot,
}

impl Mode {
    /// As `restart.mode` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Phased => "phased",
            Self::Hot => "hot",
        }
    }

    /// The same by hand.
    pub fn by_hand(self) -> &'static str {
        match self {
            Self::Phased => "ln -sfn && kill -USR1",
            Self::Hot => "ln -sfn && kill -USR2",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Phased => Signal::USR1,
            Self::Hot => Signal::USR2,
        }
    }
}

/// Moves a running Puma from release to release.
pub trait Mover {
    /// The Puma.
    fn puma(&self) -> &PumaRig;
    /// Puts a good release where a move finds it.
    fn prepare(&self, id: &str);
    /// Makes Puma run a release that was prepared; returns when it does.
    fn move_to(&self, id: &str);
}

/// By pitstop.
pub struct ByPitstop(Pod);

impl ByPitstop {
    /// A Puma that pitstop has proved to run `v1`. `binary` is the built pitstop.
    pub fn start(binary: &Path, setup: Setup, mode: Mode) -> Self {
        Self(Pod::prepare(binary, setup).with("PITSTOP_RESTART_MODE", mode.name()).in_sync())
    }
}

impl Mover for ByPitstop {
    fn puma(&self) -> &PumaRig {
        &self.0.puma
    }

    fn prepare(&self, id: &str) {
        self.0.agent.publish(&self.0.puma, App::Good, id);
    }

    fn move_to(&self, id: &str) {
        self.0.agent.promote(id);
        self.0.agent.wait_in_sync(id);
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

    fn prepare(&self, id: &str) {
        self.puma.release(id, App::Good);
    }

    fn move_to(&self, id: &str) {
        self.puma.flip(id);
        let master = self.puma.master().and_then(Pid::from_raw).expect("Puma runs");
        kill_process(master, self.mode.signal()).expect("Puma may be signalled");
        // Nobody proves anything here: twenty answers in a row from the new release are taken for the end.
        let mut in_a_row = 0;
        until("answers of the new release only", || {
            let answered = self.puma.get("/").ok().and_then(|answer| answer.release);
            in_a_row = if answered.as_deref() == Some(id) { in_a_row + 1 } else { 0 };
            (in_a_row == 20).then_some(())
        });
    }
}
