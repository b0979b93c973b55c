//! A container that `pitstop exec` is the first process of, with a Puma that it starts.

use std::ops::{Deref, DerefMut};

pub use pitstop_rig::exec::{exec_puma, puma_behind_a_shell};
use pitstop_rig::{ExecPod, Setup};

use crate::PITSTOP;

pub struct Pod(ExecPod);

impl Pod {
    /// The agent has proved that `v1` runs.
    pub fn in_sync(setup: Setup, script: String) -> Self {
        let mut pod = ExecPod::prepare(PITSTOP.as_ref(), setup);
        pod.script = script;
        Self(pod.in_sync())
    }
}

impl Deref for Pod {
    type Target = ExecPod;

    fn deref(&self) -> &ExecPod {
        &self.0
    }
}

impl DerefMut for Pod {
    fn deref_mut(&mut self) -> &mut ExecPod {
        &mut self.0
    }
}
