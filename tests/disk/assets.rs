//! `asset_dirs`: pages of each release find their assets, whichever release answers.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use pitstop::releases::{Releases, layout::Layout};

use crate::rig::Rig;

const DIR: &str = "public/assets";

struct Assets(Rig);

impl Assets {
    fn new() -> Self {
        Self(Rig::new())
    }

    fn releases(&self, layout: Layout) -> Releases {
        self.0.releases().laid_out(layout)
    }

    fn layout() -> Layout {
        Layout { asset_dirs: vec![DIR.into(), "public/packs".into()], ..Layout::default() }
    }

    fn share(&self) {
        self.releases(Self::layout()).share_assets().unwrap();
    }

    /// Each file says in which release it is.
    fn fetch(&self, release: &str, files: &[&str]) {
        let app = self.0.app(release);
        for file in files {
            let path = app.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, release).unwrap();
        }
        self.0.ok(&["publish", app.to_str().unwrap(), "--release", release]);
        self.0.fetch(release).unwrap();
        self.share();
    }

    fn shared(&self, file: &str) -> PathBuf {
        self.0.deploy_to.join("shared").join(file)
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.shared(file)).ok()
    }
}

#[test]
fn the_assets_of_all_releases_are_in_one_place_for_as_long_as_one_of_them_is_there() {
    let assets = Assets::new();
    let (old, both, new) = ("public/assets/a-1.css", "public/assets/b-2.css", "public/assets/img/c-3.png");
    assets.fetch(
        "v1",
        &[old, both, "public/packs/p-9.js", "public/index.html", "public/assets/.manifest.json"],
    );
    assets.fetch("v2", &[both, new]);
    assert_eq!(assets.read(old).as_deref(), Some("v1"));
    assert_eq!(assets.read(both).as_deref(), Some("v2"), "the oldest is the next to go");
    assert_eq!(assets.read(new).as_deref(), Some("v2"));
    assert_eq!(assets.read("public/packs/p-9.js").as_deref(), Some("v1"));
    assert_eq!(assets.read("public/index.html"), None, "it has no digest, and is in no such directory");
    assert_eq!(assets.read("public/assets/.manifest.json"), None, "it is for the app alone");
    let places = || fs::read_link(assets.shared(both)).unwrap();
    assert_eq!(places(), Path::new("../../../releases/v2/public/assets/b-2.css"));
    assets.fetch("v3", &[both]);
    assert_eq!(places(), Path::new("../../../releases/v2/public/assets/b-2.css"), "it is good as it is");
    fs::remove_dir_all(assets.0.deploy_to.join("releases/v1")).unwrap();
    fs::remove_dir_all(assets.0.deploy_to.join("releases/v2")).unwrap();
    assets.share();
    assert_eq!([old, new].map(|file| fs::symlink_metadata(assets.shared(file)).is_ok()), [false, false]);
    assert_eq!(assets.read(both).as_deref(), Some("v3"));
}

#[test]
fn releases_are_not_changed_by_it() {
    let assets = Assets::new();
    assets.fetch("v1", &["public/assets/a-1.css"]);
    assets.fetch("v2", &["public/assets/a-2.css"]);
    for release in ["v1", "v2"] {
        assets.0.ok(&["verify-tree", release]);
    }
}

#[test]
fn what_others_have_put_there_stays_and_no_link_is_followed() {
    let assets = Assets::new();
    let outside = assets.0.dir.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    let dir = assets.shared(DIR);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a-1.css"), "mine").unwrap();
    symlink("/nowhere", dir.join("b-1.css")).unwrap();
    symlink(&outside, dir.join("img")).unwrap();
    let app = assets.0.app("v1");
    for file in ["a-1.css", "b-1.css", "c-1.css"] {
        fs::create_dir_all(app.join(DIR)).unwrap();
        fs::write(app.join(DIR).join(file), "v1").unwrap();
    }
    assets.fetch("v1", &[]);
    assert_eq!(assets.read("public/assets/a-1.css").as_deref(), Some("mine"));
    assert_eq!(fs::read_link(dir.join("b-1.css")).unwrap(), Path::new("/nowhere"));
    assert_eq!(assets.read("public/assets/c-1.css").as_deref(), Some("v1"));
    let app = assets.0.app("v2");
    fs::create_dir_all(app.join(DIR).join("img")).unwrap();
    fs::write(app.join(DIR).join("img/d.png"), "v2").unwrap();
    assets.0.ok(&["publish", app.to_str().unwrap(), "--release", "v2"]);
    assets.0.fetch("v2").unwrap();
    let problem = assets.releases(Assets::layout()).share_assets().unwrap_err();
    assert!(problem.message.contains("shared/public/assets"), "{}", problem.message);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_linked_anyway_needs_nothing() {
    let assets = Assets::new();
    assets.fetch("v1", &["public/assets/a-1.css"]);
    fs::remove_dir_all(assets.shared("public")).unwrap();
    for linked in ["public/assets", "public", "public/assets/img"] {
        let layout = Layout { linked_dirs: vec![linked.into()], ..Assets::layout() };
        assets.releases(layout).share_assets().unwrap();
        assert!(!assets.shared("public").exists(), "{linked}");
    }
}
