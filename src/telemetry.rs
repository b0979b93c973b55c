//! Logs: one line per event on standard error, as JSON or as text for people.
//!
//! Every line of one deploy carries its `deploy_id`, so that one `grep` tells its whole story, also
//! across a restart of the agent.

use tracing_subscriber::EnvFilter;

use crate::{config::LogFormat, core::Attempt};

/// Sends logs to standard error. `RUST_LOG` chooses the level; info by default. A second call
/// changes nothing.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Already initialised (by a test in the same process): the first one stands.
    let _ = match format {
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Text => logs.with_target(false).try_init(),
    };
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
    pub fn of(&self, attempt: Attempt) -> Option<String> {
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
