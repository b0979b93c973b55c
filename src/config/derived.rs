//! What follows from the keys: defaults that depend on others, and the core's parts in milliseconds.

use std::{path::PathBuf, time::Duration};

use sha2::{Digest, Sha256};

use super::{Config, DrainKeys, LongRequests, Restart, RestartMode, ServerFacts, Verify};
use crate::{
    core::{Policy, drain::Budget},
    revision::PodCount,
};

/// The kubelet's own delays between the hook's answer and SIGTERM, with room to spare.
pub(super) const KUBELET: Duration = Duration::from_secs(2);

/// Silences shorter than this prove little, unless `drain.quiet` itself is shorter.
const QUIET_MIN: Duration = Duration::from_secs(2);

/// Puma's default `worker_boot_timeout`.
const WORKER_BOOT_TIMEOUT: Duration = Duration::from_secs(60);

const HOT_TIMEOUT: Duration = Duration::from_secs(120);
const HOT_MARGIN: Duration = Duration::from_secs(90);
const PHASED_MARGIN: Duration = Duration::from_secs(30);
const WAIT_IN_FLIGHT: Duration = Duration::from_secs(600);
const SETTLE: Duration = Duration::from_secs(15);
/// How much longer than the soak each worker is given to answer in person.
const EVIDENCE: Duration = Duration::from_secs(10);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

impl Config {
    /// The link that the app server runs from: `current`, else `deploy_to/current`.
    pub(crate) fn current(&self) -> PathBuf {
        self.current.clone().unwrap_or_else(|| self.deploy_to.join("current"))
    }

    /// This pod's name: `pod`, else the host name.
    pub(crate) fn pod(&self) -> String {
        let host_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.pod.clone().unwrap_or_else(host_name)
    }

    /// The ports whose connections count, where they are not the app server's own.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.drain.ports.iter().map(|port| port.0).collect()
    }

    /// The deploy's part, for the core.
    pub fn policy(&self, server: &ServerFacts) -> Policy {
        let stop = server.stop_timeout;
        let each_worker = || self.restart.phased_worker(stop);
        Policy {
            hot_timeout_ms: ms(self.restart.hot_timeout(stop)),
            phased_timeout_ms: ms(self.restart.timeout.or(server.restart_timeout).unwrap_or(PHASED_MARGIN)),
            phased_worker_ms: server.restart_timeout.map_or_else(|| ms(each_worker()), |_| 0),
            second_master: server.second_master,
            beside_only: self.restart.mode == RestartMode::Beside,
            shift: self.restart.steps(),
            in_place: server.in_place,
            settle_ms: ms(SETTLE),
            soak_ms: ms(self.verify.soak),
            probing: self.verify.url.is_some(),
            successes: self.verify.successes,
            naming: self.verify.url.is_some() && self.verify.names_release_in().is_some(),
            evidence_ms: ms(EVIDENCE),
            long_request_ms: self.restart.long_request(stop).filter(|_| server.cuts_requests).map(ms),
            wait_in_flight_ms: ms(self.restart.wait_in_flight.unwrap_or(WAIT_IN_FLIGHT)),
            fallback: self.fallback_dir.is_some(),
            spread_ms: self.spread(stop).map(|spread| place(&self.pod(), ms(spread))),
            reports: !self.pointer.starts_with("file:"),
            wave: wave(&self.pod(), self.restart.max_unavailable),
            unwell_ms: ms(self.restart.hot_timeout(stop) / 4),
            unwell_max_ms: ms(self.restart.hot_timeout(stop) * 4),
            retry_ms: ms(self.poll_interval.min(RETRY_AT_MOST)),
            drain: self.budget(),
        }
    }

    /// The drain's part, for the core. Sound for any configuration, a contradictory one included:
    /// an agent that was started beside a running Puma drains as well as it can.
    pub(crate) fn budget(&self) -> Budget {
        let max = self.drain.longest(self.grace_period);
        Budget {
            min_ms: ms(self.drain.min.min(max)),
            quiet_min_ms: ms(self.drain.quiet.min(QUIET_MIN)),
            quiet_max_ms: ms(self.drain.quiet),
            max_ms: ms(max),
            ignore_peers: self.drain.ignore_peers.iter().map(|ip| ip.to_canonical()).collect(),
            upgraded: self.drain.upgraded,
        }
    }
}

impl Verify {
    /// Where in its answer the app names its release, for people; `None` when it does not.
    pub(crate) fn names_release_in(&self) -> Option<String> {
        let header = self.release_header.as_ref().map(|header| format!("the header {header}"));
        header.or_else(|| self.release_field.as_ref().map(|field| format!("the field {field}")))
    }
}

impl DrainKeys {
    /// The longest that a drain may hold: `drain.max`, else what the grace period leaves. When the
    /// keys contradict each other, half of what there is goes to the app server's own stop.
    fn longest(&self, grace_period: Duration) -> Duration {
        let usable = grace_period.saturating_sub(KUBELET);
        let left = usable.saturating_sub(self.reserve);
        let possible = if left < self.min || left.is_zero() { usable / 2 } else { left };
        self.max.map_or(possible, |max| max.min(possible))
    }
}

impl Restart {
    /// `restart.timeout`, or 120 s; more where Puma gives its workers more than the usual time to stop,
    /// as all of them are stopped first.
    fn hot_timeout(&self, worker_shutdown_timeout: Duration) -> Duration {
        let after_the_stop = worker_shutdown_timeout.saturating_add(HOT_MARGIN);
        self.timeout.unwrap_or(HOT_TIMEOUT.max(after_the_stop))
    }

    /// Without `restart.timeout`, what each worker may take: its end and its boot.
    fn phased_worker(&self, worker_shutdown_timeout: Duration) -> Duration {
        let each = WORKER_BOOT_TIMEOUT.saturating_add(worker_shutdown_timeout);
        self.timeout.map_or(each, |_| Duration::ZERO)
    }

    /// From which age on a request is expected not to survive the restart. How long it will still
    /// take is unknown; as long as it has taken already is the best guess, and half of Puma's limit
    /// leaves room for the guess to be wrong by two.
    fn long_request(&self, worker_shutdown_timeout: Duration) -> Option<Duration> {
        (self.long_requests == LongRequests::Wait).then(|| worker_shutdown_timeout / 2)
    }
}

impl Config {
    /// Over how long a fleet's restarts are spread: half of what a hot one may take, unless it is set; 0s is never.
    fn spread(&self, stop: Duration) -> Option<Duration> {
        let spread = self.restart.spread.unwrap_or(self.restart.hot_timeout(stop) / 2);
        (!spread.is_zero()).then_some(spread)
    }
}

/// Where in `[0, spread)` this pod's restarts begin: always the same for the same name, and
/// even over many names. Not the standard library's hash, which may change from version to version.
fn place(pod: &str, spread_ms: u64) -> u64 {
    let share = (u128::from(order(pod)) * u128::from(spread_ms)) >> 64;
    u64::try_from(share).unwrap_or(0)
}

/// How many restarts come before this pod's where nobody knows how many pods there are: by its place in the order, and
/// a number of pods is taken for a quarter of them.
fn wave(pod: &str, at_once: PodCount) -> u32 {
    let percent = match at_once {
        PodCount::Percent(percent) => u32::from(percent.max(1)),
        PodCount::Pods(_) => 25,
    };
    let waves = 100_u32.div_ceil(percent);
    u32::try_from((u128::from(order(pod)) * u128::from(waves)) >> 64).unwrap_or(0)
}

/// In which order the pods of a fleet go, by their names.
pub(crate) fn order(pod: &str) -> u64 {
    let digest = Sha256::digest(pod);
    digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(config: &Config) -> Policy {
        config.policy(&ServerFacts::like_puma(config))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_defaults_give_the_contracts_numbers() {
        let config = Config::default();
        assert_eq!(config.current(), PathBuf::from("/srv/app/current"));
        let budget = config.budget();
        assert_eq!((budget.min_ms, budget.max_ms), (5_000, 18_000));
        assert_eq!((budget.quiet_min_ms, budget.quiet_max_ms), (2_000, 15_000));
        let policy = policy(&config);
        assert_eq!(policy.hot_timeout_ms, 120_000);
        assert_eq!((policy.phased_worker_ms, policy.phased_timeout_ms), (90_000, 30_000));
        assert_eq!((policy.soak_ms, policy.successes, policy.probing), (5_000, 3, false));
        assert_eq!((policy.long_request_ms, policy.wait_in_flight_ms), (Some(15_000), 600_000));
    }

    #[test]
    fn a_hot_restart_has_time_for_the_longest_stop_of_a_worker() {
        let mut config = Config::default();
        for (shutdown, timeout) in [(5, 120_000), (30, 120_000), (300, 390_000)] {
            config.puma.worker_shutdown_timeout = Duration::from_secs(shutdown);
            assert_eq!(policy(&config).hot_timeout_ms, timeout, "{shutdown} s");
        }
    }

    #[test]
    fn a_restart_timeout_counts_for_both_modes() {
        let mut config = Config::default();
        config.restart.timeout = Some(seconds(7));
        let policy = policy(&config);
        assert_eq!((policy.hot_timeout_ms, policy.phased_timeout_ms), (7_000, 7_000));
        assert_eq!(policy.phased_worker_ms, 0);
    }

    #[test]
    fn a_server_that_cuts_nothing_is_not_waited_for() {
        let config = Config::default();
        let server = ServerFacts {
            stop_timeout: Duration::ZERO,
            cuts_requests: false,
            ..ServerFacts::like_puma(&config)
        };
        let policy = config.policy(&server);
        assert_eq!((policy.long_request_ms, policy.hot_timeout_ms), (None, 120_000));
    }

    #[test]
    fn a_server_with_a_restart_timeout_of_its_own_gets_no_time_for_each_worker() {
        let config = Config::default();
        let server = ServerFacts { restart_timeout: Some(seconds(60)), ..ServerFacts::like_puma(&config) };
        let policy = config.policy(&server);
        assert_eq!((policy.phased_timeout_ms, policy.phased_worker_ms), (60_000, 0));
    }

    #[test]
    fn proceed_waits_for_no_request() {
        let mut config = Config::default();
        config.restart.long_requests = LongRequests::Proceed;
        assert_eq!(policy(&config).long_request_ms, None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 12, ..Default::default() })]
        #[test]
        fn restarts_of_a_fleet_are_spread_evenly(deployment in "[a-z]{1,20}", spread in 1_000_u64..1_000_000) {
            const PODS: u64 = 4_000;
            let mut tenths = [0; 10];
            for pod in 0..PODS {
                let place = place(&format!("{deployment}-{pod}"), spread);
                proptest::prop_assert!(place < spread);
                tenths[usize::try_from(place * 10 / spread).unwrap()] += 1;
            }
            // 400 each on average; seven standard deviations are room enough for chance.
            proptest::prop_assert!(tenths.iter().all(|pods| (266..=534).contains(pods)), "{tenths:?}");
        }
    }

    #[test]
    fn a_pod_keeps_its_place_and_without_a_spread_nobody_waits() {
        assert_eq!(place("web-0", 60_000), place("web-0", 60_000));
        assert_eq!(place("web-0", 60_000), 6_305);
        let spread = |spread| {
            let mut config = Config { pod: Some("web-0".into()), ..Config::default() };
            config.restart.spread = spread;
            policy(&config).spread_ms
        };
        assert_eq!(spread(Some(Duration::ZERO)), None);
        assert_eq!(spread(Some(seconds(60))), Some(6_305));
        assert_eq!(spread(None), Some(6_305), "half of two minutes");
    }

    #[test]
    fn without_reports_pods_restart_in_as_many_waves_as_fit() {
        let waves = |at_once: &str| {
            let waves = (0..400).map(|n| wave(&format!("web-{n}"), at_once.parse().unwrap()));
            waves.fold([0; 10], |mut pods, wave| {
                pods[wave as usize] += 1;
                pods
            })
        };
        assert_eq!(waves("100%")[..2], [400, 0]);
        let quarter = waves("25%");
        assert!(quarter[..4].iter().all(|pods| (60..140).contains(pods)) && quarter[4] == 0, "{quarter:?}");
        assert_eq!((waves("3"), waves("10%")[9] > 0), (quarter, true));
    }

    #[test]
    fn a_contradictory_budget_still_leaves_time_for_both_halves() {
        let mut config = Config { grace_period: seconds(12), ..Config::default() };
        assert_eq!((config.budget().min_ms, config.budget().max_ms), (5_000, 5_000));
        config.drain.max = Some(seconds(500));
        assert_eq!(config.budget().max_ms, 5_000);
        config.grace_period = Duration::ZERO;
        assert_eq!((config.budget().min_ms, config.budget().max_ms), (0, 0));
    }

    #[test]
    fn the_longest_drain_can_be_shortened_but_not_beyond_the_grace_period() {
        let mut config = Config::default();
        config.drain.max = Some(seconds(9));
        assert_eq!(config.budget().max_ms, 9_000);
        config.drain.max = Some(Duration::MAX);
        assert_eq!(config.budget().max_ms, 18_000);
    }

    #[test]
    fn the_pod_is_called_like_its_host_unless_named() {
        let mut config = Config::default();
        assert!(!config.pod().is_empty());
        config.pod = Some("web-0".into());
        assert_eq!(config.pod(), "web-0");
    }
}
