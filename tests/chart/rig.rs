//! Rendering and judging, in one start of `renderer.py` for all cases of a test.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;
use serde_json::{Value, json};

/// What the renderer says to everything it was asked.
#[derive(Deserialize)]
pub struct Answers {
    /// The Kubernetes versions that manifests were held against, oldest first.
    pub versions: Vec<String>,
    /// One for each case.
    pub renders: Vec<Rendered>,
    /// One for each text.
    pub texts: Vec<Parsed>,
    /// One for each chart that was to be linted.
    pub lint: Vec<Value>,
}

/// A chart with values.
#[derive(Deserialize)]
pub struct Rendered {
    /// Why nothing was rendered.
    pub error: Option<String>,
    /// What each template became.
    pub files: std::collections::BTreeMap<String, String>,
    /// The manifests among it.
    pub objects: Vec<Judged>,
}

/// A YAML text.
#[derive(Deserialize)]
pub struct Parsed {
    /// Why it is none.
    pub error: Option<String>,
    /// Its documents.
    pub objects: Vec<Judged>,
}

/// One document.
#[derive(Deserialize)]
pub struct Judged {
    /// Itself.
    pub object: Value,
    /// What the schemas have against it; nothing where it is no manifest.
    pub problems: Option<Vec<String>>,
}

/// Everything to ask at once.
#[derive(Default)]
pub struct Questions {
    renders: Vec<Value>,
    texts: Vec<String>,
    lint: Vec<Value>,
    unjudged: bool,
}

impl Questions {
    /// Many cases: what is rendered is not held against the schemas.
    pub fn without_judging(mut self) -> Self {
        self.unjudged = true;
        self
    }

    /// Renders a chart.
    pub fn render(mut self, chart: &Path, values: &Value) -> Self {
        self.renders.push(json!({ "chart": chart, "values": values, "release": "shop" }));
        self
    }

    /// Reads a text.
    pub fn text(mut self, text: &str) -> Self {
        self.texts.push(text.to_owned());
        self
    }

    /// What `helm lint --strict` says.
    pub fn lint(mut self, chart: &Path, values: &Value) -> Self {
        self.lint.push(json!({ "chart": chart, "values": values }));
        self
    }

    /// The answers; `None` where the renderer is not installed, which only CI does not forgive.
    pub fn ask(self) -> Option<Answers> {
        let python = root("target/charts/bin/python");
        if !python.exists() {
            assert!(std::env::var_os("CI").is_none(), "no {}: .ci/setup charts makes it", python.display());
            eprintln!("skipped: .ci/setup charts installs what this test needs");
            return None;
        }
        let request = json!({ "renders": self.renders, "texts": self.texts, "lint": self.lint, "judge": !self.unjudged });
        let mut command = Command::new(python);
        command.arg(root("tests/chart/renderer.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "the renderer failed: it says why above");
        Some(serde_json::from_slice(&output.stdout).unwrap())
    }
}

impl Rendered {
    /// It rendered; else the test fails with the reason.
    #[track_caller]
    pub fn expect(&self, name: &str) -> &Self {
        assert!(self.error.is_none(), "{name}: {}", self.error.as_deref().unwrap_or_default());
        self
    }

    /// The objects of a kind.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().map(|judged| &judged.object).filter(|object| object["kind"] == kind).collect()
    }

    /// The pod of the first Deployment: Puma's.
    #[track_caller]
    pub fn pod(&self) -> &Value {
        let deployments = self.of("Deployment");
        &deployments.first().expect("a Deployment")["spec"]["template"]["spec"]
    }

    /// Every pod, those of jobs too.
    pub fn pods(&self) -> Vec<&Value> {
        fn template(object: &Value) -> &Value {
            match object["kind"].as_str() {
                Some("CronJob") => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                Some("Pod") => &object["spec"],
                _ => &object["spec"]["template"]["spec"],
            }
        }
        self.objects.iter().map(|judged| template(&judged.object)).filter(|pod| !pod.is_null()).collect()
    }
}

/// A container of a pod, an init container too.
#[track_caller]
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    containers(pod).into_iter().find(|container| container["name"] == name).expect(name)
}

/// The container that the agent runs in: Puma's own where there is no sidecar.
#[track_caller]
pub fn agent(pod: &Value) -> &Value {
    let sidecar = containers(pod).into_iter().find(|container| container["name"] == "pitstop");
    sidecar.unwrap_or_else(|| container(pod, "app"))
}

/// All of them.
pub fn containers(pod: &Value) -> Vec<&Value> {
    let of = |key: &str| pod[key].as_array().map(Vec::as_slice).unwrap_or_default();
    of("initContainers").iter().chain(of("containers")).collect()
}

/// A path of the project.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The chart; a packaged one where PITSTOP_CHART names it.
pub fn chart() -> PathBuf {
    std::env::var_os("PITSTOP_CHART").map_or_else(|| root("charts/pitstop"), PathBuf::from)
}

/// Puts the second into the first, maps key by key.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
