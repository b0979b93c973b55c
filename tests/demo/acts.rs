//! The story: each act makes something happen in the pod and says what should come of it.

use std::{sync::mpsc::Receiver, time::Duration};

use pitstop_rig::{App, load::Record, pod::rejection, poll};
use serde_json::Value;

use crate::{
    beside, birth, end,
    narrator::{act, say},
    pod::{Pod, Stopped, in_sync},
    report::{BAD, Report, phase},
};

/// Plays everything. Whatever happens, what the clients saw so far is in the report afterwards.
pub fn play(report: &mut Report) -> Result<(), Stopped> {
    act(
        "A pod starts",
        "A release is published into a directory store, the pointer names it, and an init container would
         fetch it. Then a real Puma serves it from `current`, and `pitstop run` watches beside it.
         From now on about 100 requests a second come in, on kept and on fresh connections.",
    );
    let mut pod = Pod::start()?;
    let played = deploys(&mut pod, report)
        .and_then(|()| end::end_of_the_pod(&mut pod, report))
        .and_then(|()| birth::beside_a_sick_dependency(&mut pod, report));
    report.records = pod.load.finish();
    // Both would be too much for two cores.
    drop((pod.agent, pod.puma));
    played.and_then(|()| beside::beside(report))
}

fn deploys(pod: &mut Pod, report: &mut Report) -> Result<(), Stopped> {
    pod.watch_in_sync("v1")?;
    report.expect("the agent takes the pod as it is, without a restart", restarts(pod, "") == 0.0, "");
    say("Six seconds without a deploy, to know what is normal.");
    pod.pass(6.0);
    good_phased(pod, report)?;
    bad_releases(pod, report)?;
    good_hot(pod, report)?;
    agent_killed(pod, report)?;
    long_request(pod, report)
}

fn restarts(pod: &Pod, mode: &str) -> f64 {
    pod.counter("pitstop_restarts_total", &[mode])
}

fn good_phased(pod: &Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "A good release",
        "Only the app changed, so Puma replaces one worker after the other (a phased restart) and the
         others serve on. The deploy is over when every worker is proved to run v2, not when a signal was sent.",
    );
    pod.publish(App::Good, "v2")?;
    pod.load.phase(phase::PHASED);
    pod.promote("v2")?;
    deployed(pod, report, "v2")?;
    let phased = restarts(pod, "mode=\"phased\"");
    report.expect("it was a phased restart", phased == 1.0, format!("{phased} counted"));
    Ok(())
}

/// Waits for the proof, then asks as a client would.
fn deployed(pod: &Pod, report: &mut Report, id: &str) -> Result<(), Stopped> {
    pod.watch_in_sync(id)?;
    pod.load.phase(phase::BASELINE);
    let answers: Vec<_> = (0..8).filter_map(|_| pod.puma.get("/").ok()?.release).collect();
    let all = answers.len() == 8 && answers.iter().all(|release| release == id);
    report.expect(
        &format!("{id} runs in every worker"),
        all,
        format!("eight answers: {}", answers.join(" ")),
    );
    report.deploys += 1;
    Ok(())
}

fn bad_releases(pod: &Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "A release that raises while it boots",
        "Puma would respawn its workers for ever. Watch the agent notice, put `current` back, and
         tell Puma so; the worker that was not replaced yet serves v2 all the time.",
    );
    reverted(pod, report, App::RaisesOnBoot, "v3", &["boot_failed", "boot_loop"])?;
    pod.show_status()?;
    act(
        "A release whose health path answers 500",
        "It boots, its pages even work, but /up does not. It is undone before it is taken for good.",
    );
    reverted(pod, report, App::UnhealthyPath, "v4", &["probe_failed"])?;
    act(
        "A release that answers 500 to everything",
        "Until it is undone, the workers that have it do answer with it: these answers are counted apart,
         as served by a bad release. No agent beside Puma can know before somebody has asked.",
    );
    reverted(pod, report, App::FailsEverywhere, "v5", &["probe_failed"])?;
    let served = pod.load.so_far().tally(&BAD).served_by_bad_release;
    say(&format!("{served} requests were answered by the bad release before it was gone."));
    Ok(())
}

fn reverted(pod: &Pod, report: &mut Report, app: App, id: &str, reasons: &[&str]) -> Result<(), Stopped> {
    pod.publish(app, id)?;
    pod.load.phase(phase::BAD);
    pod.promote(id)?;
    let status = pod.watch_reverted(id, "v2")?;
    pod.load.phase(phase::BASELINE);
    let reason = rejection(&status, id).unwrap_or_default();
    report.expect(&format!("{id} is undone, for the right reason"), reasons.contains(&&*reason), &reason);
    report.reverts += 1;
    let tried = pod.counter("pitstop_restarts_total", &[]);
    pod.pass(2.0);
    let again = pod.counter("pitstop_restarts_total", &[]) - tried;
    report.expect(&format!("{id} is not tried again"), again == 0.0, "nothing restarted in two seconds");
    Ok(())
}

fn good_hot(pod: &mut Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "A good release with another Puma configuration",
        "A phased restart never reads config/puma.rb again, so this one must be hot: Puma starts anew in the
         same process, on the same listening socket. Clients wait for the boot; none is refused.",
    );
    let hot_before = restarts(pod, "mode=\"hot\"");
    pod.more_puma_config = "first_data_timeout 20\n";
    pod.publish(App::Good, "v6")?;
    pod.load.phase(phase::HOT);
    pod.promote("v6")?;
    deployed(pod, report, "v6")?;
    let hot = restarts(pod, "mode=\"hot\"") - hot_before;
    report.expect("it was a hot restart", hot == 1.0, format!("{hot} counted"));
    Ok(())
}

fn agent_killed(pod: &mut Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "The agent is killed with -9 in the middle of a deploy",
        "What it was about to do is on disk before it does it. The agent that starts next reads that, looks at
         what Puma really does, and goes on from there, without another restart.",
    );
    pod.publish(App::Good, "v7")?;
    pod.load.phase(phase::OTHER);
    pod.promote("v7")?;
    pod.watch("the middle of the deploy", |status| status["stage"] == "verifying")?;
    say("kill -9, now: Puma has its signal, and nobody knows yet what comes of it.");
    pod.agent.kill();
    pod.pass(0.5);
    pod.agent.start();
    say("The agent is started again.");
    deployed(pod, report, "v7")?;
    let again = restarts(pod, "");
    report.expect("the new agent sent no second signal", again == 0.0, format!("{again} counted"));
    Ok(())
}

/// Longer than Puma's worker_shutdown_timeout, which is 3 s here.
const LONG: &str = "/slow?s=10";

fn long_request(pod: &Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "A request that takes 10 seconds is in flight when a deploy comes",
        "Puma kills a worker 3 seconds after it was told to stop (worker_shutdown_timeout, 30 by default):
         a bare restart would cut this request. The agent waits for it before it sends the signal.",
    );
    pod.publish(App::Good, "v8")?;
    pod.load.phase(phase::OTHER);
    let long = pod.load.send(LONG);
    pod.pass(4.0);
    say("The request has been in flight for four seconds.");
    pod.promote("v8")?;
    let waits = |status: &Value| status["reason"] == "long_requests" || in_sync(status, "v8");
    let seen = pod.watch("the agent waiting for the request", waits)?;
    report.expect("the agent says what it waits for", seen["reason"] == "long_requests", &seen["message"]);
    deployed(pod, report, "v8")?;
    match answer(&long) {
        Some(record) => report.expect("the long request was answered", record.as_expected(), told(&record)),
        None => report.expect("the long request was answered", false, "not at all"),
    }
    Ok(())
}

/// The record of a single request, waiting for it as long as its client would.
pub fn answer(reply: &Receiver<Record>) -> Option<Record> {
    poll(Duration::from_secs(40), || reply.try_recv().ok())
}

/// How it went, in one line.
pub fn told(record: &Record) -> String {
    let seconds = record.took.as_secs_f64();
    match (record.status, &record.lost) {
        (Some(status), _) => {
            let by = record.release.as_deref().unwrap_or("nobody");
            format!("{status} by {by} after {seconds:.1} s")
        }
        (None, lost) => format!("{} after {seconds:.1} s", lost.as_deref().unwrap_or("lost")),
    }
}
