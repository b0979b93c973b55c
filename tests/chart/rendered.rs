//! What is rendered: valid for the newest Kubernetes versions, and as it was agreed on.

use serde_json::{Value, json};

use super::{
    cases::{matrix, with},
    rig::{Questions, Rendered, chart, root},
};

/// Kinds of the Prometheus operator: Kubernetes has no schema for them, so their fields are named here.
const OPERATORS: &[&str] = &["PodMonitor", "ServiceMonitor", "PrometheusRule"];

#[track_caller]
fn assert_valid(name: &str, rendered: &Rendered) {
    assert!(!rendered.expect(name).objects.is_empty(), "{name}: nothing is rendered");
    for judged in &rendered.objects {
        let kind = judged.object["kind"].as_str().unwrap_or("no kind");
        if OPERATORS.contains(&kind) {
            assert_eq!(unknown_fields(&judged.object), Vec::<String>::new(), "{name}: {kind}");
            continue;
        }
        let problems =
            judged.problems.as_ref().unwrap_or_else(|| panic!("{name}: no manifest: {}", judged.object));
        assert!(problems.is_empty(), "{name}: {kind}: {problems:#?}");
    }
}

/// Fields of an object that its operator does not know, or that are not of the right form.
fn unknown_fields(object: &Value) -> Vec<String> {
    let known: &[(&str, &[&str])] = match object["kind"].as_str() {
        Some("PodMonitor") => &[
            ("/spec", &["selector", "podMetricsEndpoints"]),
            ("/spec/podMetricsEndpoints/0", &["port", "path", "interval", "authorization", "relabelings"]),
            ("/spec/podMetricsEndpoints/0/relabelings/0", &["targetLabel", "replacement"]),
            ("/spec/podMetricsEndpoints/0/authorization", &["type", "credentials"]),
            ("/spec/podMetricsEndpoints/0/authorization/credentials", &["name", "key"]),
        ],
        Some("ServiceMonitor") => &[
            ("/spec", &["selector", "endpoints"]),
            ("/spec/endpoints/0", &["port", "path", "interval", "authorization", "relabelings"]),
        ],
        _ => &[
            ("/spec", &["groups"]),
            ("/spec/groups/0", &["name", "rules", "interval"]),
            ("/spec/groups/0/rules/0", &["alert", "expr", "for", "labels", "annotations"]),
        ],
    };
    let mut unknown = Vec::new();
    for (path, names) in known {
        let Some(fields) = object.pointer(path).and_then(Value::as_object) else {
            unknown.push(format!("{path} is missing"));
            continue;
        };
        unknown.extend(
            fields.keys().filter(|key| !names.contains(&key.as_str())).map(|key| format!("{path}/{key}")),
        );
    }
    unknown
}

#[test]
fn every_choice_renders_what_kubernetes_takes_and_nothing_else_has_changed() {
    let cases = matrix();
    let questions = cases.iter().fold(Questions::default(), |all, (_, values)| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    assert_eq!(answers.versions.len(), 3, "held against {:?}", answers.versions);
    for ((name, _), rendered) in cases.iter().zip(&answers.renders) {
        assert_valid(name, rendered);
        let text: Vec<_> =
            rendered.files.values().map(|file| file.trim()).filter(|file| !file.is_empty()).collect();
        insta::assert_snapshot!(*name, text.join("\n---\n"));
    }
}

#[test]
fn helm_has_nothing_to_say_about_the_chart() {
    let Some(answers) = Questions::default().lint(&chart(), &with(json!({}))).ask() else { return };
    let messages = answers.lint[0]["messages"].as_array().unwrap();
    let said: Vec<_> = messages.iter().filter(|message| message["error"] != "icon is recommended").collect();
    assert_eq!(said, [&json!(null); 0]);
}

/// The contents of `rules/` and `dashboards/` are no concern of this test's, other than that all of them arrive.
#[test]
fn what_watches_the_pods_is_rendered_whole() {
    let on = json!({ "enabled": true });
    let values = with(json!({ "podMonitor": on, "prometheusRule": on, "dashboard": on }));
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let rendered = &answers.renders[0];
    assert_valid("watching", rendered);
    // A packaged chart is no directory.
    let count = |dir: &str| std::fs::read_dir(root("charts/pitstop").join(dir)).unwrap().count();
    let [rule] = rendered.of("PrometheusRule")[..] else { panic!("one PrometheusRule") };
    assert!(rule["spec"]["groups"].as_array().unwrap().len() >= count("rules"));
    let boards = rendered
        .of("ConfigMap")
        .into_iter()
        .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1");
    let boards: Vec<_> = boards.flat_map(|map| map["data"].as_object().unwrap().values()).collect();
    assert_eq!(boards.len(), count("dashboards"));
    for board in boards {
        serde_json::from_str::<Value>(board.as_str().unwrap()).expect("a dashboard is JSON");
    }
    let [monitor] = rendered.of("PodMonitor")[..] else { panic!("one PodMonitor") };
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let [secret] = rendered.of("Secret")[..] else { panic!("the Secret that Prometheus reads") };
    assert_eq!(endpoint["authorization"]["credentials"]["name"], secret["metadata"]["name"]);
    assert_eq!(secret["stringData"]["token"], values["token"]["value"]);
    let ports = &super::rig::container(rendered.pod(), "pitstop")["ports"];
    assert_eq!(ports[0]["name"], endpoint["port"]);
}

/// So that a clean result means something.
#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let planted = with(json!({ "podSecurityContext": { "fsGruop": 1 } }));
    let Some(answers) = Questions::default().render(&chart(), &planted).ask() else { return };
    let problems: Vec<_> =
        answers.renders[0].objects.iter().filter_map(|judged| judged.problems.clone()).flatten().collect();
    assert!(problems.iter().any(|problem| problem.contains("fsGruop")), "{problems:?}");
    let operators = json!({ "kind": "PodMonitor", "spec": { "selectors": {}, "podMetricsEndpoints": [] } });
    assert!(unknown_fields(&operators).contains(&"/spec/selectors".to_owned()));
}

#[test]
fn one_value_is_the_pods_grace_period_and_the_agents() {
    let questions = [120, 45, 600].iter().fold(Questions::default(), |all, seconds| {
        all.render(&chart(), &with(json!({ "gracePeriodSeconds": seconds })))
    });
    let Some(answers) = questions.ask() else { return };
    for (seconds, rendered) in [120, 45, 600].iter().zip(&answers.renders) {
        assert_eq!(rendered.expect("grace").pod()["terminationGracePeriodSeconds"], json!(seconds));
        assert_eq!(rendered.of("ConfigMap")[0]["data"]["PITSTOP_GRACE_PERIOD"], format!("{seconds}s"));
    }
}

#[test]
fn the_pointers_value_is_nowhere_and_nothing_hangs_on_it() {
    let values = with(json!({ "pointer": { "configMap": { "name": "shop-release" } } }));
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let rendered = answers.renders[0].expect("pointer");
    let made = rendered.of("ConfigMap");
    assert!(
        made.iter().all(|map| map["metadata"]["name"] != "shop-release"),
        "the chart makes the pointer itself"
    );
    let volumes = rendered.pod()["volumes"].as_array().unwrap();
    let mounted = volumes.iter().find(|volume| volume["name"] == "pitstop-pointer").unwrap();
    assert_eq!(mounted["configMap"]["name"], "shop-release");
    let annotations =
        rendered.of("Deployment")[0]["spec"]["template"]["metadata"]["annotations"].as_object().unwrap();
    let checksums: Vec<_> = annotations.keys().filter(|key| key.starts_with("checksum/")).collect();
    assert_eq!(checksums, ["checksum/config"], "only the agent's own configuration replaces pods");
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    let twice = Questions::default().render(&chart(), &with(json!({}))).render(&chart(), &with(json!({})));
    let Some(answers) = twice.ask() else { return };
    assert_eq!(answers.renders[0].expect("once").files, answers.renders[1].files);
}

/// YAML with a key that stands twice is no YAML to some, and to others the last one counts.
#[test]
fn no_key_is_written_twice_whatever_labels_and_annotations_are_yours() {
    assert!(serde_saphyr::from_str::<Value>("a: 1\na: 2").is_err(), "a key that stands twice is found");
    let on = json!({ "enabled": true, "labels": { "app.kubernetes.io/name": "mine" } });
    let mut cases = matrix();
    cases.push((
        "yours",
        with(json!({
            "podLabels": { "track": "canary" },
            "podAnnotations": { "kubectl.kubernetes.io/default-container": "pitstop" },
            "serviceAccount": {
                "roleArn": "arn:aws:iam::111122223333:role/shop",
                "annotations": { "eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/other" },
            },
            "podMonitor": on, "prometheusRule": on, "dashboard": on,
        })),
    ));
    let questions = cases.iter().fold(Questions::default(), |all, (_, values)| all.render(&chart(), values));
    let Some(answers) = questions.without_judging().ask() else { return };
    for ((name, _), rendered) in cases.iter().zip(&answers.renders) {
        let files = &rendered.expect(name).files;
        for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".yaml")) {
            for document in text.split("\n---") {
                let read = serde_saphyr::from_str::<Value>(document);
                assert!(read.is_ok(), "{name}: {path}: {}\n{document}", read.unwrap_err());
            }
        }
    }
    let yours = answers.renders.last().unwrap();
    let template = &yours.of("Deployment")[0]["spec"]["template"]["metadata"];
    assert_eq!(template["annotations"]["kubectl.kubernetes.io/default-container"], "pitstop", "yours win");
}

#[test]
fn helms_notes_name_the_namespace_and_how_long_a_pod_waits() {
    let pointer = with(json!({ "pointer": { "configMap": { "name": "shop-release" } } }));
    let patient = with(json!({ "agent": { "startup": { "periodSeconds": 2, "failureThreshold": 450 } } }));
    let asked = [&with(json!({})), &pointer, &patient];
    let questions = asked.iter().fold(Questions::default(), |all, values| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for rendered in &answers.renders {
        let notes = &rendered.expect("notes").files["pitstop/templates/NOTES.txt"];
        let commands: Vec<_> = notes.lines().filter(|line| line.starts_with("  kubectl ")).collect();
        assert!(
            commands.len() >= 3 && commands.iter().all(|line| line.contains(" -n apps ")),
            "{commands:#?}"
        );
    }
    let seconds = |at: usize| &answers.renders[at].files["pitstop/templates/NOTES.txt"];
    assert!(seconds(0).contains("waited for 600 seconds") && seconds(2).contains("waited for 900 seconds"));
}
