//! What an app's own files tell of its Puma, where none runs: in CI, before there is a pod.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    checks::in_files::{self, Files},
    config_file::PumaConfig,
    release_diff::locked_puma,
};
use crate::{app_server::files::LARGEST_TEXT, finding::Check, plain_file};

pub use super::checks::in_files::Told;

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

/// Everything that the files tell.
///
/// # Errors
/// When a file is there and cannot be read, or a file that was named is not there.
pub fn examine(app: &App<'_>, told: &Told<'_>) -> io::Result<Vec<Check>> {
    let files = Files { config: configuration(app)?, version: locked_puma(app.dir)? };
    Ok(in_files::of(&files, told))
}

fn configuration(app: &App<'_>) -> io::Result<Option<(PathBuf, PumaConfig)>> {
    let candidates = match app.config {
        Some(path) => vec![path],
        None => USUAL.map(Path::new).into(),
    };
    for path in candidates {
        match plain_file::read(&app.dir.join(path), LARGEST_TEXT) {
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
