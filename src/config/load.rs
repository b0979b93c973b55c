//! Step two: the environment beats the file; every value keeps where it came from.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Serialize;
use serde_json::Value;

use super::{
    AppServerKind, COUNTS_VARIABLE, Config, DRAIN_FILE_VARIABLE, SLOT_VARIABLE, check, keys, secrets,
    yaml::{self, Given, Raw},
};

/// Belong to the fail points of debug builds, to the app, or to who signs, not to the configuration.
const NO_KEYS: [&str; 11] = [
    "PITSTOP_FAILPOINTS",
    "PITSTOP_FAILPOINT_DIR",
    "PITSTOP_FAILPOINT_PASSED",
    DRAIN_FILE_VARIABLE,
    SLOT_VARIABLE,
    COUNTS_VARIABLE,
    "PITSTOP_RELEASE_KEY",
    "PITSTOP_RELEASE_KEY_COMMAND",
    "PITSTOP_POINTER_KEY",
    "PITSTOP_POINTER_KEY_COMMAND",
    "PITSTOP_KEY_PASSWORD",
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file's name and the line, from 1.
    File(String, u64),
    /// The variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{path}:{line}"),
            Self::Environment(variable) => f.write_str(variable),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// File and line, variable, or `default`.
    pub(crate) origin: String,
    /// Which key, where it is about one.
    pub(crate) key: Option<String>,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            // Nobody wrote it: there is no place to name.
            Some(key) if self.origin == Origin::Default.to_string() => write!(f, "{key}: {}", self.message),
            Some(key) => write!(f, "{}: {key}: {}", self.origin, self.message),
            None => write!(f, "{}: {}", self.origin, self.message),
        }
    }
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the steps: file, environment, contradictions.
    pub(crate) problems: Vec<ConfigProblem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(ConfigProblem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where those that somebody set came from, by key.
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where a key's value came from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every key with its value and origin, sorted; secrets masked, null where nothing is set.
    pub fn values(&self) -> Vec<(String, Value, Origin)> {
        let shown = |key: &str, value: Value| match value {
            Value::String(text) => secrets::shown(key, &text).into(),
            Value::Array(items) => {
                items.iter().filter_map(Value::as_str).map(|text| secrets::shown(key, text)).collect()
            }
            value => value,
        };
        keys::values(&self.config)
            .into_iter()
            .map(|(key, value)| {
                let origin = self.origin(&key);
                (key.clone(), shown(&key, value), origin)
            })
            .collect()
    }

    /// For the commands that need a store.
    ///
    /// # Errors
    /// [`ConfigError`] when `source` is not set.
    pub(crate) fn require_source(&self) -> Result<(), ConfigError> {
        if self.config.source.is_some() {
            return Ok(());
        }
        let message = "is not set: set it, or PITSTOP_SOURCE, to s3://bucket/prefix or to a directory";
        let origin = Origin::Default.to_string();
        Err(ConfigError {
            problems: vec![ConfigProblem { origin, key: Some("source".into()), message: message.into() }],
        })
    }
}

/// This process's variables. Other programs' may be no UTF-8; ours then fail as values.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Reads the file, lets the environment beat it, and checks.
///
/// # Errors
/// [`ConfigError`] with every problem, not just the first.
pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigError> {
    match load_degraded(file, env) {
        (loaded, None) => Ok(loaded),
        (_, Some(error)) => Err(error),
    }
}

/// What could be read, defaults in place of the rest, and what is wrong. Nobody may deploy with
/// such a configuration; it is good enough to answer /prestop, /status and /metrics.
pub fn load_degraded(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> (Loaded, Option<ConfigError>) {
    let mut loading = Loading::new();
    if let Some(file) = file {
        loading.file(file);
    }
    loading.environment(env);
    loading.check();
    let error = (!loading.problems.is_empty()).then_some(ConfigError { problems: loading.problems });
    (loading.loaded, error)
}

struct Loading {
    loaded: Loaded,
    problems: Vec<ConfigProblem>,
    keys: Vec<String>,
}

impl Loading {
    fn new() -> Self {
        let config = Config::default();
        let keys = keys::values(&config).into_iter().map(|(key, _)| key).collect();
        Self { loaded: Loaded { config, origins: BTreeMap::new() }, problems: Vec::new(), keys }
    }

    fn file(&mut self, path: &Path) {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.problem(shown, None, format!("cannot be read: {error}")),
        };
        match yaml::read(&text) {
            Ok(given) => given.into_iter().for_each(|given| self.given(&shown, given)),
            Err(broken) => {
                let origin = broken.line.map_or(shown.clone(), |line| format!("{shown}:{line}"));
                self.problem(origin, None, broken.message);
            }
        }
    }

    fn given(&mut self, path: &str, given: Given) {
        let origin = Origin::File(path.to_owned(), given.line);
        let Given { key, raw, .. } = given;
        let keys_below = self.keys_below(&key);
        match raw {
            _ if self.keys.contains(&key) => {
                if let Some(raw) = raw {
                    self.set(key, raw, origin);
                }
            }
            None if !keys_below.is_empty() => {}
            Some(_) if !keys_below.is_empty() => {
                self.problem(
                    origin.to_string(),
                    Some(key),
                    format!("is a section with the keys {keys_below}"),
                );
            }
            _ => self.unknown_key(key, &origin),
        }
    }

    fn keys_below(&self, section: &str) -> String {
        let below = |key: &String| key.strip_prefix(section)?.strip_prefix('.').map(str::to_owned);
        self.keys.iter().filter_map(below).collect::<Vec<_>>().join(", ")
    }

    fn unknown_key(&mut self, key: String, origin: &Origin) {
        let near = keys::nearest(&key, self.keys.iter().map(String::as_str));
        let message = format!("unknown key{}", did_you_mean(near));
        self.problem(origin.to_string(), Some(key), message);
    }

    fn environment(&mut self, env: impl Iterator<Item = (String, String)>) {
        let names: BTreeMap<String, String> =
            self.keys.iter().map(|key| (keys::variable(key), key.clone())).collect();
        let mut ours: Vec<_> = env.filter(|(name, _)| name.starts_with("PITSTOP_")).collect();
        ours.sort();
        for (name, value) in ours {
            if let Some(key) = names.get(&name) {
                // The downward API gives an empty text for a label that the pod has not.
                if value.is_empty() && OF_THE_POD.contains(&key.as_str()) {
                    continue;
                }
                self.set(key.clone(), Raw::One(value), Origin::Environment(name));
            } else if !NO_KEYS.contains(&name.as_str()) && !is_service_link(&name) {
                let bare = |name: &str| name.trim_start_matches("PITSTOP_").to_owned();
                let known: Vec<_> = names.keys().map(|name| bare(name)).collect();
                let near = keys::nearest(&bare(&name), known.iter().map(String::as_str));
                let near = near.map(|near| format!("PITSTOP_{near}"));
                let message = format!("unknown variable{}", did_you_mean(near.as_deref()));
                self.problem(name, None, message);
            }
        }
    }

    fn set(&mut self, key: String, raw: Raw, origin: Origin) {
        match keys::set(&mut self.loaded.config, &key, raw) {
            Ok(()) => {
                self.loaded.origins.insert(key, origin);
            }
            Err(message) => self.problem(origin.to_string(), Some(key), message),
        }
    }

    /// A value that cannot work alone goes back to its default, so that the rest of the program
    /// never sees it; the answer to a contradiction is [`Config::budget`]'s.
    fn check(&mut self) {
        self.other_kinds();
        for complaint in check::check(&self.loaded.config) {
            let key = complaint.key.to_owned();
            self.problem(self.loaded.origin(&key).to_string(), Some(key.clone()), complaint.message);
            if complaint.alone {
                keys::reset(&mut self.loaded.config, &key);
                self.loaded.origins.remove(&key);
            }
        }
    }

    /// A key of another kind's section would do nothing, where somebody relies on it.
    fn other_kinds(&mut self) {
        let kind = self.loaded.config.app_server.name();
        let section = |key: &str| {
            let section = key.split_once('.')?.0;
            AppServerKind::ALL.into_iter().map(AppServerKind::name).find(|name| *name == section)
        };
        let other = |key: &str| section(key).filter(|section| *section != kind);
        let origins = self.loaded.origins.clone();
        for (key, origin) in origins {
            if let Some(section) = other(&key) {
                let message = format!(
                    "is only for app_server: {section}, but app_server is {kind}: remove this key, or change \
                     app_server"
                );
                self.problem(origin.to_string(), Some(key), message);
            }
        }
    }

    fn problem(&mut self, origin: String, key: Option<String>, message: String) {
        let message = secrets::without_passwords(&message).into_owned();
        self.problems.push(ConfigProblem { origin, key, message });
    }
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!(", did you mean {near}?"))
}

/// Keys for people, which the downward API fills in.
const OF_THE_POD: [&str; 4] = ["node", "zone", "image", "address"];

/// Kubernetes sets such variables in every pod for a Service called `pitstop` or `pitstop-…`.
/// A name chosen elsewhere must not keep pods from starting.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("PITSTOP_") else { return false };
    let padded = format!("_{rest}_");
    ["_SERVICE_HOST_", "_SERVICE_PORT_", "_PORT_"].iter().any(|part| padded.contains(part))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        env: Vec<(String, String)>,
    }

    impl Case {
        fn file(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("pitstop.yml"), text).unwrap();
            Self { dir, env: Vec::new() }
        }

        fn env(mut self, name: &str, value: &str) -> Self {
            self.env.push((name.into(), value.into()));
            self
        }

        fn degraded(&self) -> (Loaded, Option<ConfigError>) {
            load_degraded(Some(&self.dir.path().join("pitstop.yml")), self.env.clone().into_iter())
        }

        fn loaded(&self) -> Loaded {
            let (loaded, error) = self.degraded();
            assert_eq!(error, None);
            loaded
        }

        /// The problems, with the directory cut off.
        fn problems(&self) -> Vec<String> {
            let (_, error) = self.degraded();
            let dir = format!("{}/", self.dir.path().display());
            error.map_or_else(Vec::new, |e| {
                e.to_string().replace(&dir, "").lines().map(str::to_owned).collect()
            })
        }
    }

    #[test]
    fn the_environment_beats_the_file_and_each_value_knows_where_it_came_from() {
        let case = Case::file("grace_period: 60s\ndrain:\n  min: 7s\n")
            .env("PITSTOP_DRAIN_MIN", "9s")
            .env("PITSTOP_DRAIN_IGNORE_PEERS", "10.0.0.1, ::1")
            .env("HOME", "/root");
        let loaded = case.loaded();
        assert_eq!(loaded.config.grace_period, Duration::from_secs(60));
        assert_eq!(loaded.config.drain.min, Duration::from_secs(9));
        assert_eq!(loaded.config.drain.ignore_peers.len(), 2);
        assert!(
            matches!(loaded.origin("grace_period"), Origin::File(path, 1) if path.ends_with("pitstop.yml"))
        );
        assert_eq!(loaded.origin("drain.min"), Origin::Environment("PITSTOP_DRAIN_MIN".into()));
        assert_eq!(loaded.origin("drain.quiet"), Origin::Default);
    }

    #[test]
    fn nothing_at_all_is_the_defaults() {
        let loaded = load(None, std::iter::empty()).unwrap();
        assert!(loaded.values().iter().all(|(_, _, origin)| *origin == Origin::Default));
    }

    #[test]
    fn every_problem_is_told_with_its_place_and_a_suggestion() {
        let case = Case::file(
            "grace_priod: 60s\ndrain:\n  mim: 5s\n  quiet: soon\nverify: 5\npods_dir: /x\nkeep_releases: [1]\n",
        )
        .env("PITSTOP_DRIAN_MIN", "5s")
        .env("PITSTOP_POLL_INTERVAL", "0s");
        insta::assert_snapshot!(case.problems().join("\n"), @r#"
        pitstop.yml:1: grace_priod: unknown key, did you mean grace_period?
        pitstop.yml:3: drain.mim: unknown key, did you mean drain.min?
        pitstop.yml:4: drain.quiet: invalid value: string "soon", expected a duration like 5s or 500ms
        pitstop.yml:5: verify: is a section with the keys headers, pid_field, release_field, release_header, soak, successes, timeout, url
        pitstop.yml:6: pods_dir: unknown key, did you mean pod_dir?
        pitstop.yml:7: keep_releases: expected a single value, found a list
        PITSTOP_DRIAN_MIN: unknown variable, did you mean PITSTOP_DRAIN_MIN?
        PITSTOP_POLL_INTERVAL: poll_interval: must be longer than 0s
        "#);
    }

    #[test]
    fn a_broken_file_names_its_line() {
        let problems = Case::file("pod: web\ndrain: [\n").problems();
        assert!(problems.len() == 1 && problems[0].starts_with("pitstop.yml:"), "{problems:?}");
        let problems = Case::file("pod: a\npod: b\n").problems();
        assert!(
            problems[0].starts_with("pitstop.yml:2: ") && problems[0].contains("duplicate"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_one_problem() {
        let error = load(Some(Path::new("/nowhere/pitstop.yml")), std::iter::empty()).unwrap_err();
        assert_eq!(error.problems.len(), 1);
        assert!(
            error.to_string().starts_with("/nowhere/pitstop.yml: cannot be read: No such file"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_alone_goes_back_to_its_default_and_the_rest_stays() {
        let case = Case::file("poll_interval: 0s\ngrace_period: 90s\nlisten: everywhere\nnonsense: 1\n");
        let (loaded, error) = case.degraded();
        assert_eq!(error.unwrap().problems.len(), 3);
        assert_eq!(loaded.config.grace_period, Duration::from_secs(90));
        assert_eq!(loaded.config.poll_interval, Duration::from_secs(30));
        assert_eq!(loaded.origin("poll_interval"), Origin::Default);
    }

    #[test]
    fn a_section_with_nothing_in_it_and_an_empty_key_are_fine() {
        let loaded = Case::file("drain:\n  # min: 5s\npod:\n").loaded();
        assert_eq!((loaded.config.drain.min, loaded.config.pod), (Duration::from_secs(5), None));
    }

    #[test]
    fn other_variables_with_our_prefix_do_no_harm() {
        let case = Case::file("")
            .env("PITSTOP_FAILPOINTS", "x")
            .env("PITSTOP_FAILPOINT_DIR", "/tmp")
            .env("PITSTOP_SERVICE_HOST", "10.0.0.1")
            .env("PITSTOP_PORT_9750_TCP_ADDR", "10.0.0.1")
            .env("PITSTOP_STORE_SERVICE_PORT_HTTP", "80");
        assert_eq!(case.problems(), [""; 0]);
        let typo = Case::file("").env("PITSTOP_POINTR", "x").problems();
        assert_eq!(typo, ["PITSTOP_POINTR: unknown variable, did you mean PITSTOP_POINTER?"]);
    }

    #[test]
    fn a_label_that_the_pod_has_not_is_a_key_that_is_not_set() {
        let loaded = Case::file("").env("PITSTOP_ZONE", "").env("PITSTOP_NODE", "n1").loaded();
        assert_eq!((loaded.config.zone, loaded.config.node.as_deref()), (None, Some("n1")));
    }

    #[test]
    fn a_token_of_digits_stays_as_it_is_and_is_not_shown() {
        let loaded = Case::file("puma:\n  control_token: 0123\n").loaded();
        assert_eq!(loaded.config.puma.control_token.as_deref(), Some("0123"));
        let shown = loaded.values().into_iter().find(|(key, ..)| key == "puma.control_token").unwrap();
        assert_eq!(shown.1, Value::String("(secret)".into()));
    }

    #[test]
    fn commands_of_the_store_need_a_source() {
        let error = Case::file("").loaded().require_source().unwrap_err();
        assert!(error.to_string().starts_with("source: is not set"), "{error}");
        assert_eq!(Case::file("source: /srv/store\n").loaded().require_source(), Ok(()));
    }

    #[test]
    fn a_key_of_another_kind_of_app_server_is_refused_by_name() {
        let case = Case::file("app_server: unicorn\npuma:\n  match: web\n");
        let problems = case.problems();
        let message = "pitstop.yml:3: puma.match: is only for app_server: puma, but app_server is unicorn: remove this \
                       key, or change app_server";
        assert!(problems.iter().any(|problem| problem == message), "{problems:?}");
    }
}
