//! Deploys beside under load, while agents, candidates and workers are killed at moments that a seed decides.
//! `make soak DEPLOYS=200 SEED=7` plays so many.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use pitstop_rig::{
    App, Dice, ExecPod, Load, Setup, Signal,
    exec::Server,
    load::{Plan, Record},
    pod::rejection,
    puma::children,
    signal, until, until_within,
};

use crate::PITSTOP;

const CLIENTS: usize = 8;
/// How long one deploy may take, with an agent that is killed in between.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than a candidate is checked.
const LONG: &str = "/slow?s=3";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Agent,
    Candidate,
    Worker,
}

/// How a whole run went.
#[derive(Default)]
struct Soak {
    deployed: usize,
    rejected: Vec<String>,
    kills: Vec<(Whom, Instant)>,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn e2e_beside_soak_only_what_a_killed_worker_had_in_work_is_lost() {
    let (deploys, seed) = (number("DEPLOYS", 8), number("SEED", 1));
    let mut pod = started();
    let plan = Plan {
        keep_alive: CLIENTS / 2,
        pause: Duration::from_millis(10),
        fresh_per_second: 100,
        fresh_at_most: CLIENTS / 2,
        at_most: PATIENCE * deploys as u32,
        ..Plan::modest(pod.puma.port())
    };
    let load = Load::start(plan, "soak");
    let files_before = open_files(pod.first());
    let (mut soak, mut dice) = (Soak::default(), Dice(seed));
    for number in 2..deploys + 2 {
        soak.deploy(&mut pod, &load, &format!("v{number}"), &mut dice);
    }
    until_within(PATIENCE, "one server is left", || (pod.servers().len() == 1).then_some(()));
    let records = load.finish();
    soak.judge(&records);
    assert_eq!(pod.starts(), 1, "the container was not started again");
    let files = until("no descriptor is left behind", || {
        Some(open_files(pod.first())).filter(|files| *files <= files_before + 2)
    });
    println!("pitstop exec: {files_before} open files before, {files} after");
}

fn started() -> ExecPod {
    let setup = Setup {
        preload: Some(true),
        threads: (3, 3),
        worker_shutdown_timeout: 5,
        boot_seconds: 0.5,
        ..Setup::default()
    };
    let pod = ExecPod::prepare(Path::new(PITSTOP), setup);
    let listen = format!("tcp://127.0.0.1:{}", pod.puma.port());
    pod.with("PITSTOP_EXEC_LISTEN", listen).with("PITSTOP_RESTART_MODE", "beside").in_sync()
}

fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

impl Soak {
    /// One deploy, and perhaps one kill in its middle.
    fn deploy(&mut self, pod: &mut ExecPod, load: &Load, id: &str, dice: &mut Dice) {
        let whom = match dice.below(5) {
            0 => Some(Whom::Agent),
            1 => Some(Whom::Candidate),
            2 | 3 => Some(Whom::Worker),
            _ => None,
        };
        let delay = Duration::from_millis(dice.below(1500));
        pod.deploy(App::Good, id);
        let long = load.send(LONG);
        let killed = whom.is_some_and(|whom| self.kill(pod, whom, delay, dice));
        let ended = until_within(PATIENCE, &format!("the end of the deploy of {id}"), || {
            let status = pod.agent.status()?;
            let runs = status["in_sync"] == true && status["running"] == id;
            let rejected = rejection(&status, id).filter(|_| status["stage"] == "steady");
            if runs { Some(None) } else { rejected.map(Some) }
        });
        println!("{id}: killed {whom:?} after {delay:?}: {killed}; rejected: {ended:?}");
        match ended {
            None => self.deployed += 1,
            Some(reason) => {
                assert!(whom == Some(Whom::Candidate) && killed, "{id} was rejected: {reason}");
                self.rejected.push(id.to_owned());
            }
        }
        drop(long);
    }

    /// Whether there was somebody to kill.
    fn kill(&mut self, pod: &ExecPod, whom: Whom, delay: Duration, dice: &mut Dice) -> bool {
        let of_role = |role: &'static str| move |server: &Server| server.role == role;
        if whom == Whom::Candidate {
            until_within(PATIENCE, "a candidate", || pod.servers().into_iter().find(of_role("candidate")));
        }
        sleep(delay);
        let server = |role| pod.servers().into_iter().find(of_role(role)).and_then(|s| pod.outside(s.pid));
        let pid = match whom {
            Whom::Agent => Some(pod.agent_pid()),
            Whom::Candidate => server("candidate"),
            Whom::Worker => {
                let workers = server("live").map(children).unwrap_or_default();
                workers.get(dice.below(workers.len().max(1) as u64) as usize).copied()
            }
        };
        let Some(pid) = pid else { return false };
        self.kills.push((whom, Instant::now()));
        signal(pid, Signal::KILL);
        true
    }

    fn judge(&self, records: &pitstop_rig::load::Records) {
        let met = |record: &&Record| record.release.as_ref().is_some_and(|by| self.rejected.contains(by));
        let met = records.requests().iter().filter(met).count();
        let (excused, lost): (Vec<_>, Vec<_>) =
            records.failures(&[]).partition(|record| self.excuses(record));
        let kills = |whom| self.kills.iter().filter(|(killed, _)| *killed == whom).count();
        println!(
            "{} requests; {} deploys, {} rejected; killed: {} agents, {} candidates, {} workers; lost: {} to killed \
             workers, {} others; longest wait {:.0} ms",
            records.requests().len(),
            self.deployed,
            self.rejected.len(),
            kills(Whom::Agent),
            kills(Whom::Candidate),
            kills(Whom::Worker),
            excused.len(),
            lost.len(),
            records.during("soak").max_ms(),
        );
        assert!(lost.is_empty(), "{} lost, and nobody was killed: {:?}", lost.len(), lost.first());
        // And the long one.
        assert!(excused.len() <= kills(Whom::Worker) * (CLIENTS + 1), "{} lost to kills", excused.len());
        assert_eq!(met, 0, "answers of a candidate that was killed");
        assert!(self.deployed > 0);
    }

    /// Whether a worker was killed while it was waited for.
    fn excuses(&self, record: &Record) -> bool {
        let meanwhile = |at: &Instant| {
            record.began <= *at + Duration::from_millis(100) && record.began + record.took >= *at
        };
        self.kills.iter().any(|(whom, at)| *whom == Whom::Worker && meanwhile(at))
    }
}
