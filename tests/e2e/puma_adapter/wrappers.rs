//! Whatever starts Puma and stays in front of it: the master is found, and it alone is told.

use pitstop_rig::side_by_side;

use super::*;

/// A phased restart to `v2`, then a hot one to `v3`; both go to the master, and nobody else notices.
fn is_restarted_both_ways(setup: Setup) {
    let mut rig = PumaRig::prepare(setup);
    if rig.setup().wrapper == Wrapper::Bundler {
        bundle::write_gemfile(&rig, "v1");
    }
    rig.run();
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    let (first, master) = (rig.container().pid(), rig.master());
    assert_eq!(eye.look().description.pid, master);
    assert_eq!(first == master, !matches!(rig.setup().wrapper, Wrapper::Tini | Wrapper::DumbInit));
    let mut image = before.key;
    for (mode, release) in [(Mode::Phased, "v2"), (Mode::Hot, "v3")] {
        rig.release(release, App::Good);
        if rig.setup().wrapper == Wrapper::Bundler {
            bundle::write_gemfile(&rig, release);
        }
        rig.flip(release);
        eye.perform(ServerCommand::Restart(mode), image).unwrap();
        let after = eye.settled(release);
        assert_eq!(after.key == image, mode == Mode::Phased, "{mode:?}");
        rig.wait_for_release(release);
        image = after.key;
    }
    assert_eq!((rig.container().pid(), rig.master(), rig.starts()), (first, master, 1));
    // The kubelet's signal goes to the first process; an init hands it on.
    rig.container().terminate();
    assert_eq!(eye.look().detection, Detection::Missing);
}

fn behind_each_of(wrappers: &[Wrapper], image: Image) {
    let row = |wrapper: &Wrapper| {
        // Now and then a worker of 6.6 or 8.0 stops only when it is ended.
        let setup = Setup { wrapper: *wrapper, worker_shutdown_timeout: 3, ..Setup::default() };
        (format!("{wrapper:?}"), setup.from(image))
    };
    side_by_side(wrappers.iter().map(row), is_restarted_both_ways);
}

#[test]
fn behind_each_wrapper_the_master_is_found_and_told() {
    behind_each_of(
        &[Wrapper::Bundler, Wrapper::Tini, Wrapper::DumbInit, Wrapper::WithoutPwd],
        Image::of_this_run(),
    );
}

#[test]
fn behind_each_wrapper_the_master_is_found_and_told_on_6_6() {
    if pitstop_rig::is_root() {
        behind_each_of(&[Wrapper::Bundler, Wrapper::Tini], Image::Trixie);
    }
}

/// The tag is the user's text: it may be missing, be anything, or be that of a release before.
#[test]
fn a_tag_proves_nothing_and_misleads_nobody() {
    let tags = ["tag ''", "tag 'puma 5.6.5 (tcp://0.0.0.0:1) ['", "tag 'v9'"];
    let row = |tag: &str| (tag.to_owned(), Setup { config: tag.into(), ..Setup::default() });
    side_by_side(tags.map(row), |setup| {
        let rig = PumaRig::start(setup);
        let eye = Eye::on(&rig);
        let before = eye.settled("v1");
        rig.release("v2", App::Good);
        rig.flip("v2");
        eye.perform(ServerCommand::Restart(Mode::Phased), before.key).unwrap();
        eye.settled("v2");
        let ours = [Some(id("v2")), Some(id("v2"))];
        let workers = eye.look().description.workers;
        assert_eq!(workers.into_iter().map(|worker| worker.release).collect::<Vec<_>>(), ours);
        assert!(!title(rig.master().unwrap()).contains("[v2]"), "the tag would have misled");
    });
}

/// A hot restart would bring it back on port 9292. (`comm` says `rackup`: that is no name to find a Puma by.)
#[test]
fn a_puma_started_by_rackup_is_found_and_never_restarted_hot() {
    if Image::of_this_run() != Image::Machine {
        return; // The other images have no `rackup`.
    }
    let rig = PumaRig::start(Setup { wrapper: Wrapper::Rackup, ..Setup::single() });
    let eye = Eye::on(&rig);
    let before = eye.settled("v1");
    let master = rig.master().unwrap();
    assert_eq!(eye.look().description.pid, Some(master));
    assert_eq!(std::fs::read_to_string(format!("/proc/{master}/comm")).unwrap(), "rackup\n");
    assert!(eye.findings().contains(&"STARTED_BY_RACKUP".into()), "{:?}", eye.findings());
    rig.release("v2", App::Good);
    let refused = eye.plan("v1", "v2").unwrap_err();
    assert_eq!(refused.reason, Reason::ConfigInvalid, "{refused:?}");
    assert!(refused.message.contains("rackup"), "{refused:?}");
    assert_eq!((eye.seen().key, rig.get("/").unwrap().status), (before.key, 200));
}
