//! An existing Deployment joins: by one `include` around it in a chart of its own, or by hand. The documents show the lines,
//! and here they are counted, rendered, and found to work.

use std::{collections::BTreeSet, fs};

use pitstop_rig::documents::{Block, blocks, in_language};
use serde_json::{Value, json};

use super::{
    agent_config::{pitstop, variables},
    in_documents::sides,
    library::with_pitstop,
    rig::{Questions, container, root},
};

const EXAMPLE: &str = "charts/examples/shop";

/// The lines that one has to change, the files that they are in, and the words that one has to learn first.
const LINES_BY_CHART: usize = 15;
const FILES_BY_CHART: usize = 2;
const LINES_BY_HAND: usize = 30;
const CONCEPTS: usize = 10;
/// A long line is several.
const WIDTH: usize = 135;

/// The changes of an existing chart that the documents show, file by file.
fn by_chart() -> Vec<Block> {
    in_language("diff").into_iter().filter(|block| block.what.starts_with(EXAMPLE)).collect()
}

fn by_hand() -> Block {
    let mut found = in_language("diff").into_iter().filter(|block| block.what == "native");
    found.next().expect("a diff of a Deployment")
}

fn changed(diff: &str) -> Vec<&str> {
    diff.lines().filter(|line| line.starts_with(['+', '-'])).collect()
}

#[track_caller]
fn assert_few<'a>(lines: impl Iterator<Item = &'a str>, at_most: usize) {
    let lines: Vec<_> = lines.collect();
    println!("{} lines", lines.len());
    assert!(lines.len() <= at_most, "{} lines: {lines:#?}", lines.len());
    let wide: Vec<_> = lines.iter().filter(|line| line.chars().count() > WIDTH).collect();
    assert!(wide.is_empty(), "these are several lines in one: {wide:#?}");
}

#[test]
fn by_the_chart_it_takes_fifteen_lines_in_two_files_and_the_documents_show_them_all() {
    let diffs = by_chart();
    assert_few(diffs.iter().flat_map(|block| changed(&block.text)), LINES_BY_CHART);
    assert_eq!(diffs.len(), FILES_BY_CHART, "files");
    let before = tempfile::tempdir().unwrap();
    super::library::copy(&root(EXAMPLE), before.path());
    for block in &diffs {
        let [old, new] = sides(&block.text);
        assert_eq!(new, fs::read_to_string(root(&block.what)).unwrap(), "{}", block.place);
        let inside = block.what.strip_prefix(EXAMPLE).unwrap().trim_start_matches('/');
        fs::write(before.path().join(inside), old).unwrap();
    }
    let after = with_pitstop(EXAMPLE);
    let questions = Questions::default()
        .render(before.path(), &json!({}))
        .render(after.path(), &json!({}))
        .lint(after.path(), &json!({}));
    let Some(answers) = questions.ask() else { return };
    for (side, rendered) in ["before", "after"].iter().zip(&answers.renders) {
        assert_eq!(rendered.expect(side).objects[0].problems.as_deref(), Some(&[][..]), "{side}");
    }
    assert_eq!(answers.lint[0]["errors"], json!([]));
}

#[test]
fn by_hand_it_takes_thirty_lines() {
    assert_few(changed(&by_hand().text).into_iter(), LINES_BY_HAND);
}

/// What somebody meets before the first deploy, who follows the document about Kubernetes by the chart: each value, each
/// setting of Puma's, and each command is something to learn.
#[test]
fn ten_concepts_come_before_the_first_deploy() {
    let all = blocks("docs/kubernetes.md");
    let mut concepts = BTreeSet::new();
    for block in by_chart().iter().filter(|block| block.what.ends_with("deployment.yaml")) {
        let values = block.text.split('`').nth(1).expect("values between backquotes");
        let values: String = values
            .lines()
            .filter_map(|line| line.strip_prefix('+'))
            .map(|line| format!("{line}\n"))
            .collect();
        let values: Value = serde_saphyr::from_str(&values).unwrap();
        leaves("", &values, &mut concepts);
        concepts.insert("pitstop.deployment".into());
    }
    let ruby = all.iter().filter(|block| block.language == "ruby").flat_map(|block| block.text.lines());
    concepts.extend(
        ruby.filter_map(|line| line.split([' ', '(']).next())
            .filter(|word| !word.is_empty())
            .map(str::to_owned),
    );
    let console = all.iter().filter(|block| block.language == "console").flat_map(|block| block.text.lines());
    let commands = console.filter_map(|line| line.split("pitstop ").nth(1)?.split(' ').next());
    // The commands up to the first deploy: what is promoted before.
    let first =
        commands.take_while(|command| !command.starts_with('-')).map(|command| format!("pitstop {command}"));
    concepts.extend(first.filter(|command| {
        ["pitstop publish", "pitstop promote", "pitstop doctor"].contains(&command.as_str())
    }));
    println!("{} concepts: {concepts:?}", concepts.len());
    assert!(concepts.len() <= CONCEPTS, "{}: {concepts:#?}", concepts.len());
}

fn leaves(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| leaves(&format!("{path}.{key}"), value, found))
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

/// Replaces texts in the example's Deployment.
fn example(changes: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = with_pitstop(EXAMPLE);
    let file = dir.path().join("templates/deployment.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in the example");
        text = text.replace(from, to);
    }
    fs::write(&file, text).unwrap();
    dir
}

const COMMAND: &str = "command: [bundle, exec, puma, -C, config/puma.rb]";

/// What the pod says of itself is taken over, and what it has of its own stays.
#[test]
fn a_deployment_keeps_what_it_has_and_is_not_asked_twice() {
    let own = example(&[
        (
            "    spec:\n",
            "    spec:\n      terminationGracePeriodSeconds: 300\n      securityContext: { runAsUser: 999, runAsGroup: 998 }\n      volumes: [{ name: mine, emptyDir: {} }]\n      initContainers: [{ name: migrate, image: shop }]\n",
        ),
        ("path: /up\n              port: 3000", "path: /health\n              port: http"),
        ("- containerPort: 3000", "- { name: http, containerPort: 8080 }"),
        (
            COMMAND,
            "args: [puma]\n          env: [{ name: RAILS_ENV, value: production }]\n          volumeMounts: [{ name: mine, mountPath: /tmp }]",
        ),
        ("fallback_dir: /app", "pointer: staging"),
    ]);
    let Some(answers) = Questions::default().render(own.path(), &json!({})).ask() else { return };
    let rendered = answers.renders[0].expect("own");
    assert_eq!(rendered.objects[0].problems.as_deref(), Some(&[][..]));
    let pod = rendered.pod();
    let (agent, puma) = (container(pod, "pitstop"), container(pod, "web"));
    let told: std::collections::BTreeMap<_, _> = variables(rendered, agent).into_iter().collect();
    for (name, value) in [
        ("PITSTOP_GRACE_PERIOD", "300s"),
        ("PITSTOP_VERIFY_URL", "http://127.0.0.1:8080/health"),
        ("PITSTOP_POINTER", "staging"),
        ("PITSTOP_IMAGE", "registry.example/shop:v1"),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    for one in [agent, puma, container(pod, "migrate")] {
        let context = &one["securityContext"];
        assert_eq!((&context["runAsUser"], &context["runAsGroup"]), (&json!(999), &json!(998)), "{one}");
    }
    assert_eq!(pod["securityContext"], json!({}), "none is the pause process'");
    assert_eq!(pod["initContainers"][1]["name"], "migrate", "after the first release is in place");
    assert_eq!(puma["command"], json!(["sh", "-c", "cd /srv/app/current && exec \"$@\"", "sh", "puma"]));
    let at_tmp: Vec<_> = puma["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["mountPath"] == "/tmp")
        .collect();
    assert_eq!(at_tmp, [&json!({ "name": "mine", "mountPath": "/tmp" })]);
    assert_eq!(puma["env"][0]["name"], "RAILS_ENV");
    assert_eq!(puma["securityContext"]["readOnlyRootFilesystem"], Value::Null, "the app may go on writing");
}

/// 0 and false are settings too.
#[test]
fn a_container_keeps_a_user_that_is_root_and_what_it_switches_off() {
    let own = example(&[
        (
            "    spec:\n",
            "    spec:\n      securityContext: { runAsUser: 999, runAsGroup: 998 }\n      initContainers: [{ name: chown, image: shop, securityContext: { runAsUser: 0, runAsGroup: 0, runAsNonRoot: false } }]\n",
        ),
        (
            COMMAND,
            "command: [puma]\n          securityContext: { allowPrivilegeEscalation: false, runAsGroup: 0 }",
        ),
    ]);
    let root = example(&[(
        COMMAND,
        "command: [puma]\n          securityContext: { runAsUser: 0, runAsGroup: 0, runAsNonRoot: false }",
    )]);
    let refused = example(&[(
        "    spec:\n",
        "    spec:\n      shareProcessNamespace: false\n      terminationGracePeriodSeconds: 0\n",
    )]);
    let questions = [&own, &root, &refused]
        .into_iter()
        .fold(Questions::default(), |all, chart| all.render(chart.path(), &json!({})));
    let Some(answers) = questions.ask() else { return };
    let pod = answers.renders[0].expect("own").pod();
    let users = |name: &str| {
        let context = &container(pod, name)["securityContext"];
        (context["runAsUser"].clone(), context["runAsGroup"].clone())
    };
    assert_eq!(users("chown"), (json!(0), json!(0)));
    assert_eq!(container(pod, "chown")["securityContext"]["runAsNonRoot"], false);
    assert_eq!(users("web"), (json!(999), json!(0)));
    assert_eq!(users("pitstop"), (json!(999), json!(0)), "as Puma's");
    let pod = answers.renders[1].expect("root").pod();
    for name in ["web", "pitstop"] {
        let context = &container(pod, name)["securityContext"];
        assert_eq!((&context["runAsUser"], &context["runAsNonRoot"]), (&json!(0), &json!(false)), "{name}");
    }
    let error = answers.renders[2].error.as_deref().expect("a pod that cannot work");
    assert!(error.contains("gracePeriodSeconds 0 is too short"), "{error}");
}

#[test]
fn each_kind_of_agent_joins_and_pitstop_takes_its_configuration() {
    let shop = with_pitstop(EXAMPLE);
    let kinds = [
        json!({}),
        json!({ "agent": { "kind": "classic" } }),
        json!({ "beside": "sidecar" }),
        json!({ "beside": "exec" }),
        json!({ "releases": { "kind": "shared", "existingClaim": "efs" }, "config": { "current": "/srv/current/app" } }),
    ];
    let all = kinds
        .iter()
        .fold(Questions::default(), |all, kind| all.render(shop.path(), &json!({ "pitstop": kind })));
    let Some(answers) = all.ask() else { return };
    for (kind, rendered) in kinds.iter().zip(&answers.renders) {
        let name = kind.to_string();
        assert_eq!(rendered.expect(&name).objects[0].problems.as_deref(), Some(&[][..]), "{name}");
        let pod = rendered.pod();
        let sidecar = super::rig::containers(pod).into_iter().find(|one| one["name"] == "pitstop");
        let agent = sidecar.unwrap_or_else(|| container(pod, "web"));
        let (code, said) = pitstop(&["doctor", "--config-only"], &variables(rendered, agent));
        assert_eq!(code, Some(0), "{name}: {said}");
    }
    insta::assert_snapshot!("joined", answers.renders[0].files["shop/templates/deployment.yaml"]);
    assert_eq!(answers.renders[4].pod()["securityContext"]["fsGroup"], 1000);
}

#[test]
fn a_deployment_that_cannot_work_with_it_is_refused() {
    let wrong = [
        ("command: [bundle, exec, puma, -C, config/puma.rb]", "", "has no command"),
        (
            COMMAND,
            "command: [puma]\n          lifecycle: { preStop: { exec: { command: [sleep, \"30\"] } } }",
            "no preStop hook that asks /prestop",
        ),
        (
            "        - name: web",
            "        - { name: other, image: other }\n        - name: web",
            "set pitstop.app.container",
        ),
        ("token: { value: 4f1c0a7be2d94b6f8f0d6f3c1a2b5e77 }", "", "pitstop.token.value has fewer than 16"),
        ("config: { source", "config { source", "not valid YAML"),
    ];
    let charts: Vec<_> = wrong.iter().map(|(from, to, _)| example(&[(from, to)])).collect();
    let questions =
        charts.iter().fold(Questions::default(), |all, chart| all.render(chart.path(), &json!({})));
    let Some(answers) = questions.ask() else { return };
    for ((from, _, wanted), rendered) in wrong.iter().zip(&answers.renders) {
        let Some(error) = &rendered.error else { panic!("this renders without {from}") };
        assert!(error.contains(wanted), "{wanted:?} is missing in\n{error}");
    }
}
