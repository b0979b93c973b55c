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
