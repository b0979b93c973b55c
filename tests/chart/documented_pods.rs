//! The pods that the documents show, beside each other and beside the chart's: one set of names and numbers.

use std::{collections::BTreeMap, fs};

use pitstop_rig::documents::{blocks, in_language};
use serde_json::{Value, json};

use super::{
    agent_config::{pitstop, variables},
    cases::{least, with},
    in_documents::sides,
    least_privilege::violations,
    rig::{Questions, Rendered, chart, container, containers},
};

/// What differs from pod to pod: where releases come from.
const OF_THE_APP: &[&str] = &["PITSTOP_SOURCE", "PITSTOP_POINTER"];

/// Every pod that has an agent in it, with its place.
fn pods() -> Option<Vec<(String, Value)>> {
    let diffs = in_language("diff").into_iter().filter(|block| block.what == "native");
    let texts: Vec<_> = diffs.map(|block| (block.place, sides(&block.text)[1].clone())).collect();
    let read = texts.iter().fold(Questions::default(), |all, (_, text)| all.text(text)).ask()?;
    let pod = |object: &Value| object["spec"]["template"]["spec"].clone();
    let pods = texts.iter().zip(&read.texts);
    Some(pods.map(|((place, _), parsed)| (place.clone(), pod(&parsed.objects[0].object))).collect())
}

fn nothing() -> Rendered {
    Rendered { error: None, files: Default::default(), objects: Vec::new() }
}

#[test]
fn every_pod_passes_the_restricted_standard_and_says_which_image() {
    let Some(pods) = pods() else { return };
    assert!(!pods.is_empty());
    for (place, pod) in pods {
        // What a document leaves out of a container that is not pitstop's has nothing to do with us.
        assert_eq!(violations(&pod), Vec::<String>::new(), "{place}");
        for container in containers(&pod) {
            let image = container["image"].as_str().unwrap();
            assert!(image.rsplit('/').next().unwrap().contains(':'), "{place}: {image} has no tag");
        }
    }
}

/// Names and numbers of a pod, each under the name that it has in every pod.
fn facts(pod: &Value, told: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut facts: BTreeMap<_, _> =
        told.into_iter().filter(|(name, _)| !OF_THE_APP.contains(&name.as_str())).collect();
    let agent = container(pod, "pitstop");
    for (name, value) in [
        ("grace period", &pod["terminationGracePeriodSeconds"]),
        ("startup: seconds between", &agent["startupProbe"]["periodSeconds"]),
        ("startup: failures", &agent["startupProbe"]["failureThreshold"]),
        ("resources", &agent["resources"]),
        ("size of the releases", &volume(pod, "pitstop-releases")["emptyDir"]["sizeLimit"]),
        ("token", &volume(pod, "pitstop-token")["downwardAPI"]),
    ] {
        if !value.is_null() {
            facts.insert(name.into(), value.to_string());
        }
    }
    for one in containers(pod) {
        for mount in one["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let (path, volume) = (mount["mountPath"].as_str().unwrap(), mount["name"].to_string());
            assert_eq!(
                facts.insert(format!("volume at {path}"), volume.clone()).unwrap_or(volume.clone()),
                volume
            );
        }
    }
    facts
}

fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let volumes = pod["volumes"].as_array().unwrap();
    volumes.iter().find(|volume| volume["name"] == name).unwrap_or(&Value::Null)
}

/// Whoever copies from one document and then from another, or changes to the chart, finds the same names and numbers.
#[test]
fn the_documents_and_the_chart_have_one_set_of_names_and_numbers() {
    let Some(pods) = pods() else { return };
    let charts = [
        least(),
        with(json!({ "agent": { "inAppImage": true } })),
        with(json!({ "config": { "source": "/store" }, "store": { "volume": { "emptyDir": {} } } })),
    ];
    let questions = charts.iter().fold(Questions::default(), |all, values| all.render(&chart(), values));
    let rendered = questions.ask().unwrap().renders;
    let mut of_chart = BTreeMap::new();
    for one in &rendered {
        let pod = one.expect("chart").pod();
        of_chart.extend(facts(pod, variables(one, container(pod, "pitstop"))));
    }
    let mut compared = 0;
    for (place, pod) in pods {
        let agent = container(&pod, "pitstop");
        let own = facts(&pod, variables(&nothing(), agent));
        assert!(containers(&pod).iter().any(|one| one["name"] == "app"), "{place}: the app's container");
        for (name, value) in own {
            let Some(charts) = of_chart.get(&name) else {
                // One volume may stand in for several, which lie below it.
                let below = of_chart.keys().any(|other| other.starts_with(&format!("{name}/")));
                assert!(
                    below || (!name.starts_with("volume at /srv") && !name.starts_with("volume at /run")),
                    "{place}: {name}"
                );
                continue;
            };
            assert_eq!(value, *charts, "{place}: {name}");
            compared += 1;
        }
    }
    assert!(compared > 8, "{compared}");
}

/// The lines for `config/puma.rb`, without the one that names the file.
fn puma_rb(document: &str) -> String {
    let blocks = blocks(document);
    let found =
        blocks.iter().find(|block| block.language == "ruby" && block.text.contains("activate_control_app"));
    let text = &found.unwrap_or_else(|| panic!("{document}: no config/puma.rb")).text;
    text.strip_prefix("# config/puma.rb\n").unwrap_or(text).to_owned()
}

const GEMFILE_LOCK: &str = "GEM\n  remote: https://rubygems.org/\n  specs:\n    puma (6.6.0)\n\nPLATFORMS\n  ruby\n\n\
                            DEPENDENCIES\n  puma\n\nBUNDLED WITH\n   2.5.0\n";

/// What a set-up may leave out, and is told: the header is an initializer of the app's; the time-out is its balancer's.
const LEFT_OUT: [&str; 2] = ["RELEASE_HEADER_UNSET", "KEEPALIVE_SHORT"];

#[test]
fn the_pods_that_the_documents_show_give_doctor_nothing_to_find() {
    let Some(pods) = pods() else { return };
    let lines = ["README.md", "docs/rails.md"].map(puma_rb);
    assert!(lines.iter().all(|one| *one == lines[0]), "{lines:#?}");
    let three = puma_rb("docs/kubernetes.md");
    let settings = |text: &str| {
        text.lines().map(|line| line.split_whitespace().take(2).collect::<String>()).collect::<Vec<_>>()
    };
    let all = settings(&lines[0].replace('"', "'"));
    assert!(settings(&three).iter().all(|line| all.contains(line)), "{three}");
    let (place, pod) = pods.iter().find(|(place, _)| place.starts_with("docs/kubernetes.md")).unwrap();
    for (config, left_out) in [(&lines[0], &LEFT_OUT[..1]), (&three, &LEFT_OUT)] {
        let app = tempfile::tempdir().unwrap();
        fs::create_dir(app.path().join("config")).unwrap();
        fs::write(app.path().join("config/puma.rb"), config).unwrap();
        fs::write(app.path().join("Gemfile.lock"), GEMFILE_LOCK).unwrap();
        let told = variables(&nothing(), container(pod, "pitstop"));
        let asked = ["doctor", "--config-only", "--json", "--app", app.path().to_str().unwrap()];
        let (code, said) = pitstop(&asked, &told);
        assert_eq!(code, Some(0), "{place}: {said}");
        let report: Value = serde_json::from_str(&said).unwrap();
        let found: Vec<_> = report["findings"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
        assert_eq!(found, left_out, "{place}: {said}");
        let probe = &container(pod, "app")["readinessProbe"]["httpGet"]["path"];
        assert_eq!(probe, "/up", "{place}: a pod without a readiness probe gets traffic while it boots");
    }
}
