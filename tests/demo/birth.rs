//! After the pod's end: another pod is born while what the health path depends on is away.

use std::{fs, time::Instant};

use pitstop_rig::App;
use serde_json::{Value, json};

use crate::{
    narrator::{act, say},
    pod::{Pod, Stopped},
    report::Report,
};

/// How long the dependency stays away once the pod has said that it waits.
const AWAY_SECONDS: f64 = 4.0;

/// The pod waits on the desired release, rejects nothing, and is in sync by itself in the end.
pub fn beside_a_sick_dependency(pod: &mut Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "A pod is born while the database is away",
        "The pointer names v9, a good release that no pod has run yet, and /up answers 503 from every release.
         Nothing has run in the new pod that v9 could be compared with, so the failure proves nothing against
         v9. The pod is not ready, so it gets no requests; it waits for v9 and says why.",
    );
    pod.publish(App::Good, "v9")?;
    pod.promote("v9")?;
    let outage = pod.puma.run_dir().join("outage");
    fs::write(&outage, "")?;
    say("The database is away.");
    pod.replace()?;
    let waiting = |status: &Value| status["reason"] == "probe_failed";
    let status = pod.watch("the new pod waiting for the database", waiting)?;
    let told = status["message"].as_str().is_some_and(|message| message.contains("v9 is not rejected"));
    report.expect("the new pod waits for v9 and says why", told && status["stage"] == "verifying", "");
    pod.pass(AWAY_SECONDS);
    pod.show_status()?;
    expect_only_v9(pod, report, "the new pod rejects nothing and tries nothing else");
    fs::remove_file(&outage)?;
    say("The database is back. Nobody tells the pod.");
    let back = Instant::now();
    pod.watch_in_sync("v9")?;
    report.birth_seconds = Some(back.elapsed().as_secs_f64());
    expect_only_v9(pod, report, "v9 is in sync by itself, and nothing was rejected");
    Ok(())
}

fn expect_only_v9(pod: &Pod, report: &mut Report, what: &str) {
    let rejected = pod.agent.status().map(|status| status["rejected"].clone()).unwrap_or_default();
    let restarts = pod.counter("pitstop_restarts_total", &[]);
    let answers = pod.puma.get("/").ok().and_then(|answer| answer.release).unwrap_or_default();
    report.expect(
        what,
        rejected == json!([]) && restarts == 0.0 && answers == "v9",
        format!("rejected: {rejected}, restarts: {restarts}, Puma answers as {answers}"),
    );
}
