//! Each fuzz target: the program is named as its target is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitstop::fuzz::run(env!("CARGO_BIN_NAME"), bytes));
