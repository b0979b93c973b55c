//! Values that work, and still leave a promise to luck: what the keys alone can tell of a pod's set-up.
//! The agent says so on /status from its start, and `pitstop doctor` besides.

use std::{net::IpAddr, time::Duration};

use super::{AppServerKind, Config, LongRequests, RestartMode, ServerFacts, derived::KUBELET};
use crate::finding::{Check, Code, Finding};

/// Everything that the keys tell.
pub(crate) fn of(config: &Config, server: &ServerFacts) -> Vec<Check> {
    let checks = [
        drain_budget(config),
        sparse_senders(config),
        stop_time(config, server),
        proof(config),
        long_requests(config, server),
        restart_time(config, server),
    ];
    checks.into_iter().chain(beside(config)).chain(server.advice.clone()).chain(plain_http(config)).collect()
}

/// What comes over plain HTTP is what anybody on the way makes of it, the digests as well.
fn plain_http(config: &Config) -> Option<Check> {
    let endpoint: hyper::Uri = config.s3.endpoint.as_ref()?.parse().ok()?;
    let host = endpoint.host()?.trim_matches(['[', ']']);
    let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let plain = endpoint.scheme_str() == Some("http") && !near;
    plain.then(|| {
        let message = format!(
            "s3.endpoint is http://{host}…: anybody on the network path to the store can read the releases and \
             replace their code"
        );
        let remedy = "use https in s3.endpoint; set SSL_CERT_FILE for a private certificate authority";
        Check::found("store", Finding::risky(Code::StorePlainHttp, message, remedy))
    })
}

const DRAIN: &str = "drain budget";

/// What contradicts the grace period outright was refused before; this is what it leaves to be wished.
fn drain_budget(config: &Config) -> Check {
    let budget = config.budget();
    let shown = |ms: u64| show(Duration::from_millis(ms));
    let (max, min, quiet) = (budget.max_ms, budget.min_ms, budget.quiet_max_ms);
    let parts = format!(
        "grace_period {} leaves {} for the drain (after drain.reserve {} and {} for the kubelet)",
        show(config.grace_period),
        shown(max),
        show(config.drain.reserve),
        show(KUBELET)
    );
    if max >= min + quiet {
        return Check::fine(DRAIN, parts);
    }
    let message = format!(
        "{parts}, and drain.min {} + drain.quiet {} is more. If traffic still arrives {} after the drain \
         started, the drain may end at its deadline before traffic has stopped for drain.quiet",
        shown(min),
        shown(quiet),
        shown(max.saturating_sub(quiet))
    );
    let needed =
        Duration::from_millis(min + quiet).saturating_add(config.drain.reserve).saturating_add(KUBELET);
    let remedy = format!(
        "raise grace_period and terminationGracePeriodSeconds to {}, or lower drain.quiet",
        show(needed)
    );
    let make = if max < min + budget.quiet_min_ms { Finding::risky } else { Finding::note };
    Check::found(DRAIN, make(Code::DrainBudgetTight, message.as_str(), remedy.as_str()))
}

/// What no silence can prove is left to `drain.min`: not wrong, but good to know.
fn sparse_senders(config: &Config) -> Check {
    let budget = config.budget();
    // A sender at random is silent for so many mean gaps once in a million.
    let gap = Duration::from_millis(budget.quiet_max_ms * 10 / 138);
    Check::fine(
        DRAIN,
        format!(
            "silence proves nothing about a sender whose requests are more than {} apart. For such senders, \
             drain.min ({}) must be as long as endpoint removal takes in this cluster",
            show(gap),
            show(Duration::from_millis(budget.min_ms))
        ),
    )
}

/// A drain that ends at its deadline leaves requests to Puma's own stop.
fn stop_time(config: &Config, server: &ServerFacts) -> Check {
    let (reserve, timeout) = (config.drain.reserve, server.stop_timeout);
    let server = config.app_server.title();
    if reserve >= timeout {
        return Check::fine(DRAIN, format!("{server} has {} to shut down", show(reserve)));
    }
    let message = format!(
        "{server} waits {} for requests when it shuts down, but drain.reserve leaves it {}: the kubelet kills \
         requests that are still in flight at the drain's deadline",
        show(timeout),
        show(reserve)
    );
    let needed =
        Duration::from_millis(config.budget().max_ms).saturating_add(timeout).saturating_add(KUBELET);
    let remedy = format!(
        "set drain.reserve to {}, and grace_period and terminationGracePeriodSeconds to {}",
        show(timeout),
        show(needed)
    );
    Check::found(DRAIN, Finding::note(Code::StopTimeShort, message, remedy))
}

fn proof(config: &Config) -> Check {
    const ABOUT: &str = "health path";
    match (&config.verify.url, config.verify.names_release_in()) {
        (None, _) => Check::found(
            ABOUT,
            Finding::note(
                Code::HealthPathUnset,
                "a release that boots counts as good, even if it answers every request with an error",
                "set verify.url to the app's health path (http://127.0.0.1:3000/up)",
            ),
        ),
        (Some(_), None) => Check::found(
            ABOUT,
            Finding::note(
                Code::ReleaseHeaderUnset,
                "pitstop knows the running release only from the working directories of the processes. An app \
                 that loads code from elsewhere would pass",
                "return the release in a header or JSON field of the health path, and set \
                 verify.release_header or verify.release_field",
            ),
        ),
        (Some(url), Some(place)) => {
            Check::fine(ABOUT, format!("each release is checked by {url} and by {place} in its response"))
        }
    }
}

fn long_requests(config: &Config, server: &ServerFacts) -> Check {
    const ABOUT: &str = "requests";
    match config.restart.long_requests {
        _ if !server.cuts_requests => {
            Check::fine(ABOUT, "a restart interrupts no request, however long it takes")
        }
        LongRequests::Wait => Check::fine(ABOUT, "pitstop waits for long requests before a restart"),
        LongRequests::Proceed => Check::found(
            ABOUT,
            Finding::note(
                Code::LongRequestsCut,
                format!(
                    "restart.long_requests is `proceed`: a restart interrupts requests that take longer than \
                     {}",
                    show(config.puma.worker_shutdown_timeout)
                ),
                "set restart.long_requests to `wait`",
            ),
        ),
    }
}

/// A worker that ends its requests takes as long as Puma lets it.
fn restart_time(config: &Config, server: &ServerFacts) -> Check {
    const ABOUT: &str = "restarts";
    let stop = server.stop_timeout;
    // A second master needs none of the first one's time.
    let given = config.restart.timeout.filter(|_| server.cuts_requests);
    let Some(timeout) = given else {
        return Check::fine(ABOUT, "restart.timeout is derived from the workers and their time-outs");
    };
    if timeout > stop {
        return Check::fine(
            ABOUT,
            format!("restart.timeout is {}, and an old worker may take {} of it", show(timeout), show(stop)),
        );
    }
    let message = format!(
        "restart.timeout ({}) is not longer than puma.worker_shutdown_timeout ({}): a slow request can make a \
         good release fail",
        show(timeout),
        show(stop)
    );
    let remedy = "remove restart.timeout, or set it to more than puma.worker_shutdown_timeout plus the app's boot time";
    Check::found(ABOUT, Finding::risky(Code::RestartTimeoutShort, message, remedy))
}

/// The app server's own set-up says the rest.
fn beside(config: &Config) -> Option<Check> {
    const ABOUT: &str = "restarts";
    let title = config.app_server.title();
    let text = match (config.app_server, config.restart.mode) {
        (AppServerKind::Passenger, _) => format!("a second server beside the first is not possible with {title}: each deploy restarts it in place"),
        (_, RestartMode::Beside) => {
            "beside: each deploy needs the memory and the database connections of two servers until the old one has \
             ended; a deploy for which that is not possible waits (restart.mode is beside)"
                .to_owned()
        }
        _ => return None,
    };
    Some(Check::fine(ABOUT, text))
}

fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Outcome, Severity, findings};

    fn found(change: impl FnOnce(&mut Config)) -> Vec<(&'static str, Severity)> {
        let mut config = Config::default();
        change(&mut config);
        let server = ServerFacts::like_puma(&config);
        findings(&of(&config, &server))
            .into_iter()
            .map(|finding| (finding.code.code(), finding.severity))
            .collect()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_defaults_are_not_broken_and_what_they_lack_is_noted() {
        let notes = ["DRAIN_BUDGET_TIGHT", "STOP_TIME_SHORT", "HEALTH_PATH_UNSET"];
        assert_eq!(found(|_| ()), notes.map(|code| (code, Severity::Note)));
    }

    #[test]
    fn a_roomy_pod_has_nothing_to_be_found_fault_with() {
        let roomy = |config: &mut Config| {
            config.grace_period = seconds(120);
            config.drain.reserve = seconds(30);
            config.verify.url = Some("http://127.0.0.1:3000/up".into());
            config.verify.release_header = Some("X-Release".into());
        };
        assert_eq!(found(roomy), []);
    }

    #[test]
    fn a_budget_that_leaves_no_silence_at_all_is_risky() {
        let tight = found(|config| config.grace_period = seconds(17));
        assert!(tight.contains(&("DRAIN_BUDGET_TIGHT", Severity::Risky)), "{tight:?}");
    }

    #[test]
    fn each_fix_fixes_what_it_is_for() {
        let mut config = Config { grace_period: seconds(32), ..Config::default() };
        assert!(drain_budget(&config).finding().is_none());
        config.drain.reserve = seconds(30);
        config.grace_period = seconds(20 + 30 + 2);
        let server = ServerFacts::like_puma(&config);
        assert!(stop_time(&config, &server).finding().is_none() && drain_budget(&config).finding().is_none());
    }

    #[test]
    fn a_store_that_is_asked_over_plain_http_is_risky_unless_it_is_near() {
        let with = |url: &str| found(|config| config.s3.endpoint = Some(url.into()));
        let plain = ("STORE_PLAIN_HTTP", Severity::Risky);
        assert!(with("http://minio.storage.svc:9000").contains(&plain));
        for fine in [
            "https://minio.storage.svc:9000",
            "http://localhost:9000",
            "http://127.0.0.1:1",
            "http://[::1]:1",
        ] {
            assert!(!with(fine).contains(&plain), "{fine}");
        }
    }

    #[test]
    fn a_restart_must_have_the_time_that_an_old_worker_has() {
        let with = |timeout| found(move |config| config.restart.timeout = Some(seconds(timeout)));
        let short = ("RESTART_TIMEOUT_SHORT", Severity::Risky);
        assert!(with(30).contains(&short) && !with(31).contains(&short));
    }

    #[test]
    fn a_health_path_without_a_name_for_the_release_is_noted() {
        let codes = found(|config| config.verify.url = Some("http://127.0.0.1:3000/up".into()));
        assert!(codes.contains(&("RELEASE_HEADER_UNSET", Severity::Note)), "{codes:?}");
    }

    #[test]
    fn what_beside_needs_is_said_where_it_is_asked_for_and_where_it_is_not_to_be_had() {
        let said = |kind, mode| {
            let mut config = Config { app_server: kind, ..Config::default() };
            config.restart.mode = mode;
            beside(&config).map(|check| match check.outcome {
                Outcome::Fine(text) => text,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(said(AppServerKind::Puma, RestartMode::Auto), None);
        assert!(said(AppServerKind::Puma, RestartMode::Beside).unwrap().contains("database connections"));
        assert!(said(AppServerKind::Passenger, RestartMode::Auto).unwrap().contains("not possible"));
    }

    #[test]
    fn requests_that_will_be_cut_are_said() {
        let codes = found(|config| config.restart.long_requests = LongRequests::Proceed);
        assert!(codes.contains(&("LONG_REQUESTS_CUT", Severity::Note)), "{codes:?}");
    }
}
