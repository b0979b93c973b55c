//! The pipelines of the documents are run, with the real program, a store, and pods that answer as they do. Whatever
//! makes `rollout` fail: production stays what it was, what others did stays, and only the pipeline's own move is undone.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::SystemTime,
};

use pitstop_rig::{documents::blocks, wait_until};
use serde_json::{Value, json};

/// A job that rolls out, as its runner would start it.
struct Job {
    place: String,
    pointer: String,
    /// The shell, with its options.
    shell: &'static [&'static str],
    script: String,
    /// How the document calls the release.
    release: &'static str,
}

fn parsed(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(Into::into)).collect()
}

/// Every job of `docs/ci.md` in which `rollout` stands.
fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for block in blocks("docs/ci.md") {
        let all = if block.language == "yaml" { parsed(&block.text) } else { continue };
        let of_github = all["jobs"].as_object().into_iter().flatten().filter(|_| block.what == "github");
        for (name, job) in of_github {
            let scripts =
                job["steps"].as_array().into_iter().flatten().filter_map(|step| step["run"].as_str());
            jobs.extend(scripts.map(|script| Job {
                place: format!("{}: {name}", block.place),
                pointer: job["env"]["PITSTOP_POINTER"].as_str().unwrap_or_default().into(),
                shell: &["bash", "-e"],
                script: script.into(),
                release: "GITHUB_SHA",
            }));
        }
        let of_gitlab = all.as_object().into_iter().flatten().filter(|_| block.what == "gitlab");
        jobs.extend(of_gitlab.map(|(name, job)| Job {
            place: format!("{}: {name}", block.place),
            pointer: job["variables"]["PITSTOP_POINTER"].as_str().unwrap_or_default().into(),
            shell: &["sh", "-e"],
            script: texts(&job["script"]).join("\n"),
            release: "CI_COMMIT_SHORT_SHA",
        }));
    }
    jobs.retain(|job| job.script.contains("pitstop rollout"));
    jobs
}

/// A store in which `v1` to `v3` were promoted in turn, and `v4` is new.
struct World {
    dir: tempfile::TempDir,
    pointer: String,
}

const SEQUENCE: u64 = 3;

impl World {
    fn new(job: &Job) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), pointer: job.pointer.clone() };
        let app = world.dir.path().join("app");
        fs::create_dir(&app).unwrap();
        for release in ["v1", "v2", "v3", "v4"] {
            fs::write(app.join("config.ru"), release).unwrap();
            world.ok(&["publish", app.to_str().unwrap(), "--release", release]);
        }
        ["v1", "v2", "v3"].iter().for_each(|release| world.ok(&["promote", release]));
        let program = world.dir.path().join("bin/pitstop");
        fs::create_dir(program.parent().unwrap()).unwrap();
        let real = env!("CARGO_BIN_EXE_pitstop");
        // The store is away only for as long as `rollout` asks it.
        let script = format!(
            "#!/bin/sh\n[ \"$1\" != rollout ] || PITSTOP_SOURCE=\"${{ROLLS_IN:-$PITSTOP_SOURCE}}\"\nexec {real} \"$@\"\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        world
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PITSTOP_SOURCE", self.store()).env("PITSTOP_POINTER", &self.pointer);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ok(&self, args: &[&str]) {
        let output = self.command(env!("CARGO_BIN_EXE_pitstop")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self) -> PathBuf {
        self.store().join("pointers").join(&self.pointer)
    }

    /// Without the archive's digest, and without who moved it and when.
    fn pointer(&self) -> Value {
        let mut pointer: Value = serde_json::from_slice(&fs::read(self.path()).unwrap()).unwrap();
        pointer
            .as_object_mut()
            .unwrap()
            .retain(|field, _| !["sha256", "moved_by", "moved_at"].contains(&&**field));
        pointer
    }

    fn report(&self, report: Value) {
        let dir = self.store().join("fleet").join(&self.pointer);
        fs::create_dir_all(&dir).unwrap();
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut whole =
            json!({ "v": 1, "pod": "web", "running": "v3", "in_sync": false, "stage": "steady", "at": at });
        whole.as_object_mut().unwrap().extend(report.as_object().unwrap().clone());
        fs::write(dir.join("web"), whole.to_string()).unwrap();
    }

    /// The job begins, with less patience than the document has.
    fn start(&self, job: &Job, release: &str, more: &[(&str, &str)]) -> Child {
        let (shell, options) = job.shell.split_first().unwrap();
        let script = job.script.replace("--timeout 15m", "--timeout 2s").replace("--bake 60s", "--bake 1s");
        let mut command = self.command(shell);
        command.args(options).arg("-c").arg(script).current_dir(&self.dir);
        command.env("PATH", format!("{}:/usr/bin:/bin", self.dir.path().join("bin").display()));
        command.env(job.release, release).envs(more.iter().copied()).spawn().unwrap()
    }

    #[track_caller]
    fn ends(&self, job: &Job, child: Child, code: i32) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{}: {said}", job.place);
    }
}

fn revision(release: &str, sequence: u64) -> Value {
    json!({ "release": release, "sequence": sequence })
}

fn rejection(release: &str, sequence: u64) -> Value {
    json!([{ "release": release, "sequence": sequence, "reason": "boot_loop" }])
}

#[test]
fn a_pipeline_whose_rollout_moves_nothing_leaves_everything_as_it_was() {
    for job in jobs() {
        let world = World::new(&job);
        let before = world.pointer();
        world.ends(&job, world.start(&job, "v9", &[]), 1);
        assert_eq!(world.pointer(), before, "{}: no such release", job.place);
        world.ends(&job, world.start(&job, "v4", &[("ROLLS_IN", "/nonexistent")]), 1);
        assert_eq!(world.pointer(), before, "{}: the store was away", job.place);
        let mut frozen = before.clone();
        frozen["frozen"] = json!({ "why": "audit" });
        fs::write(world.path(), frozen.to_string()).unwrap();
        world.ends(&job, world.start(&job, "v4", &[]), 4);
        assert_eq!(world.pointer(), frozen, "{}: frozen", job.place);
    }
}

#[test]
fn a_pipeline_that_loses_the_race_leaves_the_winners_move() {
    for job in jobs() {
        let world = World::new(&job);
        // It has read the pointer when it waits for the lock.
        let lock = world.store().join("pointers/.lock");
        let held = File::create(&lock).unwrap();
        held.lock().unwrap();
        let child = world.start(&job, "v4", &[]);
        wait_until("rollout waits for the lock", || opened(&lock));
        let theirs = json!({ "release": "v2", "sequence": 5, "previous": "v3" });
        fs::write(world.path(), theirs.to_string()).unwrap();
        drop(held);
        world.ends(&job, child, 4);
        assert_eq!(world.pointer(), theirs, "{}", job.place);
        // Or somebody moves it while the pods are waited for.
        world.report(json!({ "desired": revision("v2", 5), "in_sync": true }));
        let child = world.start(&job, "v4", &[]);
        wait_until("the canary", || world.pointer()["canary"]["release"] == "v4");
        let theirs = json!({ "release": "v1", "sequence": 9, "previous": "v2" });
        fs::write(world.path(), theirs.to_string()).unwrap();
        world.ends(&job, child, 4);
        assert_eq!(world.pointer(), theirs, "{}: not ours to move back", job.place);
    }
}

#[test]
fn a_pipeline_undoes_its_own_move_when_the_pods_rejected_it_or_do_not_arrive() {
    for job in jobs() {
        let world = World::new(&job);
        let back = |sequence: u64| {
            let pointer = world.pointer();
            assert_eq!((&pointer["release"], &pointer["sequence"]), (&json!("v3"), &json!(SEQUENCE)));
            assert_eq!((&pointer["canary"], &pointer["rolled_back"]), (&Value::Null, &json!(["v4"])));
            assert_eq!(pointer["aborted"]["sequence"], sequence, "{}", job.place);
        };
        let rejected = rejection("v4", SEQUENCE + 1);
        // It has rejected the canary, and is back.
        world.report(json!({ "rejected": rejected, "desired": revision("v3", SEQUENCE), "in_sync": true }));
        world.ends(&job, world.start(&job, "v4", &[]), 2);
        back(SEQUENCE + 1);
        // It never reads the pointer.
        world.ends(&job, world.start(&job, "v4", &[]), 2);
        back(SEQUENCE + 2);
    }
}

#[test]
fn every_pipeline_is_run_and_succeeds_when_the_pods_do() {
    let jobs = jobs();
    assert_eq!(jobs.len(), 2, "GitHub's and GitLab's");
    for job in jobs {
        let world = World::new(&job);
        world.report(json!({ "desired": revision("v4", SEQUENCE + 1), "in_sync": true, "running": "v4" }));
        world.ends(&job, world.start(&job, "v4", &[]), 0);
        assert_eq!(world.pointer()["release"], "v4");
    }
}

/// Whether another process has this file open.
fn opened(path: &Path) -> bool {
    let others = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let name = entry.file_name();
        name != *std::process::id().to_string() && name.to_string_lossy().parse::<u32>().is_ok()
    });
    let files =
        others.flat_map(|entry| fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten());
    files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == path))
}
