//! A pod for as long as one likes: a real Puma under steady load, deploys of each mode, good and bad, and faults that a
//! seed decides. A client counts each request; a watcher looks at what must hold.
//!
//! `make soak DURATION=1h SEED=7`; `make test` plays forty seconds of it. MODES and FAULTS choose among all, by their names in
//! `plan.rs`. What a run leaves to understand it by is in `target/soak/seed-SEED`.

mod chaos;
mod invariants;
mod plan;
mod summary;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use pitstop_rig::{
    App, ExecPod, Load, S3Rig, Setup,
    load::{self, Records},
    needs_root,
    pod::rejection,
    poll, until_within,
};
use serde_json::Value;

use self::{
    invariants::Watch,
    plan::{Mode, Plan, Release, Settings, Step},
    summary::{Counts, Loss, Lost, OfPuma, Outcome, Sample},
};
use crate::{PITSTOP, memory_group::MemoryGroup};

const CLIENTS: usize = 4;
/// How long one deploy may take, with all that happens in between.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than a candidate is checked.
const LONG: &str = "/slow?s=3";
/// Room for some releases.
const VOLUME_BYTES: u64 = 64 << 20;

struct Soak {
    settings: Settings,
    began: Instant,
    load: Option<Load>,
    watch: Watch,
    s3: S3Rig,
    pod: ExecPod,
    /// After the pod, whose processes are in it.
    group: Option<MemoryGroup>,
    records: Records,
    losses: Vec<Loss>,
    counts: Counts,
    mode: Mode,
    last_release: u64,
    /// Releases that were taken back beside, which no client may have met.
    unmet: Vec<String>,
    /// When, and after how many starts of the container.
    candidate_killed: Option<(Instant, usize)>,
    /// When Puma replaced its workers in place.
    in_place: Vec<(Instant, Instant)>,
    /// So many failed requests are printed.
    told: usize,
    notes: Notes,
}

#[test]
fn e2e_soak_only_what_puma_itself_cannot_keep_is_lost() {
    needs_root!();
    let settings = Settings::read(|name| std::env::var(name).ok());
    println!("{settings:?}");
    let plan = Plan::new(&settings);
    let mut soak = Soak::start(settings);
    for step in plan {
        if soak.is_over(&step) {
            break;
        }
        soak.step(&step);
        assert_eq!(soak.watch.violations(), Vec::<String>::new(), "{step:?}");
    }
    soak.finish();
}

/// Starting and the load.
impl Soak {
    fn start(settings: Settings) -> Self {
        let notes = Notes::new(settings.seed);
        let setup = Setup {
            preload: Some(false),
            threads: (3, 3),
            worker_shutdown_timeout: 5,
            boot_seconds: 0.5,
            volume_bytes: Some(VOLUME_BYTES),
            ..Setup::default()
        };
        let (s3, group) = (S3Rig::start(), MemoryGroup::new());
        let mut pod = ExecPod::prepare(Path::new(PITSTOP), setup);
        if let Some(group) = &group {
            pod.script = format!("echo 0 > {}/cgroup.procs; {}", group.dir.display(), pod.script);
        }
        pod.parent_listens();
        pod.set("PITSTOP_RESTART_TIMEOUT", "20s");
        pod.agent.env.extend(s3.env());
        let mut pod = pod.published();
        set_mode(&pod, Mode::Beside);
        pod.start_kept();
        pod.agent.wait_in_sync("v1");
        let digests = BTreeMap::from([("v1".to_owned(), digest(&s3, "v1"))]);
        let watch = Watch::start(&pod, digests);
        let mut soak = Self {
            settings,
            began: Instant::now(),
            load: None,
            watch,
            s3,
            pod,
            group,
            records: Records::default(),
            losses: Vec::new(),
            counts: Counts::default(),
            mode: Mode::Beside,
            last_release: 1,
            unmet: Vec::new(),
            candidate_killed: None,
            in_place: Vec::new(),
            told: 0,
            notes,
        };
        soak.start_load();
        soak
    }

    fn start_load(&mut self) {
        let plan = load::Plan {
            keep_alive: CLIENTS,
            pause: self.settings.pause,
            fresh_per_second: self.settings.fresh,
            fresh_at_most: CLIENTS,
            patience: Duration::from_secs(60),
            at_most: Duration::from_secs(1_000_000),
            ..load::Plan::modest(self.pod.puma.port())
        };
        self.load = Some(Load::start(plan, "soak"));
    }

    fn pause_load(&mut self) {
        if let Some(load) = self.load.take() {
            self.records.append(load.finish());
        }
    }

    fn is_over(&self, step: &Step) -> bool {
        step.number > self.settings.deploys || self.began.elapsed() >= self.settings.duration
    }
}

/// The SHA-256 of a release's archive, as it was published.
fn digest(s3: &S3Rig, release: &str) -> String {
    let text = s3.object(&format!("releases/{release}.tar.zst.sha256")).expect("the release is published");
    String::from_utf8_lossy(&text).split_whitespace().next().unwrap_or_default().to_owned()
}

/// From the agent's next start on.
fn set_mode(pod: &ExecPod, mode: Mode) {
    let file = pod.agent.config();
    let text = fs::read_to_string(&file).expect("the configuration");
    let others: Vec<_> = text.lines().filter(|line| !line.starts_with("  mode: ")).collect();
    let text = others.join("\n").replace("restart:\n", &format!("restart:\n  mode: {}\n", mode.name()));
    fs::write(file, text + "\n").expect("the configuration");
}

/// One deploy.
impl Soak {
    fn step(&mut self, step: &Step) {
        if step.mode != self.mode {
            self.mode = step.mode;
            set_mode(&self.pod, step.mode);
            let agent = self.pod.agent_pid();
            self.pod.kill_agent();
            until_within(PATIENCE, "the next agent", || {
                (self.pod.agent_pid() != agent && self.pod.agent.status()?["stage"] == "steady").then_some(())
            });
        }
        let (began, before, starts) = (Instant::now(), self.pointer(), self.pod.starts());
        let mut ids = vec![self.publish(step.release)];
        let long = self.load.as_ref().map(|load| load.send(LONG));
        let first_half = step.which.is_multiple_of(2);
        let mut struck = first_half && self.strike(step, &before);
        if let Release::Superseded(after) = step.release {
            sleep(after);
            let before = self.pointer();
            ids.push(self.publish(Release::Good));
            struck = struck || !first_half && self.strike(step, &before);
        } else {
            struck = struck || !first_half && self.strike(step, &before);
        }
        let last = ids[ids.len() - 1].clone();
        let ended = self.wait_for_end(&last);
        self.judge_outcomes(step, (struck, starts), &ids, &ended);
        drop(long);
        self.rest(step);
        self.settle_candidate();
        if step.mode != Mode::Beside {
            self.in_place.push((began, Instant::now()));
        }
        self.tell(step, struck, &ids, (ended, began.elapsed()));
    }

    /// Publishes the next release and moves the pointer to it.
    fn publish(&mut self, release: Release) -> String {
        self.last_release += 1;
        let id = format!("v{}", self.last_release);
        let app = if let Release::Bad(app) = release { app } else { App::Good };
        self.pod.agent.publish(&self.pod.puma, app, &id);
        self.watch.published(&id, digest(&self.s3, &id));
        self.pod.agent.promote(&id);
        id
    }

    /// Waits until the deploy has ended; the reason where it was taken back.
    fn wait_for_end(&self, id: &str) -> Option<String> {
        until_within(PATIENCE, &format!("the end of the deploy of {id}"), || {
            let status = self.pod.agent.status()?;
            let runs = status["in_sync"] == true && status["running"] == id;
            let rejected = rejection(&status, id).filter(|_| status["stage"] == "steady");
            if runs { Some(None) } else { rejected.map(Some) }
        })
    }

    /// `starts`: how often the container was started before.
    fn judge_outcomes(
        &mut self,
        step: &Step,
        (struck, starts): (bool, usize),
        ids: &[String],
        ended: &Option<String>,
    ) {
        let ends_puma = struck && step.fault.is_some_and(plan::Fault::ends_puma);
        let last = &ids[ids.len() - 1];
        for id in ids {
            let named = if id == last && ids.len() > 1 { Release::Good } else { step.release };
            let outcome = if id != last {
                self.outcome_of_superseded(id)
            } else if ended.is_none() {
                Outcome::Verified
            } else {
                Outcome::Reverted
            };
            let bad = matches!(named, Release::Bad(_));
            if bad && outcome != Outcome::Reverted {
                self.watch.violate(format!("{id} is bad ({named:?}) and was {outcome}"));
            }
            if !bad && outcome == Outcome::Reverted && !ends_puma {
                self.watch.violate(format!("{id} is good and was reverted ({ended:?}) in {step:?}"));
            }
            let same_container = self.pod.starts() == starts;
            if outcome == Outcome::Reverted && step.mode == Mode::Beside && same_container {
                self.unmet.push(id.clone());
            }
            *self.counts.deploys.entry((step.mode, named.name(), outcome)).or_default() += 1;
        }
        if let Some(fault) = step.fault {
            let (done, missed) = self.counts.faults.entry(fault).or_default();
            *if struck { done } else { missed } += 1;
        }
    }

    /// By the journal, since the pointer has left it.
    fn outcome_of_superseded(&self, id: &str) -> Outcome {
        let events = events(&self.pod, id);
        let has = |event: &str| events.iter().any(|one| one == event);
        match (has("rejected"), has("verified")) {
            (true, _) => Outcome::Reverted,
            (false, true) => Outcome::Verified,
            (false, false) => Outcome::Superseded,
        }
    }

    /// Nothing is left in staging; then the processes are measured.
    fn rest(&mut self, step: &Step) {
        let staging = self.pod.puma.deploy_to().join(".pitstop/staging");
        let left = || fs::read_dir(&staging).map_or(0, Iterator::count);
        if poll(PATIENCE, || (left() == 0).then_some(())).is_none() {
            self.watch.violate(format!("{} entries stay in staging after {step:?}", left()));
        }
        let at = self.began.elapsed();
        self.counts.agent.0.extend(Sample::of(self.pod.agent_pid(), at));
        self.counts.parent.0.extend(Sample::of(self.pod.first(), at));
    }

    fn tell(&mut self, step: &Step, struck: bool, ids: &[String], (ended, took): (Option<String>, Duration)) {
        let tally = self.load.as_ref().map(Load::tally).unwrap_or_default();
        let before = self.records.tally(&[]);
        let fault = step.fault.map_or("no fault".to_owned(), |fault| {
            format!("{}{} after {:?}", fault.name(), if struck { "" } else { " (met nobody)" }, step.after)
        });
        let line = format!(
            "[{:5.0} s] {:4} {} {} {}, {fault}: {} in {:.1} s; {} requests, {} failed",
            self.began.elapsed().as_secs_f64(),
            step.number,
            step.mode.name(),
            ids.join(", "),
            step.release.name(),
            ended.as_deref().unwrap_or("verified"),
            took.as_secs_f64(),
            tally.requests + before.requests,
            tally.failed + before.failed,
        );
        println!("{line}");
        self.notes.add(&format!("{line}\n    {step:?}"));
        if tally.failed + before.failed > self.told {
            self.told = tally.failed + before.failed;
            self.tell_failures();
        }
    }

    /// Those that no exception names.
    fn tell_failures(&self) {
        let mut records = self.records.clone();
        records.append(self.load.as_ref().map(Load::so_far).unwrap_or_default());
        for failed in Lost::of(&records, &self.losses, self.of_puma()).first_others {
            let at = failed.began.duration_since(self.began);
            println!("    FAILED at {at:.1?}: {failed:?}");
            self.notes.add(&format!("    FAILED at {at:.1?}: {failed:?}"));
        }
    }
}

/// What Puma says when a worker that stops has answered a kept connection with 500.
const READ_LOST: &str = "Read: #<IOError: stream closed in another thread>";

/// The journal's events of a release, in their order.
fn events(pod: &ExecPod, id: &str) -> Vec<String> {
    let log = pod.revisions_log();
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = records.filter(|record| record["release"] == id);
    own.filter_map(|record| Some(record["event"].as_str()?.to_owned())).collect()
}

/// The end.
impl Soak {
    fn of_puma(&self) -> OfPuma {
        let read_lost = self.pod.said().matches(READ_LOST).count() as u64;
        OfPuma { read_lost, in_place: self.in_place.clone() }
    }

    fn finish(mut self) {
        self.pause_load();
        until_within(PATIENCE, "one server is left", || (self.pod.servers().len() == 1).then_some(()));
        for release in 1..=self.last_release {
            let events = events(&self.pod, &format!("v{release}"));
            let rejected = events.iter().position(|event| event == "rejected");
            if rejected.is_some_and(|at| events[at..].iter().any(|event| event == "attempt")) {
                self.watch.violate(format!("v{release} was tried again after it was rejected: {events:?}"));
            }
        }
        let lost = Lost::of(&self.records, &self.losses, self.of_puma());
        let text = summary::text(&self.counts, self.records.requests().len(), &lost);
        let looks = self.watch.looks();
        println!(
            "seed {}, {:.0} s\n{text}  {looks:?}",
            self.settings.seed,
            self.began.elapsed().as_secs_f64()
        );
        self.notes.add(&text);
        let unmet = |by: &Option<String>| by.as_ref().is_some_and(|by| self.unmet.contains(by));
        let met = self.records.requests().iter().filter(|record| unmet(&record.release)).count();
        let mut problems = self.watch.violations();
        problems.extend(self.counts.agent.problems("the agent"));
        problems.extend(self.counts.parent.problems("pitstop exec"));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(met, 0, "answers of releases that were taken back beside");
        assert!(lost.others.is_empty(), "lost outside of the exceptions: {:?}", lost.first_others);
        assert!(!self.records.requests().is_empty() && !self.counts.deploys.is_empty());
        // For docs/reliability.md: `make reliability` writes it there.
        let test = "e2e_soak_only_what_puma_itself_cannot_keep_is_lost";
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/faults");
        fs::create_dir_all(&dir).expect("the directory of what was tried");
        fs::write(
            dir.join(test),
            summary::row(&self.counts, &lost, self.began.elapsed().as_secs() / 60, test),
        )
        .expect("what was tried");
    }
}

/// What is left to understand a run by.
struct Notes(PathBuf);

impl Notes {
    fn new(seed: u64) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/soak/seed-{seed}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the directory of notes");
        Self(dir)
    }

    fn add(&self, text: &str) {
        use std::io::Write;
        let file = fs::File::options().create(true).append(true).open(self.0.join("steps.txt"));
        let _ = file.and_then(|mut file| writeln!(file, "{text}"));
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let records = self.load.as_ref().map(Load::so_far).unwrap_or_default();
            let failed: Vec<_> = records.failures(&[]).chain(self.records.failures(&[])).collect();
            self.notes.add(&format!("began {:?}\nlosses {:#?}\nfailed {failed:#?}", self.began, self.losses));
            self.notes.add(&format!(
                "violations {:#?}\n/status {}",
                self.watch.violations(),
                self.pod.status()
            ));
            let _ = fs::copy(self.pod.puma.log(), self.notes.0.join("container.log"));
            let _ = fs::write(self.notes.0.join("revisions.log"), self.pod.revisions_log());
            println!("logs and steps: {}", self.notes.0.display());
        }
    }
}
