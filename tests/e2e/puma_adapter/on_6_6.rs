//! What differs from 5.6, or is seen only through another container's root, on Debian's Puma 6.6.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::*;

const PUMAS_UID: u32 = 65534;

/// On Puma 6.6, or nothing without root.
fn on_6_6(setup: Setup) -> Option<PumaRig> {
    pitstop_rig::is_root().then(|| PumaRig::start(setup.from(Image::Trixie)))
}

fn by_state_file(rig: &PumaRig, path: &Path) -> config::Puma {
    config::Puma { state_file: Some(path.to_owned()), control_url: None, control_token: None, ..told(rig) }
}

#[test]
fn a_cluster_is_found_by_its_title_and_asked_through_its_root_on_6_6() {
    let Some(rig) = on_6_6(Setup::default()) else { return };
    let master = rig.master().unwrap();
    assert!(title(master).starts_with("puma 6.6."), "{}", title(master));
    let cwd = std::fs::read_link(format!("/proc/{master}/cwd")).unwrap();
    assert_eq!(cwd, Path::new("/srv/app/releases/v1"), "it knows the volume by another name");
    assert!(!rig.state_file().exists() && rig.deploy_to() != Path::new("/srv/app"));
    let section = by_state_file(&rig, &rig.state_file());
    let eye = Eye::with(&rig, section, RestartMode::Auto);
    eye.settled("v1");
    let look = until("each worker's first report", || {
        let look = eye.look();
        look.traffic.workers.as_ref().is_some_and(|loads| loads.len() == 2).then_some(look)
    });
    assert_eq!((look.description.pid, look.description.mode.as_deref()), (Some(master), Some("cluster")));
    assert!(look.description.workers.iter().all(|w| w.booted && w.release == Some(id("v1"))));
    assert_eq!(look.findings, []);
}

#[test]
fn a_control_server_behind_an_absolute_link_is_reached_on_6_6() {
    let Some(rig) = on_6_6(Setup::default()) else { return };
    // `/var/run` leads to `/run` in the container, and to another `/run` out here.
    let control_url = Some(rig.control_url().replace("/run/", "/var/run/"));
    let named = config::Puma { control_url, ..told(&rig) };
    let found = by_state_file(&rig, &Path::new("/var").join(rig.state_file().strip_prefix("/").unwrap()));
    for section in [named, found] {
        let eye = Eye::with(&rig, section, RestartMode::Auto);
        eye.settled("v1");
        assert!(eye.look().traffic.workers.is_some());
        assert_eq!(eye.findings(), Vec::<String>::new());
    }
}

/// Two requests at once for one thread, and what was counted meanwhile: at work, waiting. Both come on
/// connections that were served before, because a new one would wait outside of Puma.
pub fn counted_of_two_requests_for_one_thread(setup: Setup) -> (u32, u32) {
    let rig = PumaRig::start(Setup { threads: (1, 1), ..setup });
    let eye = Eye::on(&rig);
    let mut kept = [(); 2].map(|()| TcpStream::connect(("127.0.0.1", rig.port())).unwrap());
    kept.iter_mut().for_each(|stream| asked(stream, "/up"));
    kept.iter_mut().for_each(|stream| ask(stream, "/slow?s=3"));
    let counted = until("two requests", || {
        let loads = eye.look().traffic.workers?;
        let sum = |of: fn(&core::WorkerLoad) -> u32| loads.iter().map(of).sum::<u32>();
        let counted = (sum(|load| load.busy), sum(|load| load.backlog));
        (counted.0 + counted.1 >= 2).then_some(counted)
    });
    kept.iter_mut().for_each(answered);
    counted
}

fn asked(stream: &mut TcpStream, path: &str) {
    ask(stream, path);
    answered(stream);
}

fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
}

fn answered(stream: &mut TcpStream) {
    assert!(stream.read(&mut [0; 65_536]).unwrap() > 0, "no answer");
}

#[test]
fn busy_threads_are_requests_at_work_and_those_that_wait_count_once_on_6_6() {
    pitstop_rig::needs_root!();
    let setup = Setup::single().from(Image::Trixie);
    assert_eq!(counted_of_two_requests_for_one_thread(setup), (1, 1));
}

#[test]
fn whether_it_preloads_by_default_is_known_on_6_6() {
    if pitstop_rig::is_root() {
        plan::whether_it_preloads_is_known(Image::Trixie);
    }
}

/// A deploy of `v2` on a Puma that serves `v1`, before and after.
fn deployed(rig: &PumaRig, mode: Mode) -> (Generation, Generation) {
    let eye = Eye::on(rig);
    let before = eye.settled("v1");
    rig.release("v2", App::Good);
    rig.flip("v2");
    eye.perform(ServerCommand::Restart(mode), before.key).unwrap();
    let after = eye.settled("v2");
    assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
    (before, after)
}

/// Needs a first process that reaps.
pub fn is_phased_with_fork_worker(image: Image) {
    let setup =
        Setup { workers: 3, config: "fork_worker".into(), worker_shutdown_timeout: 3, ..Setup::default() };
    let rig = PumaRig::start(setup.from(image));
    let (before, after) = deployed(&rig, Mode::Phased);
    assert_eq!((before.key, after.processes.len()), (after.key, 3));
}

#[test]
fn phased_with_fork_worker_replaces_every_worker_on_6_6() {
    if pitstop_rig::is_root() {
        is_phased_with_fork_worker(Image::Trixie);
    }
}

#[test]
fn hot_behind_bundle_exec_takes_the_bundle_of_the_new_release_on_6_6() {
    pitstop_rig::needs_root!();
    let mut rig =
        PumaRig::prepare(Setup { wrapper: Wrapper::Bundler, ..Setup::default() }.from(Image::Trixie));
    for release in ["v1", "v2"] {
        let dir = rig.releases().join(release);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("Gemfile"), "gem 'puma'\n").unwrap();
    }
    rig.run();
    let (before, after) = deployed(&rig, Mode::Hot);
    assert_ne!(before.key, after.key);
    let environ = std::fs::read(format!("/proc/{}/environ", rig.master().unwrap())).unwrap();
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let gemfile = environ.split('\0').find(|pair| pair.starts_with("BUNDLE_GEMFILE="));
    assert!(gemfile.is_none_or(|pair| !pair.contains("/v1/")), "{gemfile:?}");
    assert!(rig.releases().join("v2/Gemfile.lock").exists(), "Bundler was there");
}

#[test]
fn without_a_handler_for_sigusr2_it_is_never_sent_on_6_6() {
    let env = vec![("PUMA_SKIP_SIGUSR2".to_owned(), "1".to_owned())];
    let Some(rig) = on_6_6(Setup { env, ..Setup::default() }) else { return };
    let eye = Eye::with(&rig, told(&rig), RestartMode::Hot);
    let seen =
        until("both workers", || Some(eye.seen()).filter(|seen| seen.processes.iter().all(|p| p.booted)));
    assert!(eye.findings().contains(&"HOT_RESTART_UNAVAILABLE".into()));
    let refused = eye.plan("v1", "v1").unwrap_err();
    assert_eq!(refused.reason, Reason::ConfigInvalid);
    assert!(refused.message.contains("PUMA_SKIP_SIGUSR2"), "{refused:?}");
    for command in [ServerCommand::Restart(Mode::Hot), ServerCommand::Abort(Mode::Hot)] {
        assert_eq!(eye.perform(command, seen.key).unwrap_err().reason, Reason::ConfigInvalid);
    }
    assert_eq!((eye.seen().key, rig.get("/").unwrap().status), (seen.key, 200), "it lives on");
}

#[test]
fn an_agent_of_the_same_user_needs_no_privilege_on_6_6() {
    if let Some(rig) = on_6_6(Setup { uid: Some(PUMAS_UID), ..Setup::default() }) {
        permissions::observes(PUMAS_UID, &rig, "seen");
    }
}
