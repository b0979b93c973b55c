//! The spare tree of a volume: what it is made of, that it is like the release, and that nothing is lost on the way.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use pitstop::{
    core::Problem,
    releases::{
        Limits, Releases,
        leases::Lease,
        manifest::MANIFEST,
        prune::Need,
        spare_making::{FAIL_POINTS, MadeOf},
    },
};

use pitstop_rig::{SlowVolume, needs_root};

use crate::{
    crash::{CHILD, kill_myself_at},
    rig::{Rig, Running, at_once, id, nothing},
};

impl Rig {
    /// The releases come onto the volume in this order; the last one is `current`.
    pub fn holding(releases: &[&str]) -> Self {
        let rig = Self::new();
        for release in releases {
            rig.arrives(release);
        }
        let _ = fs::remove_dir_all(rig.deploy_to.join(".pitstop/leases"));
        rig
    }

    fn arrives(&self, release: &str) {
        self.promote(release);
        self.fetch(release).unwrap();
        self.releases().publish(&id(release)).unwrap();
    }

    fn release(&self, release: &str) -> PathBuf {
        self.deploy_to.join("releases").join(release)
    }

    fn spare(&self) -> PathBuf {
        self.deploy_to.join(".pitstop/spare")
    }

    pub fn make_spare(&self, release: &str, keep: usize) -> Result<Option<MadeOf>, Problem> {
        self.releases().make_spare(&id(release), keep, &nothing, &at_once)
    }

    fn assert_spare_is_like(&self, release: &str) {
        assert_eq!(tree(&self.spare().join("release")), tree(&self.release(release)), "{release}");
    }
}

/// Every path with what is there, but the two files that say that it is a release.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(dir.join(&at)).unwrap().map(Result::unwrap) {
            let (path, meta) = (at.join(entry.file_name()), entry.metadata().unwrap());
            let mode = meta.permissions().mode() & 0o7777;
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(entry.path()).unwrap().display())
            } else if meta.is_dir() {
                open.push(path.clone());
                format!("{mode:o}")
            } else {
                format!("{mode:o} {:?}", fs::read(entry.path()).unwrap())
            };
            found.insert(path, what);
        }
    }
    found.remove(Path::new(".pitstop-release"));
    found.remove(Path::new(MANIFEST));
    found
}

#[test]
fn a_spare_is_made_of_nothing_then_of_what_would_be_deleted_then_of_the_one_before() {
    let rig = Rig::holding(&["v1"]);
    assert_eq!(rig.make_spare("v1", 2), Ok(Some(MadeOf::Nothing)));
    rig.assert_spare_is_like("v1");
    assert_eq!(rig.make_spare("v1", 2), Ok(None), "it is there");
    rig.arrives("v2");
    rig.arrives("v3");
    fs::remove_dir_all(rig.spare()).unwrap_or(());
    assert_eq!(rig.make_spare("v3", 2), Ok(Some(MadeOf::Release(id("v1")))));
    assert!(!rig.release("v1").exists(), "it is no release any more");
    rig.assert_spare_is_like("v3");
    assert_eq!(rig.make_spare("v2", 2), Ok(Some(MadeOf::Spare)));
    rig.assert_spare_is_like("v2");
    rig.releases().clean_leftovers(&at_once).unwrap();
    assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()));
    rig.ok(&["verify-tree", "v3"]);
}

#[test]
fn a_release_that_anything_needs_is_not_taken() {
    let rig = Rig::holding(&["v1", "v2"]);
    let gone = |rig: &Rig| !rig.release("v1").exists();
    let lease = Lease { v: 1, pod: "web-1".into(), previous: Some(id("v1")), ..Lease::default() };
    rig.of_pod("web-1").write_lease(&lease).unwrap();
    assert_eq!(rig.make_spare("v2", 1), Ok(Some(MadeOf::Nothing)));
    fs::remove_dir_all(rig.deploy_to.join(".pitstop/leases")).unwrap();
    fs::remove_dir_all(rig.spare()).unwrap();
    let mut works = Command::new("sleep");
    let works = Running(works.arg("600").current_dir(rig.release("v1").join("config")).spawn().unwrap());
    assert_eq!(rig.make_spare("v2", 1), Ok(Some(MadeOf::Nothing)));
    drop(works);
    fs::remove_dir_all(rig.spare()).unwrap();
    let needed = || [(id("v1"), "this pod may go back to it".to_owned())].into();
    let made = rig.releases().make_spare(&id("v2"), 1, &needed, &at_once);
    assert_eq!((made, gone(&rig)), (Ok(Some(MadeOf::Nothing)), false));
    fs::remove_dir_all(rig.spare()).unwrap();
    assert_eq!(rig.make_spare("v2", 1), Ok(Some(MadeOf::Release(id("v1")))));
    assert!(gone(&rig));
}

/// Whatever an app may do to a tree that it can write.
fn tamper(tree: &Path) {
    let file = |n: u32| tree.join(format!("config/{n}.rb"));
    fs::write(file(0), "RELEASE = v9, 0").unwrap();
    fs::remove_file(file(1)).unwrap();
    fs::set_permissions(file(2), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(file(3)).unwrap();
    symlink("/etc/passwd", file(3)).unwrap();
    fs::remove_file(file(4)).unwrap();
    fs::create_dir_all(file(4).join("deep/er")).unwrap();
    fs::write(file(4).join("deep/er/x"), "").unwrap();
    fs::remove_file(tree.join("link.ru")).unwrap();
    fs::write(tree.join("link.ru"), "no link").unwrap();
    fs::create_dir(tree.join("tmp")).unwrap();
    fs::write(tree.join("tmp/cache"), "x").unwrap();
    fs::set_permissions(tree.join("config"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_tree_that_somebody_changed_becomes_like_the_release_all_the_same() {
    let rig = Rig::holding(&["v1", "v2"]);
    tamper(&rig.release("v1"));
    assert!(Command::new("mkfifo").arg(rig.release("v1").join("pipe")).status().unwrap().success());
    assert_eq!(rig.make_spare("v2", 1), Ok(Some(MadeOf::Release(id("v1")))));
    rig.assert_spare_is_like("v2");
    tamper(&rig.spare().join("release"));
    rig.arrives("v3");
    assert!(!rig.spare().exists(), "it was taken");
    rig.ok(&["verify-tree", "v3"]);
    assert_eq!(rig.make_spare("v3", 5), Ok(Some(MadeOf::Nothing)));
    tamper(&rig.spare().join("release"));
    assert_eq!(rig.make_spare("v2", 5), Ok(Some(MadeOf::Spare)));
    rig.assert_spare_is_like("v2");
}

#[test]
fn a_spare_without_a_manifest_or_a_tree_is_not_used() {
    type Break = fn(&Path);
    let breaks: [Break; 5] = [
        |spare| assert!(Command::new("mkfifo").arg(spare.join("release/pipe")).status().unwrap().success()),
        |spare| fs::remove_file(spare.join("manifest")).unwrap(),
        |spare| fs::write(spare.join("manifest"), "torn").unwrap(),
        |spare| fs::remove_dir_all(spare.join("release")).unwrap(),
        |spare| {
            fs::remove_dir_all(spare).unwrap();
            symlink("/etc", spare).unwrap();
        },
    ];
    for (n, break_it) in breaks.into_iter().enumerate() {
        let rig = Rig::holding(&["v1"]);
        assert_eq!(rig.make_spare("v1", 5), Ok(Some(MadeOf::Nothing)));
        break_it(&rig.spare());
        rig.arrives("v2");
        rig.ok(&["verify-tree", "v2"]);
        rig.releases().clean_leftovers(&at_once).unwrap();
        assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()), "{n}");
        assert!(Path::new("/etc/passwd").exists());
    }
}

#[test]
fn of_a_release_that_somebody_changed_no_spare_is_made() {
    let rig = Rig::holding(&["v1", "v2"]);
    tamper(&rig.release("v2"));
    let problem = rig.make_spare("v2", 1).unwrap_err();
    assert!(problem.message.contains("config/"), "{}", problem.message);
    assert!(!rig.spare().exists());
    fs::write(rig.release("v2").join(MANIFEST), "torn").unwrap();
    assert_eq!(rig.make_spare("v2", 1), Ok(None), "as one of an older agent");
    rig.releases().clean_leftovers(&at_once).unwrap();
    assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()));
}

#[test]
fn the_spare_goes_before_any_release_where_room_is_needed() {
    let rig = Rig::holding(&["v1", "v2"]);
    assert_eq!(rig.make_spare("v2", 5), Ok(Some(MadeOf::Nothing)));
    let pruned = rig.releases().prune(5, Need::Room, &nothing, &at_once).unwrap();
    assert!(!rig.spare().exists() && pruned.emptied == 1, "{pruned:?}");
    assert_eq!(rig.abandoned(), Vec::<String>::new());
}

#[test]
fn a_spare_that_is_not_finished_is_given_up_when_the_room_is_needed() {
    let rig = Rig::holding(&["v1", "v2"]);
    let stop = |_| ControlFlow::Break(());
    assert_eq!(rig.releases().make_spare(&id("v2"), 5, &nothing, &stop), Ok(None));
    assert!(!rig.spare().exists());
    assert_eq!(rig.release_at_current().as_deref(), Some("v2"));
}

#[test]
fn without_spares_none_is_made() {
    let rig = Rig::holding(&["v1", "v2"]);
    let made = rig.releases().with_spares(false).make_spare(&id("v2"), 1, &nothing, &at_once);
    assert_eq!((made, rig.release("v1").exists()), (Ok(None), true));
}

#[test]
fn a_kill_while_a_spare_is_made_costs_at_most_the_spare() {
    if let Some(deploy_to) = std::env::var_os(CHILD) {
        let deploy_to = Path::new(&deploy_to);
        let releases = Releases::new(deploy_to.into(), deploy_to.join("current"), "web-0", Limits::default());
        releases.make_spare(&id("v3"), 2, &nothing, &at_once).unwrap();
        return releases.make_spare(&id("v2"), 2, &nothing, &at_once).map(drop).unwrap();
    }
    for point in FAIL_POINTS {
        let rig = Rig::holding(&["v1", "v2", "v3"]);
        kill_myself_at("spare_making::a_kill_while_a_spare_is_made_costs_at_most_the_spare", &rig, point);
        assert_eq!(rig.release_at_current().as_deref(), Some("v3"), "{point}");
        assert_eq!(rig.releases().is_complete(&id("v2")), Ok(true), "{point}");
        rig.ok(&["prune", "--keep", "2"]);
        assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()), "{point}");
        rig.arrives("v4");
        rig.make_spare("v4", 2).unwrap();
        rig.assert_spare_is_like("v4");
        rig.releases().clean_leftovers(&at_once).unwrap();
        assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()), "{point}");
    }
}

/// Two pods fetch, publish, prune and make spares at the same time: what `current` leads to is always whole.
#[test]
fn pods_that_make_spares_prune_and_fetch_at_the_same_time_leave_current_whole() {
    let rig = Rig::holding(&["v1", "v2", "v3", "v4"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (rig, over) = (&rig, &over);
        let watching = threads.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                assert!(rig.release_at_current().is_some());
            }
        });
        let pods = ["web-1", "web-2"].map(|pod| {
            threads.spawn(move || {
                let releases = rig.of_pod(pod);
                for round in 0..12 {
                    let release = id(["v1", "v2", "v3", "v4"][(round + pod.len()) % 4]);
                    let also = [release.clone()].into_iter().chain(releases.current().unwrap()).collect();
                    let lease = Lease { v: 1, pod: pod.into(), also, ..Lease::default() };
                    releases.write_lease(&lease).unwrap();
                    rig.fetch_with(&releases, release.as_str()).unwrap();
                    if let Err(problem) = releases.publish(&release) {
                        // The other one has moved the link since.
                        assert!(problem.message.contains("does something else move it?"), "{problem:?}");
                    }
                    let _ = releases.make_spare(&release, 1, &nothing, &at_once);
                    releases.prune(1, Need::Tidy, &nothing, &at_once).unwrap();
                    releases.clean_leftovers(&at_once).unwrap();
                }
            })
        });
        let ended = pods.map(|pod| pod.join().is_ok());
        over.store(true, Ordering::SeqCst);
        watching.join().unwrap();
        assert_eq!(ended, [true, true]);
    });
    for release in fs::read_dir(rig.deploy_to.join("releases")).unwrap().map(Result::unwrap) {
        let release = release.file_name().into_string().unwrap();
        rig.ok(&["verify-tree", &release]);
    }
}

#[test]
fn a_fetch_onto_the_spare_asks_a_volume_for_little_more_than_what_differs() {
    if let Some(deploy_to) = std::env::var_os(CHILD) {
        let deploy_to = Path::new(&deploy_to);
        let releases = Releases::new(deploy_to.into(), deploy_to.join("current"), "web-0", Limits::default());
        releases.make_spare(&id("v1"), 5, &nothing, &at_once).unwrap();
        return;
    }
    needs_root!();
    let rig = Rig::new();
    crate::operations::large_app(&rig, "v1");
    let volume = SlowVolume::mount(&rig.deploy_to, Duration::ZERO, 64);
    rig.ok(&["fetch"]);
    let test = "spare_making::a_fetch_onto_the_spare_asks_a_volume_for_little_more_than_what_differs";
    kill_myself_at(test, &rig, "spare.renamed");
    crate::operations::large_app(&rig, "v2");
    volume.reset();
    rig.ok(&["fetch"]);
    let counts = volume.counts();
    assert_eq!(rig.release_at_current().as_deref(), Some("v2"));
    // The files that say which release they are; and to take the spare, and away what is left of it.
    let bound = 6 * 11 / 2 + crate::operations::PER_FETCH + 50;
    assert!(counts.operations <= bound, "more than {bound}: {counts}");
    rig.ok(&["verify-tree", "v2"]);
}
