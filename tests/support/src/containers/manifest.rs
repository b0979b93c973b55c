//! What a pod is, in Kubernetes' own YAML. What is written there and not known here is refused, so that nothing of a
//! rendered chart goes untested without a word.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

/// Fields that reach no container: where a pod is placed, under which account, and how it is shown.
const NOT_PLAYED: [&str; 11] = [
    "serviceAccountName",
    "automountServiceAccountToken",
    "imagePullPolicy",
    "imagePullSecrets",
    "affinity",
    "nodeSelector",
    "tolerations",
    "topologySpreadConstraints",
    "priorityClassName",
    "fsGroupChangePolicy",
    "requests",
];

/// A Deployment's pod, and the ConfigMaps that come with it.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The pod.
    pub pod: Template,
    pub(super) config_maps: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) claims: BTreeMap<String, PathBuf>,
}

impl Manifest {
    /// Reads what `helm template` printed, or a snapshot of it.
    ///
    /// # Panics
    /// When there is no Deployment in it, or one that the rig cannot play.
    pub fn parse(text: &str) -> Self {
        Self::of(text, "Deployment", "")
    }

    /// The same, for the pod of the first object of this kind whose name ends so.
    ///
    /// # Panics
    /// When there is none, or one that the rig cannot play.
    pub fn of(text: &str, wanted: &str, end: &str) -> Self {
        let mut pod = None;
        let mut config_maps = BTreeMap::new();
        for document in text.split("\n---").filter(|document| document.contains("\napiVersion:")) {
            let mut object: Value = serde_saphyr::from_str(document).expect("the manifest is YAML");
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            match object["kind"].as_str() {
                Some(kind) if kind == wanted && pod.is_none() && name.ends_with(end) => {
                    let below =
                        if kind == "CronJob" { "/spec/jobTemplate/spec/template" } else { "/spec/template" };
                    let template = object.pointer(if kind == "Pod" { "" } else { below }).expect("a pod");
                    pod = Some(json!({ "metadata": template["metadata"], "spec": template["spec"] }));
                }
                Some("ConfigMap") => {
                    let data = serde_json::from_value(object["data"].take()).expect("a ConfigMap's data");
                    config_maps.insert(name, data);
                }
                _ => {}
            }
        }
        let mut pod = pod.unwrap_or_else(|| panic!("no {wanted} …{end} in the manifest"));
        forget(&mut pod);
        let pod = serde_json::from_value(pod)
            .unwrap_or_else(|error| panic!("the rig cannot play this pod: {error}"));
        Self { pod, config_maps, claims: BTreeMap::new() }
    }

    /// A claim is this directory, which other pods may have as well.
    pub fn claim(&mut self, name: &str, directory: &Path) {
        self.claims.insert(name.into(), directory.into());
    }

    /// A claim is mounted into these containers.
    pub fn mount(&mut self, name: &str, path: &str, containers: &[&str]) {
        let kind = VolumeKind::PersistentVolumeClaim { claim_name: name.into() };
        self.pod.spec.volumes.push(Volume { name: name.into(), kind });
        for container in containers {
            let mount = Mount { name: name.into(), mount_path: path.into(), read_only: false };
            self.container(container).volume_mounts.push(mount);
        }
    }

    /// A container of either kind.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn container(&mut self, name: &str) -> &mut Container {
        let spec = &mut self.pod.spec;
        let mut all = spec.init_containers.iter_mut().chain(&mut spec.containers);
        all.find(|container| container.name == name).unwrap_or_else(|| panic!("no container {name}"))
    }

    /// Another grace period, the agent's too.
    pub fn end_within(&mut self, seconds: u64) {
        self.pod.spec.termination_grace_period_seconds = seconds;
        self.set("PITSTOP_GRACE_PERIOD", &format!("{seconds}s"));
    }

    /// A value of one of the ConfigMaps that come with the pod.
    pub fn set(&mut self, key: &str, value: &str) {
        let map = self.config_maps.values_mut().next().expect("a ConfigMap in the manifest");
        map.insert(key.into(), value.into());
    }
}

fn forget(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !NOT_PLAYED.contains(&name.as_str()));
            fields.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

/// `template:` of a Deployment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Labels and annotations.
    pub metadata: Metadata,
    /// The pod itself.
    pub spec: Spec,
}

impl Template {
    /// What the downward API says of this pod on the rig's only node. A label or annotation that it has not is empty.
    pub(super) fn says(&self, field: &Field) -> String {
        let Metadata { labels, annotations } = &self.metadata;
        let named = |list: &str| field.field_path.strip_prefix(list)?.strip_prefix("['")?.strip_suffix("']");
        match (field.field_path.as_str(), named("metadata.labels"), named("metadata.annotations")) {
            ("spec.nodeName", ..) => "rig".into(),
            ("status.podIP", ..) => super::network::ADDRESS.to_string(),
            (_, Some(label), _) => labels.get(label).cloned().unwrap_or_default(),
            (.., Some(annotation)) => annotations.get(annotation).cloned().unwrap_or_default(),
            (path, ..) => panic!("the rig has no {path}"),
        }
    }
}

/// What is said about the pod. Its name is the rig's own.
#[derive(Debug, Clone, Deserialize)]
pub struct Metadata {
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// The pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Seconds.
    #[serde(default = "ten")]
    pub termination_grace_period_seconds: u64,
    /// `Never`: the containers run once, as those of a job.
    pub restart_policy: Option<String>,
    /// Whether the containers see each other's processes.
    #[serde(default)]
    pub share_process_namespace: bool,
    /// Of the whole pod. A user there would be the pause process' too: the rig knows none.
    #[serde(default)]
    pub security_context: PodSecurity,
    /// In their order.
    #[serde(default)]
    pub init_containers: Vec<Container>,
    /// All at once.
    pub containers: Vec<Container>,
    /// What can be mounted.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// `securityContext` of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSecurity {
    /// The group of the volumes, which every container has besides.
    pub fs_group: Option<u32>,
}

/// A container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub image: String,
    /// In place of the image's entry point.
    #[serde(default)]
    pub command: Vec<String>,
    /// In place of the image's command.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub env: Vec<EnvVariable>,
    /// More of it.
    #[serde(default)]
    pub env_from: Vec<Variables>,
    /// Ports that have names.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// `Always` makes a sidecar of an init container.
    pub restart_policy: Option<String>,
    /// Until this is well, the others are not asked, and what follows does not start.
    pub startup_probe: Option<Probe>,
    /// Whether it gets traffic.
    pub readiness_probe: Option<Probe>,
    /// Whether it is started again.
    pub liveness_probe: Option<Probe>,
    /// Its hooks.
    pub lifecycle: Option<Lifecycle>,
    /// Its user and what it may do. Without one the rig runs nothing.
    pub security_context: Security,
    /// Its limits.
    #[serde(default)]
    pub resources: Resources,
    /// What is mounted where.
    #[serde(default)]
    pub volume_mounts: Vec<Mount>,
}

impl Container {
    /// Sets a variable of its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push(EnvVariable { name: name.into(), value: Some(value.into()), value_from: None });
    }

    pub(super) fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    pub(super) fn port(&self, port: &PortRef) -> u16 {
        match port {
            PortRef::Number(number) => *number,
            PortRef::Name(name) => {
                let found = self.ports.iter().find(|port| port.name.as_ref() == Some(name));
                found.unwrap_or_else(|| panic!("{}: no port {name}", self.name)).container_port
            }
        }
    }
}

/// A variable of an environment.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVariable {
    /// Its name.
    pub name: String,
    /// Its value, where it stands there.
    pub value: Option<String>,
    /// Where it comes from else.
    pub value_from: Option<ValueFrom>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueFrom {
    /// The pod itself.
    pub field_ref: Field,
}

/// A variable.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// `envFrom`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Variables {
    /// All keys of a ConfigMap.
    ConfigMapRef(Named),
    /// Those of a Secret: the rig has none.
    SecretRef(Named),
}

/// A reference.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Named {
    /// To what.
    pub name: String,
    /// Whether it may be missing.
    #[serde(default)]
    pub optional: bool,
    /// Of its files: those with one may be executed.
    pub default_mode: Option<Value>,
}

/// A port of a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub container_port: u16,
}

/// A number, or a name among the container's own ports.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    /// A number.
    Number(u16),
    /// A name.
    Name(String),
}

/// A probe, in whole seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// What is asked.
    pub http_get: HttpGet,
    /// How often.
    #[serde(default = "ten")]
    pub period_seconds: u64,
    /// After how many failures it has failed.
    #[serde(default = "three")]
    pub failure_threshold: u64,
    /// How long an answer may take.
    #[serde(default = "one")]
    pub timeout_seconds: u64,
}

const fn ten() -> u64 {
    10
}

const fn three() -> u64 {
    3
}

const fn one() -> u64 {
    1
}

/// A request to the pod's address.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    /// The path.
    pub path: String,
    /// The port.
    pub port: PortRef,
    /// More headers.
    #[serde(default)]
    pub http_headers: Vec<Variable>,
}

/// Hooks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// Before SIGTERM.
    pub pre_stop: Hook,
}

/// What a hook does.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// It asks.
    pub http_get: HttpGet,
}

/// `securityContext` of a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Security {
    /// The user.
    pub run_as_user: u32,
    /// The group.
    pub run_as_group: u32,
    /// Root is refused.
    #[serde(default)]
    pub run_as_non_root: bool,
    /// Without `false` there are ways to more rights.
    pub allow_privilege_escalation: Option<bool>,
    /// Whether it may write into its own file system.
    #[serde(default)]
    pub read_only_root_filesystem: bool,
    /// What it may do.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// The runtime's own, or none is known here.
    pub seccomp_profile: Option<Seccomp>,
}

/// `capabilities`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Taken away.
    #[serde(default)]
    pub drop: Vec<String>,
}

/// `seccompProfile`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Seccomp {
    /// The runtime's own.
    RuntimeDefault {},
}

/// `resources`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Limits; the rig knows `memory`.
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
}

/// A mount of a volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// The volume.
    pub name: String,
    /// Where.
    pub mount_path: String,
    /// Whether nothing can be written there.
    #[serde(default)]
    pub read_only: bool,
}

/// A volume.
#[derive(Debug, Clone, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its kind.
    #[serde(flatten)]
    pub kind: VolumeKind,
}

/// What a volume is made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeKind {
    /// Empty at first, and gone with the pod.
    EmptyDir(Value),
    /// It outlives the pod.
    PersistentVolumeClaim {
        /// Which one.
        #[serde(rename = "claimName")]
        claim_name: String,
    },
    /// The keys of a ConfigMap.
    ConfigMap(Named),
    /// What is said about the pod.
    DownwardAPI {
        /// As which files.
        items: Vec<Item>,
    },
}

/// A file of what is said about the pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// Its name.
    pub path: String,
    /// What it says.
    pub field_ref: Field,
}

/// A field of the pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    /// `v1`.
    pub api_version: Option<String>,
    /// `metadata.annotations['…']`.
    pub field_path: String,
}
