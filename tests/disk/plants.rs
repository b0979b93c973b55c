//! What the app, or another pod, can plant on the volume and in a store: links that lead out, and pipes that never
//! answer. Nothing outside is written, made or deleted, and nothing waits.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use pitstop::{
    config::S3,
    core::{Record, history::Neighbours},
    pointer::{self, Source},
    releases::{Limits, Releases, layout::Layout, leases::Lease},
    revision::{RecordEvent, Revision},
    revisions_log::{self, Log},
    store,
};

use crate::rig::{Rig, at_once, id, nothing};

/// Outside of the volume: files with a history, and some that look like our own.
fn outside(rig: &Rig) -> PathBuf {
    let outside = rig.dir.path().join("outside");
    let old = SystemTime::now() - Duration::from_secs(100 * 86_400);
    for dir in ["", "sub/deep", "x.dir", "job", "trash/victim", "v0"] {
        fs::create_dir_all(outside.join(dir)).unwrap();
    }
    for file in
        ["old.txt", "web-0", "data", "x.lock", "x.dir/f", "job/revisions.log", "trash/victim/f", "sub/f"]
    {
        fs::write(outside.join(file), format!("precious {file}")).unwrap();
    }
    fs::write(outside.join("v0/.pitstop-release"), "{}").unwrap();
    for file in ["old.txt", "web-0", "data", "x.lock", "job/revisions.log"] {
        fs::File::options().write(true).open(outside.join(file)).unwrap().set_modified(old).unwrap();
    }
    outside
}

/// Everything below, with its content.
fn all(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            let content = if kind.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            found.insert(entry.path(), content);
            dirs.extend(kind.is_dir().then(|| entry.path()));
        }
    }
    found
}

fn record(event: RecordEvent) -> Record {
    let revision = Revision { release: id("v1"), sequence: Some(1) };
    Record { event, revision, reason: None, baseline: None, mode: None }
}

fn link(to: &Path, at: PathBuf) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    symlink(to, at).unwrap();
}

/// All that an agent does on the volume, whatever comes of it.
fn work(rig: &Rig, current: PathBuf) {
    let layout = Layout {
        linked_dirs: vec!["storage/a".into()],
        pod_dirs: vec!["log/a".into()],
        pod_dir: rig.dir.path().join("pod"),
        ..Layout::default()
    };
    let releases = Releases::new(rig.deploy_to.clone(), current, "web-0", Limits::default()).laid_out(layout);
    let lease = Lease { pod: "web-0".into(), running: Some(id("v1")), ..Lease::default() };
    let _ = releases.write_lease(&lease);
    let _ = releases.leases();
    let _ = rig.fetch_with(&releases, "v1");
    let _ = releases.publish(&id("v1"));
    let _ = releases.prepare(&id("v1"));
    if let Ok((mut log, _)) = Log::open(revisions_log::path(&rig.deploy_to, "web-0")) {
        let _ = log.append(&record(RecordEvent::Attempt));
    }
    let _ = releases.clean_leftovers(&at_once);
    let _ = releases.clean_caches(&at_once);
    let _ = releases.prune(0, pitstop::releases::prune::Need::Room, &nothing, &at_once);
    let _ = rig.run(&["fetch"]);
    let _ = rig.run(&["prune", "--keep", "1"]);
    let _ = rig.run(&["verify-tree", "v1"]);
}

type Plant = fn(&Rig, &Path);

const PLANTS: &[(&str, Plant)] = &[
    (".pitstop", |rig, out| link(out, rig.deploy_to.join(".pitstop"))),
    ("trash", |rig, out| link(out, rig.deploy_to.join(".pitstop/trash"))),
    ("leases", |rig, out| link(out, rig.deploy_to.join(".pitstop/leases"))),
    ("staging", |rig, out| link(out, rig.deploy_to.join(".pitstop/staging"))),
    ("pods", |rig, out| link(out, rig.deploy_to.join(".pitstop/pods"))),
    ("a pod", |rig, out| link(&out.join("job"), rig.deploy_to.join(".pitstop/pods/web-0"))),
    ("journal", |rig, out| {
        link(&out.join("data"), rig.deploy_to.join(".pitstop/pods/web-0/revisions.log"));
    }),
    ("journal to nothing", |rig, out| {
        link(&out.join("new"), rig.deploy_to.join(".pitstop/pods/web-0/revisions.log"));
    }),
    ("journal by another name", |rig, out| {
        fs::create_dir_all(rig.deploy_to.join(".pitstop/pods/web-0")).unwrap();
        let journal = rig.deploy_to.join(".pitstop/pods/web-0/revisions.log");
        fs::hard_link(out.join("data"), journal).unwrap();
    }),
    ("lock", |rig, out| link(&out.join("new"), rig.deploy_to.join(".pitstop/lock"))),
    ("a lease", |rig, out| link(&out.join("data"), rig.deploy_to.join(".pitstop/leases/web-0"))),
    ("releases", |rig, out| link(out, rig.deploy_to.join("releases"))),
    ("a release", |rig, out| link(out, rig.deploy_to.join("releases/v1"))),
    ("a release to nothing", |rig, out| link(&out.join("new"), rig.deploy_to.join("releases/v1"))),
    ("current", |rig, out| link(out, rig.deploy_to.join("current"))),
    ("shared", |rig, out| link(out, rig.deploy_to.join("shared"))),
    ("in shared", |rig, out| link(out, rig.deploy_to.join("shared/storage"))),
    ("in shared, to nothing", |rig, out| link(&out.join("new"), rig.deploy_to.join("shared/storage"))),
    ("in pod_dir", |rig, out| link(out, rig.dir.path().join("pod/log"))),
    ("caches", |rig, out| link(out, rig.dir.path().join("pod/bootsnap"))),
    ("a cache", |rig, out| link(out, rig.dir.path().join("pod/bootsnap/v9"))),
    ("in a cache", |rig, out| link(out, rig.dir.path().join("pod/bootsnap/v9/sub"))),
    ("above current", |rig, out| link(out, rig.deploy_to.join("cur"))),
    ("a marker that asks for directories", |rig, out| {
        let release = rig.deploy_to.join("releases/v1");
        fs::create_dir_all(&release).unwrap();
        let out = out.display();
        let marker = format!(
            r#"{{"v":1,"release":"v1","sha256":"0","entries":1,"bytes":1,"links":[
                {{"key":"linked_dirs","path":"../../outside/new1","target":"x"}},
                {{"key":"linked_dirs","path":"a","target":"x","dirs":["../../../outside/new2","{out}/new3"]}},
                {{"key":"linked_dirs","path":"{out}/new4","target":"x"}},
                {{"key":"linked_files","path":"../../outside/new5/f","target":"x"}},
                {{"key":"pod_dirs","path":"y","target":"{out}/new6","dirs":["z"]}},
                {{"key":"pod_dirs","path":"../outside/new7","target":"{out}/../pod/../outside/new7"}}]}}"#
        );
        fs::write(release.join(".pitstop-release"), marker).unwrap();
    }),
    ("an entry of the trash", |rig, out| {
        link(&out.join("v0"), rig.deploy_to.join(".pitstop/trash/v0+web-0+1"));
    }),
    ("in an entry of the trash", |rig, out| {
        let entry = rig.deploy_to.join(".pitstop/trash/v0+web-0+1");
        link(&out.join("data"), entry.join(".pitstop-release"));
        link(out, entry.join("sub"));
    }),
    ("an entry of staging", |rig, out| {
        link(out, rig.deploy_to.join(".pitstop/staging/web-0+abc.dir"));
        link(&out.join("data"), rig.deploy_to.join(".pitstop/staging/web-0+abc.lock"));
    }),
    ("in an old release", |rig, out| {
        let release = rig.deploy_to.join("releases/old");
        link(out, release.join("sub"));
        fs::hard_link(out.join("data"), release.join("data")).unwrap();
        let marker = r#"{"v":1,"release":"old","sha256":"0","entries":1,"bytes":1}"#;
        fs::write(release.join(".pitstop-release"), marker).unwrap();
    }),
];

#[test]
fn links_that_are_planted_on_the_volume_lead_nobody_out_of_it() {
    for (name, plant) in PLANTS {
        let rig = Rig::new();
        rig.promote("v1");
        fs::create_dir_all(&rig.deploy_to).unwrap();
        fs::create_dir_all(rig.dir.path().join("pod")).unwrap();
        let outside = outside(&rig);
        plant(&rig, &outside);
        let before = all(&outside);
        work(&rig, rig.current());
        work(&rig, rig.deploy_to.join("cur/current"));
        assert_eq!(all(&outside), before, "{name}");
    }
}

#[test]
fn a_link_in_the_way_is_named() {
    let rig = Rig::new();
    rig.promote("v1");
    let outside = outside(&rig);
    link(&outside, rig.deploy_to.join(".pitstop/staging"));
    let problem = rig.fetch("v1").unwrap_err();
    assert_eq!(problem.reason.code(), "volume_unavailable");
    assert!(problem.message.contains("/.pitstop/staging is a link"), "{}", problem.message);
    assert!(problem.message.contains("put a directory in its place"), "{}", problem.message);
}

#[test]
fn a_directory_of_shared_that_is_a_link_to_an_existing_one_is_used_as_it_is() {
    let rig = Rig::new();
    rig.promote("v1");
    let disk = rig.dir.path().join("disk/a");
    fs::create_dir_all(&disk).unwrap();
    link(disk.parent().unwrap(), rig.deploy_to.join("shared/storage"));
    let layout = Layout { linked_dirs: vec!["storage/a".into()], ..Layout::default() };
    rig.fetch_with(&rig.releases().laid_out(layout), "v1").unwrap();
    let there = fs::metadata(rig.deploy_to.join("releases/v1/storage/a")).unwrap();
    assert_eq!(there.ino(), fs::metadata(disk).unwrap().ino());
}

fn pipe(at: &Path) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    let _ = fs::remove_file(at);
    mkfifo(at, Mode::S_IRWXU).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_pointer_is_told_and_what_comes_after_it_is_read() {
    let rig = Rig::new();
    let store = store::open(rig.store_dir().to_str(), &S3::default()).unwrap();
    let (in_store, file) = (rig.store_dir().join("pointers/production"), rig.dir.path().join("pointer"));
    for (at, source) in
        [(in_store, Source::Store(store, "production".into())), (file.clone(), Source::File(file))]
    {
        pipe(&at);
        let problem = pointer::read(&source, &Default::default()).await.unwrap_err();
        assert!(problem.message.contains("not a regular file"), "{}", problem.message);
        fs::remove_file(&at).unwrap();
        fs::write(&at, "v2").unwrap();
        assert_eq!(pointer::read(&source, &Default::default()).await.unwrap().revision.release, id("v2"));
    }
}

#[test]
fn pipes_in_the_place_of_what_a_store_holds_hold_up_nothing() {
    let rig = Rig::new();
    rig.publish("v1");
    let releases = rig.store_dir().join("releases");
    for name in ["v1.tar.zst", "v1.tar.zst.sha256"] {
        let (there, away) = (releases.join(name), rig.dir.path().join("away"));
        fs::rename(&there, &away).unwrap();
        pipe(&there);
        let problem = rig.fetch("v1").unwrap_err();
        assert!(problem.message.contains("not a regular file"), "{}", problem.message);
        fs::rename(&away, &there).unwrap();
    }
    rig.fetch("v1").unwrap();
}

#[test]
fn no_link_in_a_store_shows_anybody_another_file() {
    let rig = Rig::new();
    rig.promote("v1");
    let secret = rig.dir.path().join("token");
    fs::write(&secret, "secret").unwrap();
    for name in ["pointers/production", "releases/v1.tar.zst.sha256"] {
        let at = rig.store_dir().join(name);
        fs::remove_file(&at).unwrap();
        symlink(&secret, &at).unwrap();
        let (code, said) = rig.fails(&["fetch"]);
        assert!(code == 1 && said.contains("is a symlink") && !said.contains("secret"), "{said}");
        fs::remove_file(&at).unwrap();
        fs::write(&at, "v1").unwrap();
    }
}

#[test]
fn pipes_on_the_volume_hold_up_nothing_and_are_forgotten_when_they_are_gone() {
    let rig = Rig::new();
    rig.promote("v1");
    rig.ok(&["fetch"]);
    let at = |path: &str| rig.deploy_to.join(path);
    let own = revisions_log::path(&rig.deploy_to, "web-0");
    for path in [
        ".pitstop/pods/web-0/revisions.log",
        ".pitstop/pods/web-1/revisions.log",
        ".pitstop/leases/web-1",
        ".pitstop/lock",
        ".pitstop/staging/web-0+x.lock",
        "releases/v0/.pitstop-release",
    ] {
        pipe(&at(path));
        assert_eq!(rig.releases().current().unwrap(), Some(id("v1")), "{path}");
        assert_eq!(revisions_log::neighbours(&own), Neighbours::default(), "{path}");
        rig.of_pod("web-0").write_lease(&Lease { pod: "web-0".into(), ..Lease::default() }).unwrap();
        rig.releases().clean_leftovers(&at_once).unwrap();
        let _ = rig.run(&["prune"]);
        let opened =
            Log::open(own.clone()).and_then(|(mut log, _)| log.append(&record(RecordEvent::Verified)));
        assert_eq!(opened.is_err(), path == ".pitstop/pods/web-0/revisions.log", "{path}");
        if let Err(problem) = opened {
            assert!(problem.message.contains("not a regular file: move it away"), "{}", problem.message);
        }
        let _ = fs::remove_file(at(path));
        Log::open(own.clone()).unwrap().0.append(&record(RecordEvent::Verified)).unwrap();
        fs::remove_file(&own).unwrap();
    }
    let marker = at("releases/v1/.pitstop-release");
    let (kept, away) = (fs::read(&marker).unwrap(), marker.with_extension("away"));
    fs::rename(&marker, &away).unwrap();
    pipe(&marker);
    assert_eq!(rig.releases().current().unwrap(), None);
    fs::remove_file(&marker).unwrap();
    fs::write(&marker, kept).unwrap();
    assert_eq!(rig.releases().current().unwrap(), Some(id("v1")));
}
