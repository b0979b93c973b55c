//! The Puma adapter against real Pumas: what it sees, and whom it signals.

use std::{path::Path, time::Instant};

use pitstop::{
    app_server::{AppServer, Look, puma::Puma},
    config::{self, RestartMode},
    core::{self, Act, Cwd, Generation, GenerationKey, Mode, ProcessKey, Reason, Sight},
    revision::ReleaseId,
};
use pitstop_rig::{App, Directory, PATIENCE, PumaRig, Setup, Wrapper, puma::TOKEN, until};

/// The adapter, asked without a runtime of the test's own.
struct Eye {
    runtime: tokio::runtime::Runtime,
    puma: Puma,
}

impl Eye {
    /// With the control server configured.
    fn on(rig: &PumaRig) -> Self {
        Self::with(rig, told(rig), RestartMode::Auto)
    }

    fn with(rig: &PumaRig, section: config::Puma, mode: RestartMode) -> Self {
        Self::at(&rig.deploy_to(), section, mode)
    }

    fn at(deploy_to: &Path, section: config::Puma, mode: RestartMode) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { puma: Puma::new(section, mode, deploy_to.to_owned()).unwrap(), runtime }
    }

    fn look(&self) -> Look {
        self.runtime.block_on(self.puma.observe())
    }

    fn seen(&self) -> Generation {
        generation(&self.look()).expect("the Puma is seen")
    }

    /// Looks until everything serves this release.
    fn settled(&self, release: &str) -> Generation {
        until(&format!("every process in {release} booted"), || {
            generation(&self.look()).filter(|seen| settled_in(seen, release))
        })
    }

    /// Looks again and again until the condition holds; all looks, the last one included.
    fn watch(&self, what: &str, mut over: impl FnMut(&Look) -> bool) -> Vec<Look> {
        let (begun, mut looks) = (Instant::now(), Vec::new());
        loop {
            let look = self.look();
            let over = over(&look);
            looks.push(look);
            if over {
                return looks;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}; last: {:?}", looks.last());
        }
    }

    fn perform(&self, act: Act, on: GenerationKey) -> Result<(), core::Trouble> {
        self.runtime.block_on(self.puma.perform(act, on))
    }

    fn plan(&self, running: &str, release: &str) -> Result<Mode, core::Trouble> {
        let (running, release) = (id(running), id(release));
        self.runtime.block_on(self.puma.plan(Some(&running), &release)).map(|plan| plan.mode)
    }

    fn findings(&self) -> Vec<String> {
        self.look().findings.into_iter().map(|finding| finding.code).collect()
    }
}

fn told(rig: &PumaRig) -> config::Puma {
    config::Puma {
        control_url: Some(rig.control_url()),
        control_token: Some(TOKEN.into()),
        ..config::Puma::default()
    }
}

fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

fn generation(look: &Look) -> Option<Generation> {
    match &look.sight {
        Sight::Seen(server) => server.generations.first().cloned(),
        _ => None,
    }
}

/// `None` when the look fell into the very moment of an exec.
fn generation_or_torn(look: &Look) -> Option<Generation> {
    assert!(matches!(look.sight, Sight::Seen(_) | Sight::Unclear), "lost sight of it: {look:?}");
    generation(look)
}

fn settled_in(seen: &Generation, release: &str) -> bool {
    let at_home = |cwd: &Cwd| *cwd == Cwd::Release(id(release));
    seen.signalable
        && at_home(&seen.cwd)
        && seen.processes.len() == seen.expected
        && seen.processes.iter().all(|process| process.booted && at_home(&process.cwd))
}

fn workers(seen: &Generation) -> Vec<ProcessKey> {
    let mut keys: Vec<_> = seen.processes.iter().map(|process| process.key).collect();
    keys.sort_unstable();
    keys
}

fn images(looks: &[Look]) -> Vec<GenerationKey> {
    let mut keys: Vec<_> = looks.iter().filter_map(generation).map(|seen| seen.key).collect();
    keys.dedup();
    keys
}

fn title(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn has_title(pid: i32) -> bool {
    title(pid).starts_with("puma ")
}

mod seen {
    use super::*;

    #[test]
    fn a_cluster_with_its_workers_and_their_numbers() {
        let rig = PumaRig::start(Setup { workers: 3, ..Setup::default() });
        let eye = Eye::on(&rig);
        let seen = eye.settled("v1");
        assert_eq!((seen.expected, seen.processes.len()), (3, 3));
        let look = until("each worker's first report", || {
            let look = eye.look();
            look.traffic.workers.as_ref().is_some_and(|loads| loads.len() == 3).then_some(look)
        });
        assert_eq!(look.description.pid, rig.master());
        assert_eq!(look.description.mode.as_deref(), Some("cluster"));
        assert!(look.description.workers.iter().all(|w| w.booted && w.release == Some(id("v1"))));
        assert!(look.traffic.sockets.is_some());
        assert_eq!(look.findings, []);
    }

    #[test]
    fn a_single_process_is_its_own_worker() {
        let rig = PumaRig::start(Setup::single());
        let eye = Eye::on(&rig);
        let seen = eye.settled("v1");
        assert_eq!((seen.expected, seen.processes.len()), (1, 1));
        let loads = eye.look().traffic.workers.expect("its numbers");
        assert_eq!(loads.iter().map(|load| load.key).collect::<Vec<_>>(), workers(&seen));
        assert_eq!(eye.findings(), ["phased_restart_unavailable"]);
    }

    #[test]
    fn a_request_in_flight_is_counted() {
        let rig = PumaRig::start(Setup::single());
        let eye = Eye::on(&rig);
        let port = rig.port();
        let request = std::thread::spawn(move || pitstop_rig::http::get(port, "/slow?s=2"));
        until("a busy thread", || {
            let loads = eye.look().traffic.workers?;
            (loads.iter().map(|load| load.busy).sum::<u32>() == 1).then_some(())
        });
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }

    #[test]
    fn the_keys_are_the_same_for_another_agent() {
        let rig = PumaRig::start(Setup::default());
        let (first, second) = (Eye::on(&rig).settled("v1"), Eye::on(&rig).settled("v1"));
        assert_eq!(first.key, second.key);
        assert_eq!(workers(&first), workers(&second));
    }

    #[test]
    fn without_a_control_server_less_is_known_and_said() {
        for (setup, expected) in [(Setup::default(), 2), (Setup::single(), 1)] {
            let rig = PumaRig::start(Setup { control: false, state_file: false, ..setup });
            let eye = Eye::with(&rig, config::Puma::default(), RestartMode::Auto);
            let seen = eye.settled("v1");
            assert_eq!((seen.expected, eye.look().traffic.workers), (expected, None));
            assert!(eye.findings().contains(&"control_server_absent".into()));
        }
    }

    #[test]
    fn a_single_process_is_not_booted_while_its_app_loads() {
        let mut rig = PumaRig::prepare(Setup { control: false, ..Setup::single() });
        rig.release("slow", App::HangsOnBoot);
        rig.flip("slow");
        let eye = Eye::with(&rig, config::Puma::default(), RestartMode::Auto);
        let container = rig.launch();
        let master = container.pid().unwrap();
        until("the title", || has_title(master).then_some(()));
        let seen = eye.seen();
        assert!(!seen.signalable, "SIGUSR2 would end it now");
        assert!(seen.processes.iter().all(|process| !process.booted));
    }
}

mod restarts {
    use super::*;

    /// Each start of Ruby takes this much longer, so that the gap between exec and title is wide.
    fn slow_ruby(rig_dir: &Path) -> Vec<(String, String)> {
        let lib = rig_dir.join("slow_ruby.rb");
        std::fs::write(&lib, "sleep 0.7\n").unwrap();
        vec![("RUBYOPT".into(), format!("-r{}", lib.display()))]
    }

    fn slowly_started(setup: Setup) -> (PumaRig, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let rig = PumaRig::start(Setup { env: slow_ruby(dir.path()), ..setup });
        (rig, dir)
    }

    fn a_hot_restart_of(setup: Setup) {
        let (rig, _dir) = slowly_started(setup);
        let (eye, master) = (Eye::on(&rig), rig.master().unwrap());
        let before = eye.settled("v1");
        rig.release("v2", App::Good);
        rig.flip("v2");
        eye.perform(Act::Begin(Mode::Hot), before.key).unwrap();
        let mut in_the_gap = 0;
        let looks = eye.watch("everything in v2", |look| {
            let seen = generation(look).unwrap_or_else(|| panic!("lost sight of it: {look:?}"));
            assert!(
                seen.key != before.key || workers(&seen).iter().all(|key| workers(&before).contains(key))
            );
            if seen.key != before.key && !has_title(master) {
                in_the_gap += 1;
                assert!(!seen.signalable, "a second SIGUSR2 would kill it now");
            }
            seen.key != before.key && settled_in(&seen, "v2")
        });
        assert!(in_the_gap > 0, "the gap between exec and title was never seen");
        assert_eq!(images(&looks).len(), 2, "one exec, one new image");
        let after = generation(looks.last().unwrap()).unwrap();
        assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
        assert_eq!(rig.master(), Some(master));
    }

    #[test]
    fn hot_of_a_cluster_shows_one_new_image_and_is_never_missing() {
        a_hot_restart_of(Setup::default());
    }

    #[test]
    fn hot_of_a_preloading_cluster_shows_one_new_image_and_is_never_missing() {
        a_hot_restart_of(Setup::preloading());
    }

    #[test]
    fn hot_of_a_single_process_shows_one_new_image_and_is_never_missing() {
        a_hot_restart_of(Setup::single());
    }

    #[test]
    fn phased_replaces_every_worker_and_keeps_the_image() {
        let rig = PumaRig::start(Setup { directory: Directory::Pwd, ..Setup::default() });
        let eye = Eye::on(&rig);
        let before = eye.settled("v1");
        rig.release("v2", App::Good);
        rig.flip("v2");
        eye.perform(Act::Begin(Mode::Phased), before.key).unwrap();
        let looks = eye.watch("everything in v2", |look| {
            let Some(seen) = generation_or_torn(look) else { return false };
            settled_in(&seen, "v2") && matches!(&look.sight, Sight::Seen(server) if !server.old_workers)
        });
        assert_eq!(images(&looks), [before.key]);
        let after = generation(looks.last().unwrap()).unwrap();
        assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
        let old_workers = |look: &Look| matches!(&look.sight, Sight::Seen(server) if server.old_workers);
        assert!(looks.iter().any(old_workers), "Puma counts the workers of the ended phase");
    }

    #[test]
    fn nothing_is_sent_to_another_image_than_the_one_meant() {
        let rig = PumaRig::start(Setup::single());
        let eye = Eye::on(&rig);
        let before = eye.settled("v1");
        eye.perform(Act::Begin(Mode::Hot), before.key).unwrap();
        let after = until("the new image", || {
            generation(&eye.look()).filter(|seen| seen.key != before.key && settled_in(seen, "v1"))
        });
        for act in [Act::Begin(Mode::Hot), Act::Abort(Mode::Phased), Act::Recover] {
            assert_eq!(eye.perform(act, before.key).unwrap_err().reason, Reason::MasterGone);
        }
        eye.perform(Act::Commit, before.key).unwrap();
        assert_eq!(eye.settled("v1").key, after.key);
    }

    #[test]
    fn a_wrapping_shell_is_never_signalled() {
        let rig = PumaRig::start(Setup { wrapper: Wrapper::Shell, ..Setup::default() });
        let eye = Eye::on(&rig);
        let before = eye.settled("v1");
        assert_eq!(eye.look().description.pid, rig.master());
        eye.perform(Act::Begin(Mode::Hot), before.key).unwrap();
        until("the new image", || {
            generation(&eye.look()).filter(|s| s.key != before.key && settled_in(s, "v1"))
        });
        eye.perform(Act::Recover, eye.seen().key).unwrap();
        until("the end of the master", || matches!(eye.look().sight, Sight::Missing).then_some(()));
        assert_eq!(rig.starts(), 1, "the shell ended by itself, after its child");
    }

    #[test]
    fn recovery_lets_the_container_start_a_new_master() {
        let rig = PumaRig::start(Setup { restarted: true, ..Setup::default() });
        let eye = Eye::on(&rig);
        let before = eye.settled("v1");
        eye.perform(Act::Recover, before.key).unwrap();
        until("a second start", || (rig.starts() == 2).then_some(()));
        let after = until("a new image", || {
            generation(&eye.look()).filter(|s| s.key != before.key && settled_in(s, "v1"))
        });
        assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
    }
}

mod which_puma {
    use super::*;

    #[test]
    fn of_two_the_one_that_runs_our_releases() {
        let (ours, theirs) = (PumaRig::start(Setup::default()), PumaRig::start(Setup::single()));
        let eye = Eye::on(&ours);
        eye.settled("v1");
        assert_eq!(eye.look().description.pid, ours.master());
        drop(ours);
        until("ours is missing, theirs no substitute", || {
            assert_ne!(eye.look().description.pid, theirs.master());
            matches!(eye.look().sight, Sight::Missing).then_some(())
        });
    }

    #[test]
    fn two_on_our_releases_are_ambiguous_unless_one_is_named() {
        let rig = PumaRig::start(Setup::default());
        let mut second = PumaRig::prepare_on(&rig, Setup::single());
        second.run();
        until("the second Puma", || second.get("/").ok());
        assert_eq!(Eye::on(&rig).look().sight, Sight::Ambiguous);
        assert_eq!(Eye::on(&rig).plan("v1", "v1").unwrap_err().reason, Reason::AppServerAmbiguous);
        let named = config::Puma { r#match: Some(format!(":{})", second.port())), ..told(&second) };
        let eye = Eye::with(&rig, named, RestartMode::Auto);
        eye.settled("v1");
        assert_eq!(eye.look().description.pid, second.master());
    }

    #[test]
    fn none_is_missing_and_a_stranger_is_never_restarted() {
        let rig = PumaRig::start(Setup::single());
        let nowhere = config::Puma { r#match: Some("no such title".into()), ..config::Puma::default() };
        let eye = Eye::with(&rig, nowhere, RestartMode::Auto);
        assert_eq!(eye.look().sight, Sight::Missing);
        assert_eq!(eye.plan("v1", "v1").unwrap_err().reason, Reason::AppServerMissing);
    }
}

mod control_server {
    use super::*;

    /// Whether the numbers came, and what was found fault with.
    fn asked(rig: &PumaRig, section: config::Puma) -> (bool, Vec<String>) {
        let eye = Eye::with(rig, section, RestartMode::Auto);
        eye.settled("v1");
        let look = eye.look();
        let codes = look.findings.into_iter().map(|finding| finding.code).collect();
        (look.traffic.workers.is_some(), codes)
    }

    fn by_state_file(path: &Path) -> config::Puma {
        config::Puma { state_file: Some(path.to_owned()), ..config::Puma::default() }
    }

    #[test]
    fn is_found_by_the_state_file() {
        let rig = PumaRig::start(Setup::default());
        assert_eq!(asked(&rig, by_state_file(&rig.state_file())), (true, vec![]));
    }

    #[test]
    fn is_found_where_rails_keeps_the_state_file() {
        let config = "state_path 'tmp/puma.state'".into();
        let mut rig = PumaRig::prepare(Setup { state_file: false, config, ..Setup::default() });
        std::fs::create_dir(rig.releases().join("v1/tmp")).unwrap();
        rig.run();
        assert_eq!(asked(&rig, config::Puma::default()), (true, vec![]));
    }

    #[test]
    fn is_reached_in_another_mount_namespace() {
        if !pitstop_rig::is_root() {
            return;
        }
        let rig = PumaRig::start(Setup { wrapper: Wrapper::MountNamespace, ..Setup::default() });
        assert!(!rig.state_file().exists(), "the rig shows the socket to everybody");
        assert_eq!(asked(&rig, told(&rig)), (true, vec![]));
        assert_eq!(asked(&rig, by_state_file(&rig.state_file())), (true, vec![]));
    }

    #[test]
    fn with_another_token_denies_and_the_rest_is_still_seen() {
        let rig = PumaRig::start(Setup::default());
        let section = config::Puma { control_token: Some("wrong".into()), ..told(&rig) };
        assert_eq!(asked(&rig, section), (false, vec!["control_server_denied".to_owned()]));
    }

    #[test]
    fn of_a_process_that_is_gone_is_not_asked() {
        let rig = PumaRig::start(Setup::default());
        let master = rig.master().unwrap().to_string();
        let stale = std::fs::read_to_string(rig.state_file()).unwrap().replace(&master, "4711");
        let path = rig.scratch().join("stale.state");
        std::fs::write(&path, stale).unwrap();
        assert_eq!(asked(&rig, by_state_file(&path)), (false, vec!["state_file_stale".to_owned()]));
    }

    #[test]
    fn that_does_not_answer_is_said() {
        let rig = PumaRig::start(Setup::default());
        let url = format!("unix://{}", rig.scratch().join("nobody.sock").display());
        let section = config::Puma { control_url: Some(url), ..told(&rig) };
        assert_eq!(asked(&rig, section), (false, vec!["control_server_silent".to_owned()]));
    }
}

mod plan {
    use super::*;

    fn planned(setup: Setup, mode: RestartMode, change: impl FnOnce(&Path)) -> Mode {
        let rig = PumaRig::start(setup);
        change(&rig.release("v2", App::Good));
        let eye = Eye::with(&rig, told(&rig), mode);
        eye.settled("v1");
        eye.plan("v1", "v2").unwrap()
    }

    #[test]
    fn auto_is_phased_where_that_loads_everything_that_changed() {
        for directory in [Directory::Literal, Directory::Pwd] {
            let setup = Setup { directory, ..Setup::default() };
            assert_eq!(planned(setup, RestartMode::Auto, |_| {}), Mode::Phased);
        }
    }

    #[test]
    fn auto_is_hot_where_a_phased_restart_would_not_load_what_changed() {
        for file in ["Gemfile.lock", ".ruby-version", "config/puma.rb"] {
            let change = |dir: &Path| {
                let path = dir.join(file);
                let old = std::fs::read_to_string(&path).unwrap_or_default();
                std::fs::write(path, old + "# changed\n").unwrap();
            };
            assert_eq!(planned(Setup::default(), RestartMode::Auto, change), Mode::Hot, "{file}");
        }
    }

    #[test]
    fn a_puma_that_cannot_be_phased_is_restarted_hot() {
        let one_worker = Setup { workers: 1, ..Setup::default() };
        let pinned = Setup { directory: Directory::Pinned, ..Setup::default() };
        for setup in [Setup::single(), Setup::preloading(), one_worker.clone(), pinned] {
            assert_eq!(planned(setup, RestartMode::Auto, |_| {}), Mode::Hot);
        }
        assert_eq!(planned(one_worker, RestartMode::Phased, |_| {}), Mode::Hot);
    }

    #[test]
    fn a_mode_can_be_forced() {
        assert_eq!(planned(Setup::default(), RestartMode::Hot, |_| {}), Mode::Hot);
        let change = |dir: &Path| std::fs::write(dir.join("Gemfile.lock"), "changed").unwrap();
        assert_eq!(planned(Setup::default(), RestartMode::Phased, change), Mode::Phased);
    }

    #[test]
    fn a_restart_directory_that_may_not_follow_is_said() {
        let rig = PumaRig::start(Setup { directory: Directory::Pinned, ..Setup::default() });
        let eye = Eye::on(&rig);
        eye.settled("v1");
        assert_eq!(eye.findings(), ["restart_dir_unproven"]);
    }
}

mod broken_releases {
    use std::collections::HashSet;

    use super::*;

    struct Broken {
        rig: PumaRig,
        eye: Eye,
        before: Generation,
    }

    /// A Puma on `v1` that was told to restart onto the broken `v2`.
    fn restarted_onto(app: App, mode: Mode, setup: Setup) -> Broken {
        let rig = PumaRig::start(Setup { restarted: true, worker_boot_timeout: 4, ..setup });
        let eye = Eye::on(&rig);
        let before = eye.settled("v1");
        rig.release("v2", app);
        rig.flip("v2");
        eye.perform(Act::Begin(mode), before.key).unwrap();
        Broken { rig, eye, before }
    }

    impl Broken {
        /// Flips back, aborts and waits until everything serves the old release.
        fn is_undone_by(&self, act: Act) -> Generation {
            self.rig.flip("v1");
            let signalable = until("a master that takes signals", || {
                generation(&self.eye.look()).filter(|seen| seen.signalable || act == Act::Recover)
            });
            self.eye.perform(act, signalable.key).unwrap();
            let after = self.eye.settled("v1");
            self.rig.wait_for_release("v1");
            after
        }

        /// Watches until so many different workers were seen that never booted.
        fn shows_vanishing_workers(&self, how_many: usize) -> Vec<Look> {
            let mut unbooted = HashSet::new();
            self.eye.watch("workers that vanish", |look| {
                let seen = generation(look).into_iter().flat_map(|seen| seen.processes);
                unbooted.extend(seen.filter(|process| !process.booted).map(|process| process.key));
                unbooted.len() >= how_many
            })
        }

        fn loses_its_master(&self) {
            self.eye.watch("the end of the master", |look| look.sight == Sight::Missing);
        }
    }

    fn booted_in(seen: &Generation, release: &str) -> usize {
        let home = Cwd::Release(id(release));
        seen.processes.iter().filter(|process| process.booted && process.cwd == home).count()
    }

    #[test]
    fn phased_and_raises_vanishing_workers_beside_an_old_one_that_serves() {
        let broken = restarted_onto(App::RaisesOnBoot, Mode::Phased, Setup::default());
        let looks = broken.shows_vanishing_workers(4);
        assert_eq!(images(&looks), [broken.before.key]);
        assert!(looks.iter().filter_map(generation).all(|seen| booted_in(&seen, "v1") >= 1));
        assert_eq!(broken.rig.get("/").unwrap().release.as_deref(), Some("v1"));
        broken.is_undone_by(Act::Abort(Mode::Phased));
    }

    #[test]
    fn phased_and_raises_flipping_back_alone_does_not_help() {
        let broken = restarted_onto(App::RaisesOnBoot, Mode::Phased, Setup::default());
        broken.shows_vanishing_workers(4);
        broken.rig.flip("v1");
        let looks = broken.shows_vanishing_workers(8);
        let last = generation(looks.last().unwrap()).unwrap();
        assert_eq!(last.cwd, Cwd::Release(id("v2")), "the master stays where the broken release is");
        broken.is_undone_by(Act::Abort(Mode::Phased));
    }

    #[test]
    fn hot_and_raises_a_new_image_without_any_booted_worker() {
        let broken = restarted_onto(App::RaisesOnBoot, Mode::Hot, Setup::default());
        broken
            .eye
            .watch("the new image", |look| generation(look).is_some_and(|s| s.key != broken.before.key));
        let looks = broken.shows_vanishing_workers(4);
        assert!(looks.iter().filter_map(generation).all(|seen| seen.processes.iter().all(|p| !p.booted)));
        broken.is_undone_by(Act::Abort(Mode::Hot));
    }

    #[test]
    fn hot_and_raises_in_preload_the_master_is_gone_until_current_is_good() {
        let broken = restarted_onto(App::RaisesOnBoot, Mode::Hot, Setup::preloading());
        broken.loses_its_master();
        broken.rig.flip("v1");
        assert_ne!(broken.eye.settled("v1").key, broken.before.key);
    }

    #[test]
    fn hot_and_a_bad_configuration_the_master_is_gone_until_current_is_good() {
        let broken = restarted_onto(App::BadConfig, Mode::Hot, Setup::default());
        broken.loses_its_master();
        broken.rig.flip("v1");
        assert_ne!(broken.eye.settled("v1").key, broken.before.key);
    }

    #[test]
    fn phased_and_hangs_one_worker_unbooted_beside_an_old_one_that_serves() {
        let broken = restarted_onto(App::HangsOnBoot, Mode::Phased, Setup::default());
        let looks = broken.eye.watch("a worker that hangs", |look| {
            generation(look).is_some_and(|seen| {
                seen.processes.iter().any(|p| !p.booted && p.cwd == Cwd::Release(id("v2")))
            })
        });
        assert!(looks.iter().filter_map(generation).all(|seen| booted_in(&seen, "v1") >= 1));
        broken.is_undone_by(Act::Abort(Mode::Phased));
    }

    #[test]
    fn hot_and_hangs_workers_that_stay_unbooted_under_a_master_that_takes_signals() {
        let broken = restarted_onto(App::HangsOnBoot, Mode::Hot, Setup::default());
        broken.eye.watch("two workers that hang", |look| {
            generation(look).is_some_and(|seen| {
                let hung =
                    seen.processes.iter().filter(|p| !p.booted && p.cwd == Cwd::Release(id("v2"))).count();
                seen.key != broken.before.key && seen.signalable && hung == 2
            })
        });
        broken.is_undone_by(Act::Abort(Mode::Hot));
    }

    #[test]
    fn hot_and_hangs_in_preload_only_a_new_container_helps() {
        let broken = restarted_onto(App::HangsOnBoot, Mode::Hot, Setup::preloading());
        let master = broken.rig.master().unwrap();
        let looks = broken.eye.watch("a titled master in the new image", |look| {
            generation(look).is_some_and(|seen| seen.key != broken.before.key) && has_title(master)
        });
        let hung = generation(looks.last().unwrap()).unwrap();
        assert_eq!((hung.signalable, hung.processes.len()), (false, 0));
        broken.is_undone_by(Act::Recover);
        assert_eq!(broken.rig.starts(), 2);
    }

    #[test]
    fn hot_and_hangs_in_the_workers_of_a_preloading_cluster() {
        let broken = restarted_onto(App::HangsInWorker, Mode::Hot, Setup::preloading());
        broken.eye.watch("workers that hang", |look| {
            let hung =
                |seen: &Generation| seen.processes.iter().all(|p| !p.booted) && seen.processes.len() == 2;
            generation(look)
                .is_some_and(|seen| seen.key != broken.before.key && seen.signalable && hung(&seen))
        });
        broken.is_undone_by(Act::Abort(Mode::Hot));
    }

    #[test]
    fn hot_of_a_single_process_and_raises_the_master_is_gone_until_current_is_good() {
        let broken = restarted_onto(App::RaisesOnBoot, Mode::Hot, Setup::single());
        broken.loses_its_master();
        broken.rig.flip("v1");
        assert_ne!(broken.eye.settled("v1").key, broken.before.key);
    }
}

mod permissions {
    use std::process::Command;

    use super::*;

    const PORT: &str = "PITSTOP_TEST_OBSERVED_PORT";

    /// The observing side, run as a user that may neither look into Puma nor signal it.
    #[test]
    fn observer() {
        let Ok(port) = std::env::var(PORT) else { return };
        let section = config::Puma { r#match: Some(format!(":{port})")), ..config::Puma::default() };
        let eye = Eye::at(Path::new("/nonexistent"), section, RestartMode::Auto);
        assert_eq!(eye.look().sight, Sight::NotPermitted);
        assert_eq!(eye.plan("v1", "v1").unwrap_err().reason, Reason::NotPermitted);
    }

    fn observe_as(uid: u32, rig: &PumaRig) -> std::process::Output {
        // A copy, because the directory of this test may be closed to other users.
        let copy = rig.scratch().join("observer");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let test = ["--exact", "permissions::observer"];
        let mut command = Command::new("setpriv");
        command.args(ids).args(["--clear-groups", "--"]).arg(copy).args(test);
        command.env(PORT, rig.port().to_string()).current_dir("/").output().unwrap()
    }

    #[test]
    fn a_puma_of_another_user_is_not_permitted() {
        if !pitstop_rig::is_root() {
            return;
        }
        let rig = PumaRig::start(Setup { uid: Some(65533), ..Setup::single() });
        let output = observe_as(65534, &rig);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(!observe_as(65533, &rig).status.success(), "its own user may look into it");
    }
}
