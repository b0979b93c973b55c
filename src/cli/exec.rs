//! `pitstop exec -- CMD …`: the container's first process, on platforms without sidecars or hooks.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Exit, Failure};
use crate::{
    config::{self, Config, LogFormat},
    init::{self, Agent, Settings},
    supervisor::boottime,
    telemetry,
};

/// What to run.
#[derive(Debug, Args)]
pub struct Exec {
    /// Become the command, as a child of this process. How `exec` starts its own children.
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<i32>,
    /// The agent is another container of the pod, and not started here.
    #[arg(long)]
    sidecar: bool,
    /// The app server's command line.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command and the agent side by side; returns the command's exit code. Without an async
/// runtime: nothing of that size has a place in the first process.
///
/// # Errors
/// [`Failure`] when signals cannot be caught.
pub fn run(file: Option<&Path>, json: bool, exec: Exec) -> Result<Exit, Failure> {
    if let Some(parent) = exec.child_of {
        telemetry::init(if json { LogFormat::Json } else { LogFormat::Text });
        return Ok(Exit::Code(init::become_command(&exec.command, parent)));
    }
    // Whatever is wrong with it, the command runs; the agent says what is wrong.
    let (loaded, invalid) = config::load_degraded(file, config::environment());
    // What a sidecar deploys from, its own container knows.
    let no_deploys = !exec.sidecar && (invalid.is_some() || loaded.require_source().is_err());
    telemetry::init(loaded.config.log.format);
    let settings = settings(&loaded.config, file, exec, no_deploys);
    init::run(settings).map(Exit::Code).map_err(Failure::from)
}

fn settings(config: &Config, file: Option<&Path>, exec: Exec, no_deploys: bool) -> Settings {
    let (state_dir, moved) = usable(&config.state_dir);
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let file = file.map(|file| [OsString::from("--config"), file.into()]);
    let agent = Agent {
        arguments: file.into_iter().flatten().chain([OsString::from("run")]).collect(),
        state_dir: moved.then(|| state_dir.clone()),
        listen: config.listen,
    };
    Settings {
        command: exec.command,
        agent: (!exec.sidecar).then_some(agent),
        listen: config.exec.listen.clone(),
        server: config.app_server,
        current: config.current(),
        json_log: config.log.format == LogFormat::Json,
        state_dir,
        // A sidecar has a configuration of its own, and says when its deploys allow a start.
        no_deploys: no_deploys && !exec.sidecar,
        stop_is_success: config.exec.stop_is_success,
        hold_ms: config.budget().max_ms,
        grace_ms: ms(config.grace_period),
        reserve_ms: ms(config.drain.reserve),
        clock: boottime,
    }
}

/// `state_dir`, or another directory where that cannot be written: without the agent's socket there
/// would be no drain.
fn usable(state_dir: &Path) -> (PathBuf, bool) {
    let writable = fs::create_dir_all(state_dir).and_then(|()| tempfile::tempfile_in(state_dir));
    let Err(error) = writable else { return (state_dir.to_owned(), false) };
    let Ok(other) = tempfile::Builder::new().prefix("pitstop").tempdir() else {
        tracing::error!(path = %state_dir.display(), %error, "state_dir is not writable: no drain is possible");
        return (state_dir.to_owned(), false);
    };
    let other = other.keep();
    tracing::error!(
        path = %state_dir.display(), %error, instead = %other.display(),
        "state_dir is not writable, so another directory is used. Commands find the agent only with \
         PITSTOP_STATE_DIR set to that directory. Make state_dir writable for this user"
    );
    (other, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It knows nothing of the store, and its configuration is no more than a part of the agent's.
    #[test]
    fn what_a_sidecar_is_told_is_not_known_here() {
        let no_deploys = |sidecar| {
            let exec = Exec { child_of: None, sidecar, command: vec!["puma".into()] };
            let dir = tempfile::tempdir().unwrap();
            let config = Config { state_dir: dir.path().to_owned(), ..Config::default() };
            settings(&config, None, exec, true).no_deploys
        };
        assert_eq!([no_deploys(false), no_deploys(true)], [true, false]);
    }
}
