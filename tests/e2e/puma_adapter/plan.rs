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
    for setup in [Setup::preloading(), one_worker] {
        assert_eq!(planned(setup, RestartMode::Phased, |_| {}), Mode::Hot);
    }
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
    assert_eq!(eye.findings(), ["RESTART_DIR_UNPROVEN"]);
}

/// What Puma says of itself when it boots.
fn can_be_phased(rig: &PumaRig) -> bool {
    let log = std::fs::read_to_string(rig.log()).unwrap();
    let line = log.lines().find(|line| line.contains("Restarts:")).expect("a cluster's boot log");
    line.contains("(✔) phased")
}

/// Where nothing is said about preloading, the plan must be what this Puma really does.
pub fn whether_it_preloads_is_known(image: Image) {
    for (web_concurrency, config) in [
        (None, ""),
        (None, "prune_bundler"),
        (Some("1"), ""),
        (Some("2"), ""),
        (Some("2"), "prune_bundler"),
        (Some("2"), "preload_app! false"),
    ] {
        let env = web_concurrency.map(|n| ("WEB_CONCURRENCY".to_owned(), n.to_owned()));
        let env = env.into_iter().collect();
        let setup = Setup { preload: None, config: config.into(), env, image, ..Setup::default() };
        let rig = PumaRig::start(setup);
        rig.release("v2", App::Good);
        let eye = Eye::on(&rig);
        eye.settled("v1");
        let (phased, case) = (can_be_phased(&rig), format!("WEB_CONCURRENCY={web_concurrency:?} {config}"));
        let mode = if phased { Mode::Phased } else { Mode::Hot };
        assert_eq!(eye.plan("v1", "v2").unwrap(), mode, "{case}");
        let found = eye.findings().contains(&"PHASED_RESTART_UNAVAILABLE".to_owned());
        assert_eq!(found, !phased, "{case}");
    }
}

#[test]
fn whether_it_preloads_by_default_is_known() {
    whether_it_preloads_is_known(Image::of_this_run());
}

/// What `look` of a Puma that starts shows: its command line, before it has a title.
fn seen_from_the_start(setup: Setup) -> (PumaRig, Eye) {
    let mut rig = PumaRig::prepare(setup);
    let eye = Eye::on(&rig);
    rig.launch();
    eye.watch("a Puma with a title", |look| generation(look).is_some());
    eye.settled("v1");
    (rig, eye)
}

/// With the command line it is sure which configuration Puma reads, and so that no restart leaves v1.
#[test]
fn a_restart_that_could_go_nowhere_is_refused_beforehand_where_that_is_sure() {
    let (rig, eye) = seen_from_the_start(Setup { directory: Directory::Pinned, ..Setup::default() });
    let findings = eye.findings();
    // From 7.0 on it preloads unless its configuration, which may not have been read yet, says otherwise.
    let unread = Image::of_this_run() == Image::Sid && findings[1..] == ["PHASED_RESTART_UNAVAILABLE"];
    assert!(findings[0] == "RESTART_DIR_PINNED" && (findings.len() == 1 || unread), "{findings:?}");
    rig.release("v2", App::Good);
    let refused = eye.plan("v1", "v2").unwrap_err();
    assert_eq!(refused.reason, Reason::RestartDirPinned, "{refused:?}");
    // Where it follows, the same knowledge is no obstacle.
    let (rig, eye) = seen_from_the_start(Setup::default());
    rig.release("v2", App::Good);
    assert_eq!((eye.findings(), eye.plan("v1", "v2")), (vec![], Ok(Mode::Phased)));
}

#[test]
fn a_release_for_another_ruby_waits_for_its_image_and_one_with_gems_of_its_own_is_loaded_hot() {
    let rig = PumaRig::start(Setup::default());
    let eye = Eye::on(&rig);
    eye.settled("v1");
    let locked = |id: &str, lock: &str| {
        let dir = rig.releases().join(id);
        if id != "v1" {
            rig.release(id, App::Good);
        }
        std::fs::write(dir.join("Gemfile.lock"), lock).unwrap();
    };
    let own = "GEM\n\nPATH\n  remote: engines/shop\n";
    for (id, lock) in [("v1", "GEM\n"), ("v2", "GEM\n"), ("v4", own), ("v5", own)] {
        locked(id, lock);
    }
    locked("v3", "GEM\n\nRUBY VERSION\n   ruby 9.9.1p0\n");
    let refused = eye.plan("v1", "v3").unwrap_err();
    assert!(refused.reason == Reason::NeedsImage && refused.message.contains("Ruby 9.9, and"), "{refused:?}");
    assert_eq!(eye.plan("v1", "v2").unwrap(), Mode::Phased);
    assert_eq!(eye.plan("v4", "v5").unwrap(), Mode::Hot);
    assert_eq!(eye.findings(), [""; 0]);
    // Another Puma comes by a hot restart, and is said as long as it is to come.
    let with = |version: &str| format!("GEM\n  specs:\n    puma ({version})\n");
    locked("v6", &with("5.6.5"));
    locked("v7", &with("6.6.0"));
    assert_eq!((eye.plan("v6", "v7"), eye.findings()), (Ok(Mode::Hot), vec!["PUMA_VERSION_DIFFERS".into()]));
    assert_eq!((eye.plan("v1", "v2"), eye.findings()), (Ok(Mode::Phased), vec![]));
}
