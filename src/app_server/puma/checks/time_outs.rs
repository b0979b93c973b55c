//! Puma's time-outs, against what the agent was told and what was seen in this pod.

use std::time::Duration;

use humantime::format_duration as show;

use super::{CONTROL, RESTARTS};
use crate::{
    app_server::puma::{config_file::Settings, evidence::Evidence, setup::Setup},
    finding::{Check, Code, Finding, Severity},
};

/// Puma's own defaults.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const WORKER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_FROM_7: Duration = Duration::from_secs(65);

/// Beyond this the wait for fresh numbers is most of a usual drain.
const CHECK_INTERVAL_RISKY: Duration = Duration::from_secs(10);
/// The usual time-out of balancers for idle connections (ALB, nginx); GCP's is ten times that.
const BALANCERS: Duration = Duration::from_secs(60);
const REQUESTS: &str = "requests";

/// Everything about them. `told`: of the key puma.worker_shutdown_timeout; `longest`: the longest request that was seen.
pub(super) fn of(setup: &Setup, told: Duration, cluster: bool, longest: Duration) -> Vec<Check> {
    let settings = &setup.settings;
    let in_cluster = || {
        [
            shutdown_timeout(told, settings),
            check_interval(settings),
            worker_timeout(longest, settings),
            longest_request(told, longest, settings),
        ]
    };
    let mut checks: Vec<Check> = cluster.then(in_cluster).into_iter().flatten().flatten().collect();
    checks.extend(keepalive(setup));
    checks
}

/// A single process has none: it waits for its requests.
fn shutdown_timeout(told: Duration, settings: &Settings) -> Option<Check> {
    let puma = settings.worker_shutdown_timeout.or_default(SHUTDOWN_TIMEOUT)?;
    if told == puma {
        let message = format!("requests get {} to finish, in Puma as for the agent", show(puma));
        return Some(Check::fine(RESTARTS, message));
    }
    let (severity, so) = if told > puma {
        (Severity::Risky, "a restart cuts requests that take longer than Puma allows")
    } else {
        (Severity::Note, "it waits for requests that would survive a restart")
    };
    let message = format!(
        "Puma gives requests {} to finish when a worker stops, and the agent was told {}: {so}",
        show(puma),
        show(told)
    );
    let fix = format!("set puma.worker_shutdown_timeout to {}, for the agent", show(puma));
    Some(Finding::of(severity, Code::ShutdownTimeoutDiffers, message, fix).about(RESTARTS))
}

/// That nothing is in flight is believed when every worker has reported twice since.
fn check_interval(settings: &Settings) -> Option<Check> {
    let interval = settings.worker_check_interval.or_default(CHECK_INTERVAL)?;
    if interval <= CHECK_INTERVAL {
        return Some(Check::fine(CONTROL, format!("its numbers are at most {} old", show(interval))));
    }
    let severity = if interval > CHECK_INTERVAL_RISKY { Severity::Risky } else { Severity::Note };
    let message = format!(
        "worker_check_interval is {}, and Puma's numbers are up to that old. A drain waits for two reports of every \
         worker after the last traffic, so it takes {} longer",
        show(interval),
        show(interval * 2)
    );
    let fix = "worker_check_interval 5 in config/puma.rb";
    Some(Finding::of(severity, Code::CheckIntervalLong, message, fix).about(CONTROL))
}

/// How long a worker may be silent, and how long it may take to boot; against the longest request that was seen.
fn worker_timeout(longest: Duration, settings: &Settings) -> Option<Check> {
    let timeout = settings.worker_timeout.or_default(WORKER_TIMEOUT)?;
    let boot = settings.worker_boot_timeout.or_default(WORKER_TIMEOUT)?;
    if timeout.max(boot) > WORKER_TIMEOUT {
        let message = format!(
            "Puma waits {} for a worker that hangs, and {} for one that boots. The agent expects {} of both, and takes a \
             phased restart that lasts longer for failed",
            show(timeout),
            show(boot),
            show(WORKER_TIMEOUT)
        );
        let fix = "worker_timeout 60 and worker_boot_timeout 60 in config/puma.rb, or a higher restart.timeout for the agent";
        return Some(Finding::note(Code::WorkerTimeoutLong, message, fix).about(RESTARTS));
    }
    if longest >= timeout {
        let message = format!(
            "a request took {} here, and Puma kills a worker that does not report for {}. A request that computes \
             that long without a pause fails, and so do all others of its worker",
            show(seconds(longest)),
            show(timeout)
        );
        let fix = "raise worker_timeout in config/puma.rb above the longest request, or make it a job";
        return Some(Finding::note(Code::WorkerTimeoutShort, message, fix).about(REQUESTS));
    }
    None
}

/// Not only what is in flight now: the longest that this agent has seen.
fn longest_request(told: Duration, longest: Duration, settings: &Settings) -> Option<Check> {
    let limit = settings.worker_shutdown_timeout.or_default(told)?;
    if longest < limit || longest.is_zero() {
        return None;
    }
    let finding = Finding::note(
        Code::LongRequests,
        format!(
            "a request took {} in this pod, and a restart cuts requests that take longer than {} after its signal. \
             Restarts wait for long requests, for restart.wait_in_flight at most",
            show(seconds(longest)),
            show(limit)
        ),
        "raise worker_shutdown_timeout in Puma and puma.worker_shutdown_timeout, or make it a job",
    );
    Some(finding.about(REQUESTS))
}

/// Whoever closes an idle connection first may do so while a request is on its way.
fn keepalive(setup: &Setup) -> Option<Check> {
    let timeout = match (&setup.settings.persistent_timeout, setup.major) {
        (Evidence::Default, None) => None,
        (set, major) => set.or_default(if major >= Some(7) { KEEPALIVE_FROM_7 } else { KEEPALIVE }),
    }?;
    if timeout > BALANCERS {
        return Some(Check::fine(
            REQUESTS,
            format!("idle connections stay open for {}, longer than most balancers keep them", show(timeout)),
        ));
    }
    let message = format!(
        "Puma closes a connection that was idle for {}. A balancer that keeps it longer (ALB and nginx 60s, Google's \
         600s) sometimes sends a request into it: a 502 that looks like a deploy's",
        show(timeout)
    );
    let fix =
        "persistent_timeout in config/puma.rb above the balancer's idle time-out (75; 620 behind Google's)";
    Some(Finding::note(Code::KeepaliveShort, message, fix).about(REQUESTS))
}

fn seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}
