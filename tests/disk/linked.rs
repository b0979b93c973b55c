//! `linked_dirs`, `linked_files`, `pod_dirs`: what a release is given, and what it must not bring itself.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::PathBuf,
};

use pitstop::{
    core::{Problem, Reason},
    releases::{Releases, fetch::Fetched, layout::Layout, prune::Need},
};

use crate::rig::{Rig, at_once, id, nothing};

struct Linked {
    rig: Rig,
    layout: Layout,
}

impl Linked {
    fn new(linked_dirs: &[&str], linked_files: &[&str], pod_dirs: &[&str]) -> Self {
        let rig = Rig::new();
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
        let pod_dir = rig.dir.path().join("pod");
        fs::create_dir_all(&pod_dir).unwrap();
        let layout = Layout {
            strip_prefix: false,
            linked_dirs: paths(linked_dirs),
            linked_files: paths(linked_files),
            pod_dirs: paths(pod_dirs),
            pod_dir,
            asset_dirs: Vec::new(),
        };
        Self { rig, layout }
    }

    fn releases(&self) -> Releases {
        self.rig.releases().laid_out(self.layout.clone())
    }

    fn fetch(&self, release: &str) -> Result<Fetched, Problem> {
        self.rig.fetch_with(&self.releases(), release)
    }

    /// The app with further files; a path that ends with a slash is an empty directory.
    fn publish(&self, release: &str, files: &[&str]) {
        let app = self.rig.app(release);
        for file in files {
            let path = app.join(file);
            fs::create_dir_all(if file.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
            if !file.ends_with('/') {
                fs::write(path, release).unwrap();
            }
        }
        self.rig.ok(&["publish", app.to_str().unwrap(), "--release", release]);
    }

    fn in_release(&self, release: &str, path: &str) -> PathBuf {
        self.rig.deploy_to.join("releases").join(release).join(path)
    }

    fn shared(&self, path: &str) -> PathBuf {
        self.rig.deploy_to.join("shared").join(path)
    }

    fn pod(&self, path: &str) -> PathBuf {
        self.layout.pod_dir.join(path)
    }

    #[track_caller]
    fn refused(&self, release: &str, reason: Reason, parts: &[&str]) {
        let problem = self.fetch(release).unwrap_err();
        assert_eq!(problem.reason, reason, "{}", problem.message);
        for part in parts {
            assert!(problem.message.contains(part), "{:?} does not say {part:?}", problem.message);
        }
        assert!(!self.in_release(release, "").exists(), "complete or absent");
        assert_eq!(self.rig.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn releases_share_what_is_linked_and_pods_have_their_own() {
    let linked = Linked::new(&["storage", "public/uploads"], &[], &["log", "tmp/pids/"]);
    for release in ["v1", "v2"] {
        linked.publish(release, &["public/index.html"]);
        linked.fetch(release).unwrap();
    }
    fs::write(linked.in_release("v1", "storage/blob"), "kept").unwrap();
    assert_eq!(fs::read_to_string(linked.in_release("v2", "storage/blob")).unwrap(), "kept");
    fs::write(linked.in_release("v1", "log/production.log"), "of this pod").unwrap();
    assert_eq!(fs::read_to_string(linked.pod("log/production.log")).unwrap(), "of this pod");
    let target = |path| fs::read_link(linked.in_release("v2", path)).unwrap();
    let up = ["..", "..", "..", "shared", "public", "uploads"];
    assert_eq!(target("public/uploads"), up.iter().collect::<PathBuf>());
    assert_eq!(target("tmp/pids"), linked.pod("tmp/pids"));
    assert!(linked.shared("public/uploads").is_dir() && linked.pod("tmp/pids").is_dir());
    // Containers may mount the volume elsewhere.
    fs::rename(&linked.rig.deploy_to, linked.rig.dir.path().join("moved")).unwrap();
    assert_eq!(
        fs::read_to_string(linked.rig.dir.path().join("moved/releases/v2/storage/blob")).unwrap(),
        "kept"
    );
}

#[test]
fn an_empty_directory_or_one_with_only_keep_gives_way_and_its_directories_are_found_in_its_place() {
    let linked = Linked::new(&["storage"], &[], &["tmp", "log"]);
    linked.publish("v1", &["log/.keep", "storage/", "tmp/pids/.keep", "tmp/cache/assets/", "tmp/.gitkeep"]);
    linked.fetch("v1").unwrap();
    assert_eq!(fs::read_link(linked.in_release("v1", "tmp")).unwrap(), linked.pod("tmp"));
    assert!(linked.pod("tmp/pids").is_dir(), "Puma would not make it for its pid file");
    assert!(linked.pod("tmp/cache/assets").is_dir());
    // Another pod of the same volume finds the release there, and nothing in its own place.
    fs::remove_dir_all(linked.pod("")).unwrap();
    fs::create_dir(linked.pod("")).unwrap();
    assert!(linked.fetch("v1").unwrap().was_there);
    assert!(linked.pod("tmp/pids").is_dir() && linked.pod("log").is_dir());
}

#[test]
fn a_release_with_content_of_its_own_there_is_refused_by_key_and_path() {
    type Names = &'static [&'static str];
    let cases: [(Names, Names, Names, &str, Names); 6] = [
        (&["storage"], &[], &[], "storage/blob", &["\"storage/blob\"", "`linked_dirs`"]),
        (&["storage"], &[], &[], "storage", &["\"storage\"", "`linked_dirs`"]),
        (&["public/uploads"], &[], &[], "public", &["\"public\"", "`linked_dirs`"]),
        (&[], &["config/master.key"], &[], "config/master.key", &["\"config/master.key\"", "`linked_files`"]),
        (&[], &["config/master.key"], &[], "config/master.key/", &["`linked_files`"]),
        (&[], &[], &["log"], "log/deep/er/x.log", &["\"log/deep/er/x.log\"", "`pod_dirs`"]),
    ];
    for (dirs, files, pod_dirs, content, says) in cases {
        let linked = Linked::new(dirs, files, pod_dirs);
        linked.publish("v1", &[content]);
        linked.refused("v1", Reason::ReleaseCorrupt, says);
    }
}

#[test]
fn links_of_the_release_may_lead_into_linked_directories_but_not_through_them() {
    let linked = Linked::new(&["public/uploads"], &[], &["log"]);
    let app = linked.rig.app("v1");
    symlink("public/uploads/avatars", app.join("avatars")).unwrap();
    linked.publish("v1", &[]);
    linked.fetch("v1").unwrap();
    for (release, target) in [("v2", "public/uploads/../secret"), ("v3", "log/../../other")] {
        let app = linked.rig.app(release);
        symlink(target, app.join("x")).unwrap();
        fs::create_dir_all(app.join("public/uploads")).unwrap();
        if release == "v2" {
            linked.publish(release, &[]);
        } else {
            // `publish` would refuse it; a CI does not.
            let tar =
                std::process::Command::new("tar").arg("-cz").arg("-C").arg(&app).arg(".").output().unwrap();
            linked.rig.put_archive(release, "tar.gz", &tar.stdout);
        }
        linked.refused(release, Reason::ReleaseCorrupt, &["leads out of the release"]);
    }
    for (release, at) in [("v4", "log"), ("v5", "public")] {
        symlink("config", linked.rig.app(release).join(at)).unwrap();
        linked.publish(release, &[]);
        linked.refused(release, Reason::ReleaseCorrupt, &["_dirs` makes", &format!("it has {at:?}")]);
    }
}

#[test]
fn a_linked_file_that_is_missing_is_asked_for_and_then_found() {
    let linked = Linked::new(&[], &["config/master.key"], &[]);
    linked.publish("v1", &[]);
    let file = linked.shared("config/master.key");
    linked.refused(
        "v1",
        Reason::VolumeUnavailable,
        &[file.to_str().unwrap(), "`linked_files`", "put the file there"],
    );
    fs::write(&file, "secret").unwrap();
    linked.fetch("v1").unwrap();
    assert_eq!(fs::read_to_string(linked.in_release("v1", "config/master.key")).unwrap(), "secret");
}

#[test]
fn what_the_volume_or_the_pod_lacks_is_named() {
    let linked = Linked::new(&["storage"], &[], &["log"]);
    linked.publish("v1", &[]);
    fs::remove_dir(linked.pod("")).unwrap();
    linked.refused("v1", Reason::VolumeUnavailable, &["`pod_dirs`", "mount an emptyDir there"]);
    fs::create_dir(linked.pod("")).unwrap();
    fs::remove_dir_all(linked.shared("")).unwrap();
    fs::create_dir_all(linked.shared("")).unwrap();
    fs::write(linked.shared("storage"), "a file").unwrap();
    linked.refused("v1", Reason::VolumeUnavailable, &["is no directory, but `linked_dirs` needs one"]);
    fs::remove_file(linked.shared("storage")).unwrap();
    // An operator's link to another disk is one.
    fs::create_dir(linked.rig.dir.path().join("disk")).unwrap();
    symlink(linked.rig.dir.path().join("disk"), linked.shared("storage")).unwrap();
    linked.fetch("v1").unwrap();
}

#[test]
fn a_release_keeps_the_links_that_it_was_made_with() {
    let mut linked = Linked::new(&["storage"], &[], &["log"]);
    linked.publish("v1", &[]);
    linked.publish("v2", &[]);
    linked.fetch("v1").unwrap();
    linked.layout.linked_dirs = vec!["public/uploads".into()];
    linked.layout.pod_dirs = Vec::new();
    fs::remove_dir_all(linked.pod("log")).unwrap();
    assert!(linked.fetch("v1").unwrap().was_there);
    linked.fetch("v2").unwrap();
    assert!(linked.in_release("v1", "storage").is_symlink() && !linked.in_release("v1", "public").exists());
    assert!(linked.pod("log").is_dir(), "v1 needs it still");
    assert!(
        !linked.in_release("v2", "storage").exists()
            && linked.in_release("v2", "public/uploads").is_symlink()
    );
}

#[test]
fn going_back_makes_what_is_missing_and_is_never_refused_for_it() {
    let linked = Linked::new(&["storage"], &["config/master.key"], &["log"]);
    linked.publish("v1", &[]);
    let _ = linked.fetch("v1");
    fs::write(linked.shared("config/master.key"), "secret").unwrap();
    linked.fetch("v1").unwrap();
    fs::remove_dir_all(linked.pod("log")).unwrap();
    linked.releases().publish(&id("v1")).unwrap();
    assert!(linked.pod("log").is_dir());
    fs::remove_dir_all(linked.pod("log")).unwrap();
    linked.releases().prepare(&id("v1")).unwrap();
    assert!(linked.pod("log").is_dir(), "for an agent that starts");
    fs::remove_file(linked.shared("config/master.key")).unwrap();
    linked.releases().publish(&id("v1")).unwrap();
    assert_eq!(linked.rig.release_at_current().as_deref(), Some("v1"));
}

#[test]
fn pruning_follows_no_link() {
    let linked = Linked::new(&["storage"], &[], &["log"]);
    for release in ["v1", "v2"] {
        linked.publish(release, &[]);
        linked.fetch(release).unwrap();
    }
    fs::write(linked.in_release("v1", "storage/blob"), "kept").unwrap();
    fs::write(linked.in_release("v1", "log/x.log"), "kept").unwrap();
    let pruned = linked.releases().prune(1, Need::Tidy, &nothing, &at_once).unwrap();
    assert_eq!(pruned.deleted.len(), 1);
    assert!(!linked.rig.deploy_to.join("releases/v1").exists());
    assert_eq!(fs::read_to_string(linked.shared("storage/blob")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(linked.pod("log/x.log")).unwrap(), "kept");
}

#[test]
fn releases_share_no_file_with_each_other_or_with_shared() {
    let linked = Linked::new(&["storage"], &[], &[]);
    for release in ["v1", "v2"] {
        linked.publish(release, &[]);
        linked.fetch(release).unwrap();
    }
    let mut open = vec![linked.rig.deploy_to.join("releases")];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            if meta.is_dir() {
                open.push(entry.path());
            }
            assert!(seen.insert(meta.ino()), "{} has another name", entry.path().display());
        }
    }
    assert!(seen.len() > 10);
}

#[test]
fn a_releases_directory_that_is_a_link_is_refused_before_links_lead_astray() {
    let linked = Linked::new(&["storage"], &[], &[]);
    linked.publish("v1", &[]);
    fs::create_dir_all(&linked.rig.deploy_to).unwrap();
    fs::create_dir_all(linked.rig.dir.path().join("big/releases")).unwrap();
    symlink(linked.rig.dir.path().join("big/releases"), linked.rig.deploy_to.join("releases")).unwrap();
    linked.refused("v1", Reason::VolumeUnavailable, &["releases is a link", "put a directory in its place"]);
}
