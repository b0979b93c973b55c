//! The keys, taken from [`Config`] itself: its serialised form has a leaf for each of them.

use serde_json::Value;

use super::{Config, yaml::Raw};

/// Every key with its value, sorted. Unset ones are null.
pub(crate) fn values(config: &Config) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    collect("", tree(config), &mut leaves);
    leaves
}

/// The environment variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("PITSTOP_{}", key.to_uppercase().replace('.', "_"))
}

/// Sets one key; the configuration stays as it was when that is not possible.
///
/// # Errors
/// What was expected instead.
pub(crate) fn set(config: &mut Config, key: &str, raw: Raw) -> Result<(), String> {
    let mut tree = tree(config);
    let leaf = tree.pointer_mut(&format!("/{}", key.replace('.', "/"))).ok_or("no such key")?;
    *leaf = typed(leaf, raw)?;
    *config = serde_json::from_value(tree).map_err(|error| with_example(&error))?;
    Ok(())
}

fn with_example(error: &serde_json::Error) -> String {
    error.to_string().replace("expected a duration", "expected a duration like 5s or 500ms")
}

/// Back to the default.
pub(crate) fn reset(config: &mut Config, key: &str) {
    let path = format!("/{}", key.replace('.', "/"));
    let mut tree = tree(config);
    let default = keys_of_default().pointer(&path).cloned();
    if let (Some(leaf), Some(default)) = (tree.pointer_mut(&path), default) {
        *leaf = default;
    }
    *config = serde_json::from_value(tree).expect("a default is a value of its key");
}

/// The raw text in the JSON type that the key's value has.
fn typed(before: &Value, raw: Raw) -> Result<Value, String> {
    match (before, raw) {
        (Value::Array(_), Raw::Many(items)) => Ok(items.into()),
        (Value::Array(_), Raw::One(list)) => {
            Ok(list.split(',').map(str::trim).filter(|i| !i.is_empty()).collect())
        }
        (_, Raw::Many(_)) => Err("expected a single value, found a list".into()),
        (Value::Number(_), Raw::One(text)) => text
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| format!("expected a whole number, found {text:?}")),
        (Value::Bool(_), Raw::One(text)) => text
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| format!("expected true or false, found {text:?}")),
        (_, Raw::One(text)) if text.is_empty() => Err("is empty: set a value, or remove the key".into()),
        (_, Raw::One(text)) => Ok(text.into()),
    }
}

fn tree(config: &Config) -> Value {
    serde_json::to_value(config).expect("the configuration is plain data")
}

fn keys_of_default() -> Value {
    tree(&Config::default())
}

fn collect(section: &str, value: Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(keys) => {
            for (name, value) in keys {
                let key = if section.is_empty() { name } else { format!("{section}.{name}") };
                collect(&key, value, leaves);
            }
        }
        leaf => leaves.push((section.to_owned(), leaf)),
    }
}

/// The nearest of the names, unless none is near.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let likeness = |other: &str| {
        let whole = strsim::jaro_winkler(name, other);
        // `min` outside of its section is as near to `drain.min` as can be.
        if !name.contains('.') && last(other).as_deref() == Some(name) { 1.0 } else { whole }
    };
    names
        .map(|other| (likeness(other), other))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_set_to_its_own_value() {
        let mut config = Config::default();
        for (key, value) in values(&Config::default()) {
            let raw = match &value {
                Value::Null => continue,
                Value::Array(items) => {
                    Raw::Many(items.iter().map(|i| i.as_str().unwrap().to_owned()).collect())
                }
                Value::String(text) => Raw::One(text.clone()),
                other => Raw::One(other.to_string()),
            };
            set(&mut config, &key, raw).unwrap_or_else(|error| panic!("{key}: {error}"));
        }
        assert_eq!(values(&config), values(&Config::default()));
    }

    #[test]
    fn keys_that_have_no_default_can_be_set() {
        let mut config = Config::default();
        for (key, _) in values(&config).into_iter().filter(|(_, value)| value.is_null()) {
            set(&mut config, &key, Raw::One("5s".into())).unwrap_or_else(|error| panic!("{key}: {error}"));
        }
        assert!(values(&config).iter().all(|(_, value)| !value.is_null()));
    }

    #[test]
    fn a_value_of_the_wrong_kind_changes_nothing() {
        let mut config = Config::default();
        let mut refused = |key: &str, raw: Raw| set(&mut config, key, raw).unwrap_err();
        let one = |text: &str| Raw::One(text.into());
        assert_eq!(refused("keep_releases", one("five")), "expected a whole number, found \"five\"");
        assert_eq!(refused("s3.path_style", one("yes")), "expected true or false, found \"yes\"");
        assert!(refused("drain.min", one("soon")).contains("duration"));
        assert!(refused("restart.mode", one("warm")).contains("expected one of `auto`, `beside`, `hot`"));
        assert!(refused("listen", one("9750")).contains("socket address"));
        assert!(refused("drain.ignore_peers", one("10.0.0.1,somebody")).contains("IP address"));
        assert_eq!(refused("strip_prefix", one("yes")), "expected true or false, found \"yes\"");
        assert_eq!(refused("pod", Raw::Many(vec![])), "expected a single value, found a list");
        assert_eq!(refused("pod", one("")), "is empty: set a value, or remove the key");
        assert_eq!(values(&config), values(&Config::default()));
    }

    #[test]
    fn the_nearest_key_is_suggested_and_nothing_that_is_far() {
        let keys = values(&Config::default());
        let near = |name: &str| nearest(name, keys.iter().map(|(key, _)| key.as_str()));
        assert_eq!(near("drain.mim"), Some("drain.min"));
        assert_eq!(near("grace_priod"), Some("grace_period"));
        assert_eq!(near("min"), Some("drain.min"));
        assert_eq!(near("zebra"), None);
    }

    #[test]
    fn variables_are_named_by_one_rule() {
        assert_eq!(variable("drain.min"), "PITSTOP_DRAIN_MIN");
    }
}
