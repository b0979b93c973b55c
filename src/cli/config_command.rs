//! `pitstop config`: the effective configuration, and where each value came from.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Console, Exit};
use crate::config::Loaded;

/// Prints it.
pub(crate) fn run(loaded: &Loaded, console: Console) -> Exit {
    console.print(&Listing::of(loaded));
    Exit::Done
}

/// One line a key: its value, and where that came from. In JSON an object by key.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Listing(Map<String, Value>);

impl Listing {
    fn of(loaded: &Loaded) -> Self {
        let mut lines: Map<String, Value> = loaded
            .values()
            .into_iter()
            .map(|(key, value, origin)| (key, json!({ "value": value, "from": origin.to_string() })))
            .collect();
        for (key, value) in derived(loaded) {
            if lines.get(key).is_none_or(|line| line["value"].is_null()) {
                lines.insert(key.to_owned(), json!({ "value": value, "from": "derived" }));
            }
        }
        Self(lines)
    }
}

/// What unset keys come to.
fn derived(loaded: &Loaded) -> [(&'static str, String); 5] {
    let config = &loaded.config;
    let policy = config.policy(&super::app_server::facts(config));
    let seconds = |ms: u64| humantime::format_duration(std::time::Duration::from_millis(ms)).to_string();
    let workers = match policy.phased_worker_ms {
        0 => String::new(),
        each => format!(" and {} per worker", seconds(each)),
    };
    let (hot, phased) = (seconds(policy.hot_timeout_ms), seconds(policy.phased_timeout_ms));
    let restart = format!("hot {hot}, phased {phased}{workers}");
    [
        ("current", config.current().display().to_string()),
        ("pod", config.pod()),
        ("drain.max", seconds(policy.drain.max_ms)),
        ("restart.timeout", restart),
        ("restart.wait_in_flight", seconds(policy.wait_in_flight_ms)),
    ]
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(|(key, line)| format!("{key:<30} {}", shown(line))).collect();
        f.write_str(&lines.join("\n"))
    }
}

fn shown(line: &Value) -> String {
    let value = match &line["value"] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    format!("{value:<32} {}", line["from"].as_str().unwrap_or_default())
}
