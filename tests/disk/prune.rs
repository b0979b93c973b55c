//! What is deleted, and what never is: leases, processes, verdicts, room, and a kill at any moment.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use pitstop::{
    core::{Reason, Record},
    releases::{
        FAIL_POINTS, Limits, Releases,
        layout::Layout,
        leases::Lease,
        prune::{Class, Need, Pruned},
    },
    revision::{RecordEvent, ReleaseId, Revision},
    revisions_log::{self, Log},
};

use pitstop_rig::wait_until;
use rustix::fs::{FlockOperation, flock};

use crate::{
    crash::{CHILD, kill_myself_at},
    rig::{Rig, Running, at_once, id, nothing},
};

impl Rig {
    /// The releases come onto the volume in this order; the last one is `current`.
    fn with(releases: &[&str]) -> Self {
        let rig = Self::new();
        for release in releases {
            rig.promote(release);
            rig.ok(&["fetch"]);
        }
        // No agent has been here.
        let _ = fs::remove_dir_all(rig.leases());
        rig
    }

    /// As a kill right after the rename leaves `v1`: from where, and to where.
    fn move_aside(&self) -> (PathBuf, PathBuf) {
        let [there, aside] =
            ["releases/v1", ".pitstop/trash/v1+web-9+1"].map(|path| self.deploy_to.join(path));
        fs::create_dir_all(aside.parent().unwrap()).unwrap();
        fs::rename(&there, &aside).unwrap();
        (there, aside)
    }

    fn leases(&self) -> std::path::PathBuf {
        self.deploy_to.join(".pitstop/leases")
    }

    pub fn of_pod(&self, pod: &str) -> Releases {
        Releases::new(self.deploy_to.clone(), self.current(), pod, Limits::default())
    }

    fn lease(&self, pod: &str, also: &[&str]) {
        let lease = Lease { v: 1, pod: pod.into(), also: ids(also), at: "x".into(), ..Lease::default() };
        self.of_pod(pod).write_lease(&lease).unwrap();
    }

    fn prune(&self, keep: usize) -> Pruned {
        self.releases().prune(keep, Need::Tidy, &nothing, &at_once).unwrap()
    }

    fn on_volume(&self) -> Vec<String> {
        let names = fs::read_dir(self.deploy_to.join("releases")).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn verdict(&self, pod: &str, event: RecordEvent, release: &str) {
        let revision = Revision { release: id(release), sequence: Some(1) };
        let reason = (event == RecordEvent::Rejected).then_some(Reason::BootFailed);
        let path = revisions_log::path(&self.deploy_to, pod);
        Log::open(path)
            .unwrap()
            .0
            .append(&Record { event, revision, reason, baseline: None, mode: None })
            .unwrap();
    }
}

fn ids(names: &[&str]) -> std::collections::BTreeSet<ReleaseId> {
    names.iter().map(|name| id(name)).collect()
}

fn why(pruned: &Pruned, release: &str) -> String {
    pruned.kept.iter().find(|kept| kept.release == id(release)).unwrap().why.clone()
}

fn started(command: &mut Command) -> Running {
    Running(command.spawn().unwrap())
}

/// Makes a file look as if it had been written so long ago.
fn age(path: &Path, by: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn pruning_keeps_the_newest_the_protected_and_what_is_not_ours() {
    let rig = Rig::new();
    for n in 1..=5 {
        rig.publish(&format!("v{n}"));
        rig.fetch(&format!("v{n}")).unwrap();
    }
    fs::create_dir(rig.deploy_to.join("releases/by-hand")).unwrap();
    let releases = rig.releases();
    releases.publish(&id("v1")).unwrap();
    let needed = || BTreeMap::from([(id("v2"), "this pod ran it before".to_owned())]);
    let pruned = releases.prune(1, Need::Tidy, &needed, &at_once).unwrap();
    assert_eq!(rig.on_volume(), ["by-hand", "v1", "v2", "v5"]);
    assert_eq!(why(&pruned, "v2"), "this pod ran it before");
    assert_eq!(why(&pruned, "v5"), "one of the 1 that keep_releases keeps");
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}

#[test]
fn what_another_pod_has_leased_stays_until_the_lease_is_out_of_date() {
    let rig = Rig::with(&["v1", "v2", "v3"]);
    rig.lease("web-1", &["v1"]);
    let pruned = rig.prune(1);
    assert_eq!(rig.on_volume(), ["v1", "v3"]);
    assert_eq!(why(&pruned, "v1"), "in use in pod web-1");
    assert_eq!(why(&pruned, "v3"), "current points to it");
    age(&rig.leases().join("web-1"), Duration::from_secs(23 * 3600));
    rig.prune(1);
    assert_eq!(rig.on_volume(), ["v1", "v3"], "its node may have been cut off for a while");
    age(&rig.leases().join("web-1"), Duration::from_secs(25 * 3600));
    rig.prune(1);
    assert_eq!(rig.on_volume(), ["v3"]);
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}

#[test]
fn a_pod_that_ended_in_order_holds_nothing_for_long() {
    let rig = Rig::with(&["v1", "v2"]);
    let lease = Lease { pod: "web-1".into(), running: Some(id("v1")), ended: true, ..Lease::default() };
    rig.of_pod("web-1").write_lease(&lease).unwrap();
    rig.prune(1);
    assert_eq!(rig.on_volume(), ["v1", "v2"], "its container may be started again");
    age(&rig.leases().join("web-1"), Duration::from_secs(2 * 3600));
    rig.prune(1);
    assert_eq!(rig.on_volume(), ["v2"]);
}

#[test]
fn a_lease_that_cannot_be_read_may_name_anything() {
    let rig = Rig::with(&["v1", "v2"]);
    fs::create_dir_all(rig.leases()).unwrap();
    fs::write(rig.leases().join("web-1"), "{\"v\":1,\"pod").unwrap();
    let pruned = rig.prune(1);
    assert_eq!(rig.on_volume(), ["v1", "v2"]);
    assert!(why(&pruned, "v1").contains("leases/web-1"), "{pruned:?}");
    fs::write(rig.leases().join("web-1"), "{\"v\":9,\"pod\":\"web-1\",\"at\":\"x\",\"news\":[1]}").unwrap();
    rig.prune(1);
    assert_eq!(rig.on_volume(), ["v2"], "what a later version adds is no reason");
}

#[test]
fn what_a_process_works_in_or_has_open_or_mapped_stays() {
    let rig = Rig::with(&["cwd", "open", "mapped", "free", "now"]);
    let release = |name: &str| rig.deploy_to.join("releases").join(name);
    let program = release("mapped").join("sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    let works = started(Command::new("sleep").arg("600").current_dir(release("cwd").join("config")));
    let file = File::open(release("open").join("config/0.rb")).unwrap();
    let reads = started(Command::new("sleep").arg("600").stdin(file));
    let runs = started(Command::new(&program).arg("600"));
    for child in [&works, &reads, &runs] {
        // Until its image is in place, it is a copy of this process.
        let comm = format!("/proc/{}/comm", child.0.id());
        pitstop_rig::wait_until("the exec", || fs::read_to_string(&comm).unwrap().trim() == "sleep");
    }
    let pruned = rig.prune(1);
    assert_eq!(rig.on_volume(), ["cwd", "mapped", "now", "open"]);
    assert_eq!(why(&pruned, "cwd"), format!("process {} works in it", works.0.id()));
    assert_eq!(why(&pruned, "open"), format!("process {} has a file of it open", reads.0.id()));
    assert_eq!(why(&pruned, "mapped"), format!("process {} has a file of it mapped", runs.0.id()));
    drop((works, reads, runs));
    rig.prune(1);
    assert_eq!(rig.on_volume(), ["now"]);
}

#[test]
fn failed_releases_do_not_push_good_ones_out() {
    let rig = Rig::with(&["good1", "good2", "bad1", "new", "good3", "bad2", "good4"]);
    for good in ["good1", "good2", "good3"] {
        rig.verdict("web-0", RecordEvent::Verified, good);
    }
    rig.verdict("web-0", RecordEvent::Rejected, "bad1");
    // In another pod, and after it had run there.
    rig.verdict("web-1", RecordEvent::Verified, "bad2");
    rig.verdict("web-1", RecordEvent::Rejected, "bad2");
    rig.verdict("web-1", RecordEvent::Verified, "good4");
    let judged = rig.releases().judge(&nothing).unwrap();
    let order: Vec<_> = judged.iter().map(|one| one.release.as_str()).collect();
    assert_eq!(order, ["good4", "good3", "good2", "good1", "new", "bad2", "bad1"]);
    assert_eq!(judged[5].class, Class::Failed);
    let gone = rig.prune(3).deleted;
    let gone: Vec<_> = gone.iter().map(|one| one.release.as_str()).collect();
    assert_eq!(gone, ["bad1", "bad2", "new", "good1"]);
    assert_eq!(rig.on_volume(), ["good2", "good3", "good4"]);
}

#[test]
fn what_the_caller_needs_stays_whatever_its_age() {
    let rig = Rig::with(&["v1", "v2", "v3"]);
    let needed = || BTreeMap::from([(id("v1"), "this pod ran it before".to_owned())]);
    let pruned = rig.releases().prune(1, Need::Room, &needed, &at_once).unwrap();
    assert_eq!(rig.on_volume(), ["v1", "v3"]);
    assert_eq!(why(&pruned, "v1"), "this pod ran it before");
}

#[test]
fn a_fetch_without_room_makes_room_by_itself() {
    let rig = Rig::new();
    let _volume = crate::volume::Mounted::tmpfs(&rig.deploy_to, "4m");
    for (release, bytes) in [("v1", 1 << 20), ("v2", 1 << 20), ("v3", 2 << 20)] {
        let app = rig.app(release);
        fs::write(app.join("big"), vec![7; bytes]).unwrap();
        rig.ok(&["publish", app.to_str().unwrap(), "--release", release]);
        rig.ok(&["promote", release]);
        rig.ok(&["fetch"]);
    }
    assert_eq!(rig.release_at_current().as_deref(), Some("v3"));
    assert!(!rig.on_volume().contains(&"v1".to_owned()), "{:?}", rig.on_volume());
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}

#[test]
fn a_deletion_that_is_called_off_is_gone_on_with_later() {
    let rig = Rig::with(&["v1", "v2"]);
    let many = rig.deploy_to.join("releases/v1/many");
    fs::create_dir(&many).unwrap();
    (0..100).for_each(|n| fs::write(many.join(n.to_string()), "").unwrap());
    let stop = |_| ControlFlow::Break(());
    let pruned = rig.releases().prune(1, Need::Tidy, &nothing, &stop).unwrap();
    assert!(pruned.unfinished);
    assert_eq!((rig.on_volume().len(), rig.leftovers().len()), (1, 1));
    // Whoever comes next, another pod as well.
    let pruned = rig.of_pod("web-7").prune(1, Need::Tidy, &nothing, &at_once).unwrap();
    assert_eq!((pruned.emptied, rig.leftovers().len()), (1, 0));
}

#[test]
fn a_release_that_is_needed_after_all_is_put_back_whole() {
    let rig = Rig::with(&["v1", "v2"]);
    rig.move_aside();
    rig.lease("web-1", &["v1"]);
    rig.prune(1);
    assert_eq!(rig.releases().is_complete(&id("v1")), Ok(true));
    assert_eq!(rig.leftovers(), Vec::<String>::new());
    // Fetched anew meanwhile: one of the two is enough.
    rig.move_aside();
    rig.fetch("v1").unwrap();
    rig.prune(1);
    assert_eq!(rig.releases().is_complete(&id("v1")), Ok(true));
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}

/// Without a lock both have looked before one of them renames.
#[test]
fn what_another_agent_has_put_back_meanwhile_keeps_its_marker() {
    let rig = Rig::with(&["v1", "v2"]);
    let (there, aside) = rig.move_aside();
    let needed = || {
        let _ = fs::rename(&aside, &there);
        BTreeMap::from([(id("v1"), "this pod ran it before".to_owned())])
    };
    let pruned = rig.releases().prune(1, Need::Tidy, &needed, &at_once).unwrap();
    assert_eq!((rig.on_volume(), pruned.failed), (vec!["v1".to_owned(), "v2".to_owned()], Vec::new()));
    assert_eq!(rig.releases().is_complete(&id("v1")), Ok(true));
}

/// Its lock is held: the other agent is about to put it back.
#[test]
fn what_waits_for_the_lock_has_nothing_of_the_release_in_its_hands() {
    let rig = Rig::with(&["v1", "v2"]);
    let (there, aside) = rig.move_aside();
    let lock = File::create(rig.deploy_to.join(".pitstop/lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let inode = lock.metadata().unwrap().ino();
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| rig.prune(2));
        wait_until("the other agent waits for the lock", || has_open_twice(inode));
        fs::rename(&aside, &there).unwrap();
        drop(lock);
        pruning.join().unwrap();
    });
    assert_eq!(rig.releases().is_complete(&id("v1")), Ok(true));
}

/// Whether this process has the file open twice.
fn has_open_twice(inode: u64) -> bool {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|fd| fs::metadata(fd.path()).is_ok_and(|meta| meta.ino() == inode)).count() > 1
}

#[test]
fn a_tree_that_forbids_writing_is_deleted_all_the_same() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::with(&["v1", "v2"]);
    let closed = rig.deploy_to.join("releases/v1/config");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let pruned = rig.prune(1);
    assert_eq!(pruned.failed, Vec::<String>::new());
    assert_eq!((rig.on_volume().len(), rig.leftovers().len()), (1, 0));
}

#[test]
fn a_kill_while_pruning_leaves_releases_whole_or_gone() {
    if let Some(deploy_to) = std::env::var_os(CHILD) {
        let deploy_to = Path::new(&deploy_to);
        let releases = Releases::new(deploy_to.into(), deploy_to.join("current"), "web-0", Limits::default());
        releases.prune(1, Need::Tidy, &nothing, &at_once).unwrap();
        return;
    }
    for point in FAIL_POINTS.iter().filter(|name| name.starts_with("prune.")) {
        for leased in [false, true] {
            let rig = Rig::with(&["v1", "v2"]);
            let test = "prune::a_kill_while_pruning_leaves_releases_whole_or_gone";
            kill_myself_at(test, &rig, point);
            assert!(!rig.deploy_to.join("releases/v1").exists(), "{point}");
            assert_eq!(rig.release_at_current().as_deref(), Some("v2"), "{point}");
            if leased {
                rig.lease("web-1", &["v1"]);
            }
            rig.of_pod("web-1").prune(1, Need::Tidy, &nothing, &at_once).unwrap();
            assert_eq!(rig.leftovers(), Vec::<String>::new(), "{point}");
            // Before the point of no return it is put back, after it it is fetched anew.
            let whole = leased && *point == "prune.renamed";
            assert_eq!(rig.releases().is_complete(&id("v1")), Ok(whole), "{point}");
            rig.fetch("v1").unwrap();
        }
    }
}

/// Several agents write leases and look, while another deletes: what is leased and was seen to be
/// there is there.
#[test]
fn a_lease_and_a_deletion_at_the_same_time_never_cost_a_release_that_is_relied_on() {
    let rig = Rig::with(&["v1", "v2"]);
    let relied: usize = std::thread::scope(|scope| {
        let rig = &rig;
        let pods = ["web-1", "web-2"].map(|pod| {
            scope.spawn(move || {
                (0..60)
                    .filter(|_| {
                        rig.lease(pod, &["v1"]);
                        let there = rig.of_pod(pod).is_complete(&id("v1")).unwrap();
                        if !there {
                            rig.fetch_with(&rig.of_pod(pod), "v1").unwrap();
                        }
                        for _ in 0..5 {
                            assert_eq!(rig.of_pod(pod).is_complete(&id("v1")), Ok(true), "{pod}");
                        }
                        rig.lease(pod, &[]);
                        there
                    })
                    .count()
            })
        });
        let pruner = scope.spawn(|| (0..120).for_each(|_| drop(rig.prune(1))));
        pruner.join().unwrap();
        pods.map(|pod| pod.join().unwrap()).into_iter().sum()
    });
    assert!(relied > 0, "it was found there now and then");
}

#[test]
fn the_cache_of_a_release_goes_with_it_and_nothing_else_does() {
    let rig = Rig::with(&["v1", "v2"]);
    let pod_dir = rig.dir.path().join("pod");
    let caches = pod_dir.join("bootsnap");
    for name in ["v0/bootsnap/compile-cache-iseq", "v1", "v2", "app", ".hidden", "no id", "foreign"] {
        fs::create_dir_all(caches.join(name)).unwrap();
    }
    fs::write(caches.join("v0/bootsnap/load-path-cache"), "x").unwrap();
    fs::create_dir_all(pod_dir.join("log/v0")).unwrap();
    fs::create_dir(rig.deploy_to.join("releases/foreign")).unwrap();
    let clean = |pod_dirs: &[&str]| {
        let layout = Layout {
            pod_dirs: pod_dirs.iter().map(Into::into).collect(),
            pod_dir: pod_dir.clone(),
            ..Layout::default()
        };
        let releases = rig.releases().laid_out(layout).with_fallback(Some("/rails/app".into()));
        releases.clean_caches(&at_once).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&caches).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        left
    };
    let all = [".hidden", "app", "foreign", "no id", "v0", "v1", "v2"];
    assert_eq!(clean(&["bootsnap"]), all, "it is the app's own");
    let releases = rig.deploy_to.join("releases");
    fs::rename(&releases, rig.deploy_to.join("aside")).unwrap();
    assert_eq!(clean(&["log"]), all, "without releases nobody knows which are there");
    fs::rename(rig.deploy_to.join("aside"), &releases).unwrap();
    assert_eq!(clean(&["log"]), [".hidden", "app", "foreign", "no id", "v1", "v2"]);
    rig.prune(1);
    assert_eq!(clean(&["log"]), [".hidden", "app", "foreign", "no id", "v2"]);
    assert!(pod_dir.join("log/v0").exists());
}
