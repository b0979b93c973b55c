//! Titles prove nothing: an app may change those of its workers, and anybody may call himself a Puma.

use std::process::{Child, Command};

use super::*;

/// A process of a user's, called like this, in this directory.
struct Stranger(Child);

impl Stranger {
    fn called(title: &str, uid: u32, cwd: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
        command.args(["bash", "-c", "exec -a \"$0\" sleep 600", title]).current_dir(cwd);
        let child = Self(command.spawn().unwrap());
        until("its title", || title_of(child.0.id()).starts_with(title).then_some(()));
        child
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn title_of(pid: u32) -> String {
    title(pid.try_into().unwrap())
}

/// Calls itself something else in each worker, and whatever is asked for.
const RENAMED: &str = "
run lambda { |env|
  Process.setproctitle(\"shop #{env['PATH_INFO']}\") unless env['PATH_INFO'] == '/'
  [200, { 'X-Release' => File.read('REVISION') }, []]
}
";

const IN_EACH_WORKER: &str = "send(respond_to?(:before_worker_boot) ? :before_worker_boot : :on_worker_boot) { Process.setproctitle('shop') }";

/// What the rig's Puma has said of its workers, and what they are called.
pub fn workers_with_other_titles_are_seen_and_moved(image: Image) {
    for control in [true, false] {
        let files = vec![("config.ru", RENAMED.to_owned())];
        let setup = Setup {
            control,
            state_file: control,
            files,
            config: IN_EACH_WORKER.into(),
            image,
            ..Setup::default()
        };
        let rig = PumaRig::start(setup);
        let section = if control { told(&rig) } else { silent() };
        let eye = Eye::with(&rig, section, RestartMode::Auto);
        // Without a control server a worker is known by what it accepts, so once it has booted.
        let both = || Some(eye.settled("v1")).filter(|seen| seen.processes.len() == 2);
        let before = until(&format!("both workers, control server: {control}"), both);
        let pids: Vec<i32> = eye.look().description.workers.iter().map(|worker| worker.pid).collect();
        assert!(pids.iter().all(|pid| title(*pid).starts_with("shop")), "{pids:?}");
        rig.release("v2", App::Good);
        assert_eq!(eye.plan("v1", "v2"), Ok(Mode::Phased), "control server: {control}");
        rig.flip("v2");
        eye.perform(ServerCommand::Restart(Mode::Phased), before.key).unwrap();
        let after = eye.settled("v2");
        assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
    }
}

#[test]
fn workers_whose_titles_the_app_changed_are_still_workers() {
    workers_with_other_titles_are_seen_and_moved(Image::of_this_run());
}

#[test]
fn a_single_process_that_changes_its_title_can_still_be_moved() {
    let files = vec![("config.ru", RENAMED.to_owned())];
    let rig = PumaRig::start(Setup { files, ..Setup::single() });
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    rig.get("/title").unwrap();
    until("another title", || title(rig.master().unwrap()).starts_with("shop").then_some(()));
    assert_eq!(eye.settled("v1"), before);
    rig.release("v2", App::Good);
    rig.flip("v2");
    assert_eq!(eye.plan("v1", "v2"), Ok(Mode::Hot));
    eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
    eye.settled("v2");
}

#[test]
fn nobody_becomes_a_worker_or_the_master_by_a_title() {
    pitstop_rig::needs_root!();
    let rig = PumaRig::start(Setup::default());
    let (eye, master) = (Eye::on(&rig), rig.master().unwrap());
    let before = eye.settled("v1");
    let worker = format!("puma: cluster worker 9: {master} [v1]");
    let of_a_master = "puma 5.6.5 (tcp://0.0.0.0:3000) [v1]";
    let strangers = [
        Stranger::called(&worker, 65533, Path::new("/")),
        Stranger::called(&worker, 0, &rig.current()),
        Stranger::called(of_a_master, 65533, &rig.current()),
    ];
    for eye in [eye, Eye::on(&rig)] {
        let seen = eye.settled("v1");
        assert_eq!((seen.key, workers(&seen)), (before.key, workers(&before)));
        rig.release("v2", App::Good);
        assert_eq!(eye.plan("v1", "v2"), Ok(Mode::Phased));
    }
    drop(strangers);
}

/// As `plugin :solid_queue` does it: Puma's master forks the process that looks after the jobs.
#[test]
fn a_child_of_the_master_that_stays_is_renewed_by_a_hot_restart_or_said() {
    let config = "before_fork { fork { Process.setproctitle('jobs-supervisor'); sleep } }";
    let rig = PumaRig::start(Setup { config: config.into(), ..Setup::default() });
    rig.release("v2", App::Good);
    for (mode, planned) in [(RestartMode::Auto, Mode::Hot), (RestartMode::Phased, Mode::Phased)] {
        let eye = Eye::with(&rig, told(&rig), mode);
        assert_eq!(eye.settled("v1").processes.len(), 2);
        until("the finding", || eye.findings().contains(&"CHILD_KEPT_BY_PHASED".into()).then_some(()));
        assert_eq!(eye.plan("v1", "v2"), Ok(planned), "{mode:?}");
        let found = eye.look().findings.into_iter().find(|found| found.message.contains("jobs-supervisor"));
        assert!(found.is_some(), "{mode:?}");
    }
}
