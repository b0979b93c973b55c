//! The defects that the walk plants to show that it would find them. No product build has any:
//! `Deploy::mutated` is constantly false there.

/// A rule of the design, broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The restart is signalled before the journal says so.
    SignalBeforeIntent,
    /// The way back flips `current` before the rejection is on disk.
    RejectAfterFlip,
    /// A title is taken as proof that the last restart has gone through.
    TitleOnlyGuard,
    /// The result of an older attempt's effect moves the present one.
    LateEffectAccepted,
    /// While draining nothing is undone, even when nothing serves.
    RevertForbiddenInDrain,
    /// What was there before is read after the signal.
    BaselineAfterSignal,
    /// An answer that names another release counts like any other.
    MismatchIgnored,
    /// Ours begins whatever others are doing.
    BeginsAmidTheirs,
    /// A newborn pod rejects its release for a health path that fails, whatever fails it.
    RejectsTheUnwell,
    /// A way back leads to what somebody rolled back from, or the fleet rejected.
    TakesAnyWayBack,
    /// Too many deaths of the agent undo a move, whatever runs.
    GivesUpUnseen,
    /// A single process that was told to stop counts as one that serves, until it is gone: planted in what is seen.
    #[cfg(test)]
    StopsUnseen,
}
