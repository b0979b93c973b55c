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
