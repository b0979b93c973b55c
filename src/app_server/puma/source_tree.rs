//! What an app's own files show of its Puma, where none runs: in CI, before there is a pod.

use std::{io, path::Path};

use super::{
    checks::{PUMA, files::Files},
    config_file::Settings,
    release_diff::locked_puma,
    setup::Setup,
};
use crate::{app_server::files::LARGEST_TEXT, finding::Check, plain_file};

pub(crate) use super::checks::files::Told;

/// What Puma reads where `-C` names nothing, best first. The environment that chooses is production's.
const USUAL: [&str; 2] = ["config/puma/production.rb", "config/puma.rb"];

/// Where the files are.
#[derive(Debug)]
pub(crate) struct App<'a> {
    /// The app's directory: its checkout, or a release.
    pub(crate) dir: &'a Path,
    /// What `-C` is on Puma's command line, where it is something.
    pub(crate) config: Option<&'a Path>,
}

/// Everything that the files show.
///
/// # Errors
/// When a file is there and cannot be read, or a file that was named is not there.
pub(crate) fn examine(app: &App<'_>, told: &Told<'_>) -> io::Result<Vec<Check>> {
    let locked = locked_puma(app.dir)?;
    let mut checks = vec![match &locked {
        Some(version) => Check::fine(PUMA, format!("{version} is in the bundle (Gemfile.lock)")),
        None => Check::unknown(PUMA, "its version, and with it its defaults: no Gemfile.lock has it"),
    }];
    if let Some((path, settings)) = configuration(app)? {
        let major = locked.and_then(|version| version.split('.').next()?.parse().ok());
        let setup = Setup::of_files(major, settings, &told.current, told.pod_dirs);
        checks.extend(Files { path, setup, told }.checks());
    } else {
        let why = "there is neither config/puma/production.rb nor config/puma.rb: name the file that Puma's command \
                   line gives with -C (--puma-config)";
        checks.push(Check::unknown(PUMA, why));
    }
    Ok(checks)
}

fn configuration<'a>(app: &App<'a>) -> io::Result<Option<(&'a Path, Settings)>> {
    let candidates = match app.config {
        Some(path) => vec![path],
        None => USUAL.map(Path::new).into(),
    };
    for path in candidates {
        match plain_file::read(&app.dir.join(path), LARGEST_TEXT) {
            Ok(bytes) => {
                return Ok(Some((path, Settings::scan(path, &String::from_utf8_lossy(&bytes)))));
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
