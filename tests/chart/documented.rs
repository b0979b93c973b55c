//! The chart explains itself from its own source: README's table is made of the comments in values.yaml, and
//! the schema's part about the agent of the agent's own keys. `make manifests` writes both anew.

use std::fs;

use pitstop::config::Config;
use serde_json::{Map, Value, json};

use super::rig::{Questions, root};

/// Writes the file where PITSTOP_WRITE is set, and else demands that it is so already.
#[track_caller]
pub fn assert_written(path: &str, wanted: &str) {
    if std::env::var_os("PITSTOP_WRITE").is_some() {
        fs::write(root(path), wanted).unwrap();
    }
    let there = fs::read_to_string(root(path)).unwrap_or_default();
    let first = there.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        there == wanted,
        "{path} is not up to date: run `make manifests`. The first difference: {first:?}"
    );
}

/// A value of the chart.
struct Row {
    path: String,
    default: String,
    meaning: String,
}

/// What values.yaml says of itself: a line `# --`, and below it the key that it is about.
fn rows(values: &str) -> Vec<Row> {
    let (mut rows, mut sections, mut meaning) = (Vec::new(), Vec::<(usize, &str)>::new(), None);
    for line in values.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(said) = text.strip_prefix("# -- ") {
            meaning = Some(said.to_owned());
        }
        let Some((key, default)) = text.split_once(':').filter(|_| !text.starts_with('#')) else { continue };
        sections.retain(|(outer, _)| *outer < indent);
        sections.push((indent, key));
        if let Some(meaning) = meaning.take() {
            let path = sections.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
            rows.push(Row { path, default: default.trim().to_owned(), meaning });
        }
    }
    rows
}

fn table(values: &str) -> String {
    let rows = rows(values);
    let mut text = String::from("| value | default | meaning |\n|---|---|---|\n");
    for Row { path, default, meaning } in rows {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        text += &format!("| `{path}` | {default} | {} |\n", meaning.replace('|', "\\|"));
    }
    text
}

#[test]
fn the_readme_has_every_value_with_its_meaning() {
    let values = fs::read_to_string(root("charts/pitstop/values.yaml")).unwrap();
    let readme = fs::read_to_string(root("charts/pitstop/README.md")).unwrap();
    let (before, rest) = readme.split_once("<!-- values -->\n").expect("where the table is");
    let (_, after) = rest.split_once("<!-- end of values -->").expect("where the table ends");
    let wanted = format!("{before}<!-- values -->\n{}<!-- end of values -->{after}", table(&values));
    assert_written("charts/pitstop/README.md", &wanted);
}

#[test]
fn no_value_is_without_a_meaning() {
    let text = fs::read_to_string(root("charts/pitstop/values.yaml")).unwrap();
    let Some(answers) = Questions::default().text(&text).ask() else { return };
    assert_eq!(answers.texts[0].error, None);
    let described: Vec<_> = rows(&text).into_iter().map(|row| row.path).collect();
    let mut leaves = Vec::new();
    collect("", &answers.texts[0].objects[0].object, &mut leaves);
    let missing: Vec<_> = leaves
        .iter()
        .filter(|leaf| !described.iter().any(|path| *leaf == path || leaf.starts_with(&format!("{path}."))))
        .collect();
    assert!(missing.is_empty(), "without a line `# --` in values.yaml: {missing:?}");
}

fn collect(path: &str, value: &Value, leaves: &mut Vec<String>) {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        Some(fields) => fields.iter().for_each(|(key, value)| {
            collect(&[path, key].join(if path.is_empty() { "" } else { "." }), value, leaves);
        }),
        None => leaves.push(path.to_owned()),
    }
}

#[test]
fn the_schema_knows_exactly_the_agents_keys() {
    let text = fs::read_to_string(root("charts/pitstop/values.schema.json")).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    schema["$defs"]["config"] = of_key("", &serde_json::to_value(Config::default()).unwrap());
    assert_written(
        "charts/pitstop/values.schema.json",
        &(serde_json::to_string_pretty(&schema).unwrap() + "\n"),
    );
}

/// Durations that have no default to be known by.
const DURATIONS: &[&str] = &["restart.timeout", "restart.wait_in_flight", "drain.max"];
/// Lists of numbers, which are empty by default.
const NUMBERS: &[&str] = &["drain.ports"];
const DURATION: &str = "^([0-9]+ *(ms|s|m|h|d) *)+$";

/// The schema of one of the agent's keys, by its default. Empty texts stand for keys that are not set.
fn of_key(path: &str, default: &Value) -> Value {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match default {
        Value::Object(keys) => {
            let properties: Map<_, _> =
                keys.iter().map(|(key, value)| (key.clone(), of_key(&inner(key), value))).collect();
            json!({ "type": "object", "additionalProperties": false, "properties": properties })
        }
        Value::Array(_) if NUMBERS.contains(&path) => {
            json!({ "type": "array", "items": { "type": ["integer", "string"] } })
        }
        Value::Array(_) => json!({ "type": "array", "items": { "type": "string" } }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::String(text) if DURATIONS.contains(&path) || is_duration(text) => {
            json!({ "type": "string", "pattern": DURATION })
        }
        Value::Null if DURATIONS.contains(&path) => json!({ "type": "string", "pattern": DURATION }),
        Value::String(_) | Value::Null => json!({ "type": "string" }),
    }
}

fn is_duration(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && humantime::parse_duration(text).is_ok()
}

#[test]
fn the_chart_has_the_programs_version() {
    let version = env!("CARGO_PKG_VERSION");
    let of = |path: &str| fs::read_to_string(root(path)).unwrap();
    assert!(of("charts/pitstop/Chart.yaml").contains(&format!("\nappVersion: {version}\n")), "appVersion");
    let names = of("charts/pitstop/templates/_names.tpl");
    assert!(names.contains(&format!("define \"pitstop.version\" -}}}}\n{version}\n")), "pitstop.version");
}
