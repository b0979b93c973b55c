//! What a look tells of this Passenger's set-up: what is fine, and each trap with its fix.

use std::path::Path;

use super::{Passenger, discovery::Front, plan::pinned_to, snapshot::Snapshot};
use crate::{
    app_server::server::Server,
    finding::{Check, Code, Finding},
};

const PASSENGER: &str = Passenger::KIND.name;
const RESTARTS: &str = "restarts";
const STOP: &str = "stop";

/// Everything that one look tells.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Check> {
    let mut checks = vec![seen(snapshot), restarts(snapshot)];
    checks.extend(restart_file(snapshot));
    checks.push(queue(snapshot));
    checks.extend(idle(snapshot));
    checks.push(stop(snapshot.core.instance.as_ref().map_or(Front::Unknown, |instance| instance.front)));
    checks
}

fn seen(snapshot: &Snapshot) -> Check {
    let processes = snapshot.group.serving().count();
    let (version, pid, name) = (&snapshot.version, snapshot.core.image.process.pid, &snapshot.group.name);
    let text = format!(
        "{version} found: core {pid}, app {name}, {processes} processes; it accepts pitstop's commands"
    );
    Check::fine(PASSENGER, text)
}

/// The core's socket gives nothing that could be worked with.
pub(super) fn silent(why: &str) -> Check {
    Check::found(
        PASSENGER,
        Finding::broken(
            Code::ControlServerSilent,
            format!("Passenger's core does not answer on its socket, so nothing can be deployed: {why}"),
            "run the agent as the user that Passenger's core runs as, and check Passenger's log",
        ),
    )
}

/// A core without the app.
pub(super) fn not_started() -> Check {
    Check::found(
        PASSENGER,
        Finding::risky(
            Code::AppNotStarted,
            "Passenger is running but has not started the app: it waits for a first request. Until then the pod does not \
             become ready, and no release is verified",
            "passenger_pre_start http://127.0.0.1/ in nginx or PassengerPreStart in Apache; or set verify.url, so \
             that the agent sends requests",
        ),
    )
}

fn restarts(snapshot: &Snapshot) -> Check {
    let root = Path::new(&snapshot.group.app_root);
    if let Some(release) = pinned_to(root) {
        let finding = Finding::broken(
            Code::PathNamesRelease,
            format!(
                "Passenger was started in {}, which names release {release}: every restart goes there again",
                root.display()
            ),
            "start it in the link with PWD naming it (cd /srv/app/current && exec passenger start), and without \
             passenger_resolve_symlinks_in_document_root",
        );
        return Check::found(RESTARTS, finding);
    }
    let finding = Finding::note(
        Code::PhasedRestartUnavailable,
        "Passenger replaces all processes at once: in a deploy every client waits for the boot. If the release does not \
         boot, clients get an error page until it is rolled back",
        "keep the boot short; spread the fleet's restarts with restart.spread",
    );
    Check::found(RESTARTS, finding)
}

fn restart_file(snapshot: &Snapshot) -> Option<Check> {
    let finding = || {
        Finding::risky(
            Code::RestartFileShipped,
            format!(
                "{}/tmp has a restart.txt or an always_restart.txt: when `current` moves, Passenger sees another file and \
                 restarts by itself, before the agent has recorded the restart",
                snapshot.group.app_root
            ),
            "leave tmp/restart.txt out of the releases, and out of a shared tmp",
        )
    };
    snapshot.restart_file.then(|| Check::found(RESTARTS, finding()))
}

/// 0 is any number.
fn queue(snapshot: &Snapshot) -> Check {
    match snapshot.longest_queue {
        None => Check::unknown(RESTARTS, "it is not known how many requests may wait for a boot"),
        Some(0) => Check::fine(RESTARTS, "any number of requests may wait for a boot"),
        Some(longest) => Check::found(
            RESTARTS,
            Finding::risky(
                Code::RequestQueueShort,
                format!(
                    "while the app boots, Passenger queues {longest} requests and answers 503 to all others: a deploy \
                     under load loses requests"
                ),
                "max_request_queue_size 0 (passenger start --max-request-queue-size 0, \
                 passenger_max_request_queue_size 0)",
            ),
        ),
    }
}

fn idle(snapshot: &Snapshot) -> Option<Check> {
    let finding = || {
        Finding::risky(
            Code::AppNotStarted,
            "Passenger may stop every process of an idle app (min_instances 0): then the release cannot be verified, and \
             the next client waits for a boot",
            "passenger_min_instances 1 or more (passenger start --min-instances 1)",
        )
    };
    (snapshot.group.least() == 0).then(|| Check::found(PASSENGER, finding()))
}

/// What SIGTERM does, once the drain was answered.
fn stop(front: Front) -> Check {
    let (what, remedy) = match front {
        Front::Builtin => (
            "Passenger Standalone cuts requests in flight on every signal that stops it: only a drain before the signal \
             saves them",
            "check that the container's preStop calls /prestop, and that grace_period is long enough for a drain",
        ),
        Front::Nginx => (
            "nginx stops at once on SIGTERM and cuts requests in flight: only a drain before the signal saves them",
            "STOPSIGNAL SIGQUIT in the image (or lifecycle.stopSignal), besides the preStop that calls /prestop",
        ),
        Front::Apache => (
            "Apache stops at once on SIGTERM and cuts requests in flight: only a drain before the signal saves them",
            "STOPSIGNAL SIGWINCH in the image (or lifecycle.stopSignal), besides the preStop that calls /prestop",
        ),
        Front::Unknown => {
            return Check::unknown(STOP, "the web server in front of Passenger is not known");
        }
    };
    Check::found(STOP, Finding::note(Code::StopCutsRequests, what, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_waits_for_its_first_request_is_said() {
        assert_eq!(not_started().finding().unwrap().code.code(), "APP_NOT_STARTED");
    }
}
