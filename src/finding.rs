//! What was looked at in a pod's set-up: what is fine, what is a trap, and what nobody could tell.
//!
//! Whoever knows a part of the set-up makes the checks of that part, and makes them once: `/status` shows
//! the findings among them, `pitstop doctor` shows all of them. A code is a contract, and each has a
//! heading in `docs/doctor.md`.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Good to know.
    Note,
    /// A promise holds only sometimes.
    Risky,
    /// A promise does not hold.
    Broken,
}

impl Severity {
    /// As in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Risky => "risky",
            Self::Broken => "broken",
        }
    }
}

/// A trap in this pod's set-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "Shown")]
pub struct Finding {
    /// Which trap.
    pub code: Code,
    /// How bad it is here.
    pub(crate) severity: Severity,
    /// What would happen.
    pub message: String,
    /// The one line that fixes it.
    pub(crate) fix: String,
}

/// A finding in JSON: `remedy` is the older name of `fix`, and stays for those who read it.
#[derive(Serialize)]
struct Shown {
    code: Code,
    severity: Severity,
    message: String,
    fix: String,
    remedy: String,
}

impl From<Finding> for Shown {
    fn from(Finding { code, severity, message, fix }: Finding) -> Self {
        Self { code, severity, message, remedy: fix.clone(), fix }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which part of the set-up, as a heading for people: `Puma`, `volume`.
    pub(crate) about: &'static str,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be, in these words.
    Fine(String),
    /// A trap.
    Found(Finding),
    /// It could not be told, for this reason.
    Unknown(String),
}

impl Check {
    /// As it should be.
    pub(crate) fn fine(about: &'static str, message: impl Into<String>) -> Self {
        Self { about, outcome: Outcome::Fine(message.into()) }
    }

    /// It could not be told.
    pub(crate) fn unknown(about: &'static str, why: impl Into<String>) -> Self {
        Self { about, outcome: Outcome::Unknown(why.into()) }
    }

    /// A trap.
    pub(crate) fn found(about: &'static str, finding: Finding) -> Self {
        Self { about, outcome: Outcome::Found(finding) }
    }

    /// The trap, if it is one.
    pub(crate) fn finding(&self) -> Option<&Finding> {
        match &self.outcome {
            Outcome::Found(finding) => Some(finding),
            Outcome::Fine(_) | Outcome::Unknown(_) => None,
        }
    }
}

/// The traps among the checks.
pub(crate) fn findings(checks: &[Check]) -> Vec<Finding> {
    checks.iter().filter_map(Check::finding).cloned().collect()
}

impl Finding {
    /// A trap that is this bad here.
    pub(crate) fn of(
        severity: Severity,
        code: Code,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { code, severity, message: message.into(), fix: fix.into() }
    }

    /// A promise does not hold.
    pub(crate) fn broken(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::of(Severity::Broken, code, message, fix)
    }

    /// A promise holds only sometimes.
    pub(crate) fn risky(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::of(Severity::Risky, code, message, fix)
    }

    /// Good to know.
    pub(crate) fn note(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::of(Severity::Note, code, message, fix)
    }

    /// As the check of this part of the set-up.
    pub(crate) fn about(self, about: &'static str) -> Check {
        Check::found(about, self)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// Which trap. One closed list; the codes are a contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What users see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

codes! {
    /// No Puma is to be seen.
    AppServerMissing = "APP_SERVER_MISSING",
    /// A service mesh's proxy is in the pod.
    MeshProxy = "MESH_PROXY",
    /// A restart of pitstop's cut requests.
    RequestsCutByRestart = "REQUESTS_CUT_BY_RESTART",
    /// Somebody else restarted Puma.
    RestartedByOthers = "RESTARTED_BY_OTHERS",
    /// Puma's master ended in a deploy, and not because of the release.
    MasterEnded = "MASTER_ENDED",
    /// Several Pumas could be meant.
    AppServerAmbiguous = "APP_SERVER_AMBIGUOUS",
    /// Puma may not be looked into or signalled.
    AppServerNotPermitted = "APP_SERVER_NOT_PERMITTED",
    /// The containers do not see each other's processes.
    ProcessNamespaceNotShared = "PROCESS_NAMESPACE_NOT_SHARED",
    /// Puma runs in no release of this volume.
    NotFromCurrent = "NOT_FROM_CURRENT",
    /// A restart may not follow `current`.
    RestartDirUnproven = "RESTART_DIR_UNPROVEN",
    /// A path that Puma was given names one release.
    PathNamesRelease = "PATH_NAMES_RELEASE",
    /// No restart leaves the release that Puma was started in.
    RestartDirPinned = "RESTART_DIR_PINNED",
    /// Puma's configuration is that of one release.
    ConfigNamesRelease = "CONFIG_NAMES_RELEASE",
    /// The next release could not be restarted onto.
    RestartImpossible = "RESTART_IMPOSSIBLE",
    /// A hot restart loses Puma's arguments.
    StartedByRackup = "STARTED_BY_RACKUP",
    /// A pid file keeps the next `rails server` from starting.
    RailsPidFileStays = "RAILS_PID_FILE_STAYS",
    /// A hot restart runs another command than Puma was started with.
    RestartCommandGiven = "RESTART_COMMAND_GIVEN",
    /// A shell in front of Puma keeps signals from it.
    ShellInFront = "SHELL_IN_FRONT",
    /// A phased restart keeps the bundle of an earlier release.
    BundleKeptByPhased = "BUNDLE_KEPT_BY_PHASED",
    /// A phased restart leaves a child of Puma's master as it is.
    ChildKeptByPhased = "CHILD_KEPT_BY_PHASED",
    /// A file that other pods see restarts Puma.
    TmpRestartShared = "TMP_RESTART_SHARED",
    /// Puma would die of the signal of a hot restart.
    HotRestartUnavailable = "HOT_RESTART_UNAVAILABLE",
    /// Every restart is a hot one.
    PhasedRestartUnavailable = "PHASED_RESTART_UNAVAILABLE",
    /// No second server can be started beside the first.
    BesideUnavailable = "BESIDE_UNAVAILABLE",
    /// The parent of the app server gives a server all connections or none.
    SharesUnavailable = "SHARES_UNAVAILABLE",
    /// There is no memory for a second server beside the first.
    BesideNoMemory = "BESIDE_NO_MEMORY",
    /// A share of the traffic is judged by health alone.
    ErrorsNotCounted = "ERRORS_NOT_COUNTED",
    /// A restart is asked for by a file that comes with the release.
    RestartFileShipped = "RESTART_FILE_SHIPPED",
    /// Requests that wait for a boot are refused from some number on.
    RequestQueueShort = "REQUEST_QUEUE_SHORT",
    /// The app server runs without the app.
    AppNotStarted = "APP_NOT_STARTED",
    /// The signal that ends the server cuts requests.
    StopCutsRequests = "STOP_CUTS_REQUESTS",
    /// Whether Puma has restarted cannot be told.
    AddressSpaceNotRandom = "ADDRESS_SPACE_NOT_RANDOM",
    /// Puma has no control server that could be found.
    ControlServerAbsent = "CONTROL_SERVER_ABSENT",
    /// Puma's control server does not accept the token.
    ControlServerDenied = "CONTROL_SERVER_DENIED",
    /// Puma's control server does not answer.
    ControlServerSilent = "CONTROL_SERVER_SILENT",
    /// Puma's state file is of another process.
    StateFileStale = "STATE_FILE_STALE",
    /// Puma was given another `worker_shutdown_timeout` than the agent was told.
    ShutdownTimeoutDiffers = "SHUTDOWN_TIMEOUT_DIFFERS",
    /// The next release's bundle has another version of Puma.
    PumaVersionDiffers = "PUMA_VERSION_DIFFERS",
    /// Puma's numbers are old when they come.
    CheckIntervalLong = "CHECK_INTERVAL_LONG",
    /// A worker that hangs is kept for long.
    WorkerTimeoutLong = "WORKER_TIMEOUT_LONG",
    /// A worker that works on one request alone may be ended for it.
    WorkerTimeoutShort = "WORKER_TIMEOUT_SHORT",
    /// Puma closes idle connections before a balancer does.
    KeepaliveShort = "KEEPALIVE_SHORT",
    /// Nobody sees the server's requests.
    NoPortToWatch = "NO_PORT_TO_WATCH",
    /// SIGTERM ends Unicorn with all its requests.
    UnicornTermCuts = "UNICORN_TERM_CUTS",
    /// The container lives as long as Unicorn's first master.
    UnicornFirstMasterStays = "UNICORN_FIRST_MASTER_STAYS",
    /// A hook of Unicorn's configuration ends the old master too early.
    UnicornHookEndsOldMaster = "UNICORN_HOOK_ENDS_OLD_MASTER",
    /// Unicorn's first master would not let go of its workers.
    UnicornOnTerminal = "UNICORN_ON_TERMINAL",
    /// Two masters of Unicorn run side by side.
    UnicornTwoMasters = "UNICORN_TWO_MASTERS",
    /// Unicorn's master has no workers.
    UnicornNoWorkers = "UNICORN_NO_WORKERS",
    /// The user's check fails at rest.
    CommandCheckFails = "COMMAND_CHECK_FAILS",
    /// There is no shell for the user's commands.
    CommandNoShell = "COMMAND_NO_SHELL",
    /// The pointer is not signed, or its signature does not hold; and it is followed.
    PointerNotSigned = "POINTER_NOT_SIGNED",
    /// A release is not signed, or its signature does not hold; and it is used.
    ReleaseNotSigned = "RELEASE_NOT_SIGNED",
    /// The signature of the pointer expires soon, or has expired.
    SignatureExpires = "SIGNATURE_EXPIRES",
    /// A request in flight would not survive a restart.
    LongRequests = "LONG_REQUESTS",
    /// Long requests are cut by restarts, as configured.
    LongRequestsCut = "LONG_REQUESTS_CUT",
    /// A restart counts as failed before Puma has had its time.
    RestartTimeoutShort = "RESTART_TIMEOUT_SHORT",
    /// The pod got requests before its first server was warm.
    WarmupFailed = "WARMUP_FAILED",
    /// What the trial boot needs is not in the agent's container.
    HookNoRuntime = "HOOK_NO_RUNTIME",
    /// The grace period leaves the drain little time.
    DrainBudgetTight = "DRAIN_BUDGET_TIGHT",
    /// Puma has less time to stop than it gives its requests.
    StopTimeShort = "STOP_TIME_SHORT",
    /// Booted is all that is known of a release.
    HealthPathUnset = "HEALTH_PATH_UNSET",
    /// The health path does not answer well now.
    HealthPathFails = "HEALTH_PATH_FAILS",
    /// The app is not asked which release it is.
    ReleaseHeaderUnset = "RELEASE_HEADER_UNSET",
    /// The app does not name the release that runs.
    ReleaseHeaderWrong = "RELEASE_HEADER_WRONG",
    /// The volume is not there.
    VolumeMissing = "VOLUME_MISSING",
    /// The volume does not answer in time.
    VolumeHangs = "VOLUME_HANGS",
    /// The volume cannot be written.
    VolumeNotWritable = "VOLUME_NOT_WRITABLE",
    /// Releases are made on another file system than where they go.
    VolumeSplit = "VOLUME_SPLIT",
    /// The next release may not fit.
    VolumeNearlyFull = "VOLUME_NEARLY_FULL",
    /// Locks do not hold on the volume.
    VolumeWithoutLocks = "VOLUME_WITHOUT_LOCKS",
    /// `current` is something that a rename must not replace.
    CurrentNotALink = "CURRENT_NOT_A_LINK",
    /// `current` leads nowhere.
    CurrentDangling = "CURRENT_DANGLING",
    /// `current` leads to something that was never checked.
    CurrentUnchecked = "CURRENT_UNCHECKED",
    /// Several pods run from one `current`.
    CurrentShared = "CURRENT_SHARED",
    /// `state_dir` cannot be written.
    StateDirNotWritable = "STATE_DIR_NOT_WRITABLE",
    /// `state_dir` lies on the releases' volume.
    StateDirOnVolume = "STATE_DIR_ON_VOLUME",
    /// `pod_dir` lies on the releases' volume.
    PodDirOnVolume = "POD_DIR_ON_VOLUME",
    /// The token cannot be read.
    TokenUnreadable = "TOKEN_UNREADABLE",
    /// The pointer cannot be read.
    PointerUnreadable = "POINTER_UNREADABLE",
    /// The pointer is none.
    PointerInvalid = "POINTER_INVALID",
    /// The store has not the release that the pointer names.
    ReleaseUnknown = "RELEASE_UNKNOWN",
    /// The release that the pointer names is damaged in the store.
    ReleaseCorrupt = "RELEASE_CORRUPT",
    /// The store does not answer.
    StoreUnreachable = "STORE_UNREACHABLE",
    /// The store refuses us.
    StoreDenied = "STORE_DENIED",
    /// The store takes no notice of the condition of a write.
    StoreWithoutConditions = "STORE_WITHOUT_CONDITIONS",
    /// Who is between the store and the pod can put other code in its place.
    StorePlainHttp = "STORE_PLAIN_HTTP",
    /// No agent runs beside.
    AgentNotRunning = "AGENT_NOT_RUNNING",
    /// The agent does not answer.
    AgentSilent = "AGENT_SILENT",
    /// The agent died in this container, and was started again.
    AgentDied = "AGENT_DIED",
    /// The agent that answers is another pod's.
    AgentOfAnotherPod = "AGENT_OF_ANOTHER_POD",
    /// The agent says that something else runs than what is desired, or that something holds it.
    NotInSync = "NOT_IN_SYNC",
    /// The configuration cannot work.
    ConfigInvalid = "CONFIG_INVALID",
    /// The agent's port belongs to somebody else.
    PortTaken = "PORT_TAKEN",
    /// The agent cannot listen.
    NotListening = "NOT_LISTENING",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
