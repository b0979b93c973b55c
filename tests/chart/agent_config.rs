//! The agent reads what the chart tells it: the real program on the variables of each rendered pod.

use std::process::Command;

use serde_json::Value;

use super::{
    cases::matrix,
    rig::{Questions, Rendered, agent, chart, container},
};

/// The variables of a container, from its ConfigMaps as well.
pub fn variables(rendered: &Rendered, container: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for source in container["envFrom"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let maps = rendered.of("ConfigMap");
        let named = maps.iter().find(|map| map["metadata"]["name"] == source["configMapRef"]["name"]);
        let data = named.and_then(|map| map["data"].as_object()).expect("a ConfigMap that the chart makes");
        all.extend(data.iter().map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())));
    }
    for variable in container["env"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
        // A label that the pod has not is an empty text.
        let secret = !variable["valueFrom"]["secretKeyRef"].is_null();
        all.push((text("name"), if secret { "https://hooks.example/hush".into() } else { text("value") }));
    }
    all
}

/// The program's exit code and what it said.
pub fn pitstop(args: &[&str], variables: &[(String, String)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitstop"));
    command.args(args).env_clear().envs(variables.iter().cloned());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_agent_takes_every_rendered_configuration() {
    let cases = matrix();
    let questions = cases.iter().fold(Questions::default(), |all, (_, values)| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for ((name, values), rendered) in cases.iter().zip(&answers.renders) {
        let pod = rendered.expect(name).pod();
        let told = variables(rendered, agent(pod));
        let (code, said) = pitstop(&["config", "--json"], &told);
        assert_eq!(code, Some(0), "{name}: {said}");
        let config: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(config["source"]["value"], values["config"]["source"], "{name}");
        let (code, said) = pitstop(&["doctor", "--config-only"], &told);
        assert_eq!(code, Some(0), "{name}: {said}");
        if values["beside"].is_string() {
            assert_parent(name, &variables(rendered, container(pod, "app")), &told);
        }
    }
}

/// What starts Puma reads a part of the agent's configuration, and takes it.
#[track_caller]
fn assert_parent(name: &str, variables: &[(String, String)], told: &[(String, String)]) {
    let own: Vec<_> = variables.iter().filter(|(key, _)| key.starts_with("PITSTOP_")).cloned().collect();
    let (code, said) = pitstop(&["config"], &own);
    assert_eq!(code, Some(0), "{name}: {said}");
    assert!(own.iter().any(|(key, _)| key == "PITSTOP_EXEC_LISTEN"), "{name}: {own:?}");
    assert!(own.iter().all(|one| told.contains(one)), "{name}: {own:?} and {told:?}");
}

#[test]
fn the_charts_own_choice_leaves_nothing_to_luck() {
    let Some(answers) = Questions::default().render(&chart(), &super::cases::least()).ask() else { return };
    let rendered = answers.renders[0].expect("least");
    let told = variables(rendered, agent(rendered.pod()));
    let (code, said) = pitstop(&["doctor", "--config-only", "--json"], &told);
    assert_eq!(code, Some(0), "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    let severities: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|finding| &finding["severity"]).collect();
    assert!(severities.iter().all(|severity| *severity == "note"), "{said}");
}

/// What the pod mounts is what the agent was told.
#[test]
fn every_path_in_the_configuration_is_mounted_where_the_agent_looks_for_it() {
    let cases = matrix();
    let questions = cases.iter().fold(Questions::default(), |all, (_, values)| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for ((name, _), rendered) in cases.iter().zip(&answers.renders) {
        let pod = rendered.expect(name).pod();
        let agent = agent(pod);
        let mounts: Vec<_> = agent["volumeMounts"].as_array().unwrap().iter().map(mount).collect();
        for (key, value) in variables(rendered, agent) {
            let path = match key.as_str() {
                "PITSTOP_DEPLOY_TO" | "PITSTOP_STATE_DIR" | "PITSTOP_POD_DIR" => value,
                "PITSTOP_CURRENT" | "PITSTOP_TOKEN_FILE" | "PITSTOP_PUMA_STATE_FILE" => value,
                "PITSTOP_NOTIFY_SECRET_FILE" => value,
                "PITSTOP_SOURCE" if value.starts_with('/') => value,
                "PITSTOP_POINTER" if value.starts_with("file:") => value["file:".len()..].to_owned(),
                _ => continue,
            };
            let held = mounts.iter().any(|(_, at)| path == *at || path.starts_with(&format!("{at}/")));
            assert!(held, "{name}: {key} is {path}, mounted are {mounts:?}");
        }
        let volumes: Vec<_> =
            pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
        assert!(mounts.iter().all(|(volume, _)| volumes.contains(volume)), "{name}: {volumes:?}");
    }
}

fn mount(mount: &Value) -> (&Value, &str) {
    (&mount["name"], mount["mountPath"].as_str().unwrap())
}
