//! A restart beside: what is done in which order, and what a pod shows meanwhile.

use super::*;
use crate::core::{
    ServerCommand,
    observation::{Beside, Candidate, Lingering, Warmed},
};

pub(super) const LIVE: u64 = 1;
pub(super) const NEW: u64 = 100;
pub(super) const OLD: u64 = 200;

/// An agent whose effects are done at once, and what stands in the slots.
pub(super) struct Rig {
    pub(super) agent: Agent,
    pub(super) now: u64,
    pub(super) server: Option<AppServer>,
    pub(super) answers: Option<Probe>,
    pub(super) candidate_answers: Option<Probe>,
    pub(super) plan: Plan,
    /// What was asked for, in words.
    pub(super) done: Vec<String>,
    /// What could not be done.
    pub(super) fails: Option<(ServerCommand, Problem)>,
    pub(super) records: Vec<Record>,
    pub(super) starts: u64,
    pub(super) current: ReleaseId,
}

pub(super) fn id(release: &str) -> ReleaseId {
    release.parse().unwrap()
}

pub(super) fn generation(image: u64, release: &str, booted: bool) -> Generation {
    let cwd = Cwd::Release(id(release));
    let processes = vec![Process { key: ProcessKey(image + 1), cwd: cwd.clone(), booted }];
    let (key, master) = (GenerationKey(image), ProcessKey(image));
    Generation { key, master, signalable: true, cwd, expected: 1, processes }
}

pub(super) fn candidate(generation: Option<Generation>) -> Candidate {
    let key = GenerationKey(NEW + 50);
    Candidate {
        key,
        generation,
        warm: Some(Warmed::default()),
        ended: false,
        trouble: None,
        share: 0,
        served: None,
    }
}

pub(super) fn lingering(release: &str) -> Lingering {
    let (key, release) = (GenerationKey(OLD), Some(id(release)));
    Lingering { key, release, queue_empty_ms: 1_000, oldest_request_ms: None, told: false }
}

impl Rig {
    pub(super) fn new(policy: Policy) -> Self {
        let verified = |pointer: Pointer| Record::new(RecordEvent::Verified, pointer.revision);
        let records = vec![verified(at("v0", 0)), verified(at("v1", 1))];
        let server = AppServer { generations: vec![generation(LIVE, "v1", true)], ..AppServer::default() };
        Self::started(policy, records, "v1", server)
    }

    pub(super) fn started(policy: Policy, records: Vec<Record>, current: &str, server: AppServer) -> Self {
        let recovered =
            Recovered { current: Some(id(current)), records: records.clone(), ..Recovered::default() };
        let mut rig = Self {
            agent: recovered_agent(policy, &recovered),
            now: 0,
            server: Some(server),
            answers: Some(Probe::Healthy),
            candidate_answers: Some(Probe::Healthy),
            plan: Plan::new(Mode::Beside),
            done: vec![],
            fails: None,
            records,
            starts: 0,
            current: id(current),
        };
        rig.look();
        rig
    }

    pub(super) fn quick() -> Policy {
        Policy { spread_ms: None, wait_in_flight_ms: 60_000, ..policy() }
    }

    /// v2 is promoted, and its candidate is there and has not booted.
    pub(super) fn candidate_boots(policy: Policy) -> Self {
        let mut rig = Self::new(policy);
        rig.point("v2", 2);
        rig.looks(4);
        rig.set_candidate(Some(candidate(Some(generation(NEW, "v2", false)))));
        rig.looks(1);
        assert_eq!(rig.agent.view().stage, Stage::Verifying);
        rig
    }

    pub(super) fn feed(&mut self, event: Event) {
        let mut effects = self.agent.step(Moment(self.now), event);
        while !effects.is_empty() {
            let mut next = vec![];
            for effect in effects {
                if let Some(event) = self.perform(effect) {
                    self.now += 1;
                    next.extend(self.agent.step(Moment(self.now), event));
                }
            }
            effects = next;
        }
    }

    pub(super) fn perform(&mut self, effect: Effect) -> Option<Event> {
        let mut outcome = Outcome::Done;
        let (attempt, step) = match effect {
            Effect::Fetch { attempt, release, .. } => {
                self.done.push(format!("fetch {release}"));
                (attempt, Step::Fetch)
            }
            Effect::Check { attempt, beside, .. } => {
                self.done.push(format!("check beside={beside}"));
                outcome = Outcome::Checked(match beside {
                    true => self.plan.clone(),
                    false => Plan::new(Mode::Hot),
                });
                (attempt, Step::Check)
            }
            Effect::Record { attempt, record } => {
                let event = format!("{:?}", record.event).to_lowercase();
                self.done.push(format!("{event} {}", record.revision.release));
                self.records.push(record.clone());
                (attempt, Step::Record(record.event))
            }
            Effect::Publish { attempt, release } => {
                self.done.push(format!("current {release}"));
                self.current = release;
                (attempt, Step::Publish)
            }
            Effect::Perform { attempt, command, on } => {
                self.done.push(format!("{command:?} {}", on.0));
                if let Some((_, problem)) = self.fails.as_ref().filter(|(fails, _)| *fails == command) {
                    outcome = Outcome::Failed(problem.clone());
                } else if command == ServerCommand::Restart(Mode::Beside) {
                    self.starts += 150;
                    let key = GenerationKey(self.starts);
                    self.set_candidate(Some(Candidate { key, ..candidate(None) }));
                } else if command == ServerCommand::Switch {
                    self.switch(on);
                } else if let (ServerCommand::Share { permille }, Some(server)) = (command, &mut self.server)
                {
                    server.beside.candidate.iter_mut().for_each(|candidate| candidate.share = permille);
                }
                (attempt, Step::Perform(command))
            }
            Effect::Conclude { result, .. } => {
                let name = format!("{result:?}");
                self.done.push(format!("= {}", name.split('(').next().unwrap()));
                return None;
            }
            Effect::Notice(_) | Effect::Drain(_) => return None,
        };
        Some(Event::Finished { attempt, step, outcome })
    }

    pub(super) fn point(&mut self, release: &str, sequence: u64) {
        self.feed(Event::Pointer(Ok(at(release, sequence))));
    }

    pub(super) fn look(&mut self) {
        self.now += 50;
        let one = |probe| vec![Answer { by: None, probe }];
        let answers = self.answers.filter(|_| self.agent.probe_for().is_some()).map_or(vec![], one);
        let candidate_answers =
            self.candidate_answers.filter(|_| self.agent.probe_candidate_for().is_some()).map_or(vec![], one);
        let detection = self.server.clone().map_or(Detection::Missing, Detection::Seen);
        let look = Observation::new(Moment(self.now), detection, Traffic::default());
        self.feed(Event::Observed(Observation { answers, candidate_answers, ..look }));
    }

    pub(super) fn looks(&mut self, count: usize) {
        (0..count).for_each(|_| self.look());
    }

    pub(super) fn beside(&mut self) -> &mut Beside {
        &mut self.server.as_mut().unwrap().beside
    }

    pub(super) fn set_candidate(&mut self, candidate: Option<Candidate>) {
        self.beside().candidate = candidate;
    }

    pub(super) fn boots(&mut self) {
        self.set_candidate(Some(candidate(Some(generation(NEW, "v2", true)))));
    }

    /// New connections go to another server, and the one that was live lingers.
    pub(super) fn switch(&mut self, to: GenerationKey) {
        let (image, live, before) = if to.0 == OLD { (LIVE, "v1", "v2") } else { (NEW, "v2", "v1") };
        let key = GenerationKey(if to.0 == OLD { NEW + 50 } else { OLD });
        let beside = Beside {
            candidate: None,
            lingering: vec![Lingering { key, queue_empty_ms: 0, ..lingering(before) }],
            served_by_live: None,
        };
        let generations = vec![generation(image, live, true)];
        self.server = Some(AppServer { generations, beside, ..AppServer::default() });
    }

    /// v2 is proved and live; v1 lingers.
    pub(super) fn deployed(policy: Policy) -> Self {
        let mut rig = Self::candidate_boots(policy);
        rig.boots();
        rig.looks(6);
        assert_eq!((rig.agent.view().stage, rig.agent.view().in_sync), (Stage::Steady, true));
        rig.done.clear();
        rig
    }

    pub(super) fn restart(self, policy: Policy) -> Self {
        let current = self.current.to_string();
        let mut rig = Self::started(policy, self.records, &current, self.server.unwrap());
        rig.now += self.now;
        rig
    }

    pub(super) fn done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }
}

#[test]
fn the_candidate_is_proved_before_the_switch_and_nothing_is_restarted() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    let until =
        ["fetch v2", "check beside=true", "attempt v2", "current v2", "signalled v2", "Restart(Beside) 1"];
    assert_eq!(rig.done(), until);
    assert_eq!(rig.records[2].mode, Some(Mode::Beside));
    let view = rig.agent.view();
    assert_eq!((view.stage, view.running, view.in_sync), (Stage::Verifying, Some(id("v1")), false));
    assert_eq!(rig.agent.probe_for(), Some(id("v1")), "the live server is asked as well");
    assert!(!rig.agent.settled(), "a container that ends now would boot what nobody has proved");
    rig.looks(10);
    assert_eq!(rig.done(), [""; 0], "it has not booted");
    rig.boots();
    rig.looks(2);
    assert_eq!(rig.done(), [""; 0], "it has not been well for long enough");
    rig.looks(4);
    let view = rig.agent.view();
    assert_eq!((view.stage, view.running, view.in_sync), (Stage::Steady, Some(id("v2")), true));
    assert_eq!(rig.done(), ["Switch 150", "verified v2", "= Verified"]);
    assert!(rig.agent.settled());
}

#[test]
fn no_verdict_comes_before_the_warm_up_is_over_and_its_time_condemns_nobody() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.beside().candidate.as_mut().unwrap().warm = None;
    rig.done.clear();
    rig.looks(400);
    assert_eq!(rig.done(), [""; 0]);
    rig.beside().candidate.as_mut().unwrap().warm = Some(Warmed::default());
    rig.look();
    assert_eq!(rig.done(), ["Switch 150", "verified v2"]);
}

#[test]
fn a_candidate_that_fails_is_ended_after_current_leads_back_and_what_ran_runs() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.candidate_answers = Some(Probe::Unhealthy);
    rig.done.clear();
    rig.looks(5);
    assert_eq!(rig.done(), ["rejected v2", "current v1", "Abort(Beside) 150"]);
    assert_eq!((rig.agent.view().stage, rig.agent.view().running), (Stage::Reverting, Some(id("v1"))));
    assert!(rig.agent.settled(), "`current` leads back");
    rig.looks(2);
    assert_eq!(rig.done(), ["Kill 150"], "it did not end");
    rig.set_candidate(None);
    rig.looks(3);
    assert_eq!(rig.done(), ["reverted v1", "= Reverted"]);
    let view = rig.agent.view();
    assert_eq!((view.stage, view.running), (Stage::Steady, Some(id("v1"))));
    assert_eq!(view.rejected[0].1, Reason::ProbeFailed);
    assert_eq!(view.problem.unwrap().reason, Reason::Rejected);
}

#[test]
fn one_that_ended_while_it_booted_is_rejected_with_its_exception_and_needs_no_end() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.done.clear();
    rig.set_candidate(Some(Candidate { ended: true, ..candidate(None) }));
    rig.now += 50;
    let look =
        Observation::new(Moment(rig.now), Detection::Seen(rig.server.clone().unwrap()), Traffic::default());
    let raised = Some("LoadError: cannot load such file -- a_gem (config.ru:3)".to_owned());
    rig.feed(Event::Observed(Observation { raised, ..look }));
    rig.looks(2);
    assert_eq!(rig.done(), ["rejected v2", "current v1", "reverted v1", "= Reverted"]);
    let problem = rig.agent.view().problem.unwrap();
    assert!(problem.message.contains("a_gem (config.ru:3)"), "{}", problem.message);
    assert_eq!(rig.agent.view().rejected[0].1, Reason::BootFailed);
}

#[test]
fn one_that_ends_after_it_has_booted_gets_one_more_chance() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    let ended = Candidate { ended: true, ..candidate(None) };
    rig.boots();
    rig.look();
    rig.done.clear();
    rig.set_candidate(Some(ended.clone()));
    rig.looks(6);
    assert!(rig.agent.view().rejected.is_empty());
    assert_eq!(rig.done.last().unwrap(), "Restart(Beside) 1");
    let again = Candidate { key: GenerationKey(300), ..candidate(Some(generation(NEW, "v2", true))) };
    rig.set_candidate(Some(again.clone()));
    rig.look();
    rig.set_candidate(Some(Candidate { key: again.key, ..ended }));
    rig.look();
    assert_eq!(rig.agent.view().rejected[0].1, Reason::MasterGone);
}

#[test]
fn what_two_servers_fight_over_rejects_nothing_and_the_move_goes_on_without_a_second_one() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.done.clear();
    let trouble = Problem::new(Reason::NoMemory, "90 % of the memory limit");
    rig.set_candidate(Some(Candidate { trouble: Some(trouble), ..candidate(None) }));
    rig.look();
    rig.looks(1);
    rig.set_candidate(None);
    rig.looks(5);
    let until =
        ["current v1", "Abort(Beside) 150", "reverted v1", "= Reverted", "fetch v2", "check beside=false"];
    assert_eq!(rig.done()[..6], until);
    assert!(rig.agent.view().rejected.is_empty());
}

#[test]
fn where_nothing_else_will_do_it_is_tried_again_later_and_says_why() {
    let mut rig = Rig::candidate_boots(Policy { beside_only: true, ..Rig::quick() });
    rig.done.clear();
    let trouble = || Problem::new(Reason::NotInherited, "it listens elsewhere");
    let mut pauses = vec![];
    for key in [150, 300] {
        let mine =
            Candidate { key: GenerationKey(key), trouble: Some(trouble()), ended: true, ..candidate(None) };
        rig.set_candidate(Some(mine));
        rig.looks(2);
        let view = rig.agent.view();
        assert_eq!((view.stage, reason(&rig.agent)), (Stage::Steady, Some(Reason::NotInherited)));
        pauses.push(view.retry_at.unwrap().0 - rig.now);
        rig.now += 1_000;
        rig.looks(5);
    }
    assert!(pauses[1] > pauses[0], "{pauses:?}");
    assert!(rig.done().iter().all(|done| done != "check beside=false"));
}

#[test]
fn a_database_that_is_down_ends_no_server_and_rejects_nothing() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.done.clear();
    let trouble = Problem::new(Reason::BootFailed, "a database refuses connections");
    rig.set_candidate(Some(Candidate { trouble: Some(trouble), ended: true, ..candidate(None) }));
    rig.looks(3);
    assert_eq!(rig.done(), ["current v1", "reverted v1", "= Reverted"]);
    let view = rig.agent.view();
    assert_eq!((view.stage, reason(&rig.agent)), (Stage::Steady, Some(Reason::BootFailed)));
    assert!(view.rejected.is_empty() && view.retry_at.is_some());
}

#[test]
fn a_candidate_that_ends_while_the_live_server_fails_as_well_is_not_rejected() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.answers = Some(Probe::Unhealthy);
    rig.set_candidate(Some(Candidate { ended: true, ..candidate(None) }));
    rig.looks(3);
    assert_eq!((rig.agent.view().rejected.len(), reason(&rig.agent)), (0, Some(Reason::ProbeFailed)));
}

#[test]
fn the_live_servers_health_outranks_the_candidates() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.done.clear();
    rig.answers = Some(Probe::Unhealthy);
    rig.looks(4);
    rig.set_candidate(None);
    rig.look();
    assert_eq!(rig.done(), ["current v1", "Abort(Beside) 150", "reverted v1", "= Reverted"]);
    assert_eq!((rig.agent.view().rejected.len(), reason(&rig.agent)), (0, Some(Reason::ProbeFailed)));
}

#[test]
fn a_newer_move_ends_the_candidate_and_goes_on() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.done.clear();
    rig.point("v3", 3);
    assert_eq!(rig.done(), ["current v1"]);
    rig.look();
    rig.set_candidate(None);
    rig.look();
    assert_eq!(rig.done(), ["Abort(Beside) 150", "reverted v1", "= Superseded", "fetch v3"]);
    assert_eq!(rig.agent.view().rejected, []);
}

#[test]
fn a_drain_ends_the_candidate_and_starts_nothing() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.done.clear();
    rig.feed(Event::Drain(DrainCommand::Begin(Origin::PreStop)));
    assert_eq!(rig.done(), ["current v1"]);
    rig.look();
    rig.set_candidate(None);
    rig.looks(10);
    assert_eq!(rig.done(), ["Abort(Beside) 150", "reverted v1", "= Reverted"]);
}

#[test]
fn when_the_live_server_ends_before_the_verdict_current_leads_back_before_its_container_starts_it() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.done.clear();
    rig.server = None;
    rig.look();
    assert_eq!((rig.done(), rig.agent.settled()), (vec!["current v1".to_owned()], true));
    rig.server = Some(AppServer { generations: vec![generation(7, "v1", true)], ..AppServer::default() });
    rig.looks(3);
    assert_eq!(rig.done()[..2], ["reverted v1", "= Reverted"]);
}
