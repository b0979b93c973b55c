//! The other way in: an app's own chart includes the named templates, each part itself. (`joined.rs`: all at once.)

use std::{fs, path::Path};

use serde_json::json;

use super::{
    agent_config::{pitstop, variables},
    rig::{Questions, agent, chart, container, root},
};

/// A chart that includes each part itself, and has the result checked.
pub const PARTS: &str = "tests/chart/parts";

/// A chart with a copy of pitstop's in it, as `helm dependency build` would put it there.
pub fn with_pitstop(path: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&root(path), dir.path());
    copy(&chart(), &dir.path().join("charts/pitstop"));
    dir
}

fn shop() -> tempfile::TempDir {
    with_pitstop(PARTS)
}

/// A directory with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Changes one text in the example's Deployment.
fn changed(from: &str, to: &str) -> tempfile::TempDir {
    let dir = shop();
    let file = dir.path().join("templates/deployment.yaml");
    let before = fs::read_to_string(&file).unwrap();
    assert!(before.contains(from), "{from:?} is not in the example");
    fs::write(&file, before.replace(from, to)).unwrap();
    dir
}

#[test]
fn an_own_chart_gets_the_sidecar_of_either_kind() {
    let shop = shop();
    let classic = json!({ "pitstop": { "agent": { "kind": "classic" } } });
    let questions = Questions::default().render(shop.path(), &json!({})).render(shop.path(), &classic);
    let Some(answers) = questions.ask() else { return };
    for (name, rendered) in ["library_native", "library_classic"].iter().zip(&answers.renders) {
        let objects: Vec<_> =
            rendered.expect(name).objects.iter().map(|judged| &judged.object["kind"]).collect();
        assert_eq!(objects, ["Deployment"], "{name}: the chart renders nothing of its own there");
        assert_eq!(rendered.objects[0].problems.as_deref(), Some(&[][..]), "{name}");
        let (code, said) = pitstop(&["config"], &variables(rendered, container(rendered.pod(), "pitstop")));
        assert_eq!(code, Some(0), "{name}: {said}");
        insta::assert_snapshot!(*name, rendered.files["shop/templates/deployment.yaml"]);
    }
}

/// Both ways use the same templates, so they give the same containers.
#[test]
fn both_ways_in_render_the_same_agent() {
    let shop = shop();
    let Some(answers) =
        Questions::default().render(shop.path(), &json!({})).render(&chart(), &super::cases::least()).ask()
    else {
        return;
    };
    let [library, complete] = &answers.renders[..] else { panic!("two were asked for") };
    let of_agent = |rendered: &super::rig::Rendered| {
        let mut agent = container(rendered.expect("agent").pod(), "pitstop").clone();
        let mut told = variables(rendered, &agent);
        // The app's image is a value of the whole app.
        told.retain(|(name, _)| name != "PITSTOP_IMAGE");
        let fields = agent.as_object_mut().unwrap();
        fields.remove("env");
        fields.remove("envFrom");
        (agent, told)
    };
    assert_eq!(of_agent(library), of_agent(complete));
}

#[test]
fn an_own_chart_is_refused_by_the_names_that_its_values_have() {
    let shop = shop();
    let wrong = json!({ "pitstop": { "gracePeriodSeconds": 20, "token": { "value": "" }, "releases": { "kind": "shared" } } });
    let Some(answers) = Questions::default().render(shop.path(), &wrong).ask() else { return };
    let error = answers.renders[0].error.as_deref().unwrap();
    for value in ["pitstop.gracePeriodSeconds 20", "pitstop.token.value", "pitstop.releases.existingClaim"] {
        assert!(error.contains(value), "{value} is missing in\n{error}");
    }
}

const UNDER_THE_PARENT: &str = "{{- include \"pitstop.command\" (list . (list \"sh\" \"-c\" \
                                \"cd /srv/app/current && exec bundle exec puma -C config/puma.rb\")) | nindent 12 }}";

/// The example with the lines of docs/beside.md.
fn beside(more: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = shop();
    let file = dir.path().join("templates/deployment.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    let command = "command: [sh, -c, \"cd /srv/app/current && exec bundle exec puma -C config/puma.rb\"]";
    let lines = format!(
        "command:\n            {UNDER_THE_PARENT}\n          env:\n            {{{{- include \"pitstop.env\" . | nindent 12 }}}}"
    );
    for (from, to) in [(command, lines.as_str())].iter().chain(more) {
        assert!(text.contains(from), "{from:?} is not in the example");
        text = text.replace(from, to);
    }
    fs::write(&file, text).unwrap();
    dir
}

#[test]
fn an_own_chart_starts_puma_beside_in_either_shape_and_as_before_without() {
    let shop = beside(&[]);
    let shapes = ["", "sidecar", "exec"];
    let values = shapes.map(|shape| json!({ "pitstop": { "beside": shape } }));
    let questions = values.iter().fold(Questions::default(), |all, values| all.render(shop.path(), values));
    let Some(answers) = questions.ask() else { return };
    for (shape, rendered) in shapes.iter().zip(&answers.renders) {
        let pod = rendered.expect(shape).pod();
        assert_eq!(rendered.objects[0].problems.as_deref(), Some(&[][..]), "{shape}");
        let app = container(pod, "app");
        let command: Vec<_> =
            app["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let parent: &[&str] = match *shape {
            "sidecar" => &["/opt/pitstop/pitstop", "exec", "--sidecar", "--"],
            "exec" => &["/opt/pitstop/pitstop", "exec", "--"],
            _ => &[],
        };
        assert_eq!(command[..parent.len()], *parent, "{shape}");
        assert_eq!(command[parent.len()..][..2], ["sh", "-c"], "{shape}");
        let told = variables(rendered, agent(pod));
        let (code, said) = pitstop(&["config"], &told);
        assert_eq!(code, Some(0), "{shape}: {said}");
        let of_parent = variables(rendered, app);
        let listen = of_parent.iter().find(|(name, _)| name == "PITSTOP_EXEC_LISTEN");
        assert_eq!(
            listen.map(|(_, value)| value.as_str()),
            (!shape.is_empty()).then_some("tcp://0.0.0.0:3000")
        );
    }
}

#[test]
fn where_no_second_server_can_be_beside_the_first_nothing_is_rendered() {
    let probe = "readinessProbe:\n            httpGet:\n              path: /up\n              port: 3000";
    let wrong: [(&str, &str, &[&str]); 5] = [
        (
            "{{- include \"pitstop.pod\" . | nindent 6 }}",
            "{{- include \"pitstop.pod\" . | nindent 6 }}\n      hostNetwork: true",
            &["hostNetwork is true", "leave pitstop.beside empty"],
        ),
        (
            probe,
            "readinessProbe:\n            tcpSocket:\n              port: 3000",
            &["readinessProbe of the container `app` is a tcpSocket", "by httpGet"],
        ),
        (UNDER_THE_PARENT, "[puma]", &["write its command with pitstop.command"]),
        (
            "{{- include \"pitstop.env\" . | nindent 12 }}",
            "[]",
            &["PITSTOP_EXEC_LISTEN", "include pitstop.env"],
        ),
        (
            "{{- include \"pitstop.volumeMounts\" . | nindent 12 }}",
            "[]",
            &["nothing is mounted at /opt/pitstop", "at /run/pitstop", "include pitstop.volumeMounts"],
        ),
    ];
    let charts: Vec<_> = wrong.iter().map(|(from, to, _)| beside(&[(from, to)])).collect();
    for shape in ["sidecar", "exec"] {
        let values = json!({ "pitstop": { "beside": shape } });
        let questions =
            charts.iter().fold(Questions::default(), |all, shop| all.render(shop.path(), &values));
        let Some(answers) = questions.ask() else { return };
        for ((from, _, wanted), rendered) in wrong.iter().zip(&answers.renders) {
            let Some(error) = &rendered.error else { panic!("{shape}: this renders without {from}") };
            for text in *wanted {
                assert!(error.contains(text), "{text:?} is missing in\n{error}");
            }
        }
    }
}

#[test]
fn a_line_that_was_forgotten_is_found_in_the_rendered_pod() {
    let liveness = "readinessProbe:\n            httpGet:\n              path: /up";
    let forgotten = [
        (
            "{{- include \"pitstop.podAnnotations\" . | nindent 8 }}",
            "team: shop",
            "include pitstop.podAnnotations",
        ),
        ("{{- include \"pitstop.pod\" . | nindent 6 }}", "", "include pitstop.pod in the pod's spec"),
        ("{{- include \"pitstop.initContainers\" . | nindent 8 }}", "[]", "include pitstop.initContainers"),
        ("{{- include \"pitstop.lifecycle\" . | nindent 12 }}", "{}", "include pitstop.lifecycle"),
        ("{{- include \"pitstop.securityContext\" . | nindent 12 }}", "{}", "does not say its runAsUser"),
        ("name: app", "name: puma", "set pitstop.app.container to the name of Puma's container"),
        (liveness, "livenessProbe:\n            httpGet:\n              path: /up", "gives up after 30s"),
    ];
    let charts: Vec<_> = forgotten.iter().map(|(from, to, _)| changed(from, to)).collect();
    let questions = charts.iter().fold(Questions::default(), |all, shop| all.render(shop.path(), &json!({})));
    let Some(answers) = questions.ask() else { return };
    for ((from, _, wanted), rendered) in forgotten.iter().zip(&answers.renders) {
        let Some(error) = &rendered.error else { panic!("this renders without {from}") };
        assert!(error.contains(wanted), "{wanted:?} is missing in\n{error}");
    }
}
