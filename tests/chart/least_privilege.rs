//! The pods pass the *restricted* Pod Security Standard, and take less than that.
//! `shareProcessNamespace` is no exception to it: the standard forbids the host's namespaces only.

use serde_json::{Value, json};

use super::{
    agent_config::variables,
    cases::matrix,
    rig::{Questions, chart, containers},
};

/// The volume types that "restricted" allows.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What the standard "restricted" (with "baseline", which it includes) has against a pod.
pub fn violations(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure(&mut found, pod[key] != true, || format!("{key} is true"));
    }
    ensure(&mut found, pod["securityContext"]["sysctls"].is_null(), || "sysctls are set".into());
    for volume in pod["volumes"].as_array().unwrap_or(&Vec::new()) {
        let kinds: Vec<_> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        let allowed = kinds.iter().all(|kind| VOLUMES.contains(&kind.as_str()));
        ensure(&mut found, allowed, || format!("volume {}: {kinds:?}", volume["name"]));
    }
    for container in containers(pod) {
        of_container(&mut found, &pod["securityContext"], container);
    }
    found
}

fn of_container(found: &mut Vec<String>, pod: &Value, container: &Value) {
    let (name, own) = (&container["name"], &container["securityContext"]);
    let effective = |key: &str| if own[key].is_null() { pod[key].clone() } else { own[key].clone() };
    let mut must = |holds: bool, what: &str| ensure(found, holds, || format!("container {name}: {what}"));
    must(own["privileged"] != true, "privileged");
    must(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation is not false");
    must(effective("runAsNonRoot") == true, "runAsNonRoot is not true");
    must(effective("runAsUser") != 0, "runAsUser is 0");
    must(own["procMount"].is_null() || own["procMount"] == "Default", "procMount");
    must(
        ["RuntimeDefault", "Localhost"].iter().any(|kind| effective("seccompProfile")["type"] == *kind),
        "seccomp",
    );
    must(
        effective("seLinuxOptions").is_null() && effective("windowsOptions").is_null(),
        "other security options",
    );
    let (drop, add) = (&own["capabilities"]["drop"], &own["capabilities"]["add"]);
    must(drop.as_array().is_some_and(|all| all.contains(&json!("ALL"))), "capabilities are not all dropped");
    let added = add.as_array().is_none_or(|added| added.iter().all(|one| one == "NET_BIND_SERVICE"));
    must(added, "capabilities are added");
    let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    must(ports.iter().all(|port| port["hostPort"].is_null()), "hostPort");
    for hook in
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/preStop", "/lifecycle/postStart"]
    {
        let asked = container.pointer(hook).unwrap_or(&Value::Null);
        let elsewhere = ["httpGet", "tcpSocket"].iter().any(|kind| !asked[*kind]["host"].is_null());
        must(!elsewhere, "a probe or hook asks another host");
    }
}

fn ensure(found: &mut Vec<String>, holds: bool, what: impl FnOnce() -> String) {
    if !holds {
        found.push(what());
    }
}

#[test]
fn every_pod_passes_the_restricted_standard() {
    let cases = matrix();
    let questions = cases.iter().fold(Questions::default(), |all, (_, values)| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for ((name, _), rendered) in cases.iter().zip(&answers.renders) {
        for pod in rendered.expect(name).pods() {
            assert_eq!(violations(pod), Vec::<String>::new(), "{name}");
        }
    }
}

/// So that a clean result means something: each of these is found.
#[test]
fn what_the_standard_forbids_is_found() {
    let Some(answers) = Questions::default().render(&chart(), &super::cases::least()).ask() else { return };
    let pod = answers.renders[0].expect("least").pod();
    let first = "/initContainers/0";
    for (path, key, value) in [
        ("", "hostPID", json!(true)),
        ("", "volumes", json!([{ "name": "host", "hostPath": { "path": "/" } }])),
        (&format!("{first}/securityContext"), "privileged", json!(true)),
        (&format!("{first}/securityContext"), "allowPrivilegeEscalation", json!(true)),
        (&format!("{first}/securityContext"), "runAsNonRoot", Value::Null),
        (&format!("{first}/securityContext"), "runAsUser", json!(0)),
        (&format!("{first}/securityContext"), "seccompProfile", Value::Null),
        (&format!("{first}/securityContext/capabilities"), "drop", json!(["NET_RAW"])),
        (&format!("{first}/securityContext/capabilities"), "add", json!(["SYS_PTRACE"])),
        (&format!("{first}/ports/0"), "hostPort", json!(9750)),
        (&format!("{first}/startupProbe/httpGet"), "host", json!("10.0.0.1")),
    ] {
        let mut worse = pod.clone();
        worse.pointer_mut(path).unwrap()[key] = value;
        assert_eq!(violations(&worse).len(), 1, "{path}/{key}: {:?}", violations(&worse));
    }
}

#[test]
fn every_container_is_held_as_tightly_as_it_can_be() {
    let cases = matrix();
    let questions = cases.iter().fold(Questions::default(), |all, (_, values)| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for ((name, _), rendered) in cases.iter().zip(&answers.renders) {
        let pod = rendered.expect(name).pod();
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}: no token of the API");
        for account in rendered.of("ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false, "{name}");
        }
        for key in ["runAsUser", "runAsGroup"] {
            assert!(pod["securityContext"][key].is_null(), "{name}: {key} would be the pause process' too");
        }
        for container in containers(pod) {
            let (own, who) = (&container["securityContext"], &container["name"]);
            assert_eq!(
                (&own["runAsUser"], &own["runAsGroup"]),
                (&json!(1000), &json!(1000)),
                "{name}: {who}"
            );
            assert_eq!(own["readOnlyRootFilesystem"], true, "{name}: {who}");
        }
        if let Some(agent) = containers(pod).into_iter().find(|one| one["name"] == "pitstop") {
            let told = variables(rendered, agent);
            assert_agent(name, agent, told.iter().any(|(variable, _)| variable == "PITSTOP_WARMUP_REQUESTS"));
        }
    }
}

fn assert_agent(name: &str, agent: &Value, warms: bool) {
    assert!(agent["livenessProbe"].is_null(), "{name}: a restart in mid-drain");
    let readiness = &agent["readinessProbe"];
    assert_eq!(readiness.is_null(), !warms, "{name}: never why the pod gets no traffic");
    let patience = readiness["failureThreshold"].as_u64();
    assert!(!warms || patience > Some(100_000), "{name}: nor when it does not answer any more");
    assert!(agent["lifecycle"].is_null(), "{name}: a hook of its own is called at once");
    let resources = &agent["resources"];
    assert!(resources["limits"]["cpu"].is_null(), "{name}: a throttled agent answers late");
    assert_eq!(resources["limits"]["memory"], "256Mi", "{name}");
    assert_eq!(resources["requests"]["memory"], "32Mi", "{name}");
}
