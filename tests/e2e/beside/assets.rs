//! Pages of the old and of the new release find their assets, whichever server answers: before, in and after a share.

use std::{fs, path::Path};

use pitstop_rig::{ExecPod, Setup, http, until, until_within};

use super::{RECOVERY, slot};
use crate::PITSTOP;

/// As docs/rails.md has it for a Rack app.
const SERVES: &str = "require 'rack'\n\
    use Rack::Static, urls: ['/assets'], root: File.join(__dir__, 'public'), cascade: true\n\
    use Rack::Static, urls: ['/assets'], root: File.expand_path('../app/shared/public', ENV.fetch('RIG_RUN')), cascade: true\n";

fn deploy(pod: &ExecPod, id: &str) {
    pod.deploy_changed(id, |dir| {
        let app = fs::read_to_string(dir.join("config.ru")).unwrap();
        fs::write(dir.join("config.ru"), format!("{SERVES}{app}")).unwrap();
        fs::create_dir_all(dir.join("public/assets")).unwrap();
        fs::write(dir.join(format!("public/assets/app-{id}.css")), id).unwrap();
    });
}

/// Both servers of a share answer some of these.
const ASKED: usize = 60;

/// How many of them found the asset of this release, and it is whole.
fn found(pod: &ExecPod, id: &str) -> usize {
    let port = pod.puma.port();
    let asset = |_: &usize| {
        let answer = http::get(port, &format!("/assets/app-{id}.css")).ok()?;
        (answer.status == 200 && answer.body == id).then_some(())
    };
    (0..ASKED).filter_map(|at| asset(&at)).count()
}

#[test]
fn e2e_shift_pages_of_both_releases_find_their_assets_before_in_and_after_a_share() {
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), Setup::default())
        .with("PITSTOP_RESTART_MODE", "beside")
        .with("PITSTOP_KEEP_RELEASES", "2")
        .with("PITSTOP_RESTART_SHIFT", "50%,100%")
        .with("PITSTOP_RESTART_SHIFT_REQUESTS", "40");
    pod.parent_listens();
    let pod = pod.in_sync();
    let finish = || {
        let share = || (slot(&pod, "candidate")?["weight"] == 500).then_some(());
        until_within(RECOVERY, "the share", share);
    };
    let switched = |id: &str| {
        // The step ends by the requests that are asked.
        until_within(RECOVERY, "the switch", || {
            let _ = found(&pod, id);
            (pod.agent.status()?["running"] == id).then_some(())
        });
        // /status may show the roles from before the switch.
        until_within(RECOVERY, "the end of the earlier one", || (pod.servers().len() == 1).then_some(()));
    };
    until("Puma took the sockets", || slot(&pod, "live"));
    deploy(&pod, "v2");
    finish();
    switched("v2");
    assert_eq!(found(&pod, "v2"), ASKED, "before");
    deploy(&pod, "v3");
    finish();
    assert_eq!([found(&pod, "v2"), found(&pod, "v3")], [ASKED; 2], "in the share");
    switched("v3");
    assert_eq!([found(&pod, "v2"), found(&pod, "v3")], [ASKED; 2], "after it, as long as v2 is kept");
    deploy(&pod, "v4");
    finish();
    switched("v4");
    until_within(RECOVERY, "v2 is kept no more, and its asset goes", || {
        (found(&pod, "v2") == 0).then_some(())
    });
    assert_eq!([found(&pod, "v3"), found(&pod, "v4")], [ASKED; 2]);
}
