//! Directories that must not be what they are set to: one in the place of another, or the root of everything.

use std::path::{Component, Path, PathBuf};

use super::Config;
use crate::beneath;

/// The names in `deploy_to` that are pitstop's own.
const OWN: [&str; 2] = ["releases", ".pitstop"];
/// In each release: pitstop's own proof.
const MARKER: &str = ".pitstop-release";

/// Every key that is wrong, with what is.
pub(crate) fn check(config: &Config) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    climbing(config, &mut wrong);
    roots(config, &mut wrong);
    current(config, &mut wrong);
    marker(config, &mut wrong);
    assets(config, &mut wrong);
    wrong
}

type Wrong = Vec<(&'static str, String)>;

fn directories(config: &Config) -> [(&'static str, Option<&Path>); 5] {
    [
        ("deploy_to", Some(&config.deploy_to)),
        ("current", config.current.as_deref()),
        ("fallback_dir", config.fallback_dir.as_deref()),
        ("state_dir", Some(&config.state_dir)),
        ("pod_dir", Some(&config.pod_dir)),
    ]
}

/// Where such a path leads depends on links.
fn climbing(config: &Config, wrong: &mut Wrong) {
    for (key, path) in directories(config) {
        if path.is_some_and(|path| path.components().any(|part| part == Component::ParentDir)) {
            wrong.push((key, "must not contain `..`".into()));
        }
    }
}

fn roots(config: &Config, wrong: &mut Wrong) {
    for (key, path) in directories(config) {
        let Some(path) = path else { continue };
        if path.parent().is_none() && path.is_absolute() {
            wrong.push((key, "must not be the root directory /".into()));
        } else if matches!(key, "state_dir" | "pod_dir")
            && (*path == config.deploy_to || inside_of_ours(path, &config.deploy_to))
        {
            let message =
                "is private to this pod, but deploy_to may be shared: choose a directory outside deploy_to";
            wrong.push((key, message.into()));
        }
    }
}

/// `current` is a link that is replaced: nothing else may be in its place.
fn current(config: &Config, wrong: &mut Wrong) {
    let Some(current) = &config.current else { return };
    let others = [&config.state_dir, &config.pod_dir, &config.deploy_to.join("shared")];
    let taken = others.iter().any(|other| other.starts_with(current));
    if config.deploy_to.starts_with(current) || inside_of_ours(current, &config.deploy_to) || taken {
        let message = "is a symlink that every deploy replaces: choose a path used for nothing else, like the \
                       default deploy_to/current";
        wrong.push(("current", message.into()));
    }
}

fn inside_of_ours(path: &Path, deploy_to: &Path) -> bool {
    OWN.iter().any(|name| path.starts_with(deploy_to.join(name)))
}

fn marker(config: &Config, wrong: &mut Wrong) {
    let keys = [
        ("linked_dirs", &config.linked_dirs),
        ("linked_files", &config.linked_files),
        ("pod_dirs", &config.pod_dirs),
    ];
    for (key, paths) in keys {
        if paths.iter().any(|path| path.starts_with(MARKER)) {
            wrong.push((key, format!("{MARKER} is reserved for pitstop's own marker file")));
        }
    }
}

fn assets(config: &Config, wrong: &mut Wrong) {
    let is_inside = |dir: &PathBuf| beneath::plain(dir).is_ok_and(|names| !names.is_empty());
    if !config.asset_dirs.iter().all(is_inside) {
        wrong.push(("asset_dirs", "each must be a relative path inside the release, without `..`".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        check(&config).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert_eq!(wrong(|_| ()), [] as [&str; 0]);
        for current in [
            "/",
            "/srv",
            "/srv/app",
            "/srv/app/releases/x",
            "/srv/app/.pitstop/staging/x",
            "/run/pitstop",
            "/srv/app/shared",
        ] {
            assert!(wrong(|c| c.current = Some(current.into())).contains(&"current"), "{current}");
        }
        assert_eq!(wrong(|c| c.current = Some("/app".into())), [] as [&str; 0]);
        assert_eq!(wrong(|c| c.current = Some("/srv/app/live".into())), [] as [&str; 0]);
        for state in ["/", "/srv/app", "/srv/app/releases/state", "/run/../etc"] {
            assert_eq!(wrong(|c| c.state_dir = state.into()), ["state_dir"], "{state}");
        }
        assert_eq!(wrong(|c| c.state_dir = "/srv/app/state".into()), [] as [&str; 0]);
        assert_eq!(wrong(|c| c.pod_dir = "/srv/app".into()), ["pod_dir"]);
        assert_eq!(wrong(|c| c.deploy_to = "/".into()), ["deploy_to"]);
        assert_eq!(wrong(|c| c.fallback_dir = Some("/app/../srv/app/current".into())), ["fallback_dir"]);
        for path in ["/assets", "../assets", ""] {
            assert_eq!(wrong(|c| c.asset_dirs = vec![path.into()]), ["asset_dirs"], "{path}");
        }
        for path in [".pitstop-release", ".pitstop-release/x"] {
            assert_eq!(wrong(|c| c.linked_dirs = vec![path.into()]), ["linked_dirs"], "{path}");
        }
    }
}
