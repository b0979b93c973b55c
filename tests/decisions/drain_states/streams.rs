//! Connections on which more happens than requests and answers.

use super::*;

/// Somebody is asked and answered each 6 s until then, on a worker of its own.
fn long_requests(at: u64, until: u64) -> (Connection, u32) {
    let busy = at < until;
    let since = at % 6000;
    let received = at.min(until) / 6000 * 200;
    let sent = if busy { received.saturating_sub(200) } else { received };
    let answered = Some(if busy { since } else { at - until });
    let last_received_ms = Some(if busy { since } else { at - until / 6000 * 6000 });
    (
        Connection {
            key: 9,
            sent: Some(sent + 1),
            last_received_ms,
            last_sent_ms: answered,
            ..kept(received, 0)
        },
        u32::from(busy),
    )
}

#[test]
fn a_websocket_beside_long_requests_is_waited_for() {
    let (requests_end, closes) = (BEGIN + 7000, BEGIN + 15_500);
    let seen = |at: u64| {
        let (request, busy) = long_requests(at, requests_end);
        let mut open = vec![request];
        open.extend((at < closes).then(|| websocket(at)));
        look(
            at,
            server(1),
            Traffic {
                workers: worker(at / 1000, 5 + at.min(requests_end) / 6000, busy),
                sockets: table(open),
            },
        )
    };
    for upgraded in [Upgraded::Wait, Upgraded::Ignore] {
        let mut drain = Drain::new(Budget { upgraded, quiet_max_ms: 2000, ..budget() }, None);
        for at in (BEGIN - 20_000..BEGIN).step_by(1000) {
            drain.observe(Moment(at), &seen(at));
        }
        drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
        let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, seen).unwrap();
        assert_eq!(answer.result, DrainResult::Drained, "{upgraded:?}: {answer}");
        assert_eq!(after >= closes - BEGIN, upgraded == Upgraded::Wait, "{upgraded:?} after {after}");
    }
}

/// Server-sent events, one a second, to who asked once long ago; a thread is busy with it.
fn events(at: u64, key: u64, asked: u64) -> Connection {
    let since = at.saturating_sub(asked);
    Connection {
        key,
        sent: Some(300 + since / 1000 * 20),
        last_sent_ms: Some(since % 1000),
        ..kept(200, since)
    }
}

#[test]
fn endless_answers_are_waited_for_or_ignored_and_are_no_requests() {
    let seen = |at: u64| {
        let streams = vec![events(at, 7, BEGIN - 30_000), events(at, 8, BEGIN - 25_000)];
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 2), sockets: table(streams) })
    };
    for (upgraded, expected) in
        [(Upgraded::Wait, DrainResult::Deadline), (Upgraded::Ignore, DrainResult::Drained)]
    {
        let mut drain = Drain::new(Budget { upgraded, ..budget() }, None);
        for at in (BEGIN - 30_000..BEGIN).step_by(1000) {
            drain.observe(Moment(at), &seen(at));
        }
        drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
        let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, seen).unwrap();
        assert_eq!((answer.result, answer.upgraded, answer.requests_left), (expected, 2, 0), "{answer}");
        assert!(upgraded == Upgraded::Wait || after <= 6000, "{after}");
    }
}

#[test]
fn a_request_beside_ignored_endless_answers_is_waited_for() {
    let seen = |at: u64| {
        let busy = at < BEGIN + 9000;
        let request =
            Connection { key: 9, sent: Some(if busy { 0 } else { 400 }), ..kept(200, at - BEGIN + 500) };
        let told = worker(at / 1000, 5 + u64::from(!busy), 1 + u32::from(busy));
        look(
            at,
            server(1),
            Traffic { workers: told, sockets: table(vec![events(at, 7, BEGIN - 30_000), request]) },
        )
    };
    let mut drain = Drain::new(Budget { upgraded: Upgraded::Ignore, quiet_max_ms: 2000, ..budget() }, None);
    for at in (BEGIN - 30_000..BEGIN).step_by(1000) {
        let streams = table(vec![events(at, 7, BEGIN - 30_000)]);
        drain.observe(
            Moment(at),
            &look(at, server(1), Traffic { workers: worker(at / 1000, 5, 1), sockets: streams }),
        );
    }
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, seen).unwrap();
    assert_eq!(answer.result, DrainResult::Drained, "{answer}");
    assert!(after >= 9000, "{after}");
}

#[test]
fn a_thread_that_waits_on_a_kept_connection_is_no_request() {
    // Two pooled clients, eight requests a second each: Puma's threads wait for the next one, and count as busy.
    let pooled = |at: u64, key| {
        let since = at % 125;
        Connection { key, ..kept(at / 125 * 150, since) }
    };
    let seen = |at: u64| {
        let traffic = Traffic {
            workers: worker(at / 1000, at / 60, 2),
            sockets: table(vec![pooled(at, 1), pooled(at, 2)]),
        };
        look(at, server(1), traffic)
    };
    let (_, answer) = drained(budget(), seen);
    assert_eq!((answer.result, answer.requests_left), (DrainResult::Deadline, 0), "{answer}");
}
