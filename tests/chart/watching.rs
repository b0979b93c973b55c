//! What watches the pods, for many apps in one Prometheus: one set of rules, and each app's series by their labels.

use serde_json::{Value, json};

use super::{
    library::{PARTS, with_pitstop},
    rig::{Questions, chart},
};

#[test]
fn rules_and_dashboard_come_without_an_app_and_lead_to_the_runbook() {
    let url = "https://git.example/pitstop/docs/";
    let values = json!({
        "complete": false,
        "prometheusRule": { "enabled": true, "docsUrl": url },
        "dashboard": { "enabled": true },
    });
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let rendered = answers.renders[0].expect("rules alone");
    let kinds: Vec<_> = rendered.objects.iter().map(|judged| &judged.object["kind"]).collect();
    assert_eq!(kinds, ["PrometheusRule", "ConfigMap"]);
    let groups = rendered.of("PrometheusRule")[0]["spec"]["groups"].as_array().unwrap();
    let alerts: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(alerts.len() >= 9, "{}", alerts.len());
    for alert in alerts {
        let (name, annotations) = (alert["alert"].as_str().unwrap(), &alert["annotations"]);
        assert_eq!(annotations["runbook_url"], format!("{url}runbook.md#{}", name.to_lowercase()));
        assert!(annotations["runbook"].is_null(), "{name}");
    }
}

#[test]
fn an_own_chart_gets_a_pod_monitor_that_finds_its_pods_and_names_its_app() {
    let shop = with_pitstop(PARTS);
    let with =
        |monitor: Value| json!({ "pitstop": { "podMonitor": monitor, "config": { "pointer": "staging" } } });
    let found = with(json!({ "enabled": true, "selector": { "app": "shop" } }));
    let lost = with(json!({ "enabled": true }));
    let Some(answers) = Questions::default().render(shop.path(), &found).render(shop.path(), &lost).ask()
    else {
        return;
    };
    let rendered = answers.renders[0].expect("an own chart");
    let [monitor] = rendered.of("PodMonitor")[..] else { panic!("one PodMonitor") };
    assert_eq!(monitor["spec"]["selector"], json!({ "matchLabels": { "app": "shop" } }));
    let labels: Vec<_> = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["targetLabel"].as_str().unwrap(), one["replacement"].as_str().unwrap()))
        .collect();
    assert_eq!(labels, [("app", "shop"), ("pointer", "staging")]);
    let error = answers.renders[1].error.as_deref().unwrap();
    assert!(error.contains("podMonitor.selector"), "{error}");
    // The token of one Deployment's own values is not known there.
    let joined = with_pitstop("charts/examples/shop");
    let answers = Questions::default().render(joined.path(), &found).ask().unwrap();
    let error = answers.renders[0].error.as_deref().unwrap();
    assert!(error.contains("pitstop.token.value"), "{error}");
}

/// Either kind of monitor asks the same; and what finds the agents for a ServiceMonitor is no Service of the app's.
#[test]
fn a_service_monitor_asks_what_a_pod_monitor_asks() {
    let on = json!({ "enabled": true });
    let values = super::cases::with(json!({
        "podMonitor": on, "serviceMonitor": on, "token": { "value": "", "existingSecret": "shop-token" },
    }));
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let rendered = answers.renders[0].expect("both monitors");
    let ([pods], [services]) = (&rendered.of("PodMonitor")[..], &rendered.of("ServiceMonitor")[..]) else {
        panic!("one of each")
    };
    let endpoint = &services["spec"]["endpoints"][0];
    assert_eq!(endpoint, &pods["spec"]["podMetricsEndpoints"][0]);
    assert_eq!(endpoint["authorization"]["credentials"], json!({ "name": "shop-token", "key": "token" }));
    assert!(rendered.of("Secret").is_empty(), "it is yours");
    let wanted = services["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let found = rendered
        .of("Service")
        .into_iter()
        .filter(|service| wanted.iter().all(|(label, value)| service["metadata"]["labels"][label] == *value));
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["spec"]["ports"][0]["name"], endpoint["port"]);
}
