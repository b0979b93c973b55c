//! The last act: each release boots in a second server beside the one that serves, and is checked before a client
//! meets it.

use std::cell::Cell;

use pitstop_rig::{App, ExecPod, Load, Setup, load::Plan, pod::rejection};
use serde_json::Value;

use crate::{
    acts::{answer, told},
    narrator::{act, say},
    pod::{Stopped, binary, in_sync, pass, publish, run, watch},
    report::{Report, phase},
};

const BAD: [(App, &str, &[&str]); 3] = [
    (App::RaisesOnBoot, "w2", &["boot_failed", "boot_loop"]),
    (App::HangsOnBoot, "w3", &["boot_failed", "boot_timeout"]),
    (App::UnhealthyPath, "w4", &["probe_failed"]),
];
const LONG: &str = "/slow?s=6";

/// Three bad releases, and a good one while a long request is in flight.
pub fn beside(report: &mut Report) -> Result<(), Stopped> {
    act(
        "A second server beside the first",
        "Another pod, whose app preloads and needs 3 seconds to boot: Puma's own restart would let every client wait
         for that, and a release that raises would end the container. Here `pitstop exec` has started Puma and holds
         its sockets. So each release boots in a second Puma beside the one that serves. Clients meet it when it has passed
         its check, and not before.",
    );
    let mut pod = start()?;
    let load = Load::start(Plan::modest(pod.puma.port()), phase::ALONE);
    let played = deploys(&mut pod, &load, report);
    report.beside(load.finish(), &BAD.map(|(_, id, _)| id));
    report.played = played.is_ok();
    played
}

fn start() -> Result<ExecPod, Stopped> {
    let setup = Setup {
        preload: Some(true),
        threads: (3, 3),
        worker_shutdown_timeout: 3,
        boot_seconds: 3.0,
        ..Setup::default()
    };
    let mut pod = ExecPod::prepare(&binary()?, setup).with("PITSTOP_RESTART_TIMEOUT", "12s");
    pod.set("PITSTOP_RESTART_SHIFT", "20%,50%");
    pod.parent_listens();
    publish(&pod.agent, &pod.agent.build(&pod.puma, App::Good, "w1"), "w1")?;
    run(&pod.agent, &["promote", "w1"])?;
    pod.start();
    watch(&pod.agent, "w1 in sync", |status| in_sync(status, "w1"))?;
    Ok(pod)
}

fn deploys(pod: &mut ExecPod, load: &Load, report: &mut Report) -> Result<(), Stopped> {
    say("Three seconds without a deploy, to know what is normal.");
    pass(3.0);
    load.phase(phase::BESIDE);
    let server = live(&pod.status());
    for (app, id, reasons) in BAD {
        undone(pod, report, (app, id, reasons))?;
    }
    let same = live(&pod.status());
    report.expect("the server that served all the time was never restarted", same == server, "");
    good(pod, load, report)
}

fn undone(
    pod: &ExecPod,
    report: &mut Report,
    (app, id, reasons): (App, &str, &[&str]),
) -> Result<(), Stopped> {
    say(match app {
        App::RaisesOnBoot => "A release that raises while it boots:",
        App::HangsOnBoot => "A release that never ends to boot (restart.timeout is 12 s here):",
        _ => "A release whose health path answers 500:",
    });
    publish(&pod.agent, &pod.agent.build(&pod.puma, app, id), id)?;
    run(&pod.agent, &["promote", id])?;
    let unready = Cell::new(0);
    let status = watch(&pod.agent, &format!("{id} rejected and w1 running"), |status| {
        let ready = pod.agent.get("/ready").is_ok_and(|answer| answer.status == 200);
        unready.set(unready.get() + u32::from(!ready));
        rejection(status, id).is_some() && status["stage"] == "steady" && status["running"] == "w1"
    })?;
    let reason = rejection(&status, id).unwrap_or_default();
    report.expect(&format!("{id} is undone, for the right reason"), reasons.contains(&&*reason), &reason);
    report.expect("the pod was ready all the time", unready.get() == 0, "");
    report.reverts += 1;
    Ok(())
}

fn good(pod: &ExecPod, load: &Load, report: &mut Report) -> Result<(), Stopped> {
    say("A good release, and a request of 6 seconds is in flight when it comes. It gets 20 % of the new connections first,
         then 50 %, then all (restart.shift):");
    publish(&pod.agent, &pod.agent.build(&pod.puma, App::Good, "w5"), "w5")?;
    let long = load.send(LONG);
    run(&pod.agent, &["promote", "w5"])?;
    for percent in [20.0, 50.0] {
        let shares = |status: &Value| status["shift"]["percent"] == percent || in_sync(status, "w5");
        let status = watch(&pod.agent, &format!("{percent} % for w5"), shares)?;
        say(status["doing"].as_str().unwrap_or_default());
        report.expect(&format!("w5 got {percent} % of new connections"), !in_sync(&status, "w5"), "");
    }
    let status = watch(&pod.agent, "w5 in sync", |status| in_sync(status, "w5"))?;
    let restarts = pod.metric(r#"pitstop_restarts_total{mode="beside",result="ok"}"#);
    report.expect("w5 runs, by a second server", slots(&status).len() > 1 || restarts.is_some(), "");
    match answer(&long) {
        Some(record) => {
            let by_old = record.as_expected() && record.release.as_deref() == Some("w1");
            report.expect("the long request was answered by the old server", by_old, told(&record));
        }
        None => report.expect("the long request was answered by the old server", false, "not at all"),
    }
    watch(&pod.agent, "the end of the old server", |status| slots(status).len() == 1)?;
    say("The old server has ended.");
    pass(1.0);
    report.deploys += 1;
    Ok(())
}

/// The servers of the container.
fn slots(status: &Value) -> &[Value] {
    status["app_server"]["slots"].as_array().map_or(&[], Vec::as_slice)
}

/// The process of the server that serves.
fn live(status: &Value) -> Value {
    slots(status)
        .iter()
        .find(|slot| slot["role"] == "live")
        .map(|slot| slot["pid"].clone())
        .unwrap_or_default()
}
