//! `asset_dirs`: pages of each release find their assets, whichever release answers.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
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
fn releases_that_other_agents_delete_meanwhile_are_no_error() {
    let assets = Assets::new();
    let files: Vec<String> = (0..50).map(|n| format!("{DIR}/{n}.css")).collect();
    assets.fetch("v1", &files.iter().map(String::as_str).collect::<Vec<_>>());
    assets.fetch("v2", &[]);
    let (there, aside) = (assets.0.deploy_to.join("releases/v1"), assets.0.dir.path().join("aside"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for file in &files {
                    let _ = fs::remove_file(there.join(file));
                }
                fs::rename(&there, &aside).unwrap();
                files.iter().for_each(|file| fs::write(aside.join(file), "v1").unwrap());
                fs::rename(&aside, &there).unwrap();
            }
        });
        let shared = std::panic::catch_unwind(|| (0..100).for_each(|_| assets.share()));
        done.store(true, Ordering::SeqCst);
        shared.unwrap();
    });
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

/// Two pods: on one volume each has what the other has fetched; a pod with a volume of its own has what it fetched.
#[test]
fn in_a_wave_a_pod_finds_the_assets_of_each_release_on_the_volume_that_it_has() {
    let wave = Assets::new();
    let (old, new) = ("public/assets/a-1.css", "public/assets/a-2.css");
    wave.fetch("v1", &[old]);
    // The new pod has fetched v2; the old one serves v1 and looks in the same place.
    wave.fetch("v2", &[new]);
    assert_eq!([old, new].map(|file| wave.read(file)), [Some("v1".into()), Some("v2".into())]);
    let alone = Assets::new();
    alone.fetch("v2", &[new]);
    assert_eq!([old, new].map(|file| alone.read(file)), [None, Some("v2".into())]);
}
