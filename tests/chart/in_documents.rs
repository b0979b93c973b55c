//! Every YAML block of the documents about Kubernetes is what it says it is. A block's info string tells: a path
//! is a file of the project, `values` are the chart's; `diff` has two sides.

use std::fs;

use pitstop_rig::documents::{Block, in_language};
use serde_json::{Value, json};

use super::{
    agent_config::{pitstop, variables},
    cases::with,
    library::{PARTS, with_pitstop},
    rig::{Answers, Parsed, Questions, chart, container, containers},
};

/// The YAML of all documents that says this of itself.
fn yaml(what: impl Fn(&Block) -> bool) -> Vec<Block> {
    in_language("yaml").into_iter().filter(what).collect()
}

fn is_manifest(block: &Block) -> bool {
    block.what.is_empty() && block.text.lines().any(|line| line.starts_with("kind: "))
}

/// The two sides of a diff.
pub fn sides(diff: &str) -> [String; 2] {
    ['-', '+'].map(|own| {
        let lines = diff.lines().filter(|line| line.is_empty() || line.starts_with([' ', own]));
        lines.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect()
    })
}

#[track_caller]
fn assert_manifests(place: &str, parsed: &Parsed) {
    assert!(parsed.error.is_none() && !parsed.objects.is_empty(), "{place}: {:?}", parsed.error);
    for judged in &parsed.objects {
        let problems =
            judged.problems.as_ref().unwrap_or_else(|| panic!("{place}: {}", judged.object["kind"]));
        assert!(problems.is_empty(), "{place}: {problems:#?}");
    }
}

/// What is told to each container that runs pitstop is right.
#[track_caller]
fn assert_agents(place: &str, pod: &Value) {
    let nothing = super::rig::Rendered { error: None, files: Default::default(), objects: Vec::new() };
    let agents: Vec<_> = containers(pod)
        .into_iter()
        .filter(|one| ["pitstop", "pitstop-fetch"].contains(&one["name"].as_str().unwrap()))
        .collect();
    assert!(!agents.is_empty(), "{place}: no pitstop");
    for agent in agents {
        let (code, said) = pitstop(&["doctor", "--config-only"], &variables(&nothing, agent));
        assert_eq!(code, Some(0), "{place}: {said}");
    }
}

#[test]
fn values_in_the_documents_render() {
    let blocks = yaml(|block| block.what == "values");
    let Some(read) = ask(blocks.iter().map(|block| block.text.clone())) else { return };
    let values: Vec<_> = read.texts.iter().map(|text| with(text.objects[0].object.clone())).collect();
    let questions = values.iter().fold(Questions::default(), |all, values| all.render(&chart(), values));
    let answers = questions.ask().unwrap();
    assert!(blocks.len() >= 4, "{}", blocks.len());
    for (block, rendered) in blocks.iter().zip(&answers.renders) {
        rendered.expect(&block.place);
        let problems: Vec<_> =
            rendered.objects.iter().filter_map(|judged| judged.problems.as_ref()).flatten().collect();
        assert!(problems.is_empty(), "{}: {problems:#?}", block.place);
    }
}

/// The tutorial's values are a whole app's; `tests/e2e/pods` runs what they render.
#[test]
fn the_tutorials_values_are_complete() {
    let tutorial = yaml(|block| block.what == "values" && block.document == "docs/tutorial.md");
    let Some(read) = ask(tutorial.iter().map(|block| block.text.clone())) else { return };
    let [values] = &read.texts[..] else { panic!("one block of values in the tutorial") };
    let answers = Questions::default().render(&chart(), &values.objects[0].object).ask().unwrap();
    let files = answers.renders[0].expect("the tutorial").files.values();
    let text: Vec<_> = files.map(|file| file.trim()).filter(|file| !file.is_empty()).collect();
    insta::assert_snapshot!("tutorial", text.join("\n---\n"));
}

fn ask(texts: impl Iterator<Item = String>) -> Option<Answers> {
    texts.fold(Questions::default(), |all, text| all.text(&text)).ask()
}

#[test]
fn manifests_in_the_documents_are_valid() {
    let blocks = yaml(is_manifest);
    let Some(read) = ask(blocks.iter().map(|block| block.text.clone())) else { return };
    for (block, parsed) in blocks.iter().zip(&read.texts) {
        assert_manifests(&block.place, parsed);
    }
}

#[test]
fn variables_in_the_documents_are_taken_by_the_agent() {
    let blocks = yaml(|block| block.what == "env");
    let Some(read) = ask(blocks.iter().map(|block| block.text.clone())) else { return };
    for (block, parsed) in blocks.iter().zip(&read.texts) {
        assert_eq!(parsed.error, None, "{}", block.place);
        let mut env = parsed.objects[0].object.clone();
        // What a pod gets from elsewhere.
        for variable in env.as_array_mut().unwrap().iter_mut().filter(|one| !one["valueFrom"].is_null()) {
            variable["value"] = "https://example.com/".into();
        }
        let container = json!({ "env": env });
        let nothing = super::rig::Rendered { error: None, files: Default::default(), objects: Vec::new() };
        let (code, said) = pitstop(&["config"], &variables(&nothing, &container));
        assert_eq!(code, Some(0), "{}: {said}", block.place);
    }
}

#[test]
fn both_sides_of_each_diff_are_valid_and_the_new_one_works() {
    let blocks: Vec<_> = in_language("diff").into_iter().filter(|block| block.what == "native").collect();
    assert_eq!(blocks.len(), 1);
    let Some(read) = ask(blocks.iter().flat_map(|block| sides(&block.text))) else { return };
    for (block, both) in blocks.iter().zip(read.texts.chunks(2)) {
        both.iter().for_each(|side| assert_manifests(&block.place, side));
        assert_agents(&block.place, &both[1].objects[0].object["spec"]["template"]["spec"]);
    }
    for block in &blocks {
        assert_let_pass(&block.place, &sides(&block.text)[1], &block.what);
    }
}

/// The chart's own check has nothing against this Deployment: the hook, the users, the grace period, the token.
#[track_caller]
fn assert_let_pass(place: &str, deployment: &str, kind: &str) {
    let token = json!({ "enabled": deployment.contains("pitstop/token") });
    let values = json!({ "pitstop": { "agent": { "kind": kind }, "token": token } });
    let shop = with_pitstop(PARTS);
    fs::write(shop.path().join("templates/deployment.yaml"), deployment).unwrap();
    let answers = Questions::default().render(shop.path(), &values).ask().unwrap();
    let pod = answers.renders[0].expect(place).pod();
    assert_eq!(container(pod, "app")["lifecycle"]["preStop"]["httpGet"]["port"], 9750, "{place}");
}

#[test]
fn configurations_in_the_documents_are_taken_by_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pitstop.yml");
    let blocks = yaml(|block| block.what.is_empty() && !is_manifest(block));
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        fs::write(&file, &block.text).unwrap();
        let (code, said) = pitstop(&["config", "--config", file.to_str().unwrap()], &[]);
        assert_eq!(code, Some(0), "{}: {said}", block.place);
    }
}

/// What a document shows as a file goes into the chart's values as it is.
#[test]
fn configurations_in_the_documents_are_taken_by_the_chart() {
    let blocks = yaml(|block| block.what.is_empty() && !is_manifest(block));
    let Some(read) = ask(blocks.iter().map(|block| block.text.clone())) else { return };
    let values: Vec<_> = read
        .texts
        .iter()
        .map(|text| {
            let mut config = text.objects[0].object.clone();
            // What follows from values of the chart's own.
            ["grace_period", "listen", "token_file"].iter().for_each(|key| {
                config.as_object_mut().unwrap().remove(*key);
            });
            let file = config["pointer"].as_str().is_some_and(|pointer| pointer.starts_with("file:"));
            let mounts = if file { json!([{ "name": "more", "mountPath": "/more" }]) } else { json!([]) };
            let directory = config["source"].as_str().is_some_and(|source| source.starts_with('/'));
            let volume = if directory { json!({ "emptyDir": {} }) } else { json!({}) };
            with(json!({
                "agent": { "inAppImage": true, "volumeMounts": mounts },
                "gracePeriodSeconds": 900,
                "app": { "liveness": { "enabled": false } },
                "store": { "volume": volume },
                "config": config,
            }))
        })
        .collect();
    let questions = values.iter().fold(Questions::default(), |all, values| all.render(&chart(), values));
    let answers = questions.without_judging().ask().unwrap();
    for (block, rendered) in blocks.iter().zip(&answers.renders) {
        let pod = rendered.expect(&block.place).pod();
        let (code, said) = pitstop(&["config"], &variables(rendered, container(pod, "pitstop")));
        assert_eq!(code, Some(0), "{}: {said}", block.place);
    }
}
