//! The values that the tests render: one set for each thing that users choose.

use serde_json::{Value, json};

use super::rig::merge;

/// As few as a whole app can do with.
pub fn least() -> Value {
    json!({
        "agent": { "image": { "repository": "registry.example/pitstop" } },
        "app": { "image": "registry.example/app:ruby-3.3" },
        "token": { "value": "4f1c0a7be2d94b6f8f0d6f3c1a2b5e77" },
        "config": { "source": "s3://my-releases/apps/shop" },
    })
}

/// The least, and these.
pub fn with(values: Value) -> Value {
    let mut all = least();
    merge(&mut all, &values);
    all
}

/// Every set, by its name.
pub fn matrix() -> Vec<(&'static str, Value)> {
    vec![
        ("native", least()),
        ("classic", with(json!({ "agent": { "kind": "classic" } }))),
        ("volume_per_pod", with(volume_per_pod())),
        ("shared_volume", with(shared_volume())),
        ("store_in_a_directory", with(store_in_a_directory())),
        ("pointer_in_a_config_map", with(json!({ "pointer": { "configMap": { "name": "shop-release" } } }))),
        ("in_the_apps_image", with(in_the_apps_image())),
        ("beside_a_classic_agent", with(json!({ "beside": "sidecar", "agent": { "kind": "classic" } }))),
        ("everything_else", with(everything_else())),
        ("warmed_and_told", with(warmed_and_told())),
        ("token_in_a_secret", with(json!({ "token": { "value": "", "existingSecret": "shop-token" } }))),
        ("nothing_optional", with(nothing_optional())),
        // Run for real by tests/e2e/pods.
        ("pod_native", pod(json!({}))),
        ("pod_classic", pod(json!({ "agent": { "kind": "classic" } }))),
        ("pod_in_the_apps_image", pod(json!({ "agent": { "inAppImage": true } }))),
        ("pod_warm", pod(json!({ "config": { "warmup": warmup() } }))),
        ("pod_warm_exec", pod(json!({ "beside": "exec", "config": { "warmup": warmup() } }))),
        ("pod_beside", pod(json!({ "beside": "sidecar" }))),
        ("pod_beside_exec", pod(json!({ "beside": "exec" }))),
        ("pod_jobs", pod(jobs())),
    ]
}

fn volume_per_pod() -> Value {
    json!({
        "releases": { "kind": "ephemeral", "size": "20Gi" },
        "storageClass": { "create": true, "fileSystemId": "fs-0123456789abcdef0" },
        "serviceAccount": { "roleArn": "arn:aws:iam::111122223333:role/shop" },
    })
}

fn shared_volume() -> Value {
    json!({
        "releases": { "kind": "shared", "storageClassName": "efs" },
        "config": { "current": "/srv/current/app", "keep_releases": 3, "linked_dirs": ["storage", "public/uploads"] },
        "gracePeriodSeconds": 180,
    })
}

fn store_in_a_directory() -> Value {
    json!({
        "config": { "source": "/store" },
        "store": { "volume": { "persistentVolumeClaim": { "claimName": "releases" } } },
    })
}

fn in_the_apps_image() -> Value {
    json!({ "agent": { "inAppImage": true, "image": { "digest": format!("sha256:{}", "0a".repeat(32)) } } })
}

fn everything_else() -> Value {
    json!({
        "replicas": null,
        "fullnameOverride": "shop",
        "agent": { "port": 9751, "address": "[::]", "env": [{ "name": "AWS_REGION", "value": "eu-central-1" }] },
        "app": {
            "port": 8080, "healthPath": "/healthz", "container": "web",
            "env": [{ "name": "RAILS_ENV", "value": "production" }],
            "envFrom": [{ "secretRef": { "name": "shop" } }],
            "resources": { "requests": { "cpu": "500m", "memory": "512Mi" } },
        },
        "config": { "pointer": "staging", "restart": { "timeout": "90s" }, "drain": { "ignore_peers": ["10.0.0.1"] } },
        "podAnnotations": { "team": "shop" },
        "podLabels": { "tier": "web" },
        "commonLabels": { "app.kubernetes.io/part-of": "shop" },
        "deploymentAnnotations": { "reloader": "off" },
        "progressDeadlineSeconds": 1200,
        "minReadySeconds": 5,
        "revisionHistoryLimit": 3,
        "autoscaling": { "enabled": true, "maxReplicas": 30 },
        "service": { "selector": { "tier": "web" } },
        "ingress": {
            "enabled": true, "className": "nginx", "hosts": ["shop.example"],
            "tls": [{ "hosts": ["shop.example"], "secretName": "shop-tls" }],
        },
        "podDisruptionBudget": { "minAvailable": "75%" },
        "sizeLimits": { "pod": "1Gi", "tmp": "2Gi", "bin": "" },
        "hostAliases": [{ "ip": "10.0.0.9", "hostnames": ["db"] }],
        "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }] },
        "extraInitContainers": [{ "name": "wait", "image": "registry.example/wait:1", "securityContext": restricted() }],
        "extraObjects": [{
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "{{ .Release.Name }}-more" },
            "data": { "key": "value" },
        }],
        "serviceMonitor": { "enabled": true },
        "nodeSelector": { "kubernetes.io/arch": "amd64" },
        "tolerations": [{ "key": "spot", "operator": "Exists" }],
        "priorityClassName": "high",
        "imagePullSecrets": [{ "name": "registry" }],
        "networkPolicy": {
            "enabled": true,
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }],
            "metricsFrom": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } } }],
        },
        "podMonitor": { "enabled": true, "labels": { "release": "prometheus" } },
    })
}

/// Scripts of the release stand for Rails and for the job workers.
fn jobs() -> Value {
    json!({
        "pointer": { "configMap": { "name": "" } },
        "migration": { "release": "v2", "command": ["ruby", "migrate.rb"] },
        "cronJobs": [{ "name": "report", "schedule": "0 3 * * *", "command": ["ruby", "report.rb"] }],
        "workers": [
            { "name": "sidekiq", "command": ["ruby", "sidekiq.rb"], "seconds": 20, "replicas": 1 },
            { "name": "solid-queue", "command": ["ruby", "solid_queue.rb"], "seconds": 20 },
        ],
    })
}

/// The app of the pods answers this once there is a file `go`.
fn warmup() -> Value {
    json!({ "requests": ["/slow?s=0&after=go"], "count": 2, "timeout": "10m" })
}

fn warmed_and_told() -> Value {
    json!({
        "config": {
            "warmup": { "requests": ["/", "/products?page=1"], "limit": "300ms" },
            "node": "as-you-like",
            "image": "another:1",
        },
        "agent": { "kind": "classic", "readiness": { "periodSeconds": 3 } },
        "notifications": { "existingSecret": "shop-notify", "signed": true },
    })
}

/// What the standard "restricted" demands of a container.
fn restricted() -> Value {
    json!({
        "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

fn nothing_optional() -> Value {
    json!({
        "token": { "enabled": false, "value": "" },
        "app": { "healthPath": "", "tmp": false },
        "config": { "pod_dirs": [], "puma": { "state_file": "" } },
        "service": { "enabled": false },
        "serviceAccount": { "create": false, "name": "shop" },
        "podDisruptionBudget": { "enabled": false },
    })
}

/// A store in a directory, the pointer in a ConfigMap, and little patience.
fn pod(values: Value) -> Value {
    let mut all = with(json!({
        "gracePeriodSeconds": 40,
        "config": {
            "source": "/store",
            "poll_interval": "1s",
            "restart": { "spread": "0s" },
            "verify": { "soak": "1s", "release_header": "X-Release" },
            "drain": { "min": "1s", "quiet": "2s", "reserve": "6s" },
            "puma": { "worker_shutdown_timeout": "5s" },
        },
        "store": { "volume": { "persistentVolumeClaim": { "claimName": "releases" } } },
        "pointer": { "configMap": { "name": "shop-release" } },
        "app": { "startup": { "periodSeconds": 1 }, "readiness": { "periodSeconds": 1 } },
    }));
    merge(&mut all, &values);
    all
}
