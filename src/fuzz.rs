//! Bytes at random for whatever reads what somebody else has written: a parser is given changed seeds, again and
//! again, and must neither panic nor accept what it does not mean.
//!
//! The seeds are kept in `fuzz/seeds/<target>`. On the stable toolchain each target is a test (`make fuzz`):
//! `FUZZ_SECONDS` says how long (else a few hundred inputs), `FUZZ_SEED` where the numbers begin. By cargo-fuzz, where a
//! nightly toolchain is there, the same functions are run (`fuzz/`). What made a parser panic is kept in `target/fuzz`,
//! and belongs among the seeds then.

use crate::{
    app_server::{self, passenger, puma, unicorn},
    cli, config, core, effects, fleet, init, pointer, probe, procs, releases, revisions_log, server, slots,
    sockets, store, trust,
};

#[cfg(test)]
mod parsers;
#[cfg(test)]
mod random;

/// A parser and what it is called.
pub type Target = (&'static str, fn(&[u8]));

/// Each parser of what others have written. What `/proc`, the store, the volume, the app and its server, the parent and
/// the operator's files say is read by these.
pub const TARGETS: &[Target] = &[
    // Of the store.
    ("archive", releases::unpack::fuzzed::archive),
    ("pax", releases::pax::fuzzed::header),
    ("manifest", releases::manifest::fuzzed::manifest),
    ("digest", store::archive::fuzzed::digest),
    ("store-key", store::inventory::fuzzed::key),
    ("requirements", core::requirement::fuzzed::requirements),
    ("pointer", pointer::document::fuzzed::pointer),
    ("statement", trust::pointer::fuzzed::statement),
    ("minisign", trust::pointer::fuzzed::minisign),
    ("report", fleet::reports::fuzzed::report),
    ("move", fleet::moves::fuzzed::moved),
    ("rollout", cli::rollout::lease::fuzzed::rollout),
    // Of the volume and of state_dir.
    ("journal", revisions_log::fuzzed::journal),
    ("lease", releases::leases::fuzzed::lease),
    ("marker", releases::fuzzed::marker),
    ("fetch-lock", releases::fetch_lock::fuzzed::sign),
    ("drain", effects::drain_journal::fuzzed::drain),
    ("unfinished", effects::unfinished::fuzzed::note),
    ("floor", trust::floor::fuzzed::floor),
    ("learnt", init::learnt::fuzzed::learnt),
    ("room", app_server::room::fuzzed::taken),
    ("counts", slots::counts::fuzzed::counted),
    // Of whoever configures it.
    ("config", config::yaml::fuzzed::file),
    ("config-values", config::yaml::fuzzed::values),
    ("secret-key", cli::signing::fuzzed::key),
    // Of the app, its server and its files.
    ("health", probe::fuzzed::answer),
    ("puma-title", puma::title::fuzzed::title),
    ("puma-config", puma::config_file::fuzzed::ruby),
    ("puma-command-line", puma::command_line::fuzzed::command_line),
    ("puma-state-file", puma::control::fuzzed::state_file),
    ("puma-control", puma::control::fuzzed::answer),
    ("bundle", puma::release_diff::fuzzed::bundle),
    ("unicorn-title", unicorn::title::fuzzed::title),
    ("passenger-pool", passenger::pool::fuzzed::pool),
    ("passenger-properties", passenger::discovery::fuzzed::properties),
    ("output", app_server::raised::fuzzed::output),
    // Of the kernel, the parent, the agent, and who calls the endpoints.
    ("sock-diag", sockets::diag::fuzzed::datagram),
    ("proc-net", sockets::fuzzed::proc_net),
    ("control-groups", procs::memory::fuzzed::control_groups),
    ("slots-reply", slots::client::fuzzed::reply),
    ("slots-request", init::questions::fuzzed::asked),
    ("agent-answer", init::ask::fuzzed::answer),
    ("token", server::token::fuzzed::credentials),
];

/// Gives the parser of this name these bytes.
///
/// # Panics
/// When the parser does, or accepts what it does not mean; also when there is no such parser.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, parse) = target.unwrap_or_else(|| panic!("there is no fuzz target {name}"));
    parse(bytes);
}
