//! `pitstop doctor`: is this pod set up so that the promises hold?
//!
//! It asks every part that knows something for its checks, and makes up none of its own about what
//! another part decides: Puma's are the adapter's, those of the keys the configuration's, and what the agent
//! has found it is asked for. It changes nothing; the files that it has to write to know whether it may
//! are gone when it ends.

mod agent;
pub(crate) mod app;
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
    app_server::{AppServer, Wanted},
    config::{self, Config, LongRequests},
    core::{Cwd, Detection, Mode, Plan, Problem},
    finding::{Check, Code, Finding},
    lane::Lane,
    revision::ReleaseId,
};
use report::Report;

/// What there is to be looked at.
#[derive(Debug)]
pub(crate) enum Scope {
    /// A pod that serves, with its agent.
    Pod,
    /// A pod before its Puma: neither that nor the agent is expected.
    Init,
    /// The configuration alone, on any machine, and the app's files where they are named.
    ConfigOnly(app::Files),
}

/// Looks, and prints what it saw; [`Exit::Failed`] when something is broken.
///
/// # Errors
/// [`Failure`] when it could not even look.
pub(crate) async fn run(config: &Config, scope: Scope, console: Console) -> Result<Exit, Failure> {
    let mut checks = config::advice::of(config, &crate::cli::app_server::facts(config));
    let more = match scope {
        Scope::ConfigOnly(files) => config_only(config, &files, &mut checks)?,
        Scope::Init => before_puma(config).await?,
        Scope::Pod => whole_pod(config, &checks).await?,
    };
    checks.extend(more);
    let report = Report::of(checks);
    console.print(&report);
    Ok(if report.is_broken() { Exit::Failed } else { Exit::Done })
}

fn config_only(config: &Config, files: &app::Files, advice: &mut Vec<Check>) -> Result<Vec<Check>, Failure> {
    let mut checks = app::checks(files, config, advice)?;
    let left_out = ["volume", "store", "pod", "agent"];
    checks
        .extend(left_out.into_iter().map(|about| Check::unknown(about, "skipped because of --config-only")));
    Ok(checks)
}

async fn before_puma(config: &Config) -> Result<Vec<Check>, Failure> {
    let (volume, store, pod) =
        tokio::join!(volume::checks(config), store::checks(config), pod::checks(config));
    let left_out = [config.app_server.title(), "health path", "agent"];
    let left_out = left_out.into_iter().map(|about| Check::unknown(about, "not expected yet: --init"));
    Ok([volume?, store, pod?].into_iter().flatten().chain(left_out).collect())
}

async fn whole_pod(config: &Config, advice: &[Check]) -> Result<Vec<Check>, Failure> {
    let server_there = super::app_server::of(config)?;
    // First: a look tells what the plan has found in the two releases.
    let next = next_release(server_there.as_ref(), config).await;
    let (server, volume, store, pod, agent) = tokio::join!(
        server_and_its_app(server_there.as_ref(), config),
        volume::checks(config),
        store::checks(config),
        pod::checks(config),
        agent::checks(config),
    );
    let all = [server, volume?, store, next, pod?, agent.own];
    let mut checks: Vec<Check> = all.into_iter().flatten().collect();
    if is_unborn(config).await {
        checks.iter_mut().for_each(not_expected_yet);
    }
    let known = advice.iter().chain(&checks).filter_map(Check::finding).map(|finding| finding.code);
    let known: Vec<Code> = known.collect();
    checks.extend(agent.told.into_iter().filter(|check| {
        let code = check.finding().map(|finding| finding.code);
        code.is_none_or(|code| !known.contains(&code))
    }));
    Ok(checks)
}

/// Whether there is nothing that an app server could run, and nothing to come: what keeps the first release out is what
/// is wrong.
async fn is_unborn(config: &Config) -> bool {
    let current = config.current();
    let Ok(lane) = Lane::start("doctor-current") else { return false };
    let bare =
        config.fallback_dir.is_none() && lane.run(HERE, move || !current.exists()).await.unwrap_or(false);
    bare && store::desired(config).await.is_none()
}

fn not_expected_yet(check: &mut Check) {
    if check.finding().is_some_and(|finding| finding.code == Code::AppServerMissing) {
        *check = Check::unknown(check.about, "none runs: there is no release yet that it could run");
    }
}

/// What the agent would do about the release that the pointer names, where that is on the volume already.
async fn next_release(server: &dyn AppServer, config: &Config) -> Vec<Check> {
    let Some(release) = store::desired(config).await else { return Vec::new() };
    let look = server.observe().await;
    let (id, releases) = (release.clone(), super::on_volume(config));
    let lane = match Lane::start("doctor-next") {
        Ok(lane) => lane,
        Err(error) => return vec![Check::unknown(NEXT, error.to_string())],
    };
    let there = lane.run(HERE, move || releases.is_complete(&id)).await;
    let there = there.is_ok_and(|there| there.is_ok_and(|there| there));
    let running = running(&look.detection);
    if !there || look.description.pid.is_none() || running.as_ref() == Some(&release) {
        return Vec::new();
    }
    let wanted = Wanted { running: running.as_ref(), release: &release, beside: true };
    vec![planned(&release, server.plan(wanted).await)]
}

const NEXT: &str = "restarts";
/// A file of a few hundred bytes on the volume.
const HERE: Duration = Duration::from_secs(10);

fn planned(release: &ReleaseId, plan: Result<Plan, Problem>) -> Check {
    match plan {
        Ok(Plan { mode: Mode::Hot, .. }) => {
            Check::fine(NEXT, format!("to {release}, which the pointer names: hot"))
        }
        Ok(Plan { mode: Mode::Phased, .. }) => {
            Check::fine(NEXT, format!("to {release}, which the pointer names: phased"))
        }
        Ok(Plan { mode: Mode::Beside, .. }) => {
            Check::fine(NEXT, format!("to {release}, which the pointer names: beside"))
        }
        Err(problem) => Check::found(
            NEXT,
            Finding::broken(
                Code::RestartImpossible,
                format!(
                    "{release}, which the pointer names, is not deployed ({}): {}",
                    problem.reason, problem.message
                ),
                "the message says what to change; docs/runbook.md has a heading for the reason",
            ),
        ),
    }
}

/// What all that serve run, where they run the same: workers, or the one process of single mode.
fn running(detection: &Detection) -> Option<ReleaseId> {
    let Detection::Seen(server) = detection else { return None };
    let mut serving = server.generations.iter().flat_map(|generation| &generation.processes);
    let first = &serving.next()?.cwd;
    let Cwd::Release(release) = first else { return None };
    serving.all(|process| process.cwd == *first).then(|| release.clone())
}

async fn server_and_its_app(server: &dyn AppServer, config: &Config) -> Vec<Check> {
    let mut checks = server.examine().await;
    let look = server.observe().await;
    let running = running(&look.detection);
    if look.description.pid.is_some() {
        let said = checks.iter().filter_map(Check::finding).any(|finding| finding.code == Code::LongRequests);
        if !said {
            checks.push(long_requests(look.traffic.oldest_request_ms(), config));
        }
        checks.extend(health::checks(&config.verify, running.as_ref()).await);
    } else {
        checks.push(Check::unknown("health path", format!("no {} to be asked", config.app_server.title())));
    }
    checks
}

/// As long as a request has taken already, as long it may take still.
fn long_requests(oldest_ms: Option<u64>, config: &Config) -> Check {
    const ABOUT: &str = "requests";
    if !crate::cli::app_server::facts(config).cuts_requests {
        return Check::fine(
            ABOUT,
            "none is waited for: only the app server itself, or your command, cuts what takes too long",
        );
    }
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
