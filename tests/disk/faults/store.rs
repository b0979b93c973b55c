//! The store lies, or is away: an agent in sync asks it seldom meanwhile, leaves the app server alone, and is in
//! sync again by itself.

use std::{fs, time::Duration};

use pitstop_rig::{Fault, S3Rig, poll};

use super::{agent::Pod, tried};

/// How long the store is in trouble, and how often it may be asked in that time: twice a second, each time with retries,
/// and what else the agent asks for.
const TROUBLE: Duration = Duration::from_secs(3);
const REQUESTS_MAX: usize = 60;

/// What the store does from now on.
enum Lie {
    Answers(Fault),
    Away,
    /// It gives the pointer of a while ago.
    Stale,
    /// The credentials are no longer known. The pod gets new ones by a file.
    Rotated,
}

fn lies() -> Vec<(&'static str, Lie)> {
    let skewed = "The difference between the request time and the current time is too large";
    vec![
        ("503 SlowDown", Lie::Answers(Fault::Answer(503, "SlowDown"))),
        ("500 InternalError", Lie::Answers(Fault::Answer(500, "InternalError"))),
        ("lost answers", Lie::Answers(Fault::AnswerLost)),
        ("no answer", Lie::Answers(Fault::Silence)),
        ("broken answers", Lie::Answers(Fault::Cut(1))),
        ("wrong region", Lie::Answers(Fault::OtherRegion("us-west-2"))),
        ("clocks apart", Lie::Answers(Fault::Says(403, "RequestTimeTooSkewed", skewed))),
        ("expired credentials", Lie::Answers(Fault::Answer(400, "ExpiredToken"))),
        ("no permission", Lie::Answers(Fault::Answer(403, "AccessDenied"))),
        ("refused connections", Lie::Away),
        ("stale reads", Lie::Stale),
        ("rotated credentials", Lie::Rotated),
    ]
}

const POINTER: &str = "pointers/production";

/// The agent finds its credentials in a file, as a service account's are.
fn credentials(pod: &Pod, access: &str, secret: &str) {
    let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
    let (file, new) = (pod.credentials(), pod.credentials().with_extension("new"));
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

fn in_trouble(what: &str, lie: &Lie) {
    let s3 = S3Rig::start();
    let mut pod = Pod::of_s3(&s3);
    let keys = s3.keys();
    credentials(&pod, &keys.access, &keys.secret);
    pod.promote_in(&s3, "v1");
    let old = s3.object(POINTER).unwrap();
    pod.start();
    pod.wait_in_sync("v1", what);
    pod.promote_in(&s3, "v2");
    pod.wait_in_sync("v2", what);
    match lie {
        Lie::Answers(fault) => s3.fault(fault.clone()),
        Lie::Away => s3.outage(),
        Lie::Stale => s3.put(POINTER, old),
        Lie::Rotated => s3.set_keys("NEWKEY", "new/secret"),
    }
    let before = s3.seen().len();
    poll(TROUBLE, || {
        pod.wait("answering", what, |status| status["running"] == "v2");
        assert_eq!(pod.serves(), "v2", "{what}");
        None::<()>
    });
    let asked = s3.seen().len() - before;
    assert!(asked <= REQUESTS_MAX, "{what}: asked {asked} times in {TROUBLE:?}");
    match lie {
        Lie::Answers(_) => s3.heal(),
        Lie::Away => s3.recover(),
        Lie::Stale => {}
        Lie::Rotated => credentials(&pod, "NEWKEY", "new/secret"),
    }
    pod.promote_in(&s3, "v3");
    pod.wait_in_sync("v3", what);
    println!("{what}: asked {asked} times in {TROUBLE:?}");
}

#[test]
fn a_store_that_lies_or_is_away_is_asked_seldom_and_the_app_is_left_alone_until_it_is_well() {
    let lies = lies();
    std::thread::scope(|scope| {
        for (what, lie) in &lies {
            scope.spawn(move || in_trouble(what, lie));
        }
    });
    let names: Vec<_> = lies.iter().map(|(what, _)| *what).collect();
    let test = "a_store_that_lies_or_is_away_is_asked_seldom_and_the_app_is_left_alone_until_it_is_well";
    let fault = format!("S3 for 3 s with {}", names.join(", "));
    tried(test, &fault, names.len() as u64, "at most 60 requests");
}
