//! Why something is as it is: one closed list for /status, the metrics and the log.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// Why a deploy waits, was refused or failed. The codes are a contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl Reason {
            /// Every reason there is, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code that users see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

reasons! {
    /// The pointer's content is no pointer.
    PointerInvalid = "pointer_invalid",
    /// The pointer could not be read.
    PointerUnreadable = "pointer_unreadable",
    /// The store has no release of this id.
    ReleaseUnknown = "release_unknown",
    /// The archive does not match its digest, or must not be unpacked.
    ReleaseCorrupt = "release_corrupt",
    /// The store does not answer.
    StoreUnreachable = "store_unreachable",
    /// The store refuses us.
    StoreDenied = "store_denied",
    /// The volume is full.
    NoSpace = "no_space",
    /// The volume does not answer or cannot be written.
    VolumeUnavailable = "volume_unavailable",
    /// A hook of the user's failed.
    HookFailed = "hook_failed",
    /// The release needs what the image does not bring.
    NeedsImage = "needs_image",
    /// No app server is running.
    AppServerMissing = "app_server_missing",
    /// Several processes could be the app server.
    AppServerAmbiguous = "app_server_ambiguous",
    /// The kernel does not let us see or signal the app server.
    NotPermitted = "not_permitted",
    /// Requests in flight would not survive the restart.
    LongRequests = "long_requests",
    /// The release does not boot.
    BootFailed = "boot_failed",
    /// Workers of the release die and are respawned.
    BootLoop = "boot_loop",
    /// The release did not boot in time.
    BootTimeout = "boot_timeout",
    /// The app server ended.
    MasterGone = "master_gone",
    /// The app server runs from another directory than the release's.
    WrongCwd = "wrong_cwd",
    /// The health probe failed.
    ProbeFailed = "probe_failed",
    /// The app says that it is another release.
    ReleaseMismatch = "release_mismatch",
    /// The app server is bound to a directory that no restart moves.
    RestartDirPinned = "restart_dir_pinned",
    /// The move failed before and is not tried again.
    Rejected = "rejected",
    /// There is no memory for a second server beside the one that runs.
    NoMemory = "no_memory",
    /// The app server did not take the listening sockets that it was given.
    NotInherited = "not_inherited",
    /// Deploys are paused.
    Held = "held",
    /// The pod is about to end.
    Draining = "draining",
    /// What has to be signed is not.
    SignatureMissing = "signature_missing",
    /// A signature does not hold, or its key or release was revoked.
    SignatureInvalid = "signature_invalid",
    /// The pointer is older than what this pod has seen.
    Replayed = "replayed",
    /// The configuration cannot work.
    ConfigInvalid = "config_invalid",
    /// A defect of pitstop's own.
    Internal = "internal",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
