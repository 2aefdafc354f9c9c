//! Maps whose keys are pairs of token ids.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A map whose keys are pairs, or single ids.
pub(super) type PairMap<T> = HashMap<u64, T, BuildHasherDefault<Mix>>;

/// A pair of ids as one number.
pub(super) fn key((a, b): (u32, u32)) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

/// The pair of a key.
pub(super) fn pair(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

/// Hashes numbers. Ids are not chosen by an enemy, and the standard library's hash would take most of the time.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, x: u64) {
        let product = u128::from(self.0 ^ x ^ 0x243F_6A88_85A3_08D3) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}
