//! How well it is proved that every process runs a release.
//!
//! A working directory is necessary and not sufficient: an app may load its code from an absolute path
//! elsewhere. Better is a file of the release that a process has loaded, and best is the app's own word,
//! from each process. What was reached is told with every proof; what was not is never claimed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    Policy,
    observation::{Observation, Probe, ProcessKey},
};
use crate::revision::ReleaseId;

/// What a proof rests on, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// Each process has named the release in an answer of its own.
    EveryWorker,
    /// The app has named the release, and not every process was heard.
    SomeWorkers,
    /// Each process has files of the release open or mapped.
    Files,
    /// The processes work in the release's directory.
    Cwd,
}

/// How well it is proved which release runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// What it rests on.
    pub(crate) level: Level,
    /// How many processes serve.
    pub(crate) processes: usize,
    /// How many of them have named the release.
    pub(crate) heard: usize,
}

impl Proof {
    /// What was proved, for people.
    pub(crate) fn words(&self) -> String {
        let Self { level, processes, heard } = self;
        let unheard = processes.saturating_sub(*heard);
        match level {
            Level::EveryWorker => format!("each of {processes} named the release in an answer of its own"),
            Level::SomeWorkers if *heard == 0 => {
                format!("the app named the release; which of {processes} answered could not be told")
            }
            Level::SomeWorkers => format!(
                "{heard} of {processes} named the release; {unheard} gave no answer of their own and were seen by \
                 their working directories only"
            ),
            Level::Files => format!("each of {processes} has files of the release loaded, and works in it"),
            Level::Cwd => format!(
                "each of {processes} works in the release's directory; the app was not heard to name its release"
            ),
        }
    }
}

/// What was heard and seen of the processes of a server that is in place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct ReleaseEvidence {
    /// Who has named the release.
    heard: BTreeSet<ProcessKey>,
    named: bool,
    /// How many answers named another one.
    contradicted: u32,
    /// Who has files of the release loaded.
    loaded: BTreeSet<ProcessKey>,
}

impl ReleaseEvidence {
    /// Takes in what a look brought about this release.
    pub(crate) fn take(&mut self, look: &Observation, release: &ReleaseId, policy: &Policy) {
        // The image's code names whatever release it was built as.
        let naming = policy.naming && !release.is_fallback();
        for answer in look.answers.iter().filter(|_| naming) {
            match answer.probe {
                Probe::Healthy => {
                    self.named = true;
                    self.heard.extend(answer.by);
                }
                // One is enough to doubt. A good answer of another process does not outweigh it.
                Probe::OtherRelease => {
                    self.contradicted = self.contradicted.saturating_add(1).min(policy.successes);
                }
                Probe::Unhealthy => {}
            }
        }
        for (key, files) in look.files.iter().flatten() {
            if files.open.contains(release) || files.mapped.contains(release) {
                self.loaded.insert(*key);
            } else {
                self.loaded.remove(key);
            }
        }
    }

    /// What was heard of processes that are gone proves nothing of those that are there.
    #[must_use]
    pub(crate) fn of_those_still_there(&self, processes: &BTreeSet<ProcessKey>) -> Self {
        let (heard, loaded) = (&self.heard & processes, &self.loaded & processes);
        Self { named: !heard.is_empty(), heard, contradicted: 0, loaded }
    }

    /// How many answers named another release, up to `verify.successes`.
    pub(crate) fn contradicted(&self) -> u32 {
        self.contradicted
    }

    /// Nothing more is to be heard. A single process needs no telling who answered.
    pub(crate) fn complete(&self, processes: &BTreeSet<ProcessKey>) -> bool {
        let alone = processes.len() == 1 && self.named;
        alone || (!processes.is_empty() && processes.is_subset(&self.heard))
    }

    /// The app names its release, and nobody can tell which process answered: more answers prove no more.
    pub(crate) fn anonymous(&self, processes: &BTreeSet<ProcessKey>) -> bool {
        self.named && self.heard.is_disjoint(processes)
    }

    /// How well it is proved that these processes run the release.
    pub(crate) fn proof(&self, processes: &BTreeSet<ProcessKey>) -> Proof {
        let complete = self.complete(processes);
        let level = match self.named {
            _ if complete => Level::EveryWorker,
            true => Level::SomeWorkers,
            false if !processes.is_empty() && processes.is_subset(&self.loaded) => Level::Files,
            false => Level::Cwd,
        };
        let heard = if complete { processes.len() } else { (&self.heard & processes).len() };
        Proof { level, processes: processes.len(), heard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        deploy::tests::policy,
        observation::{Answer, Detection, Files, Moment, Traffic},
    };

    fn v2() -> ReleaseId {
        "v2".parse().unwrap()
    }

    fn processes(keys: &[u64]) -> BTreeSet<ProcessKey> {
        keys.iter().copied().map(ProcessKey).collect()
    }

    fn look(answers: &[(Option<u64>, Probe)]) -> Observation {
        let answer = |(by, probe): &(Option<u64>, Probe)| Answer { by: by.map(ProcessKey), probe: *probe };
        let answers = answers.iter().map(answer).collect();
        Observation { answers, ..Observation::new(Moment(0), Detection::Unclear, Traffic::default()) }
    }

    fn heard(looks: &[Observation], naming: bool) -> ReleaseEvidence {
        let policy = Policy { naming, ..policy() };
        let mut evidence = ReleaseEvidence::default();
        looks.iter().for_each(|look| evidence.take(look, &v2(), &policy));
        evidence
    }

    /// Answers, whether they name a release, processes; what that proves.
    #[test]
    fn what_was_heard_decides_what_is_proved() {
        use Probe::{Healthy, Unhealthy};
        let (one, two, somebody) = ((Some(1), Healthy), (Some(2), Healthy), (None, Healthy));
        for (answers, naming, there, level, count) in [
            (&[one, two][..], true, &[1, 2][..], Level::EveryWorker, 2),
            (&[one, one, one], true, &[1, 2], Level::SomeWorkers, 1),
            (&[one, (Some(2), Unhealthy)], true, &[1, 2], Level::SomeWorkers, 1),
            (&[somebody, somebody], true, &[1, 2], Level::SomeWorkers, 0),
            (&[somebody], true, &[1], Level::EveryWorker, 1),
            (&[one, two], true, &[1, 3], Level::SomeWorkers, 1),
            (&[one, two], false, &[1, 2], Level::Cwd, 0),
            (&[], true, &[1, 2], Level::Cwd, 0),
        ] {
            let proof = heard(&[look(answers)], naming).proof(&processes(there));
            assert_eq!((proof.level, proof.heard), (level, count), "{answers:?} of {there:?}");
            assert!(proof.words().contains(&there.len().to_string()), "{}", proof.words());
        }
    }

    #[test]
    fn an_answer_of_another_release_is_not_outweighed() {
        let other = (Some(2), Probe::OtherRelease);
        let looks = [look(&[other]), look(&[(Some(1), Probe::Healthy); 9]), look(&[other, other, other])];
        assert_eq!(heard(&looks[..2], true).contradicted(), 1);
        assert_eq!(heard(&looks, true).contradicted(), 3, "as many as decide, and no more");
    }

    #[test]
    fn files_prove_where_every_process_has_some() {
        let of =
            |release: &str| Files { open: BTreeSet::from([release.parse().unwrap()]), ..Files::default() };
        let files = |all: &[(u64, &str)]| Observation {
            files: Some(all.iter().map(|(key, release)| (ProcessKey(*key), of(release))).collect()),
            ..look(&[])
        };
        let level = |looks: &[Observation]| heard(looks, false).proof(&processes(&[1, 2])).level;
        assert_eq!(level(&[files(&[(1, "v2"), (2, "v2")])]), Level::Files);
        assert_eq!(level(&[files(&[(1, "v2"), (2, "v1")])]), Level::Cwd);
        assert_eq!(level(&[files(&[(1, "v2"), (2, "v2")]), files(&[(2, "v1")])]), Level::Cwd);
    }

    #[test]
    fn what_was_heard_of_those_that_are_gone_is_forgotten() {
        let evidence = heard(&[look(&[(Some(1), Probe::Healthy), (Some(2), Probe::Healthy)])], true);
        let now = processes(&[2, 3]);
        let proof = evidence.of_those_still_there(&now).proof(&now);
        assert_eq!((proof.level, proof.heard), (Level::SomeWorkers, 1));
        let none = processes(&[3, 4]);
        assert_eq!(evidence.of_those_still_there(&none).proof(&none).level, Level::Cwd);
    }
}
