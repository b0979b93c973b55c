use super::*;

/// Each start of Ruby takes longer, so that the gap between exec and title is wide.
fn slowly_started(setup: Setup) -> PumaRig {
    let mut rig = PumaRig::prepare(setup);
    let lib = rig.run_dir().join("slow_ruby.rb");
    std::fs::write(&lib, "sleep 0.7\n").unwrap();
    rig.set_env("RUBYOPT", format!("-r{}", rig.inside(&lib).display()));
    rig.run();
    rig.wait_for_release("v1");
    rig
}

fn a_hot_restart_of(setup: Setup) {
    let rig = slowly_started(setup);
    let (eye, master) = (Eye::on(&rig), rig.master().unwrap());
    let before = eye.settled("v1");
    rig.release("v2", App::Good);
    rig.flip("v2");
    eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
    let mut in_the_gap = 0;
    let looks = eye.watch("everything in v2", |look| {
        let seen = generation(look).unwrap_or_else(|| panic!("lost sight of it: {look:?}"));
        assert!(seen.key != before.key || workers(&seen).iter().all(|key| workers(&before).contains(key)));
        if seen.key != before.key && !has_title(master) {
            in_the_gap += 1;
            assert!(!seen.signalable, "a second SIGUSR2 would kill it now");
        }
        seen.key != before.key && settled_in(&seen, "v2")
    });
    assert!(in_the_gap > 0, "the gap between exec and title was never seen");
    // The first look may come after the exec already.
    let mut new = images(&looks);
    new.retain(|key| *key != before.key);
    assert_eq!(new.len(), 1, "one exec, one new image");
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
    eye.perform(ServerCommand::Restart(Mode::Phased), before.key).unwrap();
    let looks = eye.watch("everything in v2", |look| {
        let Some(seen) = generation_or_torn(look) else { return false };
        settled_in(&seen, "v2") && matches!(&look.detection, Detection::Seen(server) if !server.old_workers)
    });
    assert_eq!(images(&looks), [before.key]);
    let after = generation(looks.last().unwrap()).unwrap();
    assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
    let old_workers = |look: &Look| matches!(&look.detection, Detection::Seen(server) if server.old_workers);
    assert!(looks.iter().any(old_workers), "Puma counts the workers of the ended phase");
}

#[test]
fn phased_with_fork_worker_replaces_every_worker() {
    on_6_6::is_phased_with_fork_worker(Image::of_this_run());
}

#[test]
fn nothing_is_sent_to_another_image_than_the_one_meant() {
    let rig = PumaRig::start(Setup::single());
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
    let after = until("the new image", || {
        generation(&eye.look()).filter(|seen| seen.key != before.key && settled_in(seen, "v1"))
    });
    for command in
        [ServerCommand::Restart(Mode::Hot), ServerCommand::Abort(Mode::Phased), ServerCommand::Recover]
    {
        assert_eq!(eye.perform(command, before.key).unwrap_err().reason, Reason::MasterGone);
    }
    eye.perform(ServerCommand::Commit, before.key).unwrap();
    assert_eq!(eye.settled("v1").key, after.key);
}

#[test]
fn a_wrapping_shell_is_never_signalled() {
    let rig = PumaRig::start(Setup { wrapper: Wrapper::Shell, ..Setup::default() });
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    assert_eq!(eye.look().description.pid, rig.master());
    assert_eq!(eye.findings(), ["SHELL_IN_FRONT"]);
    eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
    until("the new image", || generation(&eye.look()).filter(|s| s.key != before.key && settled_in(s, "v1")));
    eye.perform(ServerCommand::Recover, eye.seen().key).unwrap();
    until("the end of the master", || matches!(eye.look().detection, Detection::Missing).then_some(()));
    assert_eq!(rig.starts(), 1, "the shell ended by itself, after its child");
}

#[test]
fn recovery_lets_the_container_start_a_new_master() {
    let rig = PumaRig::start(Setup { restarted: true, ..Setup::default() });
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    eye.perform(ServerCommand::Recover, before.key).unwrap();
    until("a second start", || (rig.starts() == 2).then_some(()));
    let after = until("a new image", || {
        generation(&eye.look()).filter(|s| s.key != before.key && settled_in(s, "v1"))
    });
    assert!(workers(&after).iter().all(|key| !workers(&before).contains(key)));
}
