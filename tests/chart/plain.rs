//! For those without Helm: manifests and a kustomize component. Both are made of the chart (`make manifests`), so
//! they cannot drift away from it, and kustomize itself builds the example.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::{
    agent_config::{pitstop, variables},
    cases::with,
    documented::assert_written,
    least_privilege::violations,
    library::{PARTS, with_pitstop},
    rig::{Questions, chart, container, root},
};

const MADE: &str = "# Made of the chart by `make manifests`: change charts/pitstop, not this file.\n";
const TO_CHANGE: &str = "# Yours to change: the images, PITSTOP_SOURCE, PITSTOP_POINTER, and the token (`openssl rand -hex 24`), which has to
# be the same in the annotation pitstop/token and in the preStop hook.\n";

const KINDS: [&str; 3] = ["native", "classic", "beside"];

/// `beside` is native, with a second server for each deploy.
fn of_kind(kind: &str) -> Value {
    match kind {
        "beside" => with(json!({ "beside": "sidecar" })),
        kind => with(json!({ "agent": { "kind": kind } })),
    }
}

#[test]
fn the_plain_manifests_are_the_charts() {
    let values = KINDS.map(of_kind);
    let questions = values.iter().fold(Questions::default(), |all, values| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for (kind, rendered) in KINDS.iter().zip(&answers.renders) {
        let files = rendered
            .expect(kind)
            .files
            .iter()
            .filter(|(path, _)| path.ends_with(".yaml") && !path.contains("/tests/"));
        let texts: Vec<_> =
            files.map(|(_, text)| without_helm(text)).filter(|text| !text.is_empty()).collect();
        let manifest = format!("{MADE}{TO_CHANGE}{}\n", texts.join("\n---\n"));
        assert_written(&format!("deploy/manifests/{kind}.yaml"), &manifest);
    }
}

/// The jobs of an app, for whom the other manifests are there.
#[test]
fn the_plain_jobs_are_the_charts() {
    let values = with(json!({
        "migration": { "release": "v2" },
        "cronJobs": [{ "name": "report", "schedule": "0 3 * * *", "command": ["bundle", "exec", "rails", "report"] }],
        "workers": [{ "name": "sidekiq", "command": ["bundle", "exec", "sidekiq"] }],
    }));
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let files = &answers.renders[0].expect("jobs").files;
    let texts: Vec<_> = ["migration", "cronjobs", "workers"]
        .iter()
        .map(|name| without_helm(&files[&format!("pitstop/templates/{name}.yaml")]))
        .collect();
    let head = "# For an app that runs by native.yaml, whose ConfigMap and ServiceAccount they use.\n";
    assert_written("deploy/manifests/jobs.yaml", &format!("{MADE}{head}{}\n", texts.join("\n---\n")));
}

/// What only makes sense where Helm renders it anew: its labels, and the digest of the configuration.
fn without_helm(text: &str) -> String {
    let helms =
        ["app.kubernetes.io/managed-by:", "app.kubernetes.io/version:", "helm.sh/", "checksum/config:"];
    let lines =
        text.trim().lines().filter(|line| !helms.iter().any(|label| line.trim_start().starts_with(label)));
    lines.map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_component_is_made_of_the_named_templates() {
    let chart = with_pitstop("tests/chart/patch");
    let values = KINDS.map(|kind| json!({ "pitstop": of_kind(kind) }));
    let questions = values.iter().fold(Questions::default(), |all, values| all.render(chart.path(), values));
    let Some(answers) = questions.ask() else { return };
    for (kind, rendered) in KINDS.iter().zip(&answers.renders) {
        let patch = &rendered.expect(kind).files["patch/templates/patch.yaml"];
        let lines: Vec<_> = patch.trim().lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        assert_written(
            &format!("deploy/kustomize/{kind}/patch.yaml"),
            &format!("{MADE}{}\n", lines.join("\n")),
        );
    }
}

/// `kustomize build`; nothing where it is not installed, which only CI does not forgive.
fn build(overlay: &Path) -> Option<String> {
    let kustomize = root("target/roots/kustomize/usr/bin/kustomize");
    if !kustomize.exists() {
        assert!(std::env::var_os("CI").is_none(), "no {}: .ci/setup kustomize makes it", kustomize.display());
        eprintln!("skipped: .ci/setup kustomize installs what this test needs");
        return None;
    }
    let output = Command::new(kustomize).arg("build").arg(overlay).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The example, with the component of one kind.
fn example(kind: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    super::library::copy(&root("deploy/kustomize"), dir.path());
    let file = dir.path().join("example/kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("../native", &format!("../{kind}"))).unwrap();
    if kind == "beside" {
        // As the component says: its own command comes before what was the command.
        let file = dir.path().join("example/deployment.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("command:", "args:")).unwrap();
    }
    dir
}

/// A chart that renders this Deployment as it is, and looks at it as `pitstop.check` does.
fn checked(deployment: &str) -> tempfile::TempDir {
    let chart = with_pitstop(PARTS);
    fs::write(chart.path().join("templates/deployment.yaml"), deployment).unwrap();
    chart
}

#[test]
fn kustomize_builds_a_pod_that_the_chart_would_have_let_pass() {
    for kind in KINDS {
        let Some(built) = build(&example(kind).path().join("example")) else { return };
        assert!(!built.contains("kind: ConfigMap"), "the settings do not go to the cluster");
        let values = json!({ "pitstop": of_kind(kind) });
        let chart = checked(&built);
        let Some(answers) = Questions::default().render(chart.path(), &values).ask() else { return };
        let rendered = answers.renders[0].expect(kind);
        assert_eq!(rendered.objects[0].problems.as_deref(), Some(&[][..]), "{kind}");
        let pod = rendered.pod();
        assert_eq!(violations(pod), Vec::<String>::new(), "{kind}");
        let told = variables(rendered, container(pod, "pitstop"));
        let (code, said) = pitstop(&["config", "--json"], &told);
        assert_eq!(code, Some(0), "{kind}: {said}");
        let config: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(config["source"]["value"], "s3://my-releases/apps/shop", "{kind}");
    }
}

#[test]
fn a_setting_that_is_changed_reaches_every_place() {
    let example = example("classic");
    let file = example.path().join("example/settings.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let changed = text
        .replace("4f1c0a7be2d94b6f8f0d6f3c1a2b5e77", "another-token-of-mine")
        .replace("apps/shop", "apps/blog");
    fs::write(&file, changed.replace("pointer: production", "pointer: staging")).unwrap();
    let Some(built) = build(&example.path().join("example")) else { return };
    for old in ["4f1c0a7be2d94b6f8f0d6f3c1a2b5e77", "apps/shop", "value: production"] {
        assert!(!built.contains(old), "{old} is still in\n{built}");
    }
    assert_eq!(built.matches("another-token-of-mine").count(), 2);
    assert_eq!(built.matches("value: Bearer another-token-of-mine").count(), 1);
    assert_eq!(built.matches("apps/blog").count(), 2, "in both containers of a classic sidecar");
}
