//! The section `notify`, and what cannot work in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Config, check::Complaint};

/// Who is told when a pod needs somebody.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Notify {
    /// Where to: `https://…`. Whoever knows it may write there, so it is a secret itself.
    pub(crate) url: Option<String>,
    /// In which form.
    pub(crate) format: NotifyFormat,
    /// A file with the key that JSON is signed by.
    pub(crate) secret_file: Option<PathBuf>,
}

/// The forms of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NotifyFormat {
    /// What pitstop knows, for programs.
    #[default]
    Json,
    /// `{"text": …}`, as Slack, Mattermost and others take it.
    Slack,
}

pub(super) fn complaints(config: &Config) -> Vec<Complaint> {
    let Notify { url, format, secret_file } = &config.notify;
    let mut found = Vec::new();
    let mut complain =
        |key, message: &str| found.push(Complaint { key, message: message.into(), alone: true });
    let host = |url: &str| {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        (!rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace)).then_some(())
    };
    // Its value is a secret, and not repeated.
    if url.as_ref().is_some_and(|url| host(url).is_none()) {
        complain(
            "notify.url",
            "is not an address: write it as in https://hooks.example.com/services/T0/B0/x",
        );
    }
    if secret_file.as_ref().is_some_and(|file| !file.is_absolute()) {
        complain("notify.secret_file", "must be an absolute path");
    }
    if secret_file.is_some() && *format == NotifyFormat::Slack {
        complain(
            "notify.secret_file",
            "signs JSON only: Slack's form has no signature. Remove it, or set notify.format to json",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_of(url: &str, secret_file: Option<&str>, format: NotifyFormat) -> Vec<&'static str> {
        let notify = Notify { url: Some(url.into()), format, secret_file: secret_file.map(Into::into) };
        let all = complaints(&Config { notify, ..Config::default() });
        assert!(all.iter().all(|one| !one.message.contains("hush")));
        all.into_iter().map(|one| one.key).collect()
    }

    #[test]
    fn an_address_is_a_url_and_a_secret_signs_json_only() {
        for good in ["https://hooks.example.com/services/hush", "http://127.0.0.1:9/hush"] {
            assert_eq!(complaints_of(good, Some("/run/secrets/notify"), NotifyFormat::Json), [""; 0]);
        }
        for bad in ["hooks.example.com/hush", "https:///hush", "https://a b/hush", "ftp://hush"] {
            assert_eq!(complaints_of(bad, None, NotifyFormat::Slack), ["notify.url"]);
        }
        assert_eq!(
            complaints_of("https://a/hush", Some("notify"), NotifyFormat::Json),
            ["notify.secret_file"]
        );
        assert_eq!(
            complaints_of("https://a/hush", Some("/notify"), NotifyFormat::Slack),
            ["notify.secret_file"]
        );
    }
}
