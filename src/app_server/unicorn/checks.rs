//! What a look tells of this Unicorn's set-up: what is fine, and each trap with the line that mends it.

use super::{KIND, setting::Setting, snapshot::Snapshot};
use crate::{
    app_server::{addresses::random_addresses, puma::setup::RestartDir},
    core::Cwd,
    finding::{Check, Code, Finding},
};

const RESTARTS: &str = "restarts";
const IN_FLIGHT: &str = "requests in flight";

/// Everything that one look tells.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Check> {
    let mut checks = vec![seen(snapshot), from_current(snapshot), in_flight(snapshot), masters(snapshot)];
    match &snapshot.memory.setting {
        Some(setting) => {
            checks.push(restart_dir(setting));
            checks.extend(setting.pinned.iter().map(|what| pinned(what)));
            checks.extend(hook(setting));
        }
        None => checks.push(Check::unknown(RESTARTS, "Unicorn's configuration could not be read")),
    }
    checks.push(first_master(snapshot));
    checks.push(random_addresses(KIND.name));
    checks
}

fn seen(snapshot: &Snapshot) -> Check {
    let workers = snapshot.processes.newest().workers.len();
    let pid = snapshot.pid();
    Check::fine(
        KIND.name,
        format!("found: master {pid} with {workers} workers; it may be looked into and signalled"),
    )
}

fn from_current(snapshot: &Snapshot) -> Check {
    let pid = snapshot.pid();
    match snapshot.cwd(pid) {
        Cwd::Release(release) => Check::fine(KIND.name, format!("runs in release {release}")),
        Cwd::Unknown => {
            Check::unknown(KIND.name, "where it runs: the volume, or /proc, does not answer in time")
        }
        Cwd::Elsewhere if snapshot.memory.proven_ours => {
            Check::unknown(KIND.name, "it ran in a release of ours, which was deleted since")
        }
        Cwd::Elsewhere => Check::found(
            KIND.name,
            Finding::broken(
                Code::NotFromCurrent,
                format!(
                    "Unicorn {pid} runs in no release of this volume's `releases` directory: no deploy can be \
                     proved, and without unicorn.match none is tried"
                ),
                "start Unicorn in `current` (cd /srv/app/current && exec …), with deploy_to on the same volume in both containers",
            ),
        ),
    }
}

fn in_flight(snapshot: &Snapshot) -> Check {
    if !snapshot.ports.is_empty() {
        return Check::fine(IN_FLIGHT, format!("known by the socket table of {:?}", snapshot.ports));
    }
    Check::found(
        IN_FLIGHT,
        Finding::broken(
            Code::NoPortToWatch,
            "Unicorn listens on no TCP port, so that nobody sees its requests: a drain ends at its deadline, and \
             may end too early",
            "set drain.ports to the port of the proxy in front of it (nginx), in the same pod",
        ),
    )
}

fn masters(snapshot: &Snapshot) -> Check {
    let generations = snapshot.processes.generations();
    match generations.as_slice() {
        [only] if only.workers.is_empty() && only.title.is_some() => Check::found(
            KIND.name,
            Finding::broken(
                Code::UnicornNoWorkers,
                format!("master {} has no workers: nothing serves", only.image.process.pid),
                "see Unicorn's log; restarting the container helps, as a livenessProbe does by itself",
            ),
        ),
        [_] => Check::fine(KIND.name, "one master serves"),
        several => {
            let pids: Vec<i32> = several.iter().map(|master| master.image.process.pid).collect();
            Check::found(
                KIND.name,
                Finding::note(
                    Code::UnicornTwoMasters,
                    format!(
                        "masters {pids:?} run side by side: a deploy is under way, or somebody sent SIGUSR2"
                    ),
                    "if no deploy is under way: end the one that is not wanted, kill -QUIT PID",
                ),
            )
        }
    }
}

fn restart_dir(setting: &Setting) -> Check {
    match &setting.restart_dir {
        RestartDir::Follows => Check::fine(RESTARTS, "go to where `current` leads then"),
        RestartDir::Fixed(evidence) | RestartDir::Never(evidence) => Check::found(
            RESTARTS,
            Finding::risky(
                Code::RestartDirUnproven,
                format!("the next master may not follow `current`: {evidence}"),
                "in Unicorn's configuration: working_directory '/srv/app/current', with the path of your link, as a literal",
            ),
        ),
    }
}

fn pinned(what: &str) -> Check {
    Check::found(
        RESTARTS,
        Finding::risky(
            Code::PathNamesRelease,
            format!("{what}, which names one release: the next master goes on loading from there"),
            "name the link instead, for BUNDLE_GEMFILE in before_exec { |_| ENV['BUNDLE_GEMFILE'] = '/srv/app/current/Gemfile' }; \
             then restart the container once",
        ),
    )
}

fn hook(setting: &Setting) -> Option<Check> {
    setting.config.ends_old_master.then(|| {
        Check::found(
            RESTARTS,
            Finding::broken(
                Code::UnicornHookEndsOldMaster,
                "a hook of Unicorn's configuration ends the old master (`.oldbin`) before the new one is proven, and \
                 the container with it: a release that has this hook is not deployed",
                "take the hook out of the configuration of the next release; pitstop ends the old master itself",
            ),
        )
    })
}

/// What holds the container's life.
fn first_master(snapshot: &Snapshot) -> Check {
    let Some(first) = snapshot.processes.masters.iter().find(|master| master.holds_container()) else {
        return Check::fine(RESTARTS, "end the old master: another process holds the container");
    };
    let pid = first.image.process.pid;
    if first.on_terminal {
        return Check::found(
            RESTARTS,
            Finding::broken(
                Code::UnicornOnTerminal,
                format!(
                    "master {pid} was started on a terminal, and keeps its workers then: nothing is deployed"
                ),
                "leave `tty: true` out of the container's spec",
            ),
        );
    }
    let message = format!(
        "the container lives as long as its first master, {pid}: after a deploy it stays, without workers, and \
         whatever signal ends it ends all others at once"
    );
    let remedy = "nothing to mend while preStop holds the signal back; a process manager around `unicorn -D` avoids it";
    Check::found(RESTARTS, Finding::note(Code::UnicornFirstMasterStays, message, remedy))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        app_server::unicorn::{
            Memory,
            discovery::{Master, ServerProcesses, Worker},
            setting::Lines,
            title,
        },
        finding::findings,
        procs::{Image, ProcessId},
    };

    fn master(pid: i32, workers: i32) -> Master {
        let id = |pid| ProcessId { pid, start: 1 };
        let worker = |number| Worker { id: id(pid + number), booted: true };
        Master {
            image: Image { process: id(pid), at_random: 1 },
            parent: 0,
            title: Some(title::Master { old: false, arguments: Vec::new() }),
            first: false,
            on_terminal: false,
            ports: vec![3000],
            sockets: Vec::new(),
            workers: (1..=workers).map(worker).collect(),
        }
    }

    fn found(masters: Vec<Master>, change: impl FnOnce(&mut Snapshot, &mut Setting)) -> Vec<&'static str> {
        let mut setting = Setting {
            restart_dir: RestartDir::Follows,
            pinned: Vec::new(),
            bundle: None,
            config: Lines::default(),
        };
        let runs = |master: &Master| (master.image.process.pid, Cwd::Release("v1".parse().unwrap()));
        let mut snapshot = Snapshot {
            cwds: masters.iter().map(runs).collect::<HashMap<_, _>>(),
            processes: ServerProcesses { masters },
            ports: vec![3000],
            sockets: None,
            memory: Memory::default(),
        };
        change(&mut snapshot, &mut setting);
        snapshot.memory.setting = Some(setting);
        findings(&of(&snapshot)).into_iter().map(|finding| finding.code.code()).collect()
    }

    #[test]
    fn each_trap_of_unicorn_is_said_and_none_of_puma() {
        assert_eq!(found(vec![master(100, 2)], |_, _| {}), [""; 0]);
        assert_eq!(found(vec![master(100, 2)], |snapshot, _| snapshot.ports.clear()), ["NO_PORT_TO_WATCH"]);
        assert_eq!(found(vec![master(100, 0)], |_, _| {}), ["UNICORN_NO_WORKERS"]);
        assert_eq!(found(vec![master(100, 2), master(200, 2)], |_, _| {}), ["UNICORN_TWO_MASTERS"]);
        let hook = |_: &mut Snapshot, setting: &mut Setting| setting.config.ends_old_master = true;
        assert_eq!(found(vec![master(100, 2)], hook), ["UNICORN_HOOK_ENDS_OLD_MASTER"]);
        let pinned = |_: &mut Snapshot, setting: &mut Setting| setting.pinned.push("`-c` is /x".into());
        assert_eq!(found(vec![master(100, 2)], pinned), ["PATH_NAMES_RELEASE"]);
        let fixed =
            |_: &mut Snapshot, setting: &mut Setting| setting.restart_dir = RestartDir::Fixed("x".into());
        assert_eq!(found(vec![master(100, 2)], fixed), ["RESTART_DIR_UNPROVEN"]);
    }

    #[test]
    fn a_first_master_that_holds_the_container_is_said_and_on_a_terminal_it_is_broken() {
        let first = |on_terminal| vec![Master { first: true, on_terminal, ..master(100, 2) }];
        assert_eq!(found(first(false), |_, _| {}), ["UNICORN_FIRST_MASTER_STAYS"]);
        assert_eq!(found(first(true), |_, _| {}), ["UNICORN_ON_TERMINAL"]);
    }
}
