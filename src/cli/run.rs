//! `pitstop run`: the sidecar.

use super::{Exit, Failure};
use crate::config::{Config, ConfigError};

/// Runs until SIGTERM. `invalid` is what is wrong with the configuration: exit code 64 while no app
/// server is running; beside a running one the agent stays up without deploys.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_config: Config, _invalid: Option<ConfigError>) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
