//! Logs: one line per event on standard error, as JSON or as text for people.
//!
//! Every line of one deploy carries its `deploy_id`, so that one `grep` tells its whole story, also
//! across a restart of the agent.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use serde::Serialize;

use crate::{config::LogFormat, core::Attempt};

/// Sends logs to standard error. `RUST_LOG` chooses the level, also per target (`warn,pitstop=debug`);
/// info by default. A second call changes nothing.
pub(crate) fn init(format: LogFormat) {
    let chosen = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let levels: Option<Targets> = chosen.and_then(|text| text.parse().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let logs = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(levels);
    // Already initialised (by a test in the same process): the first one stands.
    let _ = match format {
        LogFormat::Json => registry.with(logs.json().flatten_event(true).with_span_list(false)).try_init(),
        LogFormat::Text => registry.with(logs.with_target(false)).try_init(),
    };
}

/// Milliseconds for people: seconds with one decimal.
pub(crate) fn seconds(ms: u64) -> f64 {
    (ms as f64 / 100.0).round() / 10.0
}

/// How a value is called wherever users meet it: never as Rust would print it.
pub(crate) fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().into()
}

/// Names the deploys of one process of the agent.
#[derive(Debug, Clone)]
pub struct DeployIds {
    /// Seconds since the epoch in hexadecimal, when the process started.
    start: String,
}

impl DeployIds {
    /// Ids of a process that started so many seconds after the epoch. Attempts count from 1 in
    /// each process; with its start they stay apart.
    pub fn since(epoch_seconds: u64) -> Self {
        Self { start: format!("{epoch_seconds:x}") }
    }

    /// The id of an attempt; `None` for what belongs to none.
    pub(crate) fn of(&self, attempt: Attempt) -> Option<String> {
        (attempt != Attempt::default()).then(|| format!("{}-{}", self.start, attempt.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_two_processes_have_different_ids() {
        let (first, second) = (DeployIds::since(0x6740_a1b2), DeployIds::since(0x6740_a1b3));
        assert_eq!(first.of(Attempt(1)).unwrap(), "6740a1b2-1");
        assert_ne!(first.of(Attempt(1)), second.of(Attempt(1)));
        assert_eq!(first.of(Attempt(0)), None);
    }
}
