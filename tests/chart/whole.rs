//! A whole app: its names, and what an operator expects of a chart.

use serde_json::{Value, json};

use super::{
    cases::with,
    rig::{Questions, chart, container},
};

#[test]
fn objects_and_labels_have_the_apps_name() {
    let Some(answers) = Questions::default().render(&chart(), &with(json!({}))).ask() else { return };
    let rendered = answers.renders[0].expect("shop");
    let [deployment] = rendered.of("Deployment")[..] else { panic!("one Deployment") };
    assert_eq!(deployment["metadata"]["name"], "shop");
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"], "shop");
}

/// A Deployment that gives up while its pods may still wait is declared failed for nothing.
#[test]
fn a_deployment_is_given_the_time_that_its_pods_may_take() {
    let patient = with(json!({ "agent": { "startup": { "failureThreshold": 3600 } } }));
    let questions = Questions::default().render(&chart(), &with(json!({}))).render(&chart(), &patient);
    let Some(answers) = questions.ask() else { return };
    for (rendered, least) in answers.renders.iter().zip([900, 3900]) {
        let deadline = &rendered.expect("a deadline").of("Deployment")[0]["spec"]["progressDeadlineSeconds"];
        assert!(deadline.as_u64() > Some(least), "{deadline}");
    }
}

/// Two releases of the chart behind one Service, the second with a pointer of its own.
#[test]
fn a_canary_release_gets_its_share_of_one_service() {
    let tier = json!({ "app-of": "shop" });
    let stable = with(json!({ "podLabels": tier, "service": { "selector": tier } }));
    let canary = with(json!({
        "fullnameOverride": "shop-canary", "nameOverride": "shop-canary", "podLabels": tier,
        "service": { "enabled": false }, "config": { "pointer": "canary" },
    }));
    let questions = Questions::default().render(&chart(), &stable).render(&chart(), &canary);
    let Some(answers) = questions.ask() else { return };
    let labels = |at: usize| {
        let deployment = answers.renders[at].expect("a release").of("Deployment")[0];
        (deployment["spec"]["selector"].clone(), deployment["spec"]["template"]["metadata"]["labels"].clone())
    };
    let [service] = answers.renders[0].of("Service")[..] else { panic!("one Service") };
    let ((stable, of_stable), (canary, of_canary)) = (labels(0), labels(1));
    for (label, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!((&of_stable[label], &of_canary[label]), (value, value));
    }
    assert_ne!(stable, canary, "each Deployment has pods of its own");
}

/// Then nothing of it stands in the pod's spec.
#[test]
fn a_token_in_a_secret_stays_there_and_the_hook_needs_none() {
    let values = with(json!({ "token": { "value": "", "existingSecret": "shop-token" } }));
    let Some(answers) = Questions::default().render(&chart(), &values).ask() else { return };
    let pod = answers.renders[0].expect("a token in a Secret").pod();
    let app = container(pod, "app");
    assert_eq!(
        app["lifecycle"]["preStop"],
        json!({ "exec": { "command": ["/opt/pitstop/pitstop", "drain"] } })
    );
    let mounted = |container: &Value, name: &str| {
        container["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["name"] == name)
    };
    assert!(mounted(app, "pitstop-bin") && mounted(app, "pitstop-state") && !mounted(app, "pitstop-token"));
    let volumes = pod["volumes"].as_array().unwrap();
    let token = volumes.iter().find(|volume| volume["name"] == "pitstop-token").unwrap();
    assert_eq!(token["secret"]["secretName"], "shop-token");
    assert_eq!(container(pod, "pitstop-install")["args"][0], "install");
}

/// `helm test` runs the agent's image with the pods' own settings.
#[test]
fn helms_test_asks_the_store_with_the_pods_rights() {
    let file = with(json!({ "pointer": { "configMap": { "name": "shop-release" } } }));
    let questions = Questions::default().render(&chart(), &with(json!({}))).render(&chart(), &file);
    let Some(answers) = questions.ask() else { return };
    let expected = [json!(["fleet", "production"]), json!(["doctor", "--config-only"])];
    for (rendered, args) in answers.renders.iter().zip(expected) {
        let [test] = rendered.expect("a test").of("Pod")[..] else { panic!("one test") };
        assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test");
        assert_eq!(super::least_privilege::violations(&test["spec"]), Vec::<String>::new());
        assert_eq!(test["spec"]["serviceAccountName"], rendered.pod()["serviceAccountName"]);
        assert_eq!(test["spec"]["containers"][0]["args"], args);
        let selector = rendered.of("Service")[0]["spec"]["selector"].as_object().unwrap();
        let met = selector.iter().all(|(label, value)| test["metadata"]["labels"][label] == *value);
        assert!(!met, "a client would meet it");
    }
}
