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
    assert_eq!(eye.findings(), ["PHASED_RESTART_UNAVAILABLE"]);
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
fn a_request_that_waits_for_a_thread_is_counted_once() {
    assert_eq!(on_6_6::counted_of_two_requests_for_one_thread(Setup::single()), (1, 1));
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
        assert!(eye.findings().contains(&"CONTROL_SERVER_ABSENT".into()));
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

#[test]
fn workers_that_a_worker_forks_belong_to_the_master() {
    let rig = PumaRig::start(Setup { workers: 3, config: "fork_worker".into(), ..Setup::default() });
    let seen = Eye::on(&rig).settled("v1");
    assert_eq!(seen.processes.len(), 3);
    assert!(pitstop_rig::puma::children(rig.master().unwrap()).len() < 3, "Puma forked them all by itself");
}

#[test]
fn a_release_that_was_deleted_is_nowhere() {
    let rig = PumaRig::start(Setup::default());
    let eye = Eye::on(&rig);
    eye.settled("v1");
    rig.release("v2", App::Good);
    rig.flip("v2");
    std::fs::remove_dir_all(rig.releases().join("v1")).unwrap();
    let seen = eye.seen();
    assert_eq!(seen.cwd, Cwd::Elsewhere);
    assert!(seen.processes.iter().all(|process| process.cwd == Cwd::Elsewhere));
    assert_eq!(eye.plan("v1", "v2").unwrap(), Mode::Hot, "and can be left");
}

#[test]
fn a_release_of_the_same_name_on_another_volume_is_not_ours() {
    let (rig, other) = (PumaRig::start(Setup::single()), PumaRig::prepare(Setup::single()));
    let section = config::Puma { r#match: Some(format!(":{}", rig.port())), ..told(&rig) };
    let eye = Eye::at(&other.deploy_to(), section, RestartMode::Auto);
    assert_eq!(eye.seen().cwd, Cwd::Elsewhere);
}

#[test]
fn a_volume_that_hangs_takes_the_releases_out_of_sight_and_nothing_else() {
    pitstop_rig::needs_root!();
    let rig = PumaRig::start(Setup { hangable: true, ..Setup::default() });
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    until("each worker's first report", || eye.look().traffic.workers.filter(|loads| loads.len() == 2));
    rig.volume().hang();
    for _ in 0..3 {
        let look = eye.look();
        let seen = generation(&look).expect("it is still seen");
        assert_eq!((seen.key, &seen.cwd, workers(&seen)), (before.key, &Cwd::Unknown, workers(&before)));
        assert!(seen.processes.iter().all(|process| process.booted && process.cwd == Cwd::Unknown));
        assert_eq!(look.traffic.workers.expect("the workers' numbers").len(), 2);
        assert!(look.traffic.sockets.is_some());
    }
    assert_eq!(eye.plan("v1", "v1").unwrap_err().reason, Reason::VolumeUnavailable);
    rig.volume().resume();
    assert_eq!(workers(&eye.settled("v1")), workers(&before));
}
