//! How many operations on the volume are in flight while a release is written.

use super::Releases;
use crate::volume;

/// Each operation takes a round trip. An NFS client has 64 slots for everybody: some are left to the app. (By
/// reasoning: never measured on EFS.)
const NETWORK: usize = 48;
/// A local disk is fast with few, and the processors have other things to do.
const LOCAL: usize = 6;

impl Releases {
    /// The same, with so many operations in flight; 0: what the kind of file system suggests.
    #[must_use]
    pub fn with_in_flight(self, in_flight: usize) -> Self {
        Self { in_flight, ..self }
    }

    pub(super) fn in_flight(&self) -> usize {
        match self.in_flight {
            0 if volume::is_networked(&self.deploy_to) => NETWORK,
            0 => LOCAL,
            in_flight => in_flight,
        }
    }
}
