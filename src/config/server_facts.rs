//! What an app server can do, as its adapter states it: the keys alone do not tell.

use std::time::Duration;

use crate::finding::Check;

/// Facts of one kind of server, with its section of the configuration.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// How long it lets an old worker finish its requests.
    pub(crate) stop_timeout: Duration,
    /// How long a restart may take, where that does not depend on the number of workers.
    pub(crate) restart_timeout: Option<Duration>,
    /// It can restart one worker after the other.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "keys are checked before the adapters; a test compares both")
    )]
    pub(crate) phased: bool,
    /// A restart cuts requests that last longer than the stop time-out.
    pub(crate) cuts_requests: bool,
    /// A restart starts a second master beside the first, which serves until it is told to go.
    pub(crate) second_master: bool,
    /// Others can restart it in its process, image after image.
    pub(crate) in_place: bool,
    /// What can be said of every set-up without looking at it.
    pub(crate) advice: Vec<Check>,
}

#[cfg(test)]
impl ServerFacts {
    /// As a Puma with this configuration has them.
    pub(super) fn like_puma(config: &super::Config) -> Self {
        Self {
            stop_timeout: config.puma.worker_shutdown_timeout,
            restart_timeout: None,
            phased: true,
            cuts_requests: true,
            second_master: false,
            in_place: true,
            advice: Vec::new(),
        }
    }
}
