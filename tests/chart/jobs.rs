//! Jobs and workers take from the web pods' settings what holds for them, and have names of their own.

use serde_json::{Value, json};

use super::{
    agent_config::{pitstop, variables},
    cases::with,
    rig::{Questions, Rendered, chart, container, containers, merge},
};

/// The least with a migration, a CronJob and a worker, and these values.
fn jobs(values: Value) -> Value {
    let mut all = with(json!({
        "migration": { "release": "v2" },
        "cronJobs": [{ "name": "report", "schedule": "0 3 * * *", "command": ["bin/report"] }],
        "workers": [{ "name": "sidekiq", "command": ["bundle", "exec", "sidekiq"], "seconds": 20 }],
    }));
    merge(&mut all, &values);
    all
}

fn worker(rendered: &Rendered) -> &Value {
    let workers = rendered.of("Deployment");
    let worker = workers.iter().find(|one| one["metadata"]["name"].as_str().unwrap().ends_with("-sidekiq"));
    &worker.expect("a worker")["spec"]["template"]["spec"]
}

/// Settings of the web pods: for their server, for its restarts, or for where everything is.
fn settings() -> Vec<Value> {
    let config = |config: Value| json!({ "config": config });
    vec![
        config(json!({ "restart": { "mode": "phased" } })),
        config(
            json!({ "restart": { "mode": "hot", "timeout": "90s", "long_requests": "proceed", "spread": "5s" } }),
        ),
        json!({ "beside": "sidecar", "config": { "restart": { "mode": "beside", "shift": ["10%", "50%"], "bake": "1m" } } }),
        json!({ "beside": "exec", "config": { "exec": { "listen": ["unix:///run/puma/app.sock"] }, "verify": { "url": "unix:///run/puma/app.sock:/up" } } }),
        config(json!({ "restart": { "shift_requests": 10, "shift_timeout": "5m", "wait_in_flight": "1m" } })),
        config(json!({ "app_server": "unicorn", "unicorn": { "timeout": "30s", "match": "shop" } })),
        config(json!({ "app_server": "passenger", "passenger": { "match": "shop" } })),
        json!({
            "agent": { "inAppImage": true },
            "config": { "app_server": "command", "command": { "restart": "bin/restart", "match": "shop", "check": "bin/check" } },
        }),
        config(
            json!({ "puma": { "match": "web", "control_url": "tcp://127.0.0.1:9293", "control_token": "abc" } }),
        ),
        config(json!({ "warmup": { "requests": ["/"], "limit": "300ms" } })),
        config(
            json!({ "verify": { "url": "http://127.0.0.1:3000/up", "release_header": "X-Release", "headers": ["A: b"], "soak": "1s" } }),
        ),
        json!({ "gracePeriodSeconds": 900, "config": { "drain": { "reserve": "5m", "min": "30s", "max": "8m", "ports": ["3000"] } } }),
        config(
            json!({ "fallback_dir": "/app", "keep_releases": 2, "app": "other", "node": "a", "zone": "b" }),
        ),
        config(json!({ "deploy_to": "/data/shop", "pod_dirs": [] })),
        config(json!({ "pod_dir": "/data/pod", "state_dir": "/data/state", "puma": { "state_file": "" } })),
        json!({ "releases": { "kind": "shared" }, "config": { "current": "/srv/current/app" } }),
        json!({
            "releases": { "kind": "ephemeral" }, "storageClass": { "create": true, "fileSystemId": "fs-1" },
            "agent": { "kind": "classic" },
        }),
        json!({ "token": { "value": "", "existingSecret": "shop-token" } }),
        json!({ "token": { "value": "", "enabled": false } }),
        json!({ "notifications": { "existingSecret": "shop-notify", "signed": true } }),
        json!({ "pointer": { "configMap": { "name": "shop-release" } } }),
        json!({ "runAs": { "user": 0, "group": 0 }, "podSecurityContext": { "fsGroup": 33 } }),
    ]
}

#[test]
fn whatever_the_web_pods_are_set_to_the_agents_of_jobs_and_workers_take_their_configuration() {
    let settings = settings();
    let questions =
        settings.iter().fold(Questions::default(), |all, one| all.render(&chart(), &jobs(one.clone())));
    let Some(answers) = questions.ask() else { return };
    for (values, rendered) in settings.iter().zip(&answers.renders) {
        let name = values.to_string();
        for judged in &rendered.expect(&name).objects {
            assert!(judged.problems.as_ref().is_none_or(Vec::is_empty), "{name}: {:?}", judged.problems);
        }
        let mut agents = 0;
        for pod in rendered.pods() {
            for one in containers(pod).into_iter().filter(|one| {
                ["pitstop", "pitstop-fetch"].contains(&one["name"].as_str().unwrap_or_default())
            }) {
                let told = variables(rendered, one);
                let (code, said) = pitstop(&["doctor", "--config-only"], &told);
                assert_eq!(code, Some(0), "{name}: {said}");
                agents += 1;
            }
        }
        assert!(agents >= 4, "{name}: the web pods', the worker's, the migration's, the CronJob's");
        assert_worker(&name, rendered);
    }
}

/// The script runs what the agent deploys, finds its pid, and both see the same directories.
#[track_caller]
fn assert_worker(name: &str, rendered: &Rendered) {
    let pod = worker(rendered);
    let (agent, jobs) = (container(pod, "pitstop"), container(pod, "jobs"));
    let value = |of: &Value, key: &str| {
        let all = variables(rendered, of);
        all.into_iter().rfind(|(name, _)| name == key).map(|(_, value)| value)
    };
    let (_, said) = pitstop(&["config", "--json"], &variables(rendered, agent));
    let config: Value = serde_json::from_str(&said).unwrap();
    let path = |key: &str| config[key]["value"].as_str().map(str::to_owned);
    let deploy_to = path("deploy_to").unwrap();
    let current = path("current").unwrap_or_else(|| format!("{deploy_to}/current"));
    let pid = path("command.pid_file").expect("a pid file");
    let mounts = |of: &Value| of["volumeMounts"].as_array().unwrap().clone();
    for of in [agent, jobs] {
        assert_eq!(value(of, "CURRENT").as_deref(), Some(&*current), "{name}");
        assert_eq!(value(of, "PID_FILE").as_deref(), Some(&*pid), "{name}");
        assert_eq!(value(of, "JOB_SECONDS").as_deref(), Some("20"), "{name}");
        for path in [&current, &deploy_to, &pid] {
            let at = |mount: &Value| {
                format!("{path}/").starts_with(&format!("{}/", mount["mountPath"].as_str().unwrap()))
            };
            let mount =
                mounts(of).into_iter().find(at).unwrap_or_else(|| panic!("{name}: nothing at {path}"));
            assert!(mounts(agent).contains(&mount) && mounts(jobs).contains(&mount), "{name}: {mount}");
        }
    }
    assert_eq!(value(jobs, "BUNDLE_GEMFILE"), Some(format!("{current}/Gemfile")), "{name}");
    // What the web pods' volume of releases is, the worker's is too.
    let volume = |pod: &Value| {
        let all = pod["volumes"].as_array().unwrap();
        all.iter().find(|volume| volume["name"] == "pitstop-releases").cloned()
    };
    assert_eq!(volume(pod), volume(rendered.pod()), "{name}");
}

#[test]
fn either_monitor_finds_the_agents_of_workers_and_the_apps_service_does_not() {
    let on = json!({ "enabled": true });
    let values = jobs(json!({ "podMonitor": on, "serviceMonitor": on }));
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let rendered = answers.renders[0].expect("monitors");
    let services = rendered.of("Service");
    let service = |end: &str| {
        let named = |one: &&&Value| one["metadata"]["name"].as_str().unwrap().ends_with(end);
        &services.iter().find(named).expect("a Service")["spec"]["selector"]
    };
    let monitor = &rendered.of("PodMonitor")[0]["spec"]["selector"]["matchLabels"];
    let finds = |selector: &Value, pod: &Value| {
        selector.as_object().unwrap().iter().all(|(label, value)| pod["labels"][label] == *value)
    };
    for deployment in rendered.of("Deployment") {
        let pod = &deployment["spec"]["template"]["metadata"];
        assert!(finds(monitor, pod) && finds(service("-agents"), pod), "{pod}");
        assert_eq!(finds(service("shop"), pod), deployment["metadata"]["name"] == "shop", "{pod}");
    }
}

/// A Service and a Deployment find pods by a label, and Kubernetes takes none of more than 63 characters.
#[test]
fn long_names_stay_apart_and_valid() {
    let long = "a-shop-with-a-name-that-is-as-long-as-helm-lets-i";
    let values = json!({
        "nameOverride": format!("{long}-{long}"),
        "migration": { "release": format!("{}-1", "v".repeat(90)) },
        "cronJobs": [
            { "name": "report-of-the-week-1", "schedule": "0 3 * * *", "command": ["a"] },
            { "name": "report-of-the-week-2", "schedule": "0 3 * * *", "command": ["b"] },
        ],
        "workers": [
            { "name": "worker-of-the-low-1", "command": ["a"] },
            { "name": "worker-of-the-low-2", "command": ["b"] },
        ],
        "fullnameOverride": format!("{long}-ab"),
    });
    let other = json!({ "migration": { "release": format!("{}-2", "v".repeat(90)) } });
    let mut second = values.clone();
    merge(&mut second, &other);
    let questions = Questions::default().render(&chart(), &jobs(values)).render(&chart(), &jobs(second));
    let Some(answers) = questions.ask() else { return };
    let names = |rendered: &Rendered, kind: &str| -> Vec<String> {
        let all = rendered.expect(kind).of(kind);
        all.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = &answers.renders[0];
    for (kind, most) in [("CronJob", 52), ("Deployment", 63), ("Job", 63)] {
        let mut all = names(first, kind);
        let count = all.len();
        assert!(all.iter().all(|name| name.len() <= most && is_name(name)), "{kind}: {all:?}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{kind}: {all:?}");
    }
    assert_ne!(names(first, "Job"), names(&answers.renders[1], "Job"));
    let mut found = Vec::new();
    for judged in &first.objects {
        all_labels(&judged.object, &mut found);
    }
    assert!(found.iter().all(|label| label.len() <= 63 && is_name(&label.to_lowercase())), "{found:#?}");
    let selectors: std::collections::BTreeSet<_> =
        first.of("Deployment").iter().map(|one| one["spec"]["selector"]["matchLabels"].to_string()).collect();
    assert_eq!(selectors.len(), 3, "each Deployment has pods of its own");
}

/// Letters, digits, and inside of it also `-`, `_` and `.`.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || "-_.".contains(c))
}

fn all_labels(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("labels" | "matchLabels", Value::Object(labels)) => {
                        found.extend(labels.values().map(|label| label.as_str().unwrap().to_owned()));
                    }
                    _ => all_labels(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| all_labels(item, found)),
        _ => {}
    }
}

/// Two releases whose ids differ only in what an object's name cannot have.
#[test]
fn each_release_has_a_migration_of_its_own() {
    let ids = ["v1-2", "v1.2", "v1_2", "V1-2"];
    let questions = ids.iter().fold(Questions::default(), |all, id| {
        all.render(&chart(), &jobs(json!({ "migration": { "release": id } })))
    });
    let Some(answers) = questions.ask() else { return };
    let names: std::collections::BTreeSet<_> = answers
        .renders
        .iter()
        .map(|one| one.expect("a migration").of("Job")[0]["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), ids.len(), "{names:?}");
    assert!(names.contains("shop-migrate-v1-2") && names.iter().all(|name| is_name(name)), "{names:?}");
}

/// Nodes, and what they tolerate: jobs and workers need the same as the app.
#[test]
fn jobs_and_workers_run_where_the_app_may_run() {
    let placed = json!({
        "nodeSelector": { "pool": "apps" }, "tolerations": [{ "key": "apps", "operator": "Exists" }],
        "imagePullSecrets": [{ "name": "registry" }], "hostAliases": [{ "ip": "10.0.0.9", "hostnames": ["db"] }],
        "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }] }, "priorityClassName": "high",
        "podSecurityContext": { "fsGroup": 33 },
    });
    let Some(answers) = Questions::default().render(&chart(), &jobs(placed.clone())).ask() else { return };
    let rendered = answers.renders[0].expect("placed");
    for pod in [rendered.pod(), worker(rendered)].into_iter().chain(["Job", "CronJob"].map(|kind| {
        let object = rendered.of(kind)[0];
        object.pointer("/spec/jobTemplate/spec/template/spec").unwrap_or(&object["spec"]["template"]["spec"])
    })) {
        for (key, value) in placed.as_object().unwrap().iter().filter(|(key, _)| *key != "podSecurityContext")
        {
            assert_eq!(pod[key], *value, "{key}");
        }
        assert_eq!(pod["securityContext"]["fsGroup"], 33);
    }
}
