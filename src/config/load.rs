//! Reading the configuration.

use std::{fmt, path::Path};

use serde::Serialize;

use super::Config;

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One line each.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// The effective configuration, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Listing(Config);

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#?}", self.0)
    }
}

impl Loaded {
    /// Every key, its value and where it came from; secrets masked.
    pub fn listing(&self) -> Listing {
        Listing(self.config.clone())
    }
}

/// Reads the file, lets the environment beat it, and validates.
///
/// # Errors
/// [`ConfigError`] with every problem, not just the first.
pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigError> {
    match load_degraded(file, env) {
        (loaded, None) => Ok(loaded),
        (_, Some(error)) => Err(error),
    }
}

/// What could be read (defaults elsewhere), and what is wrong with the rest.
pub fn load_degraded(
    file: Option<&Path>,
    _env: impl Iterator<Item = (String, String)>,
) -> (Loaded, Option<ConfigError>) {
    let Some(file) = file else { return (Loaded { config: Config::default() }, None) };
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()));
    match text.and_then(|text| serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", file.display())))
    {
        Ok(config) => (Loaded { config }, None),
        Err(problem) => (Loaded { config: Config::default() }, Some(ConfigError { problems: vec![problem] })),
    }
}
