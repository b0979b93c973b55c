//! When an agent that has ended is started again.

/// The pauses before that double from here to there.
const FIRST_MS: u64 = 250;
const LONGEST_MS: u64 = 10_000;
/// While somebody waits for it, nobody waits that long.
const LONGEST_IN_A_HURRY_MS: u64 = 1_000;
/// An agent that lived so long begins with the first pause again.
const STABLE_MS: u64 = 60_000;

/// The pauses before each start.
#[derive(Debug, Clone)]
pub(crate) struct Pauses {
    next_ms: u64,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self { next_ms: FIRST_MS }
    }

    /// The pause after an agent that lived so long.
    pub(crate) fn after(&mut self, lived_ms: u64) -> u64 {
        if lived_ms >= STABLE_MS {
            self.next_ms = FIRST_MS;
        }
        let pause = self.next_ms;
        self.next_ms = (pause * 2).min(LONGEST_MS);
        pause
    }

    /// The longest that a start may be away while somebody waits for it.
    pub(crate) fn in_a_hurry(&self) -> u64 {
        self.next_ms.min(LONGEST_IN_A_HURRY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_grow_up_to_a_limit_and_begin_anew_after_a_while_of_health() {
        let mut pauses = Pauses::new();
        let short: Vec<u64> = (0..9).map(|_| pauses.after(STABLE_MS - 1)).collect();
        assert!(short.is_sorted() && short[0] == FIRST_MS && short[8] == LONGEST_MS, "{short:?}");
        assert_eq!(pauses.in_a_hurry(), LONGEST_IN_A_HURRY_MS);
        assert_eq!(pauses.after(STABLE_MS), FIRST_MS);
    }
}
