//! What an app's own files tell of its Puma, where none runs: in CI, before there is a pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{change::locked_puma, checks::written, config_file::PumaConfig};
use crate::{
    config::{self, RestartMode},
    finding::Check,
};

/// What Puma reads where `-C` names nothing, best first. The environment that chooses is production's.
const USUAL: [&str; 2] = ["config/puma/production.rb", "config/puma.rb"];

/// Where the files are.
#[derive(Debug)]
pub struct App<'a> {
    /// The app's directory: its checkout, or a release.
    pub dir: &'a Path,
    /// What `-C` is on Puma's command line, where it is something.
    pub config: Option<&'a Path>,
}

/// What pitstop is told about the pod that the app will run in.
#[derive(Debug)]
pub struct Told<'a> {
    /// Of the key `restart.mode`.
    pub mode: RestartMode,
    /// Puma's section.
    pub puma: &'a config::Puma,
    /// The link that Puma is to be restarted from.
    pub current: PathBuf,
    /// The directories of a release that each pod has for itself.
    pub pod_dirs: &'a [PathBuf],
    /// The pod's terminationGracePeriodSeconds.
    pub grace_period: Duration,
    /// What of it is kept for Puma's own stop.
    pub reserve: Duration,
}

/// What was read.
pub(super) struct Files {
    /// The configuration, and how it is called from the app's directory.
    pub config: Option<(PathBuf, PumaConfig)>,
    /// Puma's version in the bundle.
    pub version: Option<String>,
}

impl Files {
    /// The first number of the version.
    pub fn major(&self) -> Option<u32> {
        self.version.as_deref()?.split('.').next()?.parse().ok()
    }
}

/// Everything that the files tell.
///
/// # Errors
/// When a file is there and cannot be read, or a file that was named is not there.
pub fn examine(app: &App<'_>, told: &Told<'_>) -> io::Result<Vec<Check>> {
    let files = Files { config: configuration(app)?, version: locked_puma(app.dir)? };
    Ok(written::of(&files, told))
}

fn configuration(app: &App<'_>) -> io::Result<Option<(PathBuf, PumaConfig)>> {
    let candidates = match app.config {
        Some(path) => vec![path],
        None => USUAL.map(Path::new).into(),
    };
    for path in candidates {
        match fs::read(app.dir.join(path)) {
            Ok(bytes) => {
                let config = PumaConfig::scan(&String::from_utf8_lossy(&bytes));
                return Ok(Some((path.to_owned(), config)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && app.config.is_none() => {}
            Err(error) => {
                let shown = app.dir.join(path);
                return Err(io::Error::new(error.kind(), format!("reading {}: {error}", shown.display())));
            }
        }
    }
    Ok(None)
}
