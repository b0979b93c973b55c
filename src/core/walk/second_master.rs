//! The model of a server that starts a second master beside the first, as Unicorn does.

use super::pod::{Keys, Master, Nature, Pod, Rel, Stage};
use crate::core::ServerCommand;

impl Pod {
    /// The master that was started last.
    pub(crate) fn newest(&self) -> Option<&Master> {
        self.second.as_ref().or(self.master.as_ref())
    }

    /// What the adapter does about an act; `false` when the image meant is not the newest.
    pub(crate) fn told(&mut self, command: ServerCommand, on: u64) -> bool {
        if self.newest().is_none_or(|newest| newest.key != on) {
            return false;
        }
        match (command, &mut self.master, &mut self.second) {
            (ServerCommand::Recover, ..) => (self.master, self.second) = (None, None),
            (ServerCommand::Commit, Some(old), Some(_)) => old.stage = Stage::Stopping,
            (ServerCommand::Abort(_), _, Some(new)) => new.stage = Stage::Stopping,
            (ServerCommand::Restart(_) | ServerCommand::Abort(_), Some(only), None) => only.usr1 = true,
            (ServerCommand::Restart(_), _, Some(_)) => return false,
            _ => {}
        }
        true
    }

    /// Everything that it may do next by itself, where two masters can be.
    pub(crate) fn moves_with_second(
        &self,
        master: &Master,
        current: Option<Rel>,
        nature: impl Fn(Rel) -> Nature + Copy,
        keys: &mut impl Keys,
    ) -> Vec<Self> {
        let with_second = |second: Option<Master>| Self { second, ..self.clone() };
        match &self.second {
            // The first one is told, and starts the second.
            None if master.usr1 => {
                let Some(dir) = current else { return vec![] };
                let stage = Stage::Exec;
                let workers = vec![None; self.kind.workers];
                let first = Master { usr1: false, ..master.clone() };
                let (key, process) = (keys.fresh(), keys.fresh());
                let second = Master { key, process, stage, dir, workers, ..first.clone() };
                vec![Self { master: Some(first), second: Some(second), ..self.clone() }]
            }
            Some(_) if master.stage == Stage::Stopping => {
                vec![Self { master: self.second.clone(), second: None, ..self.clone() }]
            }
            Some(second) if second.stage == Stage::Stopping => vec![with_second(None)],
            Some(second) => {
                let alone = Self { master: Some(second.clone()), second: None, ..self.clone() };
                let next = alone.moves_alone(second, current, nature, keys);
                next.into_iter().map(|pod| with_second(pod.master)).collect()
            }
            None => self.moves_alone(master, current, nature, keys),
        }
    }
}
