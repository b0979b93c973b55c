//! A stranger's first hour, from the documents alone: a Deployment that serves the code in its image joins, by the chart or
//! by hand, deploys its first release, and breaks the second one on purpose; and the tutorial from zero. Each block is taken
//! from the documents and run in their order; only the store is a directory here, and `kubectl` and `helm` the rig. (What a
//! stranger runs without a cluster: `tests/docs/transcript.rs`.)
//!
//! Of the tutorial nobody can play here: its gems and assets (they need RubyGems; `e2e_a_rails_app_…` has a real Rails), the
//! bucket (no `aws`, and the s3 tests hold its roles), and `docker build` (`.ci/pod-images` builds both images).

use std::{
    cell::OnceCell,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use pitstop_rig::{
    App,
    containers::{Manifest, Pod, What},
    documents::{Block, blocks},
};

use super::shop::{AGENT, PORT, assert_fresh, build};
use crate::PITSTOP;

const BY_CHART: &str = include_str!("../../chart/snapshots/chart__joined__joined.snap");
const FROM_ZERO: &str = include_str!("../../chart/snapshots/chart__in_documents__tutorial.snap");
/// The images of the documents. The tutorial's has Ruby 3.3.
const IMAGES: [(&str, &str); 3] = [
    (AGENT, "rig/agent"),
    ("registry.example/shop:v1", "rig/app:bookworm"),
    ("registry.example/shop:ruby-3.3", "rig/app:trixie"),
];
/// What the stranger's app has already.
const PUMA: &str = "bind 'tcp://0.0.0.0:3000'\nthreads 1, 3\nworkers 2\npreload_app! false\n";
/// It waits for no other pod of its fleet.
const IMPATIENT: [(&str, &str); 3] =
    [("PITSTOP_VERIFY_SOAK", "1s"), ("PITSTOP_POLL_INTERVAL", "1s"), ("PITSTOP_RESTART_SPREAD", "0s")];

struct Stranger {
    /// `terminal`, `code` and `store`.
    dir: tempfile::TempDir,
    manifest: Manifest,
    pod: OnceCell<Pod>,
    began: Instant,
}

impl Stranger {
    /// Nothing runs yet.
    fn new(mut manifest: Manifest) -> Self {
        assert_fresh();
        let dir = tempfile::tempdir().unwrap();
        // The pods' user writes its reports beside what root makes.
        for open in ["", "store", "store/fleet", "store/fleet/production", "store/pointers", "store/releases"]
        {
            fs::create_dir_all(dir.path().join(open)).unwrap();
            fs::set_permissions(dir.path().join(open), fs::Permissions::from_mode(0o777)).unwrap();
        }
        manifest.claim("store", &dir.path().join("store"));
        manifest.mount("store", "/store", &["pitstop"]);
        let agent = manifest.container("pitstop");
        agent.set("PITSTOP_SOURCE", "/store");
        IMPATIENT.iter().for_each(|(name, value)| agent.set(name, value));
        Self { dir, manifest, pod: OnceCell::new(), began: Instant::now() }
    }

    /// The Deployment that is there serves the code in its image, and has pitstop now.
    fn joins(mut manifest: Manifest, app: &str) -> Self {
        manifest.mount("code", "/app", &[app]);
        let mut stranger = Self::new(manifest);
        let puma = format!("{PUMA}{}", ruby("docs/kubernetes.md", "state_path"));
        let terminal = stranger.terminal();
        for (path, app, id) in [
            (stranger.dir.path().join("code"), App::Good, "image"),
            (terminal.join("build"), App::Good, "v1"),
            (terminal.join("broken"), App::RaisesOnBoot, "v2"),
        ] {
            build(&path, app, id, &puma, "bookworm");
        }
        stranger.manifest.claim("code", &stranger.dir.path().join("code"));
        stranger.launch();
        stranger.pod().wait("the code in the image serves", || stranger.serves("image").then_some(()));
        stranger.says("the pod has joined, and serves the code in its image");
        stranger
    }

    /// Where the commands are typed.
    fn terminal(&self) -> PathBuf {
        self.dir.path().join("terminal")
    }

    fn launch(&self) {
        let pod = Pod::launch(self.manifest.clone(), &IMAGES);
        assert!(self.pod.set(pod).is_ok(), "one pod");
    }

    fn pod(&self) -> &Pod {
        self.pod.get().expect("the pod was launched")
    }

    fn serves(&self, release: &str) -> bool {
        self.pod().get(PORT, "/", &[]).is_ok_and(|answer| answer.release.as_deref() == Some(release))
    }

    fn says(&self, what: &str) {
        println!("{:5.2} min  {what}", self.began.elapsed().as_secs_f64() / 60.0);
    }

    /// Types each line of a block, and gives the last one's exit code.
    fn types(&self, block: &Block) -> i32 {
        let lines = block.text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
        lines.fold(0, |_, line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let code = match words[..] {
                ["export", ..] => 0,
                ["pitstop", ref args @ ..] => self.pitstop(args),
                ["helm", "install", "shop", "charts/pitstop", "--values", "values.yaml"] => {
                    self.launch();
                    0
                }
                ["kubectl", "rollout", "status", "deployment/shop"] => {
                    let pod = self.pod();
                    pod.wait("a ready Deployment", || pod.is_ready("app").then_some(()));
                    0
                }
                ["kubectl", "exec", _, "-c", container, "--", ref command @ ..] => {
                    let output = self.pod().exec(container, command);
                    println!("{}", String::from_utf8_lossy(&output.stdout));
                    output.status.code().unwrap()
                }
                _ => panic!("{}: nobody plays {line}", block.place),
            };
            self.says(line);
            code
        })
    }

    fn pitstop(&self, args: &[&str]) -> i32 {
        let mut command = Command::new(PITSTOP);
        command.current_dir(self.terminal()).env("PITSTOP_SOURCE", self.dir.path().join("store"));
        let patience: &[&str] = if args.contains(&"--wait") { &["--timeout", "100s"] } else { &[] };
        let output = command.args(args).args(patience).output().unwrap();
        let code = output.status.code().unwrap();
        println!("{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        assert!(code < 3, "{args:?}: {code}");
        code
    }

    /// The second release is broken, and undone; then the pod ends, which waits for no kubelet's probes.
    fn breaks_the_second_release(self, app: &str) {
        assert!(self.serves("v1"));
        let broken = typed("docs/tutorial.md", "publish ./broken");
        assert_eq!(self.types(&broken), 0, "the rollback");
        assert!(self.serves("v1"));
        let pod = self.pod();
        assert_eq!((pod.starts("pitstop"), pod.starts(app)), (1, 1), "in the pod that is there");
        pod.delete();
        self.says("the pod has ended");
        let answers = pod.events().into_iter().filter_map(|event| match event.what {
            What::Answered(answer) => answer,
            _ => None,
        });
        let answers: Vec<_> = answers.collect();
        assert!(answers.len() == 1 && answers[0].contains(r#""drained""#), "{answers:?}");
    }
}

/// The block of Ruby in a document that has this in it.
fn ruby(document: &str, what: &str) -> String {
    let of = |block: &Block| block.language == "ruby" && block.text.contains(what);
    blocks(document).into_iter().find(of).unwrap_or_else(|| panic!("{document}: no {what}")).text
}

/// The one block of a document in which this is typed.
fn typed(document: &str, what: &str) -> Block {
    let of = |block: &Block| block.language == "console" && block.text.contains(what);
    blocks(document).into_iter().find(of).unwrap_or_else(|| panic!("{document}: nobody types {what}"))
}

fn hour(manifest: Manifest, app: &str) {
    let stranger = Stranger::joins(manifest, app);
    let doctor = stranger.types(&typed("docs/kubernetes.md", "promote v1 --create --wait"));
    assert_eq!(doctor, 0, "doctor finds nothing that is broken");
    stranger.breaks_the_second_release(app);
}

#[test]
fn e2e_pod_a_strangers_first_hour_by_the_chart() {
    pitstop_rig::needs_root!();
    hour(Manifest::parse(BY_CHART), "web");
}

#[test]
fn e2e_pod_a_strangers_first_hour_by_hand() {
    pitstop_rig::needs_root!();
    let diff = blocks("docs/kubernetes.md").into_iter().find(|block| block.info() == "diff native");
    let text = diff.expect("a Deployment in docs/kubernetes.md").text;
    let after = text.lines().filter_map(|line| line.strip_prefix(['+', ' '])).collect::<Vec<_>>().join("\n");
    hour(Manifest::parse(&format!("\n{after}\n")), "app");
}

#[test]
fn e2e_pod_the_tutorial_from_zero() {
    pitstop_rig::needs_root!();
    let stranger = Stranger::new(Manifest::parse(FROM_ZERO));
    let puma = |more: &str| format!("{more}{}", ruby("docs/rails.md", "worker_check_interval"));
    // What `rails new` writes; and `log`, `tmp` and `node_modules`, which are left out.
    let generated = "port ENV.fetch('PORT', 3000)\nthreads 1, 3\n";
    let build = |path: &Path, app, id| build(path, app, id, &puma(generated), "trixie");
    let terminal = stranger.terminal();
    build(&terminal, App::Good, "v1");
    for left_out in ["log", "tmp", "node_modules"] {
        fs::create_dir(terminal.join(left_out)).unwrap();
        fs::write(terminal.join(left_out).join("file"), "nobody needs it").unwrap();
    }
    stranger.types(&typed("docs/tutorial.md", "publish . --release v1"));
    let code = stranger.types(&typed("docs/tutorial.md", "helm install"));
    assert_eq!(code, 0, "doctor finds nothing that is broken");
    build(&terminal.join("broken"), App::RaisesOnBoot, "v2");
    stranger.breaks_the_second_release("app");
}
