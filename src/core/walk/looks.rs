//! What the agent sees and hears of the pod.

use super::pod::{Master, Nature, Rel, Worker};
use super::world::{World, name, number};
use crate::core::{Agent, Answer, Cwd, Observation, Probe, ProcessKey, Sockets, Traffic};

impl World {
    pub(crate) fn look(&self) -> Observation {
        let detection = self.pod.detection(|rel| Cwd::Release(name(rel)));
        let wanted = self.agent.as_ref().and_then(Agent::probe_for);
        let answers = wanted.map_or(vec![], |release| self.answers(number(&release)));
        // Clients go on asking, and wait while nothing serves.
        let for_candidate = self.agent.as_ref().and_then(Agent::probe_candidate_for);
        let candidate = self.pod.slots.as_ref().and_then(|slots| slots.standing());
        let candidate = candidate.and_then(|one| one.master.as_ref());
        let candidate_answers = match (for_candidate, candidate) {
            (Some(release), Some(master)) => self.answers_of(&booted(master), number(&release), false),
            _ => vec![],
        };
        let accept_queue = u32::from(self.pod.booted() == 0 && self.pod.master.is_some());
        let sockets = Sockets { accept_queue, ..Sockets::default() };
        let traffic = Traffic { workers: None, sockets: Some(sockets) };
        Observation { answers, candidate_answers, ..Observation::new(self.now.plus(1), detection, traffic) }
    }

    /// Every worker of the newest master that serves is asked, and names its code's release. While it has
    /// none, the first master's answer in their place.
    fn answers(&self, wanted: Rel) -> Vec<Answer> {
        let mut workers = self.pod.newest().map(booted).unwrap_or_default();
        if let (true, Some(first)) = (workers.is_empty(), &self.pod.master) {
            workers = booted(first);
        }
        self.answers_of(&workers, wanted, self.sick)
    }

    fn answers_of(&self, workers: &[Worker], wanted: Rel, sick: bool) -> Vec<Answer> {
        let answer = |worker: &Worker| {
            let probe = match self.pod.code(worker) {
                _ if sick => Probe::Unhealthy,
                code if self.nature(code) == Nature::Unhealthy => Probe::Unhealthy,
                code if code != wanted => Probe::OtherRelease,
                _ => Probe::Healthy,
            };
            Answer { by: Some(ProcessKey(worker.key)), probe }
        };
        let answers: Vec<_> = workers.iter().map(answer).collect();
        let nobody = Answer { by: None, probe: Probe::Unhealthy };
        if answers.is_empty() { vec![nobody] } else { answers }
    }
}

fn booted(master: &Master) -> Vec<Worker> {
    master.workers.iter().flatten().filter(|worker| worker.booted).cloned().collect()
}
