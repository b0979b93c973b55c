//! Do a candidate's requests fail more often than the live server's? Fisher's exact test, one-sided, on the requests
//! that both have answered since the candidate got its first share.
//!
//! The question is asked again at each look, and chance has as many tries. So the limit becomes stricter as errors add
//! up: of those good releases that serve for ever, less than about one in a thousand is taken for a worse one.

use crate::core::observation::Served;

/// For all looks together; a half of it for those with 2 or 3 errors, a sixth with 4 to 7, and so on: 1/(k(k+1)), which
/// adds up to one. Simulated: 0 to 1.8 of 1000 good releases in 20,000 requests, at error rates of 0.1 to 30 %.
const RISK: f64 = 0.001;
/// A release is never taken back for fewer: one client that asks twice for a page that fails is no proof.
const FEWEST_ERRORS: u64 = 3;

/// What a server has answered in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Those of them that failed.
    pub(crate) errors: u64,
}

impl Counts {
    /// From one count of a server to a later one; `None` where its errors are not counted.
    pub(crate) fn between(then: Served, now: Served) -> Option<Self> {
        let errors = now.errors?.saturating_sub(then.errors?);
        let requests = now.requests.saturating_sub(then.requests);
        // The two are not read at the same moment.
        Some(Self { requests: requests.max(errors), errors })
    }
}

/// What is wrong with the candidate, in words; `None`: chance explains the difference. Both counts are of the same time.
pub(crate) fn worse(candidate: Counts, live: Counts) -> Option<String> {
    let k = f64::from(candidate.errors.checked_ilog2().unwrap_or(0));
    let limit = RISK / (k * (k + 1.0));
    (candidate.errors >= FEWEST_ERRORS && chance(candidate, live) < limit).then(|| {
        format!(
            "{} of {} requests failed (5xx), the live server's {} of {}",
            candidate.errors, candidate.requests, live.errors, live.requests
        )
    })
}

/// How likely the candidate would have so many of all errors, or more, if it made no difference who answers.
fn chance(candidate: Counts, live: Counts) -> f64 {
    let (requests, errors) = (candidate.requests + live.requests, candidate.errors + live.errors);
    let expected = errors as f64 * candidate.requests as f64 / requests.max(1) as f64;
    if candidate.errors as f64 <= expected {
        return 1.0;
    }
    let ways = |counts: Counts| ln_choose(counts.requests, counts.errors);
    let total = Counts { requests, errors };
    let mut term = (ways(candidate) + ways(live) - ways(total)).exp();
    let mut sum = term;
    for of_candidate in candidate.errors..errors.min(candidate.requests) {
        // Above what is expected, each term is smaller than the one before it.
        if term < sum * 1e-12 {
            break;
        }
        let of_live = errors - of_candidate;
        let more = of_live as f64 * (candidate.requests - of_candidate) as f64;
        term *= more / ((of_candidate + 1) as f64 * (live.requests - of_live + 1) as f64);
        sum += term;
    }
    sum
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// By Stirling's series from where that is exact to ten digits.
fn ln_factorial(n: u64) -> f64 {
    if n < 20 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let n = n as f64;
    n * n.ln() - n + (std::f64::consts::TAU * n).ln() / 2.0 + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(errors: u64, requests: u64) -> Counts {
        Counts { requests, errors }
    }

    fn choose(n: u64, k: u64) -> u128 {
        (0..k).fold(1, |ways, at| ways * u128::from(n - at) / u128::from(at + 1))
    }

    /// By counting.
    fn exact(candidate: Counts, live: Counts) -> f64 {
        let errors = candidate.errors + live.errors;
        let last = errors.min(candidate.requests);
        let ways = |of_candidate: u64| match errors - of_candidate {
            of_live if of_live > live.requests => 0,
            of_live => choose(candidate.requests, of_candidate) * choose(live.requests, of_live),
        };
        let ways: u128 = (candidate.errors..=last).map(ways).sum();
        ways as f64 / choose(candidate.requests + live.requests, errors) as f64
    }

    #[test]
    fn few_errors_and_those_that_both_have_take_no_release_back() {
        for (candidate, live) in [
            (counts(2, 2), counts(0, 1_000_000)),
            (counts(3, 30), counts(1, 270)),
            (counts(50, 100), counts(450, 900)),
            (counts(0, 0), counts(0, 0)),
            (counts(400, 400), counts(900, 900)),
            (counts(5, 5), counts(0, 0)),
        ] {
            assert_eq!(worse(candidate, live), None, "{candidate:?} {live:?}");
        }
    }

    #[test]
    fn a_release_that_fails_more_often_is_told_with_its_numbers() {
        let words = "6 of 97 requests failed (5xx), the live server's 1 of 930";
        assert_eq!(worse(counts(6, 97), counts(1, 930)).as_deref(), Some(words));
        for (candidate, live) in [
            (counts(3, 3), counts(0, 60)),
            (counts(60_000, 1_000_000), counts(50_000, 1_000_000)),
            (counts(20, 1_000), counts(900, 1_000_000)),
        ] {
            assert!(worse(candidate, live).is_some(), "{candidate:?} {live:?}");
        }
    }

    #[test]
    fn what_came_between_two_counts_is_known_where_errors_are_counted() {
        let served = |requests, errors| Served { requests, errors, p95_ms: None };
        let between = Counts::between(served(10, Some(1)), served(30, Some(4)));
        assert_eq!(between, Some(counts(3, 20)));
        assert_eq!(Counts::between(served(10, None), served(30, Some(4))), None);
        assert_eq!(Counts::between(served(10, Some(1)), served(30, None)), None);
        // The file of one process was read before its last error was counted.
        assert_eq!(Counts::between(served(10, Some(1)), served(11, Some(3))), Some(counts(2, 2)));
    }

    /// Requests come one after the other, and the question is asked after each. After how many of the candidate's it is
    /// taken back, if it is.
    fn plays(seed: u64, share: f64, rates: [f64; 2], requests: u32) -> Option<u64> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (mut candidate, mut live) = (Counts::default(), Counts::default());
        for _ in 0..requests {
            let mine = draw() < share;
            let failed = draw() < rates[usize::from(!mine)];
            let counts = if mine { &mut candidate } else { &mut live };
            counts.requests += 1;
            counts.errors += u64::from(failed);
            if mine && failed && worse(candidate, live).is_some() {
                return Some(candidate.requests);
            }
        }
        None
    }

    #[test]
    fn good_releases_are_kept_however_often_they_are_looked_at() {
        for share in [0.05, 0.1, 0.5] {
            for rate in [0.001, 0.01, 0.2] {
                let taken_back =
                    (1..=200).filter(|seed| plays(*seed, share, [rate, rate], 3_000).is_some()).count();
                assert!(taken_back <= 2, "{taken_back} of 200 at {share} and {rate}");
            }
        }
    }

    #[test]
    fn one_with_five_per_cent_errors_is_found_in_some_hundred_requests() {
        for (share, at_most) in [(0.1, 120), (0.5, 400)] {
            let mut at: Vec<u64> =
                (1..=100).map(|seed| plays(seed, share, [0.05, 0.001], 20_000).unwrap()).collect();
            at.sort_unstable();
            assert!(at[50] < at_most, "after {} requests at {share}", at[50]);
            assert!(at[95] < 2 * at_most, "after {} requests at {share}", at[95]);
        }
    }

    fn drawn(of: u64, chosen: u64, rate: f64) -> f64 {
        let (good, bad) = ((of - chosen) as f64, chosen as f64);
        (ln_choose(of, chosen) + bad * rate.ln() + good * (1.0 - rate).ln()).exp()
    }

    /// How likely a candidate with 5 % errors is found by so many of its requests in a share of 10 %, by one look at
    /// the end of the step. The looks before it can only add to that.
    fn power(requests: u64, rate_of_live: f64) -> f64 {
        let live = 9 * requests;
        let errors_of_live = 0..=(10.0 + 6.0 * live as f64 * rate_of_live) as u64;
        let found = |of_live: u64| {
            let at_least =
                (0..=requests).find(|k| worse(counts(*k, requests), counts(of_live, live)).is_some());
            (at_least.unwrap_or(requests + 1)..=requests).map(|k| drawn(requests, k, 0.05)).sum::<f64>()
        };
        errors_of_live.map(|of_live| drawn(live, of_live, rate_of_live) * found(of_live)).sum()
    }

    /// The default of `restart.shift_requests`, and the table of docs/beside.md. A step that ends by its time-out has
    /// fewer.
    #[test]
    fn two_hundred_requests_find_five_per_cent_errors_with_ninety_five_per_cent() {
        for (requests, per_cent) in [(20, 1), (60, 28), (100, 62), (150, 85), (200, 95), (300, 100)] {
            let found = 100.0 * power(requests, 0.001);
            assert_eq!(found.round() as u64, per_cent, "{requests} requests: {found}");
        }
        // Where the live server has errors itself, more are needed.
        assert_eq!([200, 400].map(|requests| (100.0 * power(requests, 0.01)).round() as u64), [41, 85]);
    }

    proptest! {
        #[test]
        fn it_is_fishers_test(a in 1_u64..30, b in 0_u64..30, c in 0_u64..30, d in 0_u64..30) {
            let (candidate, live) = (counts(a.min(b), a), counts(c.min(d), d));
            let (wanted, found) = (exact(candidate, live), chance(candidate, live));
            // What is not more than expected is not computed.
            prop_assert!(found == 1.0 || (found - wanted).abs() < 1e-6 * wanted, "{found} {wanted}");
            prop_assert!(found < 1.0 || wanted > 0.3, "{wanted}");
        }

        #[test]
        fn more_errors_are_never_better(n in 1_u64..100_000, m in 1_u64..100_000, errors in 0_u64..100_000, of_live in 0_u64..100_000) {
            let (errors, of_live) = (errors % n, of_live % (m + 1));
            let more = chance(counts(errors + 1, n), counts(of_live, m));
            prop_assert!(more.is_finite() && more <= chance(counts(errors, n), counts(of_live, m)) + 1e-9);
        }
    }
}
