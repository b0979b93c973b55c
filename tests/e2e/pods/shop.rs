//! A pod of the chart's, with a store, a pointer in a ConfigMap, and releases.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use pitstop_rig::{
    App,
    containers::{Manifest, Pod, What},
};
use serde_json::Value;

use crate::PITSTOP;

/// The images' names in the chart's snapshots.
pub const AGENT: &str = "registry.example/pitstop:0.2.0";
pub const PUMA: &str = "registry.example/app:ruby-3.3";

pub const AGENT_PORT: u16 = 9750;
pub const PORT: u16 = 3000;

/// As in docs/app-servers.md, with the variables of these tests.
const PUMA_CONFIG: &str = r"
bind 'tcp://0.0.0.0:' + ENV.fetch('PORT')
directory '/srv/app/current'
state_path '/run/puma/puma.state'
activate_control_app 'unix:///run/puma/control.sock', { auth_token: 'rig-token' }
threads 1, 3
if ENV.fetch('SHOP_WORKERS', '2').to_i > 0
  workers ENV.fetch('SHOP_WORKERS', '2').to_i
  preload_app! ENV['SHOP_PRELOADS'] == 'yes'
  worker_shutdown_timeout 5
end
";

/// `/eat` takes more memory than there is.
const EATER: &str = "
use(Class.new do
  def initialize(app) = @app = app

  def call(env)
    env['PATH_INFO'] == '/eat' ? [200, {}, [('x' * 900_000_000)[-1]]] : @app.call(env)
  end
end)
";

/// Which part of the chart's matrix.
pub fn native() -> Manifest {
    Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_native.snap"))
}

pub fn classic() -> Manifest {
    Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_classic.snap"))
}

pub fn in_the_apps_image() -> Manifest {
    Manifest::parse(include_str!("../../chart/snapshots/chart__rendered__pod_in_the_apps_image.snap"))
}

pub struct Shop {
    pub pod: Pod,
    suite: &'static str,
    token: String,
}

impl Shop {
    /// Nothing is published yet. The app's image has the Puma of that Debian.
    pub fn launch(manifest: Manifest, suite: &'static str) -> Self {
        assert_fresh();
        let token = format!("Bearer {}", manifest.pod.metadata.annotations["pitstop/token"]);
        let app = format!("rig/app:{suite}");
        let pod = Pod::launch(manifest, &[(AGENT, "rig/agent"), (PUMA, &app)]);
        Self { pod, suite, token }
    }

    /// It serves `v1`, and the agent has proved it.
    pub fn born(manifest: Manifest, suite: &'static str) -> Self {
        let shop = Self::launch(manifest, suite);
        shop.deploy(App::Good, "v1");
        shop.wait_in_sync("v1");
        shop.pod.wait("a ready Puma", || shop.pod.is_ready("app").then_some(()));
        shop
    }

    pub fn publish(&self, app: App, id: &str, more: &str) {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join(id);
        build(&release, app, id, PUMA_CONFIG, self.suite);
        let rackup = release.join("config.ru");
        fs::write(&rackup, format!("{more}\n{}", fs::read_to_string(&rackup).unwrap())).unwrap();
        let mut publish = Command::new(PITSTOP);
        publish.env("PITSTOP_SOURCE", self.pod.claim("releases")).arg("publish").arg(&release);
        let output = publish.args(["--release", id]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A swap of the ConfigMap.
    pub fn point_to(&self, id: &str) {
        self.pod.swap("pitstop-pointer", "release", id);
    }

    pub fn deploy(&self, app: App, id: &str) {
        self.publish(app, id, EATER);
        self.point_to(id);
    }

    pub fn agent(&self, path: &str) -> Option<String> {
        Some(self.pod.get(AGENT_PORT, path, &[("Authorization", &self.token)]).ok()?.body)
    }

    pub fn status(&self) -> Value {
        self.agent("/status").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default()
    }

    /// What Puma answers to a request from within the pod.
    pub fn release(&self) -> Option<String> {
        self.pod.get(PORT, "/", &[]).ok()?.release
    }

    /// The agent says so, and Puma answers so.
    #[track_caller]
    pub fn wait_in_sync(&self, id: &str) {
        self.pod.wait(&format!("in sync with {id}"), || {
            let status = self.status();
            let said = status["in_sync"] == true && status["running"] == id;
            (said && self.release().as_deref() == Some(id)).then_some(())
        });
    }

    /// When something happened to a container.
    #[track_caller]
    pub fn when(&self, container: &str, what: &What) -> f64 {
        let when = self.pod.when(container, what);
        when.unwrap_or_else(|| panic!("{container}: never {what:?}: {:#?}", self.pod.events())).as_secs_f64()
    }

    /// The answer that Puma's hook got.
    pub fn hook(&self) -> Option<Value> {
        self.pod.events().into_iter().find_map(|event| match event.what {
            What::Answered(Some(body)) if event.container == "app" => serde_json::from_str(&body).ok(),
            _ => None,
        })
    }

    /// What the kernel says about a container's first process, and what it may write.
    #[track_caller]
    pub fn assert_restricted(&self, container: &str) {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pod.pid(container).unwrap())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Uid:"), "1000 1000 1000 1000", "{container}");
        assert_eq!(field("Gid:"), "1000 1000 1000 1000", "{container}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{container} {set}");
        }
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()), "{container}");
        let mounts =
            fs::read_to_string(format!("/proc/{}/mounts", self.pod.pid(container).unwrap())).unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
        assert!(
            root.split(' ').nth(3).unwrap().split(',').any(|option| option == "ro"),
            "{container}: {root}"
        );
    }
}

/// An app's directory, with the gems that the image of that Debian has.
pub fn build(release: &Path, app: App, id: &str, puma: &str, suite: &str) {
    app.write(release, id, puma).unwrap();
    for file in ["Gemfile", "Gemfile.lock"] {
        fs::copy(gems(suite).join(file), release.join(file)).unwrap();
    }
}

/// Nothing of the code is tested by an image of yesterday's.
#[track_caller]
pub fn assert_fresh() {
    let written = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let fresh = written(&pods().join("rig-agent.made")) >= written(Path::new(PITSTOP));
    assert!(
        fresh,
        "the agent's image is older than {PITSTOP}: run .ci/setup pods and .ci/pod-images, as root"
    );
}

/// Where `.ci/pod-images` leaves what it makes.
fn pods() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    env::var_os("CARGO_TARGET_DIR").map_or(built, PathBuf::from).join("pods")
}

fn gems(suite: &str) -> PathBuf {
    pods().join(format!("gems-{suite}"))
}
