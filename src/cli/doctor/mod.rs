//! `pitstop doctor`: is this pod set up so that the promises hold?
//!
//! It asks every part that knows something for its checks, and makes up none of its own about what
//! another part decides: Puma's are the adapter's, those of the keys the configuration's, and what the agent
//! has found it is asked for. It changes nothing; the files that it has to write to know whether it may
//! are gone when it ends.

mod agent;
mod health;
mod pod;
mod report;
mod store;
#[cfg(test)]
mod tests;
mod volume;

use std::time::Duration;

use super::{Console, Exit, Failure};
use crate::{
    app_server::{AppServer, puma::Puma},
    config::{self, Config, LongRequests},
    finding::{Check, Code, Finding},
    revision::ReleaseId,
};
use report::Report;

/// What there is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A pod that serves, with its agent.
    Pod,
    /// A pod before its Puma: neither that nor the agent is expected.
    Init,
    /// The configuration alone, on any machine.
    ConfigOnly,
}

/// Looks, and prints what it saw; [`Exit::Failed`] when something is broken.
///
/// # Errors
/// [`Failure`] when it could not even look.
pub async fn run(config: &Config, scope: Scope, console: Console) -> Result<Exit, Failure> {
    let mut checks = config::advice::of(config);
    checks.extend(match scope {
        Scope::ConfigOnly => config_only(),
        Scope::Init => before_puma(config).await?,
        Scope::Pod => whole_pod(config).await?,
    });
    let report = Report::of(checks);
    console.print(&report);
    Ok(if report.is_broken() { Exit::Failed } else { Exit::Done })
}

fn config_only() -> Vec<Check> {
    let left_out = ["Puma", "volume", "store", "pod", "agent"];
    left_out.into_iter().map(|about| Check::unknown(about, "left out: --config-only")).collect()
}

async fn before_puma(config: &Config) -> Result<Vec<Check>, Failure> {
    let (volume, store, pod) =
        tokio::join!(volume::checks(config), store::checks(config), pod::checks(config));
    let left_out = ["Puma", "health path", "agent"];
    let left_out = left_out.into_iter().map(|about| Check::unknown(about, "not expected yet: --init"));
    Ok([volume?, store, pod?].into_iter().flatten().chain(left_out).collect())
}

async fn whole_pod(config: &Config) -> Result<Vec<Check>, Failure> {
    let puma = Puma::new(config.puma.clone(), config.restart.mode, config.deploy_to.clone())?
        .with_fallback(config.fallback_dir.clone());
    let (puma, volume, store, pod, agent) = tokio::join!(
        puma_and_its_app(&puma, config),
        volume::checks(config),
        store::checks(config),
        pod::checks(config),
        agent::checks(config),
    );
    let mut checks: Vec<Check> = [puma, volume?, store, pod?, agent.own].into_iter().flatten().collect();
    let known: Vec<Code> = checks.iter().filter_map(Check::finding).map(|finding| finding.code).collect();
    checks.extend(agent.told.into_iter().filter(|check| {
        let code = check.finding().map(|finding| finding.code);
        code.is_none_or(|code| !known.contains(&code))
    }));
    Ok(checks)
}

async fn puma_and_its_app(puma: &Puma, config: &Config) -> Vec<Check> {
    let mut checks = puma.examine().await;
    let look = puma.observe().await;
    let running: Vec<_> = look.description.workers.iter().map(|worker| worker.release.clone()).collect();
    let running: Option<ReleaseId> = match &running[..] {
        [Some(first), rest @ ..] if rest.iter().all(|other| other.as_ref() == Some(first)) => {
            Some(first.clone())
        }
        _ => None,
    };
    if look.description.pid.is_some() {
        checks.push(long_requests(look.traffic.oldest_request_ms(), config));
        checks.extend(health::checks(&config.verify, running.as_ref()).await);
    } else {
        checks.push(Check::unknown("health path", "no Puma to be asked"));
    }
    checks
}

/// As long as a request has taken already, as long it may take still.
fn long_requests(oldest_ms: Option<u64>, config: &Config) -> Check {
    const ABOUT: &str = "requests";
    let limit = config.puma.worker_shutdown_timeout;
    let Some(age) = oldest_ms.map(Duration::from_millis) else {
        return Check::fine(ABOUT, "none is in flight as far as the socket table tells");
    };
    let shown = |duration: Duration| humantime::format_duration(Duration::from_secs(duration.as_secs()));
    if age < limit / 2 {
        return Check::fine(ABOUT, format!("the oldest in flight began {} ago", shown(age)));
    }
    let message = format!(
        "a request has been in flight for {}, and Puma cuts what takes longer than {} after a restart's signal",
        shown(age),
        shown(limit)
    );
    let remedy = "raise worker_shutdown_timeout in Puma and puma.worker_shutdown_timeout, or make it a job";
    Check::found(
        ABOUT,
        match config.restart.long_requests {
            LongRequests::Wait => {
                let message = format!("{message}: the agent waits for it before it signals");
                Finding::note(Code::LongRequests, message, remedy)
            }
            LongRequests::Proceed => Finding::risky(Code::LongRequests, message, remedy),
        },
    )
}
