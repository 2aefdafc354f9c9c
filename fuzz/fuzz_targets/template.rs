#![no_main]

#[path = "../../tests/common/parsers.rs"]
#[allow(dead_code, reason = "each target takes one")]
mod parsers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parsers::template(bytes));
