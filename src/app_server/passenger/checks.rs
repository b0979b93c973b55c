//! What a look tells of this Passenger's set-up: what is fine, and each trap with the line that mends it.

use std::path::Path;

use super::{discovery::Front, plan::pinned_to, snapshot::Snapshot};
use crate::{
    core::Cwd,
    finding::{Check, Code, Finding},
};

const PASSENGER: &str = "Passenger";
const RESTARTS: &str = "restarts";
const STOP: &str = "stop";

/// Everything that one look tells.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Check> {
    let mut checks = vec![seen(snapshot), from_current(snapshot), restarts(snapshot)];
    checks.extend(restart_file(snapshot));
    checks.push(queue(snapshot));
    checks.extend(idle(snapshot));
    checks.push(stop(snapshot.core.instance.as_ref().map_or(Front::Unknown, |instance| instance.front)));
    checks
}

fn seen(snapshot: &Snapshot) -> Check {
    let processes = snapshot.group.serving().count();
    let (version, pid, name) = (&snapshot.version, snapshot.core.image.process.pid, &snapshot.group.name);
    let text = format!("{version} found: core {pid}, app {name}, {processes} processes; it takes our orders");
    Check::fine(PASSENGER, text)
}

/// The core's socket gives nothing that could be worked with.
pub(super) fn silent(why: &str) -> Check {
    Check::found(
        PASSENGER,
        Finding::broken(
            Code::ControlServerSilent,
            format!("Passenger's core does not answer on its own socket ({why}): nothing can be deployed"),
            "run the agent as the user that Passenger's core runs as, and see Passenger's log",
        ),
    )
}

/// A core without the app.
pub(super) fn not_started() -> Check {
    Check::found(
        PASSENGER,
        Finding::risky(
            Code::AppNotStarted,
            "Passenger runs, and has not started the app: that waits for a first request, and until then the pod \
             does not become ready, nor is a release proved",
            "passenger_pre_start http://127.0.0.1/ in nginx or PassengerPreStart in Apache; or set verify.url, so \
             that the agent asks",
        ),
    )
}

fn from_current(snapshot: &Snapshot) -> Check {
    match snapshot.home() {
        Cwd::Release(release) => Check::fine(PASSENGER, format!("runs in release {release}")),
        Cwd::Unknown => {
            Check::unknown(PASSENGER, "where its processes run: there are none, or several releases")
        }
        Cwd::Elsewhere if snapshot.proven_ours => {
            Check::unknown(PASSENGER, "it ran in a release of ours, which was deleted since")
        }
        Cwd::Elsewhere => Check::found(
            PASSENGER,
            Finding::broken(
                Code::NotFromCurrent,
                format!(
                    "the app {} runs in no release of this volume's `releases` directory: no deploy can be proved, \
                     and without passenger.match none is tried",
                    snapshot.group.name
                ),
                "point Passenger to `current` (passenger_app_root /srv/app/current), with deploy_to on the same volume",
            ),
        ),
    }
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
        "Passenger puts all processes aside at once: in a deploy every client waits for the boot, and gets an error \
         page for as long as a release that does not boot is in place",
        "keep the boot short; spread the fleet's restarts with restart.spread",
    );
    Check::found(RESTARTS, finding)
}

fn restart_file(snapshot: &Snapshot) -> Option<Check> {
    let finding = || {
        Finding::risky(
            Code::RestartFileShipped,
            format!(
                "there is a restart.txt or an always_restart.txt in {}/tmp: when `current` moves, Passenger sees \
                 another file and restarts by itself, before the agent has written down what it does",
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
        None => Check::unknown(RESTARTS, "how many requests may wait for a boot"),
        Some(0) => Check::fine(RESTARTS, "any number of requests may wait for a boot"),
        Some(longest) => Check::found(
            RESTARTS,
            Finding::risky(
                Code::RequestQueueShort,
                format!(
                    "while the app boots, Passenger lets {longest} requests wait, and answers 503 to all others: a \
                     deploy under load loses requests"
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
            "Passenger may end every process of the app while nobody asks (min_instances 0): then nothing proves what \
             runs, and the next client waits for a boot",
            "passenger_min_instances 1 or more (passenger start --min-instances 1)",
        )
    };
    (snapshot.group.least() == 0).then(|| Check::found(PASSENGER, finding()))
}

/// What SIGTERM does, once the drain was answered.
fn stop(front: Front) -> Check {
    let (what, remedy) = match front {
        Front::Builtin => (
            "Passenger Standalone cuts requests in flight whichever signal ends it: only the drain before that keeps \
             them",
            "see that the container's preStop calls /prestop, and that grace_period leaves it the time it needs",
        ),
        Front::Nginx => (
            "nginx takes SIGTERM for its fast end, which cuts requests in flight: only the drain before that keeps \
             them",
            "STOPSIGNAL SIGQUIT in the image (or lifecycle.stopSignal), besides the preStop that calls /prestop",
        ),
        Front::Apache => (
            "Apache takes SIGTERM for its fast end, which cuts requests in flight: only the drain before that keeps \
             them",
            "STOPSIGNAL SIGWINCH in the image (or lifecycle.stopSignal), besides the preStop that calls /prestop",
        ),
        Front::Unknown => return Check::unknown(STOP, "what stands in front of Passenger"),
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
