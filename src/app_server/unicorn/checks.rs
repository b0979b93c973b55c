//! What a look tells of this Unicorn's set-up: what is fine, and each trap with its fix.

use super::{Unicorn, discovery::Master, plan, setup::Setup, snapshot::Snapshot};
use crate::{
    app_server::{
        addresses::random_addresses,
        connections::requests_are_visible,
        server::{Server, Snapshot as _},
    },
    finding::{Check, Code, Finding},
};

const UNICORN: &str = Unicorn::KIND.name;
const RESTARTS: &str = "restarts";

/// Everything that one look tells.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Check> {
    let ports = &snapshot.surroundings.ports;
    let remedy = "set drain.ports to the port of the proxy in front of it (nginx), in the same pod";
    let in_flight = requests_are_visible("Unicorn is", ports, remedy);
    let mut checks = vec![seen(snapshot), in_flight, masters(snapshot)];
    match &snapshot.memory.setup {
        Some(setup) => {
            checks.push(restart_dir(setup));
            checks.extend(setup.pinned.iter().map(|what| pinned(what)));
            checks.extend(hook(setup));
        }
        None => checks.push(Check::unknown(RESTARTS, "Unicorn's configuration could not be read")),
    }
    checks.push(first_master(snapshot));
    checks.push(random_addresses(UNICORN));
    checks
}

fn seen(snapshot: &Snapshot) -> Check {
    let workers = snapshot.processes.newest().workers.len();
    let pid = snapshot.image().process.pid;
    Check::fine(
        UNICORN,
        format!("found: master {pid} with {workers} workers; pitstop may inspect and signal it"),
    )
}

fn masters(snapshot: &Snapshot) -> Check {
    let generations = snapshot.processes.generations();
    match generations.as_slice() {
        [only] if only.workers.is_empty() && only.title.is_some() => Check::found(
            UNICORN,
            Finding::broken(
                Code::UnicornNoWorkers,
                format!("master {} has no workers: no requests are served", only.image.process.pid),
                "check Unicorn's log; restarting the container helps, as a livenessProbe does automatically",
            ),
        ),
        [_] => Check::fine(UNICORN, "one master is serving"),
        several => {
            let pids: Vec<i32> = several.iter().map(|master| master.image.process.pid).collect();
            Check::found(
                UNICORN,
                Finding::note(
                    Code::UnicornTwoMasters,
                    format!(
                        "masters {pids:?} are running: a deploy is in progress, or somebody sent SIGUSR2"
                    ),
                    "if no deploy is in progress, stop the wrong one: kill -QUIT PID",
                ),
            )
        }
    }
}

fn restart_dir(setup: &Setup) -> Check {
    let Some(evidence) = &setup.may_not_follow else { return Check::fine(RESTARTS, "follow `current`") };
    Check::found(
        RESTARTS,
        Finding::risky(
            Code::RestartDirUnproven,
            format!("the next master may not follow `current`: {evidence}"),
            "in Unicorn's configuration: working_directory '/srv/app/current', with the path of your link as a literal",
        ),
    )
}

fn pinned(what: &str) -> Check {
    Check::found(
        RESTARTS,
        Finding::risky(
            Code::PathNamesRelease,
            format!("{what}, which names one release: the next master will load from there again"),
            "name the link instead, for BUNDLE_GEMFILE in before_exec { |_| ENV['BUNDLE_GEMFILE'] = '/srv/app/current/Gemfile' }; \
             then restart the container once",
        ),
    )
}

fn hook(setup: &Setup) -> Option<Check> {
    setup.config.ends_old_master.then(|| {
        Check::found(
            RESTARTS,
            Finding::broken(
                Code::UnicornHookEndsOldMaster,
                "a hook in Unicorn's configuration ends the old master (`.oldbin`), and the container with it, before the \
                 new master is verified: a release that has this hook is not deployed",
                "remove the hook from the next release's configuration; pitstop ends the old master itself",
            ),
        )
    })
}

/// What keeps the container running.
fn first_master(snapshot: &Snapshot) -> Check {
    let held = |master: &&Master| master.holds_container() && plan::beside(snapshot, None).is_err();
    let Some(first) = snapshot.processes.masters.iter().find(held) else {
        return Check::fine(RESTARTS, "end the old master: the container does not depend on it");
    };
    let pid = first.image.process.pid;
    if first.on_terminal {
        return Check::found(
            RESTARTS,
            Finding::broken(
                Code::UnicornOnTerminal,
                format!(
                    "master {pid} was started on a terminal, so it cannot end its workers alone: nothing is deployed"
                ),
                "remove `tty: true` from the container's spec",
            ),
        );
    }
    let message = format!(
        "the container ends with its first master, {pid}: after a deploy that master stays, without workers, and a \
         signal that ends it ends all others at once"
    );
    let remedy =
        "nothing to fix while preStop delays the signal; a process manager around `unicorn -D` avoids it";
    Check::found(RESTARTS, Finding::note(Code::UnicornFirstMasterStays, message, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app_server::{
            inspector::Surroundings,
            memory,
            sides::Sides,
            unicorn::{
                Memory,
                discovery::{Master, ServerProcesses, Worker},
                setup::Lines,
                title,
            },
        },
        core::{Cwd, Reason},
        finding::findings,
        procs::{Image, ProcessId, memory::Container},
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

    fn found(masters: Vec<Master>, change: impl FnOnce(&mut Snapshot, &mut Setup)) -> Vec<&'static str> {
        let mut setup =
            Setup { may_not_follow: None, pinned: Vec::new(), bundle: None, config: Lines::default() };
        let runs = |master: &Master| (master.image.process.pid, Cwd::Release("v1".parse().unwrap()));
        let mut snapshot = Snapshot {
            surroundings: Surroundings {
                cwds: masters.iter().map(runs).collect(),
                ports: vec![3000],
                sockets: None,
            },
            processes: ServerProcesses { masters },
            memory: Memory::default(),
            sides: Sides::none(),
        };
        change(&mut snapshot, &mut setup);
        snapshot.memory.setup = Some(setup);
        findings(&of(&snapshot)).into_iter().map(|finding| finding.code.code()).collect()
    }

    #[test]
    fn each_trap_of_unicorn_is_said_and_none_of_puma() {
        assert_eq!(found(vec![master(100, 2)], |_, _| {}), [""; 0]);
        assert_eq!(
            found(vec![master(100, 2)], |snapshot, _| snapshot.surroundings.ports.clear()),
            ["NO_PORT_TO_WATCH"]
        );
        assert_eq!(found(vec![master(100, 0)], |_, _| {}), ["UNICORN_NO_WORKERS"]);
        assert_eq!(found(vec![master(100, 2), master(200, 2)], |_, _| {}), ["UNICORN_TWO_MASTERS"]);
        let hook = |_: &mut Snapshot, setup: &mut Setup| setup.config.ends_old_master = true;
        assert_eq!(found(vec![master(100, 2)], hook), ["UNICORN_HOOK_ENDS_OLD_MASTER"]);
        let pinned = |_: &mut Snapshot, setup: &mut Setup| setup.pinned.push("`-c` is /x".into());
        assert_eq!(found(vec![master(100, 2)], pinned), ["PATH_NAMES_RELEASE"]);
        let fixed = |_: &mut Snapshot, setup: &mut Setup| setup.may_not_follow = Some("x".into());
        assert_eq!(found(vec![master(100, 2)], fixed), ["RESTART_DIR_UNPROVEN"]);
    }

    #[test]
    fn a_second_unicorn_needs_its_memory_and_a_set_up_that_follows_current() {
        const MIB: u64 = 1 << 20;
        let parent = r#"{"pid":1,"version":"1","addresses":["tcp://0.0.0.0:3000"],"slots":[
            {"slot":"a","weight":1000,"queue_empty_ms":0,"run":{"number":1,"pid":100,"start_time":1,"release":"v1",
             "role":"live","started_ms":1,"inherited":true}},{"slot":"b","weight":0,"queue_empty_ms":0}]}"#;
        let fit = |mib: u64, follows: bool| {
            let container = Container { limit: mib * MIB, taken: Some(300 * MIB) };
            let memory = memory::Memory::given(Some(container), [(1, 250 * MIB)]);
            let mut fit = None;
            found(vec![master(100, 2)], |snapshot, setup| {
                snapshot.sides = Sides::alone(serde_json::from_str(parent).unwrap(), memory);
                setup.may_not_follow = (!follows).then(|| "PWD was not set".into());
                snapshot.memory.setup = Some(setup.clone());
                fit = Some(plan::beside(snapshot, None).map_err(|misfit| (misfit.reason, misfit.fix)));
            });
            fit.unwrap().map(|fit| fit.make_room)
        };
        assert_eq!(fit(612, true), Ok(false));
        let (reason, fix) = fit(512, true).unwrap_err();
        assert!(reason == Reason::NoMemory && fix.contains("612Mi"), "{fix}");
        assert_eq!(fit(612, false).unwrap_err().0, Reason::ConfigInvalid);
    }

    #[test]
    fn a_first_master_that_holds_the_container_is_said_and_on_a_terminal_it_is_broken() {
        let first = |on_terminal| vec![Master { first: true, on_terminal, ..master(100, 2) }];
        assert_eq!(found(first(false), |_, _| {}), ["UNICORN_FIRST_MASTER_STAYS"]);
        assert_eq!(found(first(true), |_, _| {}), ["UNICORN_ON_TERMINAL"]);
    }
}
