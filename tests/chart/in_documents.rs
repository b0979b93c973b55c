//! Every YAML block of the documents about Kubernetes is what it says it is. A block's info string tells: a path
//! is a file of the project, `values` are the chart's, `pod` a pod's spec; `diff` has two sides.

use std::fs;

use pitstop_rig::documents::{Block, blocks, in_language};
use serde_json::{Value, json};

use super::{
    agent_config::{pitstop, variables},
    cases::with,
    library::with_pitstop,
    rig::{Answers, Parsed, Questions, chart, container, containers, root},
};

/// Kinds without a schema, with the fields that the documents use.
const OTHERS: &[(&str, &[&str])] =
    &[("Application", &["project", "source", "destination", "ignoreDifferences", "syncPolicy"])];

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
        let kind = judged.object["kind"].as_str().unwrap_or("no manifest");
        if let Some((_, fields)) = OTHERS.iter().find(|(other, _)| *other == kind) {
            let used = judged.object["spec"].as_object().unwrap().keys();
            let unknown: Vec<_> = used.filter(|field| !fields.contains(&field.as_str())).collect();
            assert!(unknown.is_empty(), "{place}: {kind}: {unknown:?}");
            continue;
        }
        let problems = judged.problems.as_ref().unwrap_or_else(|| panic!("{place}: {kind}"));
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
    let document = place.split(':').next().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    for agent in agents {
        let told = variables(&nothing, agent);
        let mut asked = vec!["doctor", "--config-only"];
        let words =
            [&agent["command"], &agent["args"]].map(|words| words.as_array().cloned().unwrap_or_default());
        if words.concat().iter().any(|word| word == "--config") {
            // It reads the configuration that the same document shows.
            let config = blocks(document).into_iter().find(|block| block.text.starts_with("# pitstop.yml"));
            fs::write(file.path(), config.expect("a block `# pitstop.yml`").text).unwrap();
            asked.extend(["--config", file.path().to_str().unwrap()]);
        }
        let (code, said) = pitstop(&asked, &told);
        assert_eq!(code, Some(0), "{place}: {said}");
    }
}

#[test]
fn blocks_that_name_a_file_are_that_file() {
    let named = yaml(|block| block.what.contains('/'));
    assert!(named.len() >= 4, "{}", named.len());
    for block in named {
        assert_eq!(
            block.text,
            fs::read_to_string(root(&block.what)).unwrap(),
            "{}: {}",
            block.place,
            block.what
        );
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

fn ask(texts: impl Iterator<Item = String>) -> Option<Answers> {
    texts.fold(Questions::default(), |all, text| all.text(&text)).ask()
}

#[test]
fn manifests_and_pods_in_the_documents_are_valid() {
    let blocks = yaml(|block| block.what == "pod" || is_manifest(block));
    let pod = |text: &str| {
        let head = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: any\n";
        format!("{head}{text}")
    };
    let texts =
        blocks.iter().map(|block| if block.what == "pod" { pod(&block.text) } else { block.text.clone() });
    let Some(read) = ask(texts) else { return };
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for (block, parsed) in blocks.iter().zip(&read.texts) {
        assert_manifests(&block.place, parsed);
        if block.what == "pod" {
            assert_agents(&block.place, &parsed.objects[0].object["spec"]);
        }
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
    let of_pods = |block: &Block| ["native", "classic"].contains(&block.what.as_str());
    let blocks: Vec<_> = in_language("diff").into_iter().filter(of_pods).collect();
    assert_eq!(blocks.len(), 2);
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
    let shop = with_pitstop("charts/examples/shop");
    fs::write(shop.path().join("templates/deployment.yaml"), deployment).unwrap();
    let answers = Questions::default().render(shop.path(), &values).ask().unwrap();
    let pod = answers.renders[0].expect(place).pod();
    assert_eq!(container(pod, "app")["lifecycle"]["preStop"]["httpGet"]["port"], 9750, "{place}");
}

#[test]
fn the_diff_for_helm_is_the_example() {
    let blocks = in_language("diff");
    let helm: Vec<_> = blocks.iter().filter(|block| block.what == "helm").collect();
    let [block] = helm[..] else { panic!("one diff for Helm") };
    let [before, after] = sides(&block.text);
    let read = |path: &str| fs::read_to_string(root("charts/examples/shop").join(path)).unwrap();
    assert_eq!(before, read("before.yaml"));
    assert_eq!(after, read("templates/deployment.yaml"));
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

/// What a hunk puts in the place of what it has found.
#[track_caller]
fn applied(place: &str, text: &str, hunk: &str) -> String {
    let [before, after] = sides(hunk);
    assert_eq!(
        text.matches(&before).count(),
        1,
        "{place}: this is not there exactly once:\n{before}in\n{text}"
    );
    text.replacen(&before, &after, 1)
}

/// The tutorial's Deployment, step by step: each step leaves a pod that drains and may be looked into. It ends as the one that docs/kubernetes.md shows in one piece.
#[test]
fn the_tutorials_steps_lead_from_one_valid_manifest_to_the_next_and_to_the_whole() {
    const TUTORIAL: &str = "docs/tutorial.md";
    let tutorial = blocks(TUTORIAL);
    let begin = tutorial.iter().find(|block| block.language == "yaml" && is_manifest(block)).unwrap();
    let steps: Vec<_> = tutorial.iter().filter(|block| block.info() == "diff step").collect();
    assert!(steps.len() >= 3, "{}", steps.len());
    let mut texts = vec![begin.text.clone()];
    for step in &steps {
        let hunks = step.text.split("@@\n").filter(|hunk| !hunk.is_empty());
        let next = hunks.fold(texts.last().unwrap().clone(), |text, hunk| applied(&step.place, &text, hunk));
        texts.push(next);
    }
    for (step, text) in steps.iter().zip(&texts[1..]) {
        assert_let_pass(&step.place, text, "native");
    }
    let whole = blocks("docs/kubernetes.md").into_iter().find(|block| block.info() == "diff native").unwrap();
    texts.push(sides(&whole.text)[1].clone());
    let Some(read) = ask(texts.into_iter()) else { return };
    read.texts.iter().for_each(|parsed| assert_manifests(TUTORIAL, parsed));
    let [.., last, whole] = &read.texts[..] else { panic!("no steps") };
    assert_eq!(last.objects[0].object, whole.objects[0].object);
}
