//! A restart beside: what is done in which order, and what a pod shows meanwhile.

use super::*;
use crate::core::{
    ServerCommand,
    observation::{Beside, Candidate, Lingering},
};

const LIVE: u64 = 1;
const NEW: u64 = 100;
const OLD: u64 = 200;

/// An agent whose effects are done at once, and what stands in the slots.
struct Rig {
    agent: Agent,
    now: u64,
    server: Option<AppServer>,
    answers: Option<Probe>,
    candidate_answers: Option<Probe>,
    plan: Plan,
    /// What was asked for, in words.
    done: Vec<String>,
    /// What could not be done.
    fails: Option<(ServerCommand, Problem)>,
    records: Vec<Record>,
    starts: u64,
    current: ReleaseId,
}

fn id(release: &str) -> ReleaseId {
    release.parse().unwrap()
}

fn generation(image: u64, release: &str, booted: bool) -> Generation {
    let cwd = Cwd::Release(id(release));
    let processes = vec![Process { key: ProcessKey(image + 1), cwd: cwd.clone(), booted }];
    let (key, master) = (GenerationKey(image), ProcessKey(image));
    Generation { key, master, signalable: true, cwd, expected: 1, processes }
}

fn candidate(generation: Option<Generation>) -> Candidate {
    Candidate { key: GenerationKey(NEW + 50), generation, warm: true, ended: false, trouble: None }
}

fn lingering(release: &str) -> Lingering {
    let (key, release) = (GenerationKey(OLD), Some(id(release)));
    Lingering { key, release, queue_empty_ms: 1_000, oldest_request_ms: None, told: false }
}

impl Rig {
    fn new(policy: Policy) -> Self {
        let verified = |pointer: Pointer| Record::new(RecordEvent::Verified, pointer.revision);
        let records = vec![verified(at("v0", 0)), verified(at("v1", 1))];
        let server = AppServer { generations: vec![generation(LIVE, "v1", true)], ..AppServer::default() };
        Self::started(policy, records, "v1", server)
    }

    fn started(policy: Policy, records: Vec<Record>, current: &str, server: AppServer) -> Self {
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

    fn quick() -> Policy {
        Policy { spread_ms: None, wait_in_flight_ms: 60_000, ..policy() }
    }

    /// v2 is promoted, and its candidate is there and has not booted.
    fn candidate_boots(policy: Policy) -> Self {
        let mut rig = Self::new(policy);
        rig.point("v2", 2);
        rig.looks(4);
        rig.set_candidate(Some(candidate(Some(generation(NEW, "v2", false)))));
        rig.looks(1);
        assert_eq!(rig.agent.view().stage, Stage::Verifying);
        rig
    }

    fn feed(&mut self, event: Event) {
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

    fn perform(&mut self, effect: Effect) -> Option<Event> {
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

    fn point(&mut self, release: &str, sequence: u64) {
        self.feed(Event::Pointer(Ok(at(release, sequence))));
    }

    fn look(&mut self) {
        self.now += 50;
        let one = |probe| vec![Answer { by: None, probe }];
        let answers = self.answers.filter(|_| self.agent.probe_for().is_some()).map_or(vec![], one);
        let candidate_answers =
            self.candidate_answers.filter(|_| self.agent.probe_candidate_for().is_some()).map_or(vec![], one);
        let detection = self.server.clone().map_or(Detection::Missing, Detection::Seen);
        let look = Observation::new(Moment(self.now), detection, Traffic::default());
        self.feed(Event::Observed(Observation { answers, candidate_answers, ..look }));
    }

    fn looks(&mut self, count: usize) {
        (0..count).for_each(|_| self.look());
    }

    fn beside(&mut self) -> &mut Beside {
        &mut self.server.as_mut().unwrap().beside
    }

    fn set_candidate(&mut self, candidate: Option<Candidate>) {
        self.beside().candidate = candidate;
    }

    fn boots(&mut self) {
        self.set_candidate(Some(candidate(Some(generation(NEW, "v2", true)))));
    }

    /// New connections go to another server, and the one that was live lingers.
    fn switch(&mut self, to: GenerationKey) {
        let (image, live, before) = if to.0 == OLD { (LIVE, "v1", "v2") } else { (NEW, "v2", "v1") };
        let key = GenerationKey(if to.0 == OLD { NEW + 50 } else { OLD });
        let beside = Beside {
            candidate: None,
            lingering: vec![Lingering { key, queue_empty_ms: 0, ..lingering(before) }],
        };
        let generations = vec![generation(image, live, true)];
        self.server = Some(AppServer { generations, beside, ..AppServer::default() });
    }

    /// v2 is proved and live; v1 lingers.
    fn deployed(policy: Policy) -> Self {
        let mut rig = Self::candidate_boots(policy);
        rig.boots();
        rig.looks(6);
        assert_eq!((rig.agent.view().stage, rig.agent.view().in_sync), (Stage::Steady, true));
        rig.done.clear();
        rig
    }

    fn restart(self, policy: Policy) -> Self {
        let current = self.current.to_string();
        let mut rig = Self::started(policy, self.records, &current, self.server.unwrap());
        rig.now += self.now;
        rig
    }

    fn done(&mut self) -> Vec<String> {
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
    rig.beside().candidate.as_mut().unwrap().warm = false;
    rig.done.clear();
    rig.looks(400);
    assert_eq!(rig.done(), [""; 0]);
    rig.beside().candidate.as_mut().unwrap().warm = true;
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

/// v1 lingers: for how long nobody has waited in its queues, how old its oldest request is, how long ago the switch
/// was, and whether it is told to end.
#[test]
fn the_earlier_server_ends_when_what_ran_at_the_switch_is_answered_and_nobody_waits() {
    for (empty, request, after, ends) in [
        (1_000, None, 0, true),
        (299, None, 0, false),
        (0, None, 100_000, false),
        (1_000, Some(5_000), 500, false),
        (1_000, Some(200), 500, true),
        (1_000, Some(70_000), 60_000, true),
        (200, Some(70_000), 60_000, false),
    ] {
        let mut rig = Rig::deployed(Rig::quick());
        rig.look();
        rig.now += after;
        (rig.beside().lingering[0].queue_empty_ms, rig.beside().lingering[0].oldest_request_ms) =
            (empty, request);
        rig.look();
        let wanted = if ends { vec!["End 200".to_owned()] } else { vec![] };
        assert_eq!(rig.done(), wanted, "{empty} {request:?} {after}");
    }
}

#[test]
fn a_server_that_was_not_told_is_told_again_and_one_that_was_is_left_alone() {
    let mut rig = Rig::deployed(Rig::quick());
    rig.beside().lingering[0].queue_empty_ms = 1_000;
    rig.looks(5);
    assert_eq!(rig.done(), ["End 200"; 3]);
    rig.beside().lingering[0].told = true;
    rig.looks(10);
    assert_eq!(rig.done(), [""; 0]);
    assert!(rig.agent.cuts(), "what ends now without an answer was cut by us");
}

/// v2 is live, and v1 lingers with a request.
fn lingers_with_work() -> Rig {
    let mut rig = Rig::deployed(Rig::quick());
    (rig.beside().lingering[0].queue_empty_ms, rig.beside().lingering[0].oldest_request_ms) =
        (1_000, Some(50_000));
    rig.look();
    rig
}

#[test]
fn the_way_back_to_a_server_that_lingers_is_a_switch() {
    let mut rig = lingers_with_work();
    rig.point("v1", 3);
    rig.looks(3);
    assert_eq!(rig.done(), ["fetch v1", "attempt v1", "current v1", "Switch 200"]);
    rig.looks(6);
    assert_eq!(rig.done()[..2], ["verified v1", "= Verified"]);
    assert_eq!((rig.agent.view().running, rig.agent.view().in_sync), (Some(id("v1")), true));
}

#[test]
fn a_server_that_was_told_to_end_is_no_way_back() {
    let mut rig = lingers_with_work();
    rig.beside().lingering[0].told = true;
    rig.point("v1", 3);
    rig.look();
    assert_eq!(rig.done()[..2], ["fetch v1", "check beside=true"]);
}

#[test]
fn an_operators_revert_goes_back_by_a_switch_as_well() {
    let mut rig = lingers_with_work();
    rig.feed(Event::Operator(Operator::Revert));
    rig.looks(3);
    assert_eq!(rig.done(), ["fetch v1", "attempt v1", "current v1", "Switch 200"]);
}

#[test]
fn where_there_is_no_room_the_server_that_has_lingered_longest_ends_first() {
    let mut rig = lingers_with_work();
    rig.plan.make_room = true;
    rig.point("v3", 3);
    rig.looks(3);
    assert_eq!(rig.done(), ["fetch v3", "check beside=true", "End 200"], "whatever it has in work");
    rig.beside().lingering[0].told = true;
    rig.look();
    assert_eq!(reason(&rig.agent), Some(Reason::LongRequests));
    rig.now += 20_000;
    rig.look();
    assert_eq!(rig.done(), ["Kill 200"]);
    rig.beside().lingering.clear();
    rig.plan.make_room = false;
    rig.looks(4);
    assert_eq!(rig.done()[..2], ["check beside=true", "attempt v3"]);
}

#[test]
fn a_failed_switch_is_repeated_as_long_as_the_candidate_is_there() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.done.clear();
    rig.fails = Some((ServerCommand::Switch, Problem::new(Reason::Internal, "no answer")));
    rig.looks(8);
    assert_eq!(rig.done(), ["Switch 150"; 3]);
    assert!(!rig.agent.settled());
    rig.switch(GenerationKey(150));
    rig.looks(4);
    assert_eq!(rig.done()[..2], ["verified v2", "= Verified"]);
}

#[test]
fn an_agent_that_is_started_anew_goes_on_with_the_candidate_that_is_there() {
    let rig = Rig::candidate_boots(Rig::quick()).restart(Rig::quick());
    let mut rig = rig;
    rig.point("v2", 2);
    rig.look();
    assert_eq!((rig.agent.view().stage, rig.agent.settled()), (Stage::Verifying, false));
    rig.boots();
    rig.looks(6);
    assert_eq!(rig.done(), ["Switch 150", "verified v2", "= Verified"]);
}

#[test]
fn an_agent_that_is_started_anew_without_a_candidate_puts_current_back_and_starts_over() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.set_candidate(None);
    for cut in [3, 4] {
        // Between the flip and `signalled`, and between `signalled` and the start.
        let mut records = rig.records.clone();
        records.truncate(cut);
        let mut rig = Rig::started(Rig::quick(), records, "v2", rig.server.clone().unwrap());
        assert_eq!(rig.done(), ["current v1"], "{cut}");
        rig.point("v2", 2);
        rig.looks(5);
        let over = ["reverted v1", "= Reverted", "fetch v2", "check beside=true", "attempt v2", "current v2"];
        assert_eq!(rig.done()[..6], over, "{cut}");
    }
}

#[test]
fn an_agent_that_is_started_anew_after_the_switch_proves_what_serves() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.switch(GenerationKey(150));
    let mut rig = rig.restart(Rig::quick());
    rig.point("v2", 2);
    rig.looks(6);
    assert_eq!(rig.done()[..2], ["verified v2", "= Verified"]);
}

#[test]
fn what_fails_after_such_a_start_goes_back_to_the_server_that_lingers() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.switch(GenerationKey(150));
    let mut rig = rig.restart(Rig::quick());
    rig.point("v2", 2);
    rig.answers = Some(Probe::Unhealthy);
    rig.looks(10);
    assert_eq!(rig.done()[..3], ["rejected v2", "current v1", "Switch 200"]);
}

#[test]
fn a_candidate_that_nobody_waits_for_is_ended() {
    let mut rig = Rig::new(Rig::quick());
    rig.point("v1", 1);
    rig.set_candidate(Some(candidate(Some(generation(NEW, "v2", true)))));
    rig.look();
    assert_eq!(rig.done(), ["End 150"]);
}

#[test]
fn a_pod_without_anything_proved_is_planned_without_a_second_server() {
    let mut agent = recovered_agent(policy(), &Recovered::default());
    agent.step(Moment(1), Event::Pointer(Ok(at("v1", 1))));
    agent.step(Moment(2), done(Step::Fetch));
    let effects = agent.step(Moment(4), look(4, serving_from("v9"), None));
    assert!(matches!(&effects[..], [Effect::Check { beside: false, .. }]), "{effects:?}");
}
