//! Puma's time-outs, against what was seen in this pod and what the agent was told.

use std::time::Duration;

use humantime::format_duration as show;

use super::{CONTROL, RESTARTS};
use crate::{
    app_server::puma::{
        config_file::{PumaConfig, Seconds},
        setup::Setup,
        snapshot::Snapshot,
        title::Master,
    },
    finding::{Check, Code, Finding},
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

/// Everything about them.
pub(super) fn of(snapshot: &Snapshot, setup: &Setup) -> Vec<Check> {
    let Some(config) = &setup.config else { return Vec::new() };
    let mut checks = Vec::new();
    let longest = Duration::from_millis(snapshot.memory.longest_request_ms);
    if snapshot.cluster() == Some(true) {
        checks.extend(shutdown_timeout(snapshot.told.worker_shutdown_timeout, config));
        checks.extend(check_interval(config));
        checks.extend(worker_timeout(longest, config));
        checks.extend(longest_request(snapshot.told.worker_shutdown_timeout, longest, config));
    }
    checks.extend(keepalive(snapshot.processes.title.as_ref().and_then(Master::major), config));
    checks
}

/// A single process has none: it waits for its requests.
pub(super) fn shutdown_timeout(told: Duration, config: &PumaConfig) -> Option<Check> {
    let puma = config.worker_shutdown_timeout.or(SHUTDOWN_TIMEOUT)?;
    if told == puma {
        return Some(Check::fine(
            RESTARTS,
            format!("requests get {} to end, in Puma as for the agent", show(puma)),
        ));
    }
    let (code, remedy) = (
        Code::ShutdownTimeoutDiffers,
        format!("set puma.worker_shutdown_timeout to {}, for the agent", show(puma)),
    );
    let found = if told > puma {
        let message = format!(
            "Puma kills a worker {} after it was told to stop, and the agent takes that for {}: a request between \
             the two is cut by a restart",
            show(puma),
            show(told)
        );
        Finding::risky(code, message, remedy)
    } else {
        let message = format!(
            "Puma gives requests {} to end, and the agent takes that for {}: it waits for requests that would \
             survive a restart",
            show(puma),
            show(told)
        );
        Finding::note(code, message, remedy)
    };
    Some(Check::found(RESTARTS, found))
}

/// That nothing is in flight is believed when every worker has reported twice since.
pub(super) fn check_interval(config: &PumaConfig) -> Option<Check> {
    let interval = config.worker_check_interval.or(CHECK_INTERVAL)?;
    if interval <= CHECK_INTERVAL {
        return Some(Check::fine(CONTROL, format!("its numbers are {} old at most", show(interval))));
    }
    let make = if interval > CHECK_INTERVAL_RISKY { Finding::risky } else { Finding::note };
    let message = format!(
        "worker_check_interval is {}: Puma's numbers are that old, and a drain, which wants two reports of every worker after \
         the last traffic, takes {} longer",
        show(interval),
        show(interval * 2)
    );
    Some(Check::found(
        CONTROL,
        make(Code::CheckIntervalLong, message.as_str(), "worker_check_interval 5 in config/puma.rb"),
    ))
}

/// How long a worker may be silent, and how long it may take to boot; against the longest request that was seen.
pub(super) fn worker_timeout(longest: Duration, config: &PumaConfig) -> Option<Check> {
    let timeout = config.worker_timeout.or(WORKER_TIMEOUT)?;
    let boot = config.worker_boot_timeout.or(WORKER_TIMEOUT)?;
    if timeout.max(boot) > WORKER_TIMEOUT {
        let message = format!(
            "Puma waits {} for a worker that hangs, and {} for one that does not boot: the agent expects {} of both, and takes a \
             phased restart that lasts longer for failed",
            show(timeout),
            show(boot),
            show(WORKER_TIMEOUT)
        );
        let remedy = "worker_timeout 60 and worker_boot_timeout 60 in config/puma.rb, or a higher restart.timeout for the agent";
        return Some(Check::found(RESTARTS, Finding::note(Code::WorkerTimeoutLong, message, remedy)));
    }
    if longest >= timeout {
        let message = format!(
            "a request of {} was seen here, and Puma kills a worker that does not report for {}: one that computes \
             that long without a pause takes all requests of its worker along",
            show(seconds(longest)),
            show(timeout)
        );
        let remedy = "raise worker_timeout in config/puma.rb above the longest request, or make it a job";
        return Some(Check::found(REQUESTS, Finding::note(Code::WorkerTimeoutShort, message, remedy)));
    }
    None
}

/// Not only what is in flight now: the longest that this agent has seen.
fn longest_request(told: Duration, longest: Duration, config: &PumaConfig) -> Option<Check> {
    let limit = config.worker_shutdown_timeout.or(told)?;
    if longest < limit {
        return None;
    }
    let finding = Finding::note(
        Code::LongRequests,
        format!(
            "a request of {} was seen in this pod, and Puma cuts what takes longer than {} after a restart's signal: \
             restarts wait for such, for restart.wait_in_flight at most",
            show(seconds(longest)),
            show(limit)
        ),
        "raise worker_shutdown_timeout in Puma and puma.worker_shutdown_timeout, or make it a job",
    );
    Some(Check::found(REQUESTS, finding))
}

/// Who closes an idle connection first may do so while a request is on its way.
/// `major`: the version, whose default holds where nothing else is said.
pub(super) fn keepalive(major: Option<u32>, config: &PumaConfig) -> Option<Check> {
    let timeout = match (config.persistent_timeout, major) {
        (Seconds::Unset, None) => None,
        (set, major) => set.or(if major >= Some(7) { KEEPALIVE_FROM_7 } else { KEEPALIVE }),
    }?;
    if timeout > BALANCERS {
        return Some(Check::fine(
            REQUESTS,
            format!("idle connections stay open for {}, longer than most balancers keep them", show(timeout)),
        ));
    }
    let message = format!(
        "Puma closes a connection that was idle for {}; a balancer that keeps it longer (ALB and nginx 60s, Google's \
         600s) sends a request into it now and then, which is a 502 that looks like a deploy's",
        show(timeout)
    );
    let remedy =
        "persistent_timeout in config/puma.rb above the balancer's idle time-out (75; 620 behind Google's)";
    Some(Check::found(REQUESTS, Finding::note(Code::KeepaliveShort, message, remedy)))
}

fn seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}
