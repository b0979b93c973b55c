use std::collections::BTreeSet;

use serde_json::Value;

use super::{exported, named, promtool, read};

const DASHBOARD: &str = "charts/pitstop/dashboards/pitstop.json";

/// The expression, as Prometheus gets it from Grafana.
fn asked(target: &Value) -> String {
    let expr = target["expr"].as_str().expect("an expression");
    let expr = expr.replace("$__rate_interval", "1m").replace("$__range", "5m");
    expr.replace("$namespace", ".*").replace("$app", ".*").replace("$pointer", ".*")
}

/// A panel's title and the expressions that it draws, as Prometheus gets them from Grafana.
pub fn drawn() -> Vec<(String, Vec<String>)> {
    let of = |panel: &Value| {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        (panel["title"].as_str().unwrap().to_owned(), targets.iter().map(asked).collect())
    };
    panels().iter().filter(|panel| panel["type"] != "row").map(of).collect()
}

fn board() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

/// Where releases were promoted.
pub fn marks() -> String {
    asked(&board()["annotations"]["list"][0])
}

fn panels() -> Vec<Value> {
    board()["panels"].as_array().unwrap().clone()
}

#[test]
fn every_panel_and_mark_is_of_the_apps_and_pointers_that_are_chosen() {
    let board = board();
    let variables: Vec<_> =
        board["templating"]["list"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(variables, ["datasource", "namespace", "app", "pointer"]);
    let marks = board["annotations"]["list"].as_array().unwrap();
    let targets = board["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let asked: Vec<_> = targets.flatten().chain(marks).map(|one| one["expr"].as_str().unwrap()).collect();
    let chosen = r#"namespace=~"$namespace",app=~"$app",pointer=~"$pointer"}"#;
    for expr in asked {
        // What a filtered one is joined with needs no filter of its own.
        let left = expr.replace("and on (namespace, pod, instance) pitstop_in_sync == 0", "");
        assert_eq!(left.matches(chosen).count(), left.matches("pitstop_").count(), "{expr}");
    }
    assert_eq!(marks.len(), 1, "where releases were promoted");
}

#[test]
fn every_panel_asks_for_metrics_that_exist() {
    for (title, expressions) in drawn() {
        assert!(!expressions.is_empty(), "{title}");
        for expr in expressions {
            let asked = named(&expr);
            assert!(!asked.is_empty() && asked.is_subset(&exported()), "{title}: {asked:?}");
            // A group of an expression's own.
            assert!(
                !expr.replace(r#""$1""#, "").contains('$'),
                "{title}: a variable that Grafana would not know: {expr}"
            );
        }
    }
}

#[test]
fn every_metric_but_those_for_alerts_alone_is_drawn() {
    let drawn: String =
        drawn().into_iter().flat_map(|(_, expressions)| expressions).collect::<Vec<_>>().join(" ");
    let left: BTreeSet<String> = exported().difference(&named(&drawn)).cloned().collect();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    insta::assert_snapshot!(left.join("\n"), @r"
    pitstop_fetch_files_total
    pitstop_pointer_expires_timestamp_seconds
    pitstop_puma_threads
    pitstop_restart_requests_cut_total
    ");
}

#[test]
fn prometheus_understands_every_expression() {
    let records = drawn().into_iter().flat_map(|(_, expressions)| expressions).chain([marks()]);
    let rules: Vec<Value> =
        records.map(|expr| serde_json::json!({ "record": "panel", "expr": expr })).collect();
    // JSON is YAML as well. Rules of one name must differ in something.
    let rules: Vec<Value> = rules
        .into_iter()
        .enumerate()
        .map(|(i, mut rule)| {
            rule["record"] = format!("panel:{i}").into();
            rule
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("panels.yml");
    let group = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] });
    std::fs::write(&file, group.to_string()).unwrap();
    let (fine, said) = promtool(&["check", "rules", file.to_str().unwrap()], "");
    assert!(fine, "{said}");
}

#[test]
fn no_two_panels_lie_on_each_other_or_share_a_number() {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
}
