//! Prometheus metrics by the contract: one struct with a registry of its own, built once.
//!
//! What is not known is not exported: without a control server there is no `pitstop_puma_*` load,
//! instead of zeros that would lie.

use std::{collections::HashMap, sync::Mutex};

use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use crate::{
    app_server::SlotDescription,
    core::{
        AppServer, DeployResult, Detection, Mode, Observation, ProcessKey, Reason, Stage, View, WorkerLoad,
        drain::{Answer, DrainResult},
    },
    releases::fetch::Fetched,
    revision::ReleaseId,
};

mod build;
mod slots;

pub use build::Family;
use build::{Builder, DEPLOY_SECONDS, DRAIN_SECONDS, RESTART_SECONDS, STAGE_SECONDS};
use slots::Slots;

/// So many processes are remembered until the ended ones are forgotten.
const MOST_REMEMBERED: usize = 4096;

/// What a release is undone for, as a rule.
const UNDONE_FOR: [Reason; 8] = [
    Reason::BootFailed,
    Reason::BootLoop,
    Reason::BootTimeout,
    Reason::MasterGone,
    Reason::WrongCwd,
    Reason::RestartDirPinned,
    Reason::ProbeFailed,
    Reason::ReleaseMismatch,
];

/// All metrics of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    build_info: IntGaugeVec,
    release_info: IntGaugeVec,
    in_sync: IntGauge,
    stage: IntGaugeVec,
    reason: IntGaugeVec,
    pointer_checks: IntCounterVec,
    pointer_last_success: GaugeVec,
    pointer_expires: GaugeVec,
    deploys: IntCounterVec,
    deploy_duration: Histogram,
    stage_duration: HistogramVec,
    restarts: IntCounterVec,
    restart_duration: HistogramVec,
    restart_requests_cut: IntCounter,
    fetch_bytes: IntCounterVec,
    fetch_files: IntCounterVec,
    drains: IntCounterVec,
    drain_duration: Histogram,
    drain_requests_left: IntGaugeVec,
    slots: Slots,
    puma: Puma,
}

/// The app server's load, as the last look showed it.
#[derive(Debug)]
struct Puma {
    in_flight: IntGaugeVec,
    requests: IntCounter,
    backlog: IntGaugeVec,
    workers: IntGaugeVec,
    threads: IntGaugeVec,
    /// What each worker had served at the last look: its count starts anew with every process.
    served: Mutex<HashMap<ProcessKey, u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Builds and registers every metric.
    ///
    /// # Panics
    /// Never at run time: only a name that is registered twice or malformed would, which the tests catch.
    #[expect(clippy::too_many_lines, reason = "a list, and no decision in it")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let b = Builder::new(&registry);
        Self {
            build_info: b.gauges("pitstop_build_info", "1, with the agent's version.", &["version"]),
            release_info: b.gauges(
                "pitstop_release_info",
                "1 for the release in each role: running (proven), desired, previous.",
                &["release", "role"],
            ),
            in_sync: b.gauge("pitstop_in_sync", "1 when the desired release is proved to run."),
            stage: b.gauges("pitstop_stage", "1 for the stage the deploy is in.", &["stage"]),
            reason: b.gauges("pitstop_reason", "1 for the reason that holds, if one does.", &["reason"]),
            pointer_checks: b.counters(
                "pitstop_pointer_checks_total",
                "Reads of the release pointer: ok, or the reason of the failure.",
                &["result"],
            ),
            pointer_last_success: b.float_gauges(
                "pitstop_pointer_last_success_timestamp_seconds",
                "When the pointer was last read successfully, in seconds since the epoch.",
            ),
            pointer_expires: b.float_gauges(
                "pitstop_pointer_expires_timestamp_seconds",
                "When the signature of the pointer expires, in seconds since the epoch.",
            ),
            deploys: b.counters(
                "pitstop_deploys_total",
                "Deploys by how they ended; the reason is empty where there is none.",
                &["result", "reason"],
            ),
            deploy_duration: b.histogram(
                "pitstop_deploy_duration_seconds",
                "From the start of a deploy to its end.",
                DEPLOY_SECONDS,
            ),
            stage_duration: b.histograms(
                "pitstop_stage_duration_seconds",
                "Time in each stage.",
                "stage",
                STAGE_SECONDS,
            ),
            restarts: b.counters(
                "pitstop_restarts_total",
                "Restart signals: sent, or failed when none could be sent.",
                &["mode", "result"],
            ),
            restart_duration: b.histograms(
                "pitstop_restart_duration_seconds",
                "From the restart signal to the proof that every worker runs the release.",
                "mode",
                RESTART_SECONDS,
            ),
            restart_requests_cut: b
                .counter("pitstop_restart_requests_cut_total", "Requests cut by our restarts."),
            fetch_bytes: b.counters(
                "pitstop_fetch_bytes_total",
                "Bytes of releases: store (downloaded, packed), or volume (found there complete, unpacked).",
                &["from"],
            ),
            fetch_files: b.counters(
                "pitstop_fetch_files_total",
                "Files, directories and links of releases: unpacked, or found complete on the volume.",
                &["how"],
            ),
            drains: b.counters("pitstop_drains_total", "Drains by how they ended.", &["result"]),
            drain_duration: b.histogram(
                "pitstop_drain_duration_seconds",
                "How long /prestop was held.",
                DRAIN_SECONDS,
            ),
            drain_requests_left: b.gauges(
                "pitstop_drain_requests_left",
                "Requests in flight when the last drain was answered.",
                &[],
            ),
            slots: Slots::new(&b),
            puma: Puma::new(&b),
            families: b.families.take(),
            registry,
        }
        .with_closed_lists()
    }

    /// A counter that has not counted yet is 0, not absent: rate() and increase() need the first step.
    fn with_closed_lists(self) -> Self {
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        self.pointer_checks.with_label_values(&["ok"]);
        for result in ["verified", "superseded"] {
            self.deploys.with_label_values(&[result, ""]);
        }
        for reason in UNDONE_FOR {
            self.deploys.with_label_values(&["reverted", reason.code()]);
        }
        for stage in Stage::ALL.iter().filter(|stage| !matches!(stage, Stage::Steady | Stage::Stranded)) {
            self.stage_duration.with_label_values(&[stage.name()]);
        }
        for result in DrainResult::ALL {
            self.drains.with_label_values(&[result.name()]);
        }
        for mode in [Mode::Hot, Mode::Phased, Mode::Beside] {
            self.restarts.with_label_values(&[mode_name(mode), "sent"]);
            self.restart_duration.with_label_values(&[mode_name(mode)]);
        }
        for (from, how) in [("store", "unpacked"), ("volume", "found")] {
            self.fetch_bytes.with_label_values(&[from]);
            self.fetch_files.with_label_values(&[how]);
        }
        self
    }

    /// Every metric there is, also those without a value yet: what `docs/metrics.md` lists.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The text that GET /metrics answers.
    ///
    /// # Errors
    /// Only when the encoder fails, which it does on metrics without a name.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Takes over the deploy's state.
    pub(crate) fn view(&self, view: &View) {
        self.in_sync.set(i64::from(view.in_sync));
        for stage in Stage::ALL {
            self.stage.with_label_values(&[stage.name()]).set(i64::from(stage == view.stage));
        }
        self.reason.reset();
        if let Some(problem) = &view.problem {
            self.reason.with_label_values(&[problem.reason.code()]).set(1);
        }
        self.release_info.reset();
        let desired = view.desired.as_ref().map(|revision| &revision.release);
        self.release("running", view.running.as_ref());
        self.release("desired", desired);
        self.release("previous", view.previous.as_ref());
    }

    fn release(&self, role: &str, release: Option<&ReleaseId>) {
        if let Some(release) = release {
            self.release_info.with_label_values(&[release.as_str(), role]).set(1);
        }
    }

    /// A look at the app server.
    pub(crate) fn observed(&self, observation: &Observation) {
        self.puma.observed(observation);
    }

    /// The servers side by side, as the last look showed them.
    pub(crate) fn slots(&self, slots: &[SlotDescription]) {
        self.slots.observed(slots);
    }

    /// The pointer was read; `failure` says why not. `at` is the wall clock in seconds since the epoch.
    pub(crate) fn pointer_checked(&self, failure: Option<Reason>, at: f64) {
        self.pointer_checks.with_label_values(&[failure.map_or("ok", Reason::code)]).inc();
        if failure.is_none() {
            self.pointer_last_success.with_label_values::<&str>(&[]).set(at);
        }
    }

    /// When the signature of the pointer expires, in seconds since the epoch; `None`: it has none.
    pub(crate) fn pointer_expires(&self, at: Option<u64>) {
        match at {
            Some(at) => self.pointer_expires.with_label_values::<&str>(&[]).set(at as f64),
            None => self.pointer_expires.reset(),
        }
    }

    /// A deploy ended after so many seconds.
    pub(crate) fn concluded(&self, result: &DeployResult, seconds: f64) {
        let (result, reason) = result_names(result);
        let reason = reason.map_or("", Reason::code);
        self.deploys.with_label_values(&[result, reason]).inc();
        self.deploy_duration.observe(seconds);
    }

    /// A deploy left a stage after so many seconds.
    pub(crate) fn stage_left(&self, stage: Stage, seconds: f64) {
        self.stage_duration.with_label_values(&[stage.name()]).observe(seconds);
    }

    /// A restart signal was sent, or could not be.
    pub(crate) fn restart_sent(&self, mode: Mode, sent: bool) {
        let result = if sent { "sent" } else { "failed" };
        self.restarts.with_label_values(&[mode_name(mode), result]).inc();
    }

    /// A restart was proved to have succeeded so many seconds after its signal.
    pub(crate) fn restart_proved(&self, mode: Mode, seconds: f64) {
        self.restart_duration.with_label_values(&[mode_name(mode)]).observe(seconds);
    }

    /// So many requests were cut by a restart of ours.
    pub(crate) fn cut_by_restart(&self, requests: usize) {
        self.restart_requests_cut.inc_by(requests as u64);
    }

    /// A release came onto the volume, or was there already.
    pub(crate) fn fetched(&self, fetched: &Fetched) {
        let found = fetched.was_there && fetched.downloaded_bytes == 0;
        self.fetch_bytes.with_label_values(&["store"]).inc_by(fetched.downloaded_bytes);
        self.fetch_bytes.with_label_values(&["volume"]).inc_by(if found { fetched.bytes } else { 0 });
        // What was unpacked in vain, because another pod was faster, was found in the end.
        let how = if fetched.was_there { "found" } else { "unpacked" };
        self.fetch_files.with_label_values(&[how]).inc_by(fetched.entries);
    }

    /// A drain was answered.
    pub(crate) fn drained(&self, answer: &Answer) {
        self.drains.with_label_values(&[answer.result.name()]).inc();
        self.drain_duration.observe(answer.held_ms as f64 / 1000.0);
        self.drain_requests_left.with_label_values::<&str>(&[]).set(i64::from(answer.requests_left));
    }
}

impl Puma {
    fn new(b: &Builder<'_>) -> Self {
        Self {
            in_flight: b.gauges("pitstop_puma_requests_in_flight", "Requests being served or waiting.", &[]),
            requests: b.counter("pitstop_puma_requests_total", "Requests served, all workers together."),
            backlog: b.gauges("pitstop_puma_backlog", "Requests accepted and waiting for a thread.", &[]),
            workers: b.gauges("pitstop_puma_workers", "Workers: booted or booting.", &["state"]),
            threads: b.gauges("pitstop_puma_threads", "Threads that serve a request: busy.", &["state"]),
            served: Mutex::default(),
        }
    }

    fn observed(&self, observation: &Observation) {
        match &observation.detection {
            Detection::Seen(server) => self.seen(server),
            Detection::Unclear => return,
            _ => self.workers.reset(),
        }
        match &observation.traffic.workers {
            Some(workers) => self.load(workers),
            None => self.forget_load(),
        }
    }

    fn seen(&self, server: &AppServer) {
        let processes = || server.generations.iter().flat_map(|generation| &generation.processes);
        let booted = processes().filter(|process| process.booted).count();
        self.workers.with_label_values(&["booted"]).set(booted as i64);
        self.workers.with_label_values(&["booting"]).set((processes().count() - booted) as i64);
    }

    fn load(&self, workers: &[WorkerLoad]) {
        let busy: i64 = workers.iter().map(|worker| i64::from(worker.busy)).sum();
        let backlog: i64 = workers.iter().map(|worker| i64::from(worker.backlog)).sum();
        self.in_flight.with_label_values::<&str>(&[]).set(busy + backlog);
        self.backlog.with_label_values::<&str>(&[]).set(backlog);
        self.threads.with_label_values(&["busy"]).set(busy);
        // A panic elsewhere must not stop the counting.
        let mut served = self.served.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for worker in workers {
            let before = served.get(&worker.key).copied().unwrap_or(0);
            self.requests.inc_by(worker.requests.saturating_sub(before));
        }
        // A worker that misses one look must not be counted again in full at the next.
        if served.len() > MOST_REMEMBERED {
            served.retain(|key, _| workers.iter().any(|worker| worker.key == *key));
        }
        served.extend(workers.iter().map(|worker| (worker.key, worker.requests)));
    }

    fn forget_load(&self) {
        self.in_flight.reset();
        self.backlog.reset();
        self.threads.reset();
    }
}

/// How a deploy ended, as the contract spells it, and why it did not succeed.
pub(crate) fn result_names(result: &DeployResult) -> (&'static str, Option<Reason>) {
    match result {
        DeployResult::Verified => ("verified", None),
        DeployResult::Reverted(problem) => ("reverted", Some(problem.reason)),
        DeployResult::Stranded(problem) => ("stranded", Some(problem.reason)),
        DeployResult::Refused(problem) => ("refused", Some(problem.reason)),
        DeployResult::Superseded => ("superseded", None),
    }
}

/// The mode as the contract spells it.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Hot => "hot",
        Mode::Phased => "phased",
        Mode::Beside => "beside",
    }
}

#[cfg(test)]
mod tests;
