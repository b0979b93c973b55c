//! The seeds, changed at random, on the stable toolchain.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{TARGETS, run};

/// Without `FUZZ_SECONDS`.
const INPUTS: u32 = 1_000;
const BYTES_MAX: usize = 64 << 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The seeds of a target, in the order of their names.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = root().join("fuzz/seeds").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no seed", dir.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Gives the parser each of the seeds, and then changed ones.
fn fuzz(name: &str) {
    let seeds = seeds(name);
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let until = number("FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut dice = fastrand::Rng::with_seed(seed);
    let try_one = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(name, input))) {
            let dir = root().join("target/fuzz");
            let file = dir.join(format!("{name}-{}", fastrand::u32(..)));
            let _ = fs::create_dir_all(&dir).and_then(|()| fs::write(&file, input));
            eprintln!("{name}: this input (seed {seed}) is in {}: {}", file.display(), input.escape_ascii());
            resume_unwind(panic);
        }
    };
    seeds.iter().for_each(|example| try_one(example));
    let mut tried = 0;
    while until.map_or(tried < INPUTS, |until| Instant::now() < until) {
        try_one(&changed(&seeds, &mut dice));
        tried += 1;
    }
    println!("{name}: {tried} inputs, seed {seed}");
}

/// One of the seeds with a few changes.
fn changed(seeds: &[Vec<u8>], dice: &mut fastrand::Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\n\r\t \"'\\/{}[]():,;.-+_=<>&#%\x7f\x80\xff0919aAzZ";
    let mut bytes = seeds[dice.usize(..seeds.len())].clone();
    for _ in 0..dice.usize(1..6) {
        let at = dice.usize(..=bytes.len());
        let rest = dice.usize(..=bytes.len() - at).min(dice.usize(1..40));
        match dice.u8(..8) {
            0 if at < bytes.len() => bytes[at] = dice.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.u8(..8),
            2 => bytes.insert(at, TELLING[dice.usize(..TELLING.len())]),
            3 => drop(bytes.drain(at..at + rest)),
            4 => {
                let copy = bytes[at..at + rest].repeat(dice.usize(1..9));
                drop(bytes.splice(at..at, copy));
            }
            5 => bytes.truncate(at),
            6 => {
                let other = &seeds[dice.usize(..seeds.len())];
                let from = dice.usize(..=other.len());
                drop(bytes.splice(at.., other[from..].iter().copied()));
            }
            _ => drop(bytes.splice(at..at + rest, dice.u64(..).to_string().into_bytes())),
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

/// A test for each, so that they run side by side.
macro_rules! fuzz_tests {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            fuzz($name);
        })*

        const TESTED: &[&str] = &[$($name),*];
    };
}

fuzz_tests! {
    fuzz_archive "archive"
    fuzz_pax "pax"
    fuzz_manifest "manifest"
    fuzz_digest "digest"
    fuzz_store_key "store-key"
    fuzz_requirements "requirements"
    fuzz_pointer "pointer"
    fuzz_statement "statement"
    fuzz_minisign "minisign"
    fuzz_report "report"
    fuzz_move "move"
    fuzz_rollout "rollout"
    fuzz_journal "journal"
    fuzz_lease "lease"
    fuzz_marker "marker"
    fuzz_fetch_lock "fetch-lock"
    fuzz_drain "drain"
    fuzz_unfinished "unfinished"
    fuzz_floor "floor"
    fuzz_learnt "learnt"
    fuzz_room "room"
    fuzz_counts "counts"
    fuzz_config "config"
    fuzz_config_values "config-values"
    fuzz_secret_key "secret-key"
    fuzz_health "health"
    fuzz_puma_title "puma-title"
    fuzz_puma_config "puma-config"
    fuzz_puma_command_line "puma-command-line"
    fuzz_puma_state_file "puma-state-file"
    fuzz_puma_control "puma-control"
    fuzz_bundle "bundle"
    fuzz_unicorn_title "unicorn-title"
    fuzz_passenger_pool "passenger-pool"
    fuzz_passenger_properties "passenger-properties"
    fuzz_output "output"
    fuzz_sock_diag "sock-diag"
    fuzz_proc_net "proc-net"
    fuzz_control_groups "control-groups"
    fuzz_slots_reply "slots-reply"
    fuzz_slots_request "slots-request"
    fuzz_agent_answer "agent-answer"
    fuzz_token "token"
}

#[test]
fn each_target_is_a_test_and_a_target_of_cargo_fuzz() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(TESTED, names);
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let bins: Vec<&str> =
        manifest.split("[[bin]]\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(bins, names);
}
