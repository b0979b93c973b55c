//! What condemns a release, what does not, and what it takes to believe it.

use proptest::prelude::*;

use super::*;
use crate::core::{
    Answer, Files, Process, Traffic,
    deploy::tests::policy as plain,
    observation::{Observation, Probe},
};

fn policy(naming: bool) -> Policy {
    Policy { naming, evidence_ms: 1_000, ..plain() }
}

fn baseline(mode: Mode) -> Baseline {
    Baseline {
        at: Moment(0),
        boot_id: String::new(),
        mode,
        generations: vec![GenerationKey(1)],
        processes: vec![ProcessKey(2), ProcessKey(3)],
        healthy: true,
    }
}

/// A Puma of two workers.
#[derive(Debug, Clone)]
struct Server {
    image: u64,
    master: u64,
    /// Key, and whether it is booted.
    workers: Vec<(u64, bool)>,
}

impl Server {
    fn look(&self, at: u64, answers: Vec<Answer>) -> Observation {
        let cwd = Cwd::Release("v2".parse().unwrap());
        let process = |(key, booted): &(u64, bool)| Process {
            key: ProcessKey(*key),
            cwd: cwd.clone(),
            booted: *booted,
        };
        let generation = Generation {
            key: GenerationKey(self.image),
            master: ProcessKey(self.master),
            signalable: true,
            cwd: cwd.clone(),
            expected: 2,
            processes: self.workers.iter().map(process).collect(),
        };
        let detection = Detection::Seen(AppServer {
            generations: vec![generation],
            old_workers: false,
            ..Default::default()
        });
        Observation { answers, ..Observation::new(Moment(at), detection, Traffic::default()) }
    }

    /// Each worker answers well.
    fn healthy(&self, at: u64) -> Observation {
        let answer = |(key, _): &(u64, bool)| Answer { by: Some(ProcessKey(*key)), probe: Probe::Healthy };
        self.look(at, self.workers.iter().map(answer).collect())
    }
}

fn fresh(mode: Mode) -> Watch {
    Watch::new("v2".parse().unwrap(), Some(baseline(mode)), Some(Moment(100_000)))
}

/// Looks at a server that holds still, from this moment on, until something is decided.
fn hold(watch: &mut Watch, server: &Server, from: u64, policy: &Policy) -> (u64, Verdict) {
    for at in (from..from + 20_000).step_by(50) {
        match watch.observe(Moment(at), &server.healthy(at), policy) {
            Verdict::Undecided => {}
            decided => return (at, decided),
        }
    }
    (from + 20_000, Verdict::Undecided)
}

const UP: [(u64, bool); 2] = [(20, true), (21, true)];

fn up() -> Server {
    Server { image: 10, master: 9, workers: UP.to_vec() }
}

#[test]
fn workers_that_die_before_they_boot_are_a_loop_and_those_that_others_end_are_none() {
    let mut watch = fresh(Mode::Hot);
    let dying = |key: u64| Server { workers: vec![(key, false)], ..up() };
    let verdicts: Vec<_> =
        (0..4).map(|n| watch.observe(Moment(n), &dying(20 + n).look(n, vec![]), &policy(true))).collect();
    assert_eq!(verdicts.last(), Some(&Verdict::Failed(Reason::BootLoop)));
    // The same looks, with an exec in the same process between any two of them.
    let mut watch = fresh(Mode::Hot);
    for n in 0..40 {
        let server = Server { image: 10 + n, ..dying(100 + n) };
        assert_eq!(watch.observe(Moment(n), &server.look(n, vec![]), &policy(true)), Verdict::Undecided);
    }
    assert_eq!(watch.theirs(), THEIRS_AT_MOST, "the time is not lengthened for ever");
}

/// Of each worker: after how many milliseconds it ends without ever having booted; what comes of it within a minute.
#[test]
fn workers_that_are_ended_twice_before_they_have_booted_are_a_loop_however_slow() {
    let minute = |life: u64| {
        let mut watch = fresh(Mode::Hot);
        (0..60_000).step_by(100).find_map(|at| {
            let round = at / life;
            let server = Server { workers: vec![(100 + 2 * round, false), (101 + 2 * round, false)], ..up() };
            let verdict = watch.observe(Moment(at), &server.look(at, vec![]), &policy(true));
            (verdict != Verdict::Undecided).then_some((at / 1_000, verdict))
        })
    };
    let looping = |seconds| Some((seconds, Verdict::Failed(Reason::BootLoop)));
    assert_eq!(minute(500), looping(1), "they die of their release");
    assert_eq!(minute(3_000), looping(6));
    // Puma ends them, as their boot takes too long, and starts others: the first time may be slowness.
    assert_eq!(minute(10_000), looping(20));
    assert_eq!(minute(25_000), looping(50));
    assert_eq!(minute(60_000), None);
}

/// A phased restart: the other worker serves, and is of the release before.
#[test]
fn a_worker_that_hangs_twice_beside_one_that_serves_is_a_loop_and_one_that_boots_in_between_is_none() {
    let hangs = |boots_at: Option<u64>| {
        let mut watch = fresh(Mode::Phased);
        (0..60_000).step_by(100).find_map(|at| {
            let booted = boots_at.is_some_and(|from| (from..from + 1_000).contains(&at));
            let workers = vec![(3, true), (100 + at / 10_000, booted)];
            let mut look = Server { image: 1, master: 1, workers }.look(at, vec![]);
            let Detection::Seen(server) = &mut look.detection else { unreachable!() };
            server.generations[0].processes[0].cwd = Cwd::Release("v1".parse().unwrap());
            let verdict = watch.observe(Moment(at), &look, &policy(true));
            (verdict != Verdict::Undecided).then_some((at / 1_000, verdict))
        })
    };
    assert_eq!(hangs(None), Some((20, Verdict::Failed(Reason::BootLoop))));
    assert_eq!(hangs(Some(15_000)), Some((40, Verdict::Failed(Reason::BootLoop))), "counted anew");
}

#[test]
fn a_master_that_ends_after_its_workers_had_booted_is_watched_once_more() {
    let missing = |at: u64| Observation::new(Moment(at), Detection::Missing, Traffic::default());
    let mut watch = fresh(Mode::Phased);
    let booting = Server { image: 1, master: 1, workers: vec![(20, false), (3, true)] };
    assert_eq!(watch.observe(Moment(0), &booting.look(0, vec![]), &policy(true)), Verdict::Undecided);
    let never = watch.clone().observe(Moment(50), &missing(50), &policy(true));
    assert_eq!((never, watch.ended_after_boot()), (Verdict::Failed(Reason::MasterGone), false));
    // A plugin that stops Puma, or a person; the container is started again.
    let first = Server { image: 1, master: 1, ..up() };
    assert_eq!(watch.observe(Moment(50), &first.look(50, vec![]), &policy(true)), Verdict::Undecided);
    for at in [100, 150, 5_000] {
        assert_eq!(watch.observe(Moment(at), &missing(at), &policy(true)), Verdict::Undecided, "{at}");
        assert!(watch.needs_container(), "the agent must not be waited for: nothing is left to be put right");
    }
    let again = Server { image: 30, master: 31, workers: vec![(32, true), (33, true)] };
    let mut ended_again = watch.clone();
    assert_eq!(hold(&mut watch, &again, 6_000, &policy(true)).1, Verdict::Proven);
    assert!(watch.ended_after_boot() && !watch.needs_container());
    // Twice is the release's own doing.
    ended_again.observe(Moment(6_000), &again.look(6_000, vec![]), &policy(true));
    let verdict = ended_again.observe(Moment(6_050), &missing(6_050), &policy(true));
    assert_eq!(verdict, Verdict::Failed(Reason::MasterGone));
    // And one that never comes back is none that runs.
    let mut away = fresh(Mode::Phased);
    away.observe(Moment(0), &first.look(0, vec![]), &policy(true));
    away.observe(Moment(50), &missing(50), &policy(true));
    assert_eq!(away.expired(Moment(200_000)), Some(Reason::BootFailed));
}

#[test]
fn a_container_that_starts_again_and_again_has_lost_its_masters() {
    let mut watch = fresh(Mode::Hot);
    let verdicts: Vec<_> = (0..4)
        .map(|n| {
            let server = Server { image: 10 + n, master: 100 + n, workers: vec![] };
            watch.observe(Moment(n), &server.look(n, vec![]), &policy(true))
        })
        .collect();
    assert_eq!(verdicts.last(), Some(&Verdict::Failed(Reason::MasterGone)));
}

#[test]
fn workers_that_boot_and_end_for_ever_are_a_loop_as_well() {
    let mut watch = fresh(Mode::Phased);
    let verdict = (0..60).find_map(|n| {
        let server = Server { image: 1, workers: vec![(100 + n, true), (200 + n, true)], ..up() };
        match watch.observe(Moment(n), &server.look(n, vec![]), &policy(true)) {
            Verdict::Undecided => None,
            decided => Some((n, decided)),
        }
    });
    assert!(matches!(verdict, Some((2..10, Verdict::Failed(Reason::BootLoop)))), "{verdict:?}");
}

/// Who answers what, and what comes of it in the end.
#[test]
fn every_worker_is_waited_for_and_one_that_contradicts_is_enough() {
    use Probe::{Healthy, OtherRelease};
    let (good, other, some) = ((Some(20), Healthy), (Some(21), OtherRelease), (None, Healthy));
    for (answers, proved_after, verdict) in [
        (vec![good, (Some(21), Healthy)], 100..500, Verdict::Proven),
        // One is never heard: believed all the same, when its time is over.
        (vec![good], 1_000..1_500, Verdict::Proven),
        // Behind a proxy nobody is told from the other: more answers would prove no more.
        (vec![some], 100..500, Verdict::Proven),
        (vec![good, other], 0..500, Verdict::Failed(Reason::ReleaseMismatch)),
    ] {
        let mut watch = fresh(Mode::Hot);
        let answer = |(by, probe): &(Option<u64>, Probe)| Answer { by: by.map(ProcessKey), probe: *probe };
        let answers: Vec<_> = answers.iter().map(answer).collect();
        let decided = (0..20_000).step_by(50).find_map(|at| {
            let look = up().look(at, answers.clone());
            Some((at, watch.observe(Moment(at), &look, &policy(true))))
                .filter(|(_, verdict)| *verdict != Verdict::Undecided)
        });
        let (at, decided) = decided.expect("it is decided");
        assert_eq!(decided, verdict, "{answers:?}");
        assert!(proved_after.contains(&at), "{answers:?}: at {at}");
    }
}

#[test]
fn good_neighbours_do_not_outweigh_a_worker_that_names_another_release() {
    let mut watch = fresh(Mode::Hot);
    let answer = |by, probe| vec![Answer { by: Some(ProcessKey(by)), probe }];
    let decided = (0..200_u64).find_map(|n| {
        let answers = if n % 5 == 4 { answer(21, Probe::OtherRelease) } else { answer(20, Probe::Healthy) };
        let verdict = watch.observe(Moment(n * 50), &up().look(n * 50, answers), &policy(true));
        (verdict != Verdict::Undecided).then_some(verdict)
    });
    assert_eq!(decided, Some(Verdict::Failed(Reason::ReleaseMismatch)));
}

/// The same, while the first master serves as well.
fn beside(mut look: Observation) -> Observation {
    let cwd = Cwd::Release("v1".parse().unwrap());
    let processes =
        [2, 3].map(|key| Process { key: ProcessKey(key), cwd: cwd.clone(), booted: true }).to_vec();
    let (key, master) = (GenerationKey(1), ProcessKey(1));
    let old = Generation { key, master, signalable: true, cwd, expected: 2, processes };
    let Detection::Seen(server) = &mut look.detection else { unreachable!() };
    server.generations.insert(0, old);
    look
}

/// Who answers what beside the first master (2 and 3 are its workers), whether releases are named, and what
/// comes of it when.
#[test]
fn the_first_masters_answers_neither_prove_nor_condemn_the_second() {
    use Probe::{Healthy, OtherRelease, Unhealthy};
    let said = |by: u64, probe| (Some(by), probe);
    let both = [said(20, Healthy), said(21, Healthy)];
    let proxied = [(None, Healthy), (None, OtherRelease)];
    let (mismatch, sick) = (Verdict::Failed(Reason::ReleaseMismatch), Verdict::Failed(Reason::ProbeFailed));
    for (answers, naming, when, verdict) in [
        (both.to_vec(), true, 100..500, Verdict::Proven),
        ([both, [said(2, OtherRelease), said(3, OtherRelease)]].concat(), true, 100..500, Verdict::Proven),
        ([both, [said(2, Unhealthy), said(3, Unhealthy)]].concat(), false, 500..1_000, Verdict::Proven),
        (proxied.to_vec(), true, 100..500, Verdict::Proven),
        // Nobody knows whose they are: it takes more of them.
        (vec![(None, Healthy)], false, 500..1_000, Verdict::Proven),
        (vec![said(20, Healthy), said(21, OtherRelease)], true, 100..500, mismatch),
        (vec![said(20, Unhealthy), said(2, Healthy)], true, 100..500, sick),
        (vec![(None, Unhealthy)], true, 100..500, sick),
        // The new master's workers are never heard, however often they are asked for.
        (vec![said(2, Healthy)], false, 5_000..10_000, mismatch),
        (vec![(None, OtherRelease)], true, 5_000..10_000, mismatch),
    ] {
        let mut watch = fresh(Mode::Hot);
        let answer = |(by, probe): &(Option<u64>, Probe)| Answer { by: by.map(ProcessKey), probe: *probe };
        let given: Vec<_> = answers.iter().map(answer).collect();
        let decided = (0..20_000).step_by(50).find_map(|at| {
            let look = Observation { files: Some(BTreeMap::new()), ..beside(up().look(at, given.clone())) };
            let verdict = watch.observe(Moment(at), &look, &policy(naming));
            (verdict != Verdict::Undecided).then_some((at, verdict))
        });
        let (at, decided) = decided.expect("it is decided");
        assert_eq!(decided, verdict, "{answers:?}");
        assert!(when.contains(&at), "{answers:?}: at {at}");
    }
}

#[test]
fn the_steps_of_a_start_are_no_restarts_by_others() {
    let mut watch = fresh(Mode::Hot);
    // `bundle exec` and prune_bundler: one process, one image after the other, until there is a title.
    for n in 0..20 {
        let mut look = Server { image: 10 + n, workers: vec![], ..up() }.look(n, vec![]);
        let Detection::Seen(server) = &mut look.detection else { unreachable!() };
        server.generations[0].signalable = false;
        assert_eq!(watch.observe(Moment(n), &look, &policy(true)), Verdict::Undecided);
    }
    assert_eq!(watch.theirs(), 0);
    assert_eq!(hold(&mut watch, &up(), 100, &policy(true)).1, Verdict::Proven);
}

/// Where files are and what is known besides, and what comes of it.
#[test]
fn files_of_another_release_condemn_where_the_app_names_none() {
    let of = |open: &[&str], mapped: &[&str]| Files {
        open: open.iter().map(|id| id.parse().unwrap()).collect(),
        mapped: mapped.iter().map(|id| id.parse().unwrap()).collect(),
    };
    let mismatch = Verdict::Failed(Reason::ReleaseMismatch);
    for (mode, naming, files, verdict) in [
        (Mode::Hot, false, of(&["v1"], &[]), mismatch),
        (Mode::Hot, false, of(&[], &["v1"]), mismatch),
        (Mode::Phased, false, of(&["v1"], &[]), mismatch),
        // The bundle's libraries stay those that the master was started with.
        (Mode::Phased, false, of(&[], &["v1"]), Verdict::Proven),
        (Mode::Hot, false, of(&["v1"], &["v2"]), Verdict::Proven),
        (Mode::Hot, false, of(&["v2"], &[]), Verdict::Proven),
        (Mode::Hot, true, of(&["v1"], &[]), Verdict::Proven),
    ] {
        let mut watch = fresh(mode);
        let decided = (0..20_000).step_by(50).find_map(|at| {
            let mut look = up().healthy(at);
            look.files = Some(BTreeMap::from([(ProcessKey(21), files.clone())]));
            let verdict = watch.observe(Moment(at), &look, &policy(naming));
            (verdict != Verdict::Undecided).then_some(verdict)
        });
        assert_eq!(decided, Some(verdict), "{mode:?} {naming} {files:?}");
    }
}

/// The files are looked at now and then only: the proof waits for it, though not for ever.
#[test]
fn without_a_name_no_release_is_believed_before_its_files_were_looked_at() {
    let decided = |looks_at_files: &dyn Fn(u64) -> bool, open: &str| {
        let mut watch = fresh(Mode::Hot);
        let files = Files { open: BTreeSet::from([open.parse().unwrap()]), ..Files::default() };
        (0..20_000).step_by(50).find_map(|at| {
            let mut look = up().healthy(at);
            look.files = looks_at_files(at).then(|| BTreeMap::from([(ProcessKey(21), files.clone())]));
            let verdict = watch.observe(Moment(at), &look, &policy(false));
            (verdict != Verdict::Undecided).then_some((at, verdict))
        })
    };
    let soak = policy(false).soak_ms;
    let each_second = |at: u64| at > 0 && at.is_multiple_of(1_000);
    assert_eq!(decided(&each_second, "v2"), Some((1_000, Verdict::Proven)));
    let mismatch = Verdict::Failed(Reason::ReleaseMismatch);
    assert_eq!(decided(&each_second, "v1").map(|(_, verdict)| verdict), Some(mismatch));
    assert_eq!(decided(&|_| false, "v2"), Some((soak + 1_000, Verdict::Proven)), "the volume hangs");
}

/// What somebody else may do to a Puma whose release is good.
#[derive(Debug, Clone, Copy)]
enum Theirs {
    /// An exec: all workers end.
    Hot,
    /// A worker is replaced, as in a phased restart.
    Worker(usize),
    /// One more worker has booted.
    Boots,
    Nothing,
}

fn theirs() -> impl Strategy<Value = Theirs> {
    prop_oneof![
        Just(Theirs::Hot),
        (0..2_usize).prop_map(Theirs::Worker),
        Just(Theirs::Boots),
        Just(Theirs::Nothing),
    ]
}

proptest! {
    /// Three hot and three phased restarts by others, at any moments: the release is proved in the end, never condemned.
    #[test]
    fn a_good_release_survives_restarts_by_others(
        steps in prop::collection::vec(theirs(), 0..60),
        phased in any::<bool>(),
    ) {
        let mode = if phased { Mode::Phased } else { Mode::Hot };
        let (mut watch, mut key) = (fresh(mode), 100);
        let mut next = || { key += 1; key };
        let mut server = Server { image: 10, master: 9, workers: vec![(20, false), (21, false)] };
        let (mut restarts, mut replaced) = (0, 0);
        for (at, step) in (0_u64..).step_by(20).zip(steps) {
            match step {
                Theirs::Hot if restarts < 3 => {
                    restarts += 1;
                    server = Server { image: next(), workers: vec![(next(), false), (next(), false)], ..server };
                }
                // Puma replaces one only when all are booted.
                Theirs::Worker(index) if replaced < 6 && server.workers.iter().all(|(_, booted)| *booted) => {
                    replaced += 1;
                    server.workers[index] = (next(), false);
                }
                Theirs::Boots => {
                    if let Some(worker) = server.workers.iter_mut().find(|(_, booted)| !booted) {
                        worker.1 = true;
                    }
                }
                _ => {}
            }
            let verdict = watch.observe(Moment(at), &server.look(at, vec![]), &policy(true));
            prop_assert!(!matches!(verdict, Verdict::Failed(_)), "{verdict:?} at {at}");
        }
        server.workers.iter_mut().for_each(|worker| worker.1 = true);
        let (_, verdict) = hold(&mut watch, &server, 2_000, &policy(true));
        prop_assert_eq!(verdict, Verdict::Proven);
    }
}
