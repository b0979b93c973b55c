use serde::Deserialize;

use super::{exported, named, promtool, read};

const RULES: &str = "charts/pitstop/rules/pitstop.yml";

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    alert: String,
    expr: String,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Annotations {
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let rules: Rules = serde_saphyr::from_str(&read(RULES)).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let (fine, said) = promtool(&["check", "rules", RULES], "");
    assert!(fine, "{said}");
    let (fine, said) = promtool(&["test", "rules", "tests/monitoring/alerts.yml"], "");
    assert!(fine, "{said}");
}

#[test]
fn no_alert_is_without_a_test_of_when_it_fires() {
    let tests = read("tests/monitoring/alerts.yml");
    for Alert { alert, .. } in alerts() {
        let fires = tests
            .split("alertname: ")
            .any(|test| test.starts_with(&alert) && !test.contains("exp_alerts: []"));
        assert!(fires, "{alert}");
    }
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    for Alert { alert, expr, .. } in alerts() {
        let (asked, there) = (named(&expr), exported());
        assert!(!asked.is_empty() && asked.is_subset(&there), "{alert}: {asked:?}");
    }
}

#[test]
fn each_alert_leads_to_its_own_heading_in_the_runbook() {
    let runbook = read("docs/runbook.md");
    let headings: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    for Alert { alert, annotations, .. } in alerts() {
        assert!(headings.contains(&alert.as_str()), "docs/runbook.md has no heading {alert}");
        assert_eq!(annotations.runbook, format!("docs/runbook.md#{}", alert.to_lowercase()));
    }
}
