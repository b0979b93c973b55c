//! The section `warmup`, and what cannot work in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, HealthAddress, HealthUrl, check::Complaint};

/// Requests that warm up a server before clients reach it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Warmup {
    /// The paths that are asked.
    pub(crate) requests: Vec<String>,
    /// How often each of them is asked.
    pub(crate) count: u32,
    /// Until the warm-up counts as failed.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
    /// 95 % of the answers have to come within this; the paths are asked again until they do.
    #[serde(with = "humantime_serde")]
    pub(crate) limit: Option<Duration>,
}

impl Default for Warmup {
    fn default() -> Self {
        Self { requests: Vec::new(), count: 10, timeout: Duration::from_secs(30), limit: None }
    }
}

/// The longest warm-up.
const LONGEST: Duration = Duration::from_secs(3600);
const MOST: u32 = 10_000;

pub(super) fn complaints(config: &Config) -> Vec<Complaint> {
    let Warmup { requests, count, timeout, limit } = &config.warmup;
    let alone = |key, message: String| Complaint { key, message, alone: true };
    let mut found = Vec::new();
    if let Some(path) = requests.iter().find(|path| !is_path(path)) {
        let message = format!("{path:?} is not a path: write it as in \"/products?page=1\"");
        found.push(alone("warmup.requests", message));
    }
    if *count == 0 || *count > MOST {
        found.push(alone("warmup.count", format!("{count} must be between 1 and {MOST}")));
    }
    for (key, value) in [("warmup.timeout", Some(*timeout)), ("warmup.limit", *limit)] {
        if value.is_some_and(|value| value.is_zero() || value > LONGEST) {
            found.push(alone(key, "must be between 1ms and 1h".into()));
        }
    }
    let url = config.verify.url.as_deref().map(HealthUrl::parse);
    let tcp = matches!(&url, Some(Ok(url)) if !matches!(url.at, HealthAddress::Unix(_)));
    // What is wrong with the URL itself is said there.
    if !requests.is_empty() && !tcp && !matches!(url, Some(Err(_))) {
        let message = "the warm-up asks the address of verify.url: set that to http://127.0.0.1:PORT/PATH";
        found.push(Complaint { key: "warmup.requests", message: message.into(), alone: false });
    }
    found
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.parse::<hyper::Uri>().is_ok_and(|uri| uri.scheme().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_asks_paths_at_the_address_of_the_health_path() {
        let told = |requests: &[&str], url: Option<&str>| {
            let mut config = Config::default();
            config.warmup.requests = requests.iter().map(|path| (*path).to_owned()).collect();
            config.verify.url = url.map(Into::into);
            complaints(&config).into_iter().map(|complaint| complaint.key).collect::<Vec<_>>()
        };
        let url = Some("http://127.0.0.1:3000/up");
        assert!(told(&[], None).is_empty());
        assert!(told(&["/", "/products?page=1"], url).is_empty());
        for path in ["products", "http://elsewhere/", "/a b", ""] {
            assert_eq!(told(&[path], url), ["warmup.requests"], "{path}");
        }
        for url in [None, Some("unix:///run/puma.sock:/up")] {
            assert_eq!(told(&["/"], url), ["warmup.requests"], "{url:?}");
        }
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let warmup =
            Warmup { count: 0, timeout: Duration::ZERO, limit: Some(Duration::MAX), requests: vec![] };
        let config = Config { warmup, ..Config::default() };
        let keys: Vec<_> = complaints(&config).into_iter().map(|complaint| complaint.key).collect();
        assert_eq!(keys, ["warmup.count", "warmup.timeout", "warmup.limit"]);
    }
}
