//! What an image without code needs for its jobs: the chart's migration Job, CronJob and workers, a console, and `helm test`.
//! Scripts of the release stand for Rails, Sidekiq and Solid Queue.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use pitstop_rig::containers::{Manifest, Pod, What};
use serde_json::Value;

use super::shop::{AGENT, AGENT_PORT, PUMA, Shop, assert_fresh, native};
use crate::PITSTOP;

const RENDERED: &str = include_str!("../../chart/snapshots/chart__rendered__pod_jobs.snap");
const TOKEN: (&str, &str) = ("Authorization", "Bearer 4f1c0a7be2d94b6f8f0d6f3c1a2b5e77");

/// As Sidekiq calls itself, and as it takes its two signals.
const SIDEKIQ: &str = "
$0 = 'sidekiq 6.4.1 app [0 of 5 busy]'
trap('TSTP') { $0 = 'sidekiq 6.4.1 app [0 of 5 busy] stopping' }
trap('TERM') { exit! 0 }
sleep
";
/// Solid Queue has SIGTERM only.
const SOLID_QUEUE: &str = "
$0 = 'solid-queue-supervisor(1.1.0): supervising 7, 8'
trap('TERM') { exit! 0 }
sleep
";

/// A store that several pods have.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let store = Self(dir);
        ["v1", "v2"].iter().for_each(|id| store.publish(id));
        store.run(&["promote", "v1", "--create"]);
        store
    }

    fn publish(&self, id: &str) {
        let app = tempfile::tempdir().unwrap();
        let says = |what: &str| format!("puts \"{what} {id} in #{{File.basename(Dir.pwd)}}\"\n");
        for (file, text) in [
            ("migrate.rb", says("migrated")),
            ("report.rb", says("reported")),
            ("sidekiq.rb", SIDEKIQ.into()),
            ("solid_queue.rb", SOLID_QUEUE.into()),
            ("config.ru", id.into()),
        ] {
            fs::write(app.path().join(file), text).unwrap();
        }
        self.run(&["publish", app.path().to_str().unwrap(), "--release", id]);
    }

    fn run(&self, args: &[&str]) {
        let output = Command::new(PITSTOP).env("PITSTOP_SOURCE", self.0.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        // The pods' user writes reports beside what root has made.
        let everything: Vec<PathBuf> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in everything.iter().filter(|path| path.is_dir()) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
    }

    fn pod(&self, kind: &str, name: &str) -> Pod {
        self.pod_of(Manifest::of(RENDERED, kind, name))
    }

    fn pod_of(&self, mut manifest: Manifest) -> Pod {
        assert_fresh();
        manifest.claim("releases", self.0.path());
        Pod::launch(manifest, &[(AGENT, "rig/agent"), (PUMA, "rig/app:bookworm")])
    }
}

/// How a container has ended, and what it has said.
#[track_caller]
fn outcome(pod: &Pod, container: &str) -> (i32, String) {
    let code = pod.wait(&format!("the end of {container}"), || {
        pod.events().into_iter().find_map(|event| match event.what {
            What::Exited(code) if event.container == container => Some(code),
            _ => None,
        })
    });
    (code, pod.log(container))
}

fn status(pod: &Pod) -> Value {
    let body = pod.get(AGENT_PORT, "/status", &[TOKEN]).map(|answer| answer.body).unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}

#[track_caller]
fn wait_for(pod: &Pod, release: &str) {
    pod.wait(&format!("the worker runs {release}"), || {
        let status = status(pod);
        (status["in_sync"] == true && status["running"] == release).then_some(())
    });
}

#[test]
fn e2e_pod_migrations_run_the_release_that_is_named_and_cron_jobs_the_one_that_runs() {
    pitstop_rig::needs_root!();
    let store = Store::new();
    let migration = store.pod("Job", "-migrate-v2");
    assert_eq!(outcome(&migration, "job"), (0, "migrated v2 in v2".into()), "before the pointer moves");
    for release in ["v1", "v2"] {
        let report = store.pod("CronJob", "-report");
        assert_eq!(outcome(&report, "job"), (0, format!("reported {release} in {release}")));
        store.run(&["promote", "v2"]);
    }
    // No other release stands in for the one that is named.
    let mut unknown = Manifest::of(RENDERED, "Job", "-migrate-v2");
    unknown.container("pitstop-fetch").args[2] = "v9".into();
    let unknown = store.pod_of(unknown);
    let (code, said) = outcome(&unknown, "pitstop-fetch");
    assert!(code == 1 && said.contains("release_unknown"), "{code}: {said}");
    assert_eq!(unknown.starts("job"), 0);
}

#[test]
fn e2e_pod_job_workers_follow_the_pointer_of_the_web_pods_and_helm_test_sees_them() {
    pitstop_rig::needs_root!();
    let store = Store::new();
    let workers = ["-sidekiq", "-solid-queue"].map(|name| store.pod("Deployment", name));
    workers.iter().for_each(|pod| wait_for(pod, "v1"));
    store.run(&["promote", "v2"]);
    workers.iter().for_each(|pod| wait_for(pod, "v2"));
    let test = store.pod("Pod", "-test");
    let (code, said) = outcome(&test, "pitstop");
    assert!(code == 0 && said.contains("v2"), "{code}: {said}");
    for pod in &workers {
        assert_eq!(pod.starts("jobs"), 1, "the script starts the new release");
        pod.delete();
        assert_eq!(pod.when("jobs", &What::Killed), None, "{:#?}", pod.events());
    }
}

/// The line that docs/job-workers.md has for a console.
fn console() -> Vec<String> {
    let blocks = pitstop_rig::documents::blocks("docs/job-workers.md");
    let lines = blocks.iter().flat_map(|block| block.text.lines());
    let line =
        lines.filter_map(|line| line.strip_prefix("$ kubectl exec -it deployment/shop -c app -- ")).next();
    let line = line.expect("a console in docs/job-workers.md");
    let words = Command::new("sh")
        .args(["-c", &format!("for word in {line}; do echo \"$word\"; done")])
        .output()
        .unwrap();
    String::from_utf8(words.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn e2e_pod_a_console_runs_the_release_that_serves_and_helm_test_passes() {
    pitstop_rig::needs_root!();
    let shop = Shop::born(native(), "bookworm");
    // `bundle exec ruby` is there, and shows where a console would be.
    let command: Vec<_> = console()
        .iter()
        .map(|word| word.replace("rails console", "ruby -e 'puts Dir.pwd, ENV[\"BUNDLE_GEMFILE\"]'"))
        .collect();
    let said = shop.pod.exec("app", &command.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "/srv/app/releases/v1\n/srv/app/current/Gemfile\n",
        "{said:?}"
    );
    let rendered = include_str!("../../chart/snapshots/chart__rendered__pod_native.snap");
    let test = Pod::launch(Manifest::of(rendered, "Pod", "-test"), &[(AGENT, "rig/agent")]);
    let (code, said) = outcome(&test, "pitstop");
    assert_eq!(code, 0, "{said}");
}
