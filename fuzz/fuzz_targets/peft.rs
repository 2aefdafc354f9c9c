#![no_main]

#[path = "../../tests/common/foreign.rs"]
#[allow(dead_code, reason = "each target takes one")]
mod foreign;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    foreign::peft(bytes);
});
