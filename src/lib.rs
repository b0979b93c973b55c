//! pitstop deploys Rails releases into running Puma pods and drains them without losing a request.
//!
//! One deploy is data that flows in a circle: [`pointer`](mod@pointer) says what is desired, the [`supervisor`]
//! hands it to the pure [`core`], performs the effects that come back ([`effects`]), and hands their
//! results to the core again. `docs/architecture.md` tells the whole story.

// What the app server is and does: observing it, and telling it to restart.
pub mod app_server;
pub mod beneath;
// The commands, one file each.
pub mod cli;
// Keys, defaults, and where each value came from.
pub mod config;
// The pure decisions: stages of a deploy, the drain, and whether a restart succeeded.
pub mod core;
// Where requests to the supervisor are left and waited for.
pub mod handle;
// Each effect of the core as one linear function with a deadline.
pub mod effects;
// What was looked at in a pod's set-up: fine, a trap, or unknown.
pub mod finding;
// Where a test may stop the agent to kill it there.
pub mod failpoint;
// Bytes at random for parsers.
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
// What each pod runs, told to everybody.
pub mod fleet;
// The user's trial boot of a release.
pub mod hook;
// One HTTP GET over any stream, with limits.
pub mod http_get;
// The first process of a container: `pitstop exec`.
pub mod init;
// Threads for work that may hang.
pub mod lane;
// Prometheus metrics by the contract.
pub mod metrics;
// Telling somebody when a pod needs them.
pub mod notify;
// Opening what somebody else may have written: regular files only, with a limit.
pub mod plain_file;
// Watching the release pointer, in a file or in the store.
pub mod pointer;
// Asking the app itself whether it is healthy, and which release it serves.
pub mod probe;
// Processes as /proc shows them: identity, titles, working directories, pidfd signals.
pub mod procs;
// Releases on the volume: fetching, unpacking, publishing `current`, pruning.
pub mod releases;
// Release ids, pointer values and the lines of `revisions.log`.
pub mod revision;
// The journal on the volume: what was attempted, verified, rejected.
pub mod revisions_log;
// The HTTP endpoints and the admin socket.
pub mod server;
// The pod's socket table.
pub mod sockets;
// What /status and /prestop answer.
pub mod status;
// Where releases and pointers are kept.
pub mod store;
// Several servers side by side in one container: what the agent and their parent say to each other.
pub mod slots;
// The one loop that owns the state.
pub mod supervisor;
// Logs.
pub mod telemetry;
// Signed releases and pointers: whose signatures count.
pub mod trust;
// A command line of the user's, with a limit.
pub mod user_command;
// What is said of a volume that is full.
pub mod volume;
// What warms up a server before clients reach it.
pub mod warmup;
