//! What cannot work is not rendered. Each message names the value and the remedy.

use serde_json::{Value, json};

use super::{
    cases::{least, with},
    rig::{Questions, chart},
};

/// What is wrong with the values, and what the message has to say: the value, and the remedy.
type Refusal = (Value, &'static [&'static str]);

fn refusals() -> Vec<Refusal> {
    let mut all = of_times();
    all.extend(of_images_and_volumes());
    all.extend(of_sources());
    all.extend(of_pods());
    all.extend(of_beside());
    all.into_iter().map(|(values, wanted)| (with(values), wanted)).collect()
}

fn of_times() -> Vec<Refusal> {
    vec![
        (
            json!({ "gracePeriodSeconds": 36 }),
            &["gracePeriodSeconds 36", "config.drain.reserve (30s)", "to 37 or more"],
        ),
        (
            json!({ "config": { "drain": { "min": "1m 30s" } } }),
            &["config.drain.min (1m 30s)", "to 122 or more"],
        ),
        (
            json!({ "config": { "drain": { "max": "100s" } } }),
            &["config.drain.max 100s", "raise gracePeriodSeconds to 132"],
        ),
        (
            json!({ "config": { "drain": { "max": "4s" } } }),
            &["config.drain.max 4s", "config.drain.min", "leave it out"],
        ),
        (
            json!({ "config": { "grace_period": "60s" } }),
            &["config.grace_period", "gracePeriodSeconds: set that instead"],
        ),
        (json!({ "config": { "listen": "0.0.0.0:1" } }), &["config.listen", "agent.port and agent.address"]),
        (json!({ "config": { "token_file": "/t" } }), &["config.token_file", "token: set that instead"]),
    ]
}

fn of_images_and_volumes() -> Vec<Refusal> {
    vec![
        (
            json!({ "releases": { "kind": "shared" } }),
            &["releases.kind is shared", "Set config.current to a path outside of /srv/app"],
        ),
        (
            json!({ "releases": { "kind": "shared" }, "config": { "current": "/srv/app/pods/current" } }),
            &["releases.kind is shared", "Set config.current"],
        ),
        (
            json!({ "config": { "current": "/current" } }),
            &["config.current /current", "one directory deeper"],
        ),
        (json!({ "token": { "value": "short" } }), &["token.value", "openssl rand -hex 24"]),
        (json!({ "token": { "value": "" } }), &["token.value", "set token.enabled to false"]),
        (
            json!({ "agent": { "image": { "repository": "" } } }),
            &["agent.image.repository is empty", "docker/Dockerfile"],
        ),
        (json!({ "app": { "image": "" } }), &["app.image is empty", "Ruby"]),
        (
            json!({ "podLabels": { "app.kubernetes.io/instance": "shop" } }),
            &["podLabels or commonLabels has app.kubernetes.io/instance", "another label"],
        ),
        (
            json!({ "app": { "image": "" }, "agent": { "inAppImage": true } }),
            &["agent.inAppImage", "set app.image"],
        ),
        (
            json!({ "config": { "hooks": { "check": "bundle exec rails runner true" } } }),
            &["config.hooks.check", "no Ruby and no shell", "set agent.inAppImage to true"],
        ),
        (
            json!({ "config": { "app_server": "command", "command": { "restart": "bin/restart" } } }),
            &["config.command.restart", "no Ruby and no shell", "set agent.inAppImage to true"],
        ),
    ]
}

fn of_sources() -> Vec<Refusal> {
    vec![
        (
            json!({ "token": { "existingSecret": "a" } }),
            &["token.value and token.existingSecret", "leave token.value out"],
        ),
        (
            json!({ "token": { "value": "", "existingSecret": "a" }, "config": { "state_dir": "/run/mine" } }),
            &["token.existingSecret", "config.state_dir"],
        ),
        (json!({ "ingress": { "enabled": true } }), &["ingress.enabled", "ingress.hosts"]),
        (
            json!({ "commonLabels": { "app.kubernetes.io/name": "a" } }),
            &["commonLabels has app.kubernetes.io/name"],
        ),
        (
            json!({ "notifications": { "signed": true } }),
            &["notifications.signed", "notifications.existingSecret"],
        ),
        (
            json!({ "notifications": { "existingSecret": "a" }, "config": { "notify": { "url": "https://b/c" } } }),
            &["config.notify.url", "leave config.notify.url out"],
        ),
        (json!({ "config": { "source": "" } }), &["config.source is empty", "s3://bucket/prefix"]),
        (
            json!({ "config": { "source": "/store" } }),
            &["config.source /store is a directory", "set store.volume"],
        ),
        (json!({ "store": { "volume": { "emptyDir": {} } } }), &["store.volume", "leave one of them out"]),
        (
            json!({ "config": { "pointer": "file:/etc/release/id" } }),
            &["config.pointer is a file", "set pointer.configMap.name"],
        ),
        (
            json!({ "config": { "pointer": "file:/a" }, "pointer": { "configMap": { "name": "b" } } }),
            &["config.pointer and pointer.configMap.name", "leave config.pointer out"],
        ),
        (
            json!({ "storageClass": { "create": true }, "releases": { "kind": "ephemeral" } }),
            &["storageClass.create needs storageClass.fileSystemId", "fs-"],
        ),
        (
            json!({ "storageClass": { "create": true, "fileSystemId": "fs-1" } }),
            &["storageClass.create", "set releases.kind to ephemeral or shared"],
        ),
    ]
}

fn of_pods() -> Vec<Refusal> {
    let hook = |http_get: Value| json!({ "app": { "lifecycle": { "preStop": { "httpGet": http_get } } } });
    vec![
        (
            json!({ "app": { "lifecycle": { "preStop": { "exec": { "command": ["/opt/pitstop/pitstop", "drain"] } } } } }),
            &[
                "runs `pitstop drain`",
                "nothing is mounted at /opt/pitstop",
                "nothing is mounted at /run/pitstop",
            ],
        ),
        (
            json!({ "app": { "lifecycle": { "preStop": { "exec": { "command": ["sleep", "30"] } } } } }),
            &["`app` has no preStop hook that asks /prestop", "leave app.lifecycle empty"],
        ),
        (
            hook(json!({ "path": "/prestop", "port": "pitstop" })),
            &["names its port (`pitstop`)", "Write the number, 9750 (agent.port)"],
        ),
        (
            hook(json!({ "path": "/prestop", "port": 9000 })),
            &["asks port 9000", "listens on 9750 (agent.port)"],
        ),
        (hook(json!({ "path": "/prestop", "port": 9750 })), &["does not send the token", "token.value"]),
        (
            json!({ "app": { "securityContext": { "runAsUser": 33 } } }),
            &["runAsUser of the container `app` is 33", "equal by runAs"],
        ),
        (
            json!({ "app": { "securityContext": { "runAsGroup": 33 } } }),
            &["runAsGroup of the container `app` is 33", "equal by runAs"],
        ),
        (
            json!({ "podSecurityContext": { "runAsUser": 1000 } }),
            &["securityContext.runAsUser holds for the pause process", "Set it on the containers"],
        ),
        (
            json!({ "app": { "liveness": { "failureThreshold": 3 } } }),
            &["gives up after 30s", "120s (config.restart.timeout)", "Raise failureThreshold"],
        ),
        (
            json!({ "config": { "restart": { "timeout": "3m" } } }),
            &["gives up after 150s", "180s (config.restart.timeout)", "lower config.restart.timeout"],
        ),
        (
            json!({ "gracePeriodSeconds": 400, "config": { "puma": { "worker_shutdown_timeout": "2m" }, "drain": { "reserve": "2m" } } }),
            &["gives up after 150s", "a restart may take 210s"],
        ),
    ]
}

fn of_beside() -> Vec<Refusal> {
    vec![
        (
            json!({ "config": { "restart": { "mode": "beside" } } }),
            &["config.restart.mode is beside", "set beside to sidecar or exec"],
        ),
        (
            json!({ "beside": "exec", "config": { "app_server": "passenger" } }),
            &["config.app_server passenger", "cannot take listening sockets over", "Leave beside empty"],
        ),
    ]
}

#[test]
fn what_cannot_work_is_refused_with_the_value_and_the_remedy() {
    let refusals = refusals();
    let questions =
        refusals.iter().fold(Questions::default(), |all, (values, _)| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for ((values, wanted), rendered) in refusals.iter().zip(&answers.renders) {
        let Some(error) = &rendered.error else { panic!("this renders: {values:#}") };
        for text in *wanted {
            assert!(error.contains(text), "{text:?} is missing in\n{error}\n{values:#}");
        }
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let Some(answers) = Questions::default().render(&chart(), &json!({})).ask() else { return };
    let error = answers.renders[0].error.as_deref().unwrap();
    for value in ["agent.image.repository", "token.value", "config.source", "app.image"] {
        assert!(error.contains(&format!("- {value} ")), "{value} is missing in\n{error}");
    }
}

/// The same limits as the agent's own: what is just enough is rendered.
#[test]
fn what_is_just_enough_is_rendered() {
    let enough = [
        json!({ "gracePeriodSeconds": 37 }),
        json!({ "config": { "drain": { "max": "88s" } } }),
        json!({ "config": { "restart": { "timeout": "150s" } } }),
        json!({ "app": { "liveness": { "failureThreshold": 12 } } }),
        json!({ "app": { "liveness": { "enabled": false } }, "config": { "restart": { "timeout": "10m" } } }),
    ];
    let questions =
        enough.iter().fold(Questions::default(), |all, values| all.render(&chart(), &with(values.clone())));
    let Some(answers) = questions.ask() else { return };
    for (values, rendered) in enough.iter().zip(&answers.renders) {
        rendered.expect(&values.to_string());
    }
}

#[test]
fn misspelt_and_misshapen_values_are_refused_by_the_schema() {
    let wrong = [
        (json!({ "gracePeriod": 60 }), "gracePeriod"),
        (json!({ "agent": { "kind": "sidecar" } }), "/agent/kind"),
        (json!({ "beside": true }), "/beside"),
        (json!({ "gracePeriodSeconds": "60s" }), "/gracePeriodSeconds"),
        (json!({ "config": { "drain": { "minimum": "5s" } } }), "minimum"),
        (json!({ "config": { "drain": { "min": 5 } } }), "/config/drain/min"),
        (json!({ "config": { "drain": { "min": "5" } } }), "/config/drain/min"),
        (json!({ "config": { "pod_dirs": "log" } }), "/config/pod_dirs"),
        (json!({ "token": { "value": "two words are no token" } }), "/token/value"),
        (json!({ "agent": { "port": 70000 } }), "/agent/port"),
    ];
    let questions = wrong
        .iter()
        .fold(Questions::default(), |all, (values, _)| all.render(&chart(), &with(values.clone())));
    let Some(answers) = questions.render(&chart(), &least()).ask() else { return };
    for ((values, named), rendered) in wrong.iter().zip(&answers.renders) {
        let error = rendered.error.as_deref().unwrap_or_else(|| panic!("this renders: {values}"));
        assert!(error.contains(named), "{named} is not named in\n{error}");
    }
    answers.renders.last().unwrap().expect("the least");
}
