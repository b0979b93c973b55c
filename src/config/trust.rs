//! The section `trust`, and what cannot work in it.

use serde::{Deserialize, Serialize};

use super::{Config, check::Complaint};

/// Whose signatures count.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Trust {
    /// The public keys of those who publish.
    pub(crate) release_keys: Vec<String>,
    /// The public keys of those who promote.
    pub(crate) pointer_keys: Vec<String>,
    /// Whether nothing runs that is not signed; otherwise people are warned.
    pub(crate) required: bool,
    /// The app that statements are for.
    pub(crate) app: Option<String>,
    /// Pointers below this move are refused.
    pub(crate) min_sequence: u64,
    /// How many of `pointer_keys` have to sign a pointer.
    pub(crate) threshold: u64,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            release_keys: Vec::new(),
            pointer_keys: Vec::new(),
            required: false,
            app: None,
            min_sequence: 0,
            threshold: 1,
        }
    }
}

/// A line of base64 as minisign writes it: two letters, eight bytes of an id, and the key.
fn looks_like_a_key(text: &str) -> bool {
    text.len() == 56
        && text.starts_with("RW")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
}

pub(super) fn complaints(config: &Config) -> Vec<Complaint> {
    let trust = &config.trust;
    let mut found = Vec::new();
    let mut complain = |key, message: String| found.push(Complaint { key, message, alone: false });
    for (key, keys) in
        [("trust.release_keys", &trust.release_keys), ("trust.pointer_keys", &trust.pointer_keys)]
    {
        if keys.iter().any(|key| !looks_like_a_key(key)) {
            complain(
                key,
                "must be public keys, each the line of 56 characters in a .pub file that starts with RW"
                    .into(),
            );
        }
    }
    if let Some(both) = trust.release_keys.iter().find(|key| trust.pointer_keys.contains(key)) {
        let why =
            format!("{both} is in trust.release_keys, too: who publishes must not promote; use two keys");
        complain("trust.pointer_keys", why);
    }
    let any = !trust.release_keys.is_empty() || !trust.pointer_keys.is_empty();
    if any && trust.app.is_none() {
        complain("trust.app", "is not set: name the app, as `pitstop publish --sign` does, so that no other app's releases are accepted".into());
    }
    if trust.required && (trust.release_keys.is_empty() || trust.pointer_keys.is_empty()) {
        complain(
            "trust.required",
            "needs trust.release_keys and trust.pointer_keys: `pitstop keygen` makes them".into(),
        );
    }
    let distinct: std::collections::BTreeSet<_> = trust.pointer_keys.iter().collect();
    if trust.threshold == 0 || (!distinct.is_empty() && trust.threshold > distinct.len() as u64) {
        let most = distinct.len().max(1);
        complain(
            "trust.threshold",
            format!("must be between 1 and {most}, the number of trust.pointer_keys"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(letter: &str) -> String {
        format!("RWQ{}", letter.repeat(53))
    }

    fn about(trust: Trust) -> Vec<&'static str> {
        complaints(&Config { trust, ..Config::default() }).iter().map(|complaint| complaint.key).collect()
    }

    #[test]
    fn keys_have_one_role_and_an_app() {
        let app = Some("shop".to_owned());
        let (a, b) = (vec![key("a")], vec![key("b")]);
        let good =
            Trust { release_keys: a.clone(), pointer_keys: b, required: true, app, ..Trust::default() };
        assert_eq!(about(good.clone()), [""; 0]);
        assert_eq!(about(Trust::default()), [""; 0]);
        assert_eq!(about(Trust { app: None, ..good.clone() }), ["trust.app"]);
        assert_eq!(about(Trust { pointer_keys: a, ..good.clone() }), ["trust.pointer_keys"]);
        assert_eq!(about(Trust { release_keys: Vec::new(), ..good.clone() }), ["trust.required"]);
        assert_eq!(about(Trust { release_keys: vec!["RWQ".into()], ..good.clone() }), ["trust.release_keys"]);
        for threshold in [0, 2] {
            assert_eq!(about(Trust { threshold, ..good.clone() }), ["trust.threshold"]);
        }
    }
}
