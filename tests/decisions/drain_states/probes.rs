//! Probes: the kubelet's, in a young pod as well, and the agent's own.

use super::*;

/// What this kubelet's probe looks like: short, on a connection of its own, each ten seconds.
fn probes(at: u64, since: u64, every_ms: u64, bytes: u64) -> Vec<Connection> {
    let probe = |when: u64| Connection { key: 1_000_000 + when, ..kept(bytes, at - when) };
    let first = 1300;
    (first..at).step_by(every_ms as usize).filter(|when| *when > since && *when <= at).map(probe).collect()
}

fn sees(at: u64, control: bool, ended: Vec<Connection>, served: u64) -> Observation {
    let workers = if control { worker(at / 1000, served, 0) } else { None };
    look(
        at,
        server(1),
        Traffic { workers, sockets: Some(Sockets { ended: Some(ended), ..Sockets::default() }) },
    )
}

/// A pod that serves for so long with these connections between two looks, then is asked to end by the kubelet.
fn held(age_ms: u64, control: bool, ended: impl Fn(u64, u64) -> Vec<Connection>) -> Answer {
    let mut drain = Drain::new(Budget { max_ms: 100_000, ..budget() }, None);
    let (mut served, mut since) = (0, 0);
    let mut see = |drain: &mut Drain, at: u64| {
        let ended = ended(at, since);
        served += ended.iter().filter(|c| !c.ours || control).count() as u64;
        let effects = drain.observe(Moment(at), &sees(at, control, ended, served));
        since = at;
        effects
    };
    for at in (1000..age_ms).step_by(1000) {
        see(&mut drain, at);
    }
    drain.command(Moment(age_ms), DrainCommand::Kubelet(PEER));
    drain.command(Moment(age_ms), DrainCommand::Begin(Origin::PreStop));
    for at in (age_ms + 100..age_ms + 101_000).step_by(100) {
        for effect in see(&mut drain, at) {
            if let DrainEffect::Answer { answer, .. } = effect {
                return answer;
            }
        }
    }
    panic!("never answered");
}

#[test]
fn the_kubelets_probes_hold_no_drain_however_young_the_pod() {
    for control in [true, false] {
        for age_ms in [2000, 5000, 12_000, 25_000, 40_000, 130_000, 300_000] {
            for every_ms in [1000, 5000, 10_000] {
                let answer = held(age_ms, control, |at, since| probes(at, since, every_ms, 113));
                assert_eq!(answer.result, DrainResult::Drained, "{age_ms} {every_ms} {control}: {answer}");
                // Without a control server, nothing else tells that the silence began with the pod.
                assert!(
                    answer.held_ms <= 7100,
                    "age {age_ms}, period {every_ms}, control {control}: {answer}"
                );
            }
        }
    }
}

#[test]
fn two_probes_of_one_kubelet_hold_no_drain() {
    let both = |at: u64, since: u64| {
        let liveness = probes(at.saturating_sub(417), since.saturating_sub(417), 10_000, 113).into_iter();
        let liveness = liveness.map(|c| Connection { key: c.key + 500_000, ..c });
        [probes(at, since, 10_000, 118), liveness.collect()].concat()
    };
    for age_ms in [5000, 12_000, 40_000] {
        let answer = held(age_ms, true, both);
        assert!(answer.held_ms <= 7100, "age {age_ms}: {answer}");
    }
}

#[test]
fn requests_that_come_from_the_kubelets_address_hold_the_drain() {
    let dice = |n: u64| (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    // Of users behind a proxy on the node: long ones at any moment; or short ones, seldom, all of one length.
    for (bytes, mean_ms) in [(420, 900), (113, 900), (150, 2500)] {
        let users = move |at: u64, since: u64| -> Vec<Connection> {
            let mut whens = Vec::new();
            let (mut when, mut n) = (0, 0);
            while when <= at {
                when += 100 + dice(n) % (2 * mean_ms);
                n += 1;
                if when > since && when <= at {
                    whens.push(Connection { key: 2_000_000 + n, ..kept(bytes, at - when) });
                }
            }
            [whens, probes(at, since, 10_000, 118)].concat()
        };
        let answer = held(40_000, true, users);
        assert_eq!(answer.result, DrainResult::Deadline, "{bytes} bytes: {answer}");
        assert_eq!(answer.last_peer, Some(PEER));
    }
}

#[test]
fn the_agents_own_probes_are_no_traffic() {
    let own = |at: u64, since: u64| -> Vec<Connection> {
        let probes = (0..at).step_by(250).filter(|when| *when > since);
        probes.map(|when| Connection { key: 3_000_000 + when, ours: true, ..kept(90, at - when) }).collect()
    };
    for control in [true, false] {
        let answer = held(40_000, control, own);
        assert_eq!(answer.result, DrainResult::Drained, "{control}");
        assert!(answer.held_ms <= 7100, "{control}: {answer}");
    }
}
