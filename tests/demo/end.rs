//! The pod is deleted, and the demo plays the kubelet's part.

use serde_json::Value;

use crate::{
    acts::told,
    narrator::{act, say},
    pod::{Pod, Stopped},
    report::{Report, phase},
};

/// For how long requests still come after the deletion: until every load balancer has heard of it.
const LAG_SECONDS: f64 = 3.0;
const SLOW: [&str; 3] = ["/slow?s=2", "/slow?s=5", "/slow?s=7"];

/// preStop under load, SIGTERM to Puma when it is answered, and the sidecar last.
pub fn end_of_the_pod(pod: &mut Pod, report: &mut Report) -> Result<(), Stopped> {
    act(
        "The pod is deleted",
        "The kubelet calls /prestop and sends SIGTERM only when that is answered. Requests keep coming for
         3 seconds more, because load balancers hear of the deletion late, and three slow ones are in flight.
         The agent answers as soon as no traffic comes and nothing is in flight any more, and not before.",
    );
    pod.load.phase(phase::OTHER);
    let slow = SLOW.map(|path| pod.load.send(path));
    let drained = drain(pod)?;
    say(&format!("/prestop was answered: {drained}"));
    report.drain_seconds = drained["seconds"].as_f64();
    report.expect("the drain was complete", drained["result"] == "drained", &drained["result"]);
    report.expect("no request was left", drained["requests_left"] == 0, &drained["requests_left"]);
    for (path, reply) in SLOW.iter().zip(&slow) {
        // By now, without another wait: the answer to /prestop says that nothing is in flight.
        let record = reply.try_recv().ok();
        let held = record.as_ref().is_some_and(|record| record.as_expected());
        let detail = record.as_ref().map_or("still in flight".into(), told);
        report.expect(&format!("{path} was answered before that"), held, detail);
    }
    end_containers(pod, report);
    Ok(())
}

fn drain(pod: &Pod) -> Result<Value, Stopped> {
    let hook = pod.agent.prestop();
    say("The kubelet calls /prestop; the clients know nothing of it yet.");
    pod.pass(LAG_SECONDS);
    pod.load.stop_sending();
    say("The last load balancer has heard of it: no more requests come.");
    pod.watch("the drain's end", |_| hook.is_finished())?;
    let answered = hook.join().map_err(|_| Stopped("the call of /prestop broke".into()))?;
    Ok(answered?)
}

fn end_containers(pod: &mut Pod, report: &mut Report) {
    say("SIGTERM to Puma, now.");
    pod.puma.container().terminate();
    report.expect("Puma ended at SIGTERM", pod.puma.container().ended(), "");
    say("SIGTERM to the sidecar, which is always the last.");
    let code = pod.agent.terminate();
    report.expect("pitstop ended with exit code 0", code == Some(0), format!("{code:?}"));
}
