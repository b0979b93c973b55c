//! The section `restart`, and what cannot work in its steps.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, check::Complaint};
use crate::{core::Shift, revision::PodCount};

/// How restarts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartMode {
    /// Beside where the parent of the app server offers it and it fits, else phased where that loads everything that
    /// changed, else hot.
    #[default]
    Auto,
    /// Always a second server beside the first, in the same container.
    Beside,
    /// Always SIGUSR2.
    Hot,
    /// Always SIGUSR1.
    Phased,
}

/// What to do about requests that would not survive the restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LongRequests {
    /// Wait for them, up to `restart.wait_in_flight`.
    #[default]
    Wait,
    /// Restart all the same.
    Proceed,
}

/// Restarts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Restart {
    /// Which kind.
    pub(crate) mode: RestartMode,
    /// Until a restart counts as failed; derived when absent.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Option<Duration>,
    /// Wait for requests that would not survive?
    pub(crate) long_requests: LongRequests,
    /// For how long; 10m by default.
    #[serde(with = "humantime_serde")]
    pub(crate) wait_in_flight: Option<Duration>,
    /// Over how long the restarts of a fleet are spread, each pod at its own place; half of a hot restart's
    /// `timeout` by default, and 0s: they wait for nobody.
    #[serde(with = "humantime_serde")]
    pub(crate) spread: Option<Duration>,
    /// So many pods of a fleet may be in a restart at once that exposes or stalls its clients before its check.
    pub(crate) max_unavailable: PodCount,
    /// Beside: how much of the new connections the second server gets, step by step.
    pub(crate) shift: Vec<Percent>,
    /// How long each step lasts, at least.
    #[serde(with = "humantime_serde")]
    pub(crate) bake: Duration,
    /// How many requests the second server serves in each step, at least.
    pub(crate) shift_requests: u32,
    /// A step without so many requests ends by this time.
    #[serde(with = "humantime_serde")]
    pub(crate) shift_timeout: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            mode: RestartMode::Auto,
            timeout: None,
            long_requests: LongRequests::Wait,
            wait_in_flight: None,
            spread: None,
            max_unavailable: PodCount::Percent(25),
            shift: vec![Percent(ALL)],
            bake: Duration::ZERO,
            shift_requests: 200,
            shift_timeout: Duration::from_mins(30),
        }
    }
}

/// In tenths.
const ALL: u32 = 1000;

/// A percentage with one decimal at most, above 0 %. In tenths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Percent(u32);

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let tenths = || {
            let number = text.strip_suffix('%')?.trim_end();
            let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
            let tenths = Some(tenths).filter(|digits| digits.len() == 1)?.parse::<u32>().ok()?;
            whole.parse::<u32>().ok()?.checked_mul(10)?.checked_add(tenths)
        };
        let known = tenths().filter(|tenths| (1..=ALL).contains(tenths));
        known.map(Self).ok_or_else(|| format!("\"{text}\" is not between 0.1% and 100%: write it as in 10%"))
    }
}

impl From<Percent> for String {
    fn from(Percent(tenths): Percent) -> Self {
        match tenths % 10 {
            0 => format!("{}%", tenths / 10),
            rest => format!("{}.{rest}%", tenths / 10),
        }
    }
}

impl Restart {
    /// The steps in which a second server gets connections before it gets all of them for good: none by default. With a
    /// bake the last step is one of them, so that the earlier server is still there to go back to.
    pub(crate) fn steps(&self) -> Shift {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let steps = self.shift.iter().map(|percent| percent.0).filter(|share| *share < ALL);
        let last = (!self.bake.is_zero()).then_some(ALL);
        Shift {
            steps: steps.chain(last).collect(),
            bake_ms: ms(self.bake),
            requests: self.shift_requests.into(),
            timeout_ms: ms(self.shift_timeout),
        }
    }
}

pub(super) fn complaints(config: &Config) -> Vec<Complaint> {
    let Restart { shift, bake, shift_timeout, .. } = &config.restart;
    let mut found = Vec::new();
    if !shift.is_sorted_by(|one, next| one < next) {
        let message = "each step must be larger than the one before it, as in 10%, 50%, 100%".into();
        found.push(Complaint { key: "restart.shift", message, alone: true });
    }
    if bake > shift_timeout {
        let message = "must be at least restart.bake: a step ends by this time, whatever was served".into();
        found.push(Complaint { key: "restart.shift_timeout", message, alone: false });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> Result<String, String> {
        Percent::try_from(text.to_owned()).map(String::from)
    }

    fn steps(shift: &[&str], bake: u64) -> Vec<u32> {
        let shift = shift.iter().map(|text| Percent::try_from((*text).to_owned()).unwrap()).collect();
        Restart { shift, bake: Duration::from_secs(bake), ..Restart::default() }.steps().steps
    }

    #[test]
    fn a_share_is_a_percentage() {
        for good in ["10%", "0.5%", "100%", "99.9%"] {
            assert_eq!(percent(good).as_deref(), Ok(good));
        }
        assert_eq!(percent("5 %").as_deref(), Ok("5%"));
        for bad in ["10", "0%", "101%", "100.1%", "-1%", "1.25%", "%", "a%", "1e2%"] {
            assert!(percent(bad).unwrap_err().contains("as in 10%"), "{bad}");
        }
    }

    #[test]
    fn the_last_step_is_the_switch_unless_it_is_to_last() {
        assert_eq!(steps(&["100%"], 0), [0; 0]);
        assert_eq!(steps(&[], 0), [0; 0]);
        assert_eq!(steps(&["0.5%", "10%", "50%", "100%"], 0), [5, 100, 500]);
        assert_eq!(steps(&["10%", "50%"], 0), [100, 500], "what comes last needs not be said");
        assert_eq!(steps(&["10%", "100%"], 60), [100, 1000]);
        assert_eq!(steps(&["100%"], 60), [1000]);
    }

    /// The number that the power of the test gives is for a share of 10 %.
    #[test]
    fn a_pod_with_little_traffic_serves_the_default_of_a_first_step_in_time() {
        let Restart { shift_requests, shift_timeout, .. } = Restart::default();
        let requests_per_second = f64::from(shift_requests) / 0.1 / shift_timeout.as_secs_f64();
        assert!(requests_per_second < 1.2, "{requests_per_second}");
    }

    #[test]
    fn steps_grow_and_have_the_time_that_they_take() {
        let found = |change: fn(&mut Restart)| {
            let mut config = Config::default();
            change(&mut config.restart);
            complaints(&config).into_iter().map(|complaint| complaint.key).collect::<Vec<_>>()
        };
        assert_eq!(found(|_| {}), [""; 0]);
        assert_eq!(found(|restart| restart.shift = vec![Percent(500), Percent(100)]), ["restart.shift"]);
        assert_eq!(found(|restart| restart.shift = vec![Percent(100), Percent(100)]), ["restart.shift"]);
        assert_eq!(found(|restart| restart.bake = Duration::from_secs(1801)), ["restart.shift_timeout"]);
    }
}
