//! The counter-based generator behind every random number: SplitMix64 (Steele, Lea, Flood 2014), addressed by
//! key and index instead of stepped. There is no state, so nothing has to be saved to resume.

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The `index`-th 64-bit word of the stream `key`.
#[inline(always)]
pub fn word(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)))
}

/// SplitMix64's finaliser: a bijection of 64-bit words that maps neighbours to unrelated values.
#[inline(always)]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_splitmix64() {
        // First outputs of the published generator seeded with 1234567.
        let expect = [6457827717110365317_u64, 3203168211198807973, 9817491932198370423];
        for (i, &e) in expect.iter().enumerate() {
            assert_eq!(super::word(1234567, i as u64), e);
        }
    }
}
