//! Two agents on one volume: one is stopped at each of its fail points while the other does all of its work, and is killed
//! there. And agents of two versions.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use pitstop::{
    config::S3,
    core::Problem,
    releases::{
        FAIL_POINTS, Limits, Releases, fetch_lock::Patience, leases::Lease, manifest::MANIFEST, prune::Need,
        spare_making,
    },
    store::{self, Blocking},
};
use pitstop_rig::wait_until;
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Runtime;

use crate::{
    crash::CHILD,
    rig::{Rig, Running, at_once, id, nothing},
};

/// All that an agent does on a volume for one deploy. A pod that works on the same release is soon waited for no more.
fn deploy(home: &Path, pod: &str, release: &str) -> Result<(), Problem> {
    let deploy_to = home.join("srv");
    let patience = Patience { stalled: Duration::from_millis(200), most: Duration::from_secs(600) };
    let releases = Releases::new(deploy_to.clone(), deploy_to.join("current"), pod, Limits::default())
        .with_patience(patience);
    let runtime = Runtime::new().unwrap();
    let store = store::open(home.join("store").to_str(), &S3::default()).unwrap();
    let store = Blocking::new(Arc::clone(&store), runtime.handle().clone(), Duration::from_secs(30));
    let release = id(release);
    let also = [release.clone()].into_iter().chain(releases.current()?).collect();
    releases.write_lease(&Lease { v: 1, pod: pod.into(), also, ..Lease::default() })?;
    releases.fetch(&store, &release, None)?;
    releases.publish(&release)?;
    releases.make_spare(&release, 1, &nothing, &at_once)?;
    let also = [release].into();
    releases.write_lease(&Lease { v: 1, pod: pod.into(), also, ..Lease::default() })?;
    releases.prune(1, Need::Tidy, &nothing, &at_once)?;
    releases.clean_leftovers(&at_once).map(drop)
}

impl Rig {
    fn deploy(&self, pod: &str, release: &str) {
        deploy(self.dir.path(), pod, release).unwrap();
        assert_eq!(self.release_at_current().as_deref(), Some(release));
    }

    fn assert_all_are_whole(&self, when: &str) {
        for release in fs::read_dir(self.deploy_to.join("releases")).unwrap() {
            let release = release.unwrap().file_name().into_string().unwrap();
            assert_eq!(self.releases().is_complete(&id(&release)), Ok(true), "{when}: {release}");
            self.ok(&["verify-tree", &release]);
        }
    }

    /// Another agent that deploys v3 and stops at this point; `None`: it ended without having come there.
    fn deploys_until(&self, point: &str) -> Option<Running> {
        let hits = self.dir.path().join("hits");
        fs::create_dir_all(&hits).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture"]).env(CHILD, self.dir.path());
        command.env("PITSTOP_FAILPOINTS", point).env("PITSTOP_FAILPOINT_DIR", &hits);
        command.stdout(std::process::Stdio::null());
        let mut running = Running(command.spawn().unwrap());
        let mut ended = false;
        wait_until(point, || {
            ended = running.0.try_wait().unwrap().is_some();
            ended || hits.join(point).exists()
        });
        (!ended).then_some(running)
    }
}

const TEST: &str = "interleaved::wherever_one_agent_is_killed_the_other_finds_and_leaves_whole_releases";

#[test]
fn wherever_one_agent_is_killed_the_other_finds_and_leaves_whole_releases() {
    if let Some(home) = std::env::var_os(CHILD) {
        return deploy(Path::new(&home), "web-1", "v3").unwrap();
    }
    let mut never = Vec::new();
    for point in FAIL_POINTS.iter().chain(spare_making::FAIL_POINTS) {
        let rig = Rig::holding(&["v0", "v1", "v2"]);
        rig.make_spare("v2", 5).unwrap();
        rig.publish("v3");
        let Some(mut stopped) = rig.deploys_until(point) else {
            never.push(*point);
            continue;
        };
        assert!(rig.release_at_current().is_some(), "{point}");
        rig.deploy("web-2", "v3");
        rig.deploy("web-2", "v1");
        stopped.kill();
        rig.deploy("web-2", "v2");
        rig.deploy("web-1", "v3");
        rig.assert_all_are_whole(point);
        assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()), "{point}");
    }
    assert_eq!(never, Vec::<&str>::new());
}

/// An earlier version kept no manifests and made no spares; what a later one writes is not known.
#[test]
fn what_agents_of_other_versions_leave_on_the_volume_is_used_as_far_as_it_is_understood() {
    let rig = Rig::new();
    rig.promote("v1");
    rig.deploy("web-1", "v1");
    fs::remove_file(rig.deploy_to.join("releases/v1").join(MANIFEST)).unwrap();
    fs::remove_dir_all(rig.deploy_to.join(".pitstop/spare")).unwrap();
    let locks = rig.deploy_to.join(".pitstop/fetching");
    fs::create_dir_all(&locks).unwrap();
    fs::write(locks.join("v2"), r#"{"v":9,"pod":{"name":"web-9"},"done":"half"}"#).unwrap();
    let held = fs::File::open(locks.join("v2")).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let lease =
        r#"{"v":9,"pod":"web-9","running":"v1","also":["v1"],"at":"2999-01-01T00:00:00Z","more":{"a":[1]}}"#;
    fs::write(rig.deploy_to.join(".pitstop/leases/web-9"), lease).unwrap();
    rig.promote("v2");
    rig.deploy("web-2", "v2");
    assert_eq!(rig.releases().is_complete(&id("v1")), Ok(true), "the later version's pod runs it");
    rig.deploy("web-2", "v1");
    rig.assert_all_are_whole("after agents of other versions");
}
