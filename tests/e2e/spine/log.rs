//! What somebody reads at night: the log of a deploy, as JSON and as text.

use pitstop_rig::{App, Setup, until};
use serde_json::Value;

use crate::new_pod;

const FORWARD: [&str; 6] = ["fetching", "checking", "publishing", "restarting", "verifying", "committing"];

/// The lines of the deploy of this release up to its end, once that is among them. What is tidied for it afterwards
/// follows at any time.
fn story(log: &str, release: &str) -> Option<Vec<Value>> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut told: Vec<_> = lines.filter(|line| line["span"]["release"] == release).collect();
    let end = told.iter().position(|line| !line["result"].is_null())?;
    told.truncate(end + 1);
    Some(told)
}

fn values<'a>(told: &'a [Value], field: &str) -> Vec<&'a str> {
    told.iter().filter_map(|line| line[field].as_str()).collect()
}

/// A value as Rust would print it, and nobody else.
fn looks_like_rust(text: &str) -> bool {
    let camel = |word: &str| {
        let mut letters = word.chars();
        letters.next().is_some_and(char::is_uppercase)
            && letters.clone().any(char::is_lowercase)
            && letters.all(char::is_alphanumeric)
    };
    let opens = |mark: char| {
        text.match_indices(mark)
            .any(|(at, _)| text[..at].trim_end().rsplit([' ', '"', '(', '=']).next().is_some_and(camel))
    };
    opens('(') || opens('{') || camel(text) || text.contains("Some(")
}

fn all_texts(line: &Value) -> Vec<&str> {
    match line {
        Value::String(text) => vec![text],
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "level")
            .flat_map(|(_, value)| all_texts(value))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn e2e_the_log_tells_each_deploy_once_and_by_its_names() {
    let mut pod = new_pod(Setup::default()).in_sync();
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    let id = pod.status()["deploy_id"].as_str().unwrap().to_owned();
    let told = until("the end of v2", || story(&pod.log(), "v2"));
    assert_eq!(values(&told, "stage"), FORWARD);
    assert_eq!(values(&told, "result"), ["verified"]);
    assert!(told.iter().any(|line| line["message"] == "unpacked"), "what a thread of the volume's says");
    assert!(told.last().unwrap()["seconds"].is_f64() && told[2]["after_seconds"].is_f64(), "{told:?}");
    for line in &told {
        let span = &line["span"];
        assert_eq!((&span["deploy_id"], &span["sequence"]), (&id.clone().into(), &2.into()), "{line}");
    }

    pod.deploy(App::RaisesOnBoot, "v3");
    let told = until("the end of v3", || story(&pod.log(), "v3"));
    assert_eq!(values(&told, "stage"), [&FORWARD[..5], &["reverting"]].concat());
    let failed = told.iter().find(|line| line["stage"] == "reverting").unwrap();
    assert_eq!(failed["level"], "WARN");
    assert!(failed["message"].as_str().unwrap().contains("rolling back to v2"), "{failed}");
    let end = told.last().unwrap();
    assert_eq!((&end["result"], &end["reason"]), (&"reverted".into(), &failed["reason"]));
    let log = pod.log();
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let rust: Vec<_> = all_texts(&line).into_iter().filter(|text| looks_like_rust(text)).collect();
        assert!(rust.is_empty(), "{rust:?} in {line}");
    }

    pod.agent.kill();
    pod.set("PITSTOP_LOG_FORMAT", "text");
    pod.agent.start();
    pod.deploy(App::Good, "v4");
    pod.agent.wait_in_sync("v4");
    let told = until("the end of v4", || {
        let log = pod.log();
        let told = log.lines().filter(|line| line.contains("release=\"v4\""));
        let mut told: Vec<_> = told.map(str::to_owned).collect();
        let end = told.iter().position(|line| line.contains("deploy of v4#4 ended"))?;
        told.truncate(end + 1);
        Some(told)
    });
    for stage in FORWARD {
        assert_eq!(
            told.iter().filter(|line| line.contains(&format!("stage=\"{stage}\""))).count(),
            1,
            "{stage}: {told:#?}"
        );
    }
    assert!(told.iter().all(|line| line.contains("deploy_id=\"")), "{told:#?}");
    assert!(told[0].contains("deploy of v4#4 started"), "{told:#?}");
}

#[test]
fn values_as_rust_prints_them_are_known() {
    for rust in ["Done", "Checked(Plan { mode: Phased })", "act Abort(Phased)", "Some(3)", "x=Plan { mode"] {
        assert!(looks_like_rust(rust), "{rust}");
    }
    for plain in [
        "unpacked",
        "deploy of v2#2 started: fetching (1.2 s)",
        "LoadError: cannot load such file",
        "SIGTERM",
    ] {
        assert!(!looks_like_rust(plain), "{plain}");
    }
}
