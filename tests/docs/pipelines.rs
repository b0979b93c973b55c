//! Pipelines in the documents: keys that GitHub and GitLab know, jobs that exist, and scripts that start what
//! there is with variables that somebody sets.

use pitstop_rig::documents::{Block, all_blocks};
use serde_json::Value;

use super::shell::{calls, judge};

/// What GitHub and GitLab set by themselves, as far as the documents use it.
const GITHUB: &[&str] = &["GITHUB_SHA", "GITHUB_PATH", "GITHUB_REF_NAME", "GITHUB_WORKSPACE"];
const GITLAB: &[&str] = &["CI_COMMIT_SHA", "CI_COMMIT_SHORT_SHA", "CI_PROJECT_DIR", "CI_COMMIT_BRANCH"];

const WORKFLOW: &[&str] = &["concurrency", "defaults", "env", "jobs", "name", "on", "permissions"];
const JOB: &[&str] = &[
    "concurrency",
    "container",
    "env",
    "environment",
    "if",
    "name",
    "needs",
    "outputs",
    "permissions",
    "runs-on",
    "steps",
    "timeout-minutes",
];
const STEP: &[&str] = &["env", "id", "if", "name", "run", "shell", "uses", "with", "working-directory"];
const PIPELINE: &[&str] = &["default", "include", "stages", "variables", "workflow"];
const GITLAB_JOB: &[&str] = &[
    "before_script",
    "environment",
    "extends",
    "id_tokens",
    "image",
    "interruptible",
    "needs",
    "resource_group",
    "rules",
    "script",
    "stage",
    "timeout",
    "variables",
    "when",
];

fn parsed(block: &Block) -> Value {
    serde_saphyr::from_str(&block.text).unwrap_or_else(|error| panic!("{}: {error}", block.place))
}

fn of_kind(what: &str) -> Vec<Block> {
    all_blocks().into_iter().filter(|block| block.language == "yaml" && block.what == what).collect()
}

/// The keys of a map, all of which have to be known.
#[track_caller]
fn keys<'a>(place: &str, map: &'a Value, known: &[&str]) -> Vec<&'a String> {
    let map = map.as_object().unwrap_or_else(|| panic!("{place}: {map} is no map"));
    map.keys().inspect(|key| assert!(known.contains(&key.as_str()), "{place}: {key}")).collect()
}

fn names(map: &Value) -> Vec<String> {
    map.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

/// A text or a list of texts.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

fn run(place: &str, script: &str, variables: &[String]) {
    let set: Vec<_> = variables
        .iter()
        // A file that the step appends to.
        .map(|name| (name.clone(), if name == "GITHUB_PATH" { "path" } else { "value" }.to_owned()))
        .collect();
    calls(place, script, &set).iter().for_each(|call| judge(place, call));
}

fn step(place: &str, step: &Value, outer: &[String]) {
    keys(place, step, STEP);
    let variables = [outer.to_vec(), names(&step["env"])].concat();
    match (step["run"].as_str(), step["uses"].as_str()) {
        (Some(script), None) => run(place, script, &variables),
        (None, Some(action)) => {
            let (name, version) =
                action.split_once('@').unwrap_or_else(|| panic!("{place}: {action}: which?"));
            assert!(name.split('/').count() >= 2 && !version.is_empty(), "{place}: {action}");
        }
        _ => panic!("{place}: a step either runs or uses something: {step}"),
    }
}

#[test]
fn github_workflows_are_whole() {
    let mut whole = 0;
    for block in of_kind("github") {
        let workflow = parsed(&block);
        let own: Vec<_> = GITHUB.iter().map(|name| (*name).to_owned()).collect();
        if let Some(steps) = workflow.as_array() {
            steps.iter().for_each(|one| step(&block.place, one, &own));
            continue;
        }
        keys(&block.place, &workflow, WORKFLOW);
        let jobs = workflow["jobs"].as_object().expect("jobs");
        for (name, job) in jobs {
            let place = format!("{}: {name}", block.place);
            keys(&place, job, JOB);
            texts(&job["needs"]).iter().for_each(|need| assert!(jobs.contains_key(need), "{place}: {need}"));
            let set = [own.clone(), names(&workflow["env"]), names(&job["env"])].concat();
            job["steps"].as_array().expect("steps").iter().for_each(|one| step(&place, one, &set));
        }
        whole += 1;
    }
    assert!(whole >= 1, "{whole}");
}

#[test]
fn gitlab_pipelines_are_whole() {
    for block in of_kind("gitlab") {
        let pipeline = parsed(&block);
        let all = pipeline.as_object().expect("a map");
        let stages = texts(&pipeline["stages"]);
        let common =
            [names(&pipeline["variables"]), GITLAB.iter().map(|one| (*one).to_owned()).collect()].concat();
        for (name, job) in all.iter().filter(|(name, _)| !PIPELINE.contains(&name.as_str())) {
            let place = format!("{}: {name}", block.place);
            keys(&place, job, GITLAB_JOB);
            let base = texts(&job["extends"]).first().map(|base| &all[base]).unwrap_or(&Value::Null);
            if let Some(stage) = job["stage"].as_str() {
                assert!(stages.iter().any(|one| one == stage), "{place}: {stage}");
            }
            texts(&job["needs"]).iter().for_each(|need| assert!(all.contains_key(need), "{place}: {need}"));
            let of_jobs = [names(&base["variables"]), names(&job["variables"])].concat();
            let tokens = [names(&base["id_tokens"]), names(&job["id_tokens"])].concat();
            let before = [texts(&base["before_script"]), texts(&job["before_script"])].concat();
            let script = [before, texts(&job["script"])].concat().join("\n");
            run(&place, &script, &[common.clone(), of_jobs, tokens].concat());
        }
    }
}
