//! An app's own files, where nothing runs yet: what a pipeline can find before there is a pod.

use std::path::PathBuf;

use clap::Args;

use crate::{
    app_server::puma::source_tree::{self, App, Told},
    cli::Failure,
    config::{AppServerKind, Config},
    finding::{Check, Code},
};

/// Where the app's files are.
#[derive(Debug, Args)]
pub struct Files {
    /// An app's directory, whose config/puma.rb and Gemfile.lock are read as well.
    #[arg(long = "app", value_name = "DIR", requires = "config_only")]
    dir: Option<PathBuf>,
    /// What Puma's command line names with -C, from the app's directory on.
    #[arg(long, value_name = "FILE", requires = "dir")]
    puma_config: Option<PathBuf>,
}

/// What they tell; `advice` is what the keys alone told, without what the files know better.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn checks(files: &Files, config: &Config, advice: &mut Vec<Check>) -> Result<Vec<Check>, Failure> {
    let about = config.app_server.title();
    let Some(dir) = files.dir.as_deref() else {
        let hint = "skipped because of --config-only; use --app DIR to check the app's own files";
        let hint =
            if config.app_server == AppServerKind::Puma { hint } else { "skipped because of --config-only" };
        return Ok(vec![Check::unknown(about, hint)]);
    };
    if !dir.is_dir() {
        return Err(Failure::usage(format!("--app {}: the directory does not exist", dir.display())));
    }
    if config.app_server != AppServerKind::Puma {
        return Ok(vec![Check::unknown(about, "--app reads only Puma's files")]);
    }
    let told = Told {
        mode: config.restart.mode,
        puma: &config.puma,
        current: config.current(),
        pod_dirs: &config.pod_dirs,
        grace_period: config.grace_period,
        reserve: config.drain.reserve,
    };
    let app = App { dir, config: files.puma_config.as_deref() };
    let found =
        source_tree::examine(&app, &told).map_err(|error| Failure::usage(format!("--app: {error}")))?;
    let codes: Vec<Code> = found.iter().filter_map(Check::finding).map(|finding| finding.code).collect();
    advice.retain(|check| check.finding().is_none_or(|finding| !codes.contains(&finding.code)));
    Ok(found)
}
