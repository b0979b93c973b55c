//! Which bundle a restart loads: the app tells, and pitstop chooses the restart that loads the right one.

use std::fs;

use pitstop_rig::side_by_side;

use super::*;

/// A Gemfile that needs nothing but what Puma needs. Bundler writes the lock file as it boots.
pub fn write_gemfile(rig: &PumaRig, release: &str) {
    fs::write(rig.releases().join(release).join("Gemfile"), "gem 'puma'\n").unwrap();
}

/// The Gemfile that the app's processes work with, as Puma names it.
fn gemfile(rig: &PumaRig) -> String {
    let told: serde_json::Value = serde_json::from_str(&rig.get("/").unwrap().body).unwrap();
    told["gemfile"].as_str().expect("the app runs with a bundle").to_owned()
}

fn gemfile_of(rig: &PumaRig, release: &str) -> String {
    rig.inside(&rig.releases().join(release).join("Gemfile")).display().to_string()
}

/// `bundle exec puma` on `v1`.
fn bundled(image: Image, env: impl FnOnce(&PumaRig) -> Option<String>) -> (PumaRig, Eye) {
    let setup = Setup { wrapper: Wrapper::Bundler, worker_shutdown_timeout: 3, ..Setup::default() };
    let mut rig = PumaRig::prepare(setup.from(image));
    write_gemfile(&rig, "v1");
    if let Some(path) = env(&rig) {
        rig.set_env("BUNDLE_GEMFILE", path);
    }
    rig.run();
    let eye = Eye::on(&rig);
    eye.settled("v1");
    (rig, eye)
}

/// The next release: the same bundle, or another one.
fn bundle_of(rig: &PumaRig, release: &str, changed: bool) {
    rig.release(release, App::Good);
    write_gemfile(rig, release);
    let lock = fs::read_to_string(rig.releases().join("v1/Gemfile.lock")).expect("Bundler was there");
    let lock = if changed { lock.replace("PLATFORMS\n", "PLATFORMS\n  ruby\n") } else { lock };
    fs::write(rig.releases().join(release).join("Gemfile.lock"), lock).unwrap();
}

/// Deploys as planned, and says how.
fn deploy(rig: &PumaRig, eye: &Eye, running: &str, release: &str) -> Mode {
    let mode = eye.plan(running, release).unwrap();
    let before = eye.seen();
    rig.flip(release);
    eye.perform(ServerCommand::Restart(mode), before.key).unwrap();
    eye.settled(release);
    mode
}

/// A phased restart keeps the bundle of the release that the master was started in: it is chosen only where
/// that is the same.
fn the_bundle_is_always_the_right_one(image: Image) {
    let (rig, eye) = bundled(image, |_| None);
    bundle_of(&rig, "v2", false);
    bundle_of(&rig, "v3", true);
    assert_eq!(deploy(&rig, &eye, "v1", "v2"), Mode::Phased);
    assert_eq!(gemfile(&rig), gemfile_of(&rig, "v1"), "the new cwd, and the old bundle");
    assert_eq!(deploy(&rig, &eye, "v2", "v3"), Mode::Hot);
    assert_eq!(gemfile(&rig), gemfile_of(&rig, "v3"));
}

#[test]
fn behind_bundle_exec_a_changed_bundle_is_loaded_by_a_hot_restart() {
    the_bundle_is_always_the_right_one(Image::of_this_run());
}

#[test]
fn behind_bundle_exec_a_changed_bundle_is_loaded_by_a_hot_restart_on_6_6() {
    if pitstop_rig::is_root() {
        the_bundle_is_always_the_right_one(Image::Trixie);
    }
}

/// By its path through the link, Bundler follows every restart. By that of one release it follows none, which is
/// said beforehand.
#[test]
fn a_gemfile_named_by_the_environment_follows_only_through_the_link() {
    let through_the_link = |rig: &PumaRig| rig.inside(&rig.current().join("Gemfile")).display().to_string();
    let rows = [("current/Gemfile", true), ("releases/v1/Gemfile", false)];
    side_by_side(rows.map(|(name, follows)| (name.to_owned(), follows)), |follows| {
        let (rig, eye) = bundled(Image::of_this_run(), |rig| {
            Some(if follows { through_the_link(rig) } else { gemfile_of(rig, "v1") })
        });
        bundle_of(&rig, "v2", false);
        assert_eq!(eye.findings().contains(&"PATH_NAMES_RELEASE".to_owned()), !follows);
        deploy(&rig, &eye, "v1", "v2");
        let named = if follows { through_the_link(&rig) } else { gemfile_of(&rig, "v1") };
        assert_eq!(gemfile(&rig), named);
    });
}
