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
