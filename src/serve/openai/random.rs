//! Numbers that nobody can foresee: of the system, as the standard library's hash tables have them.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

fn word() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A seed that every client's JSON keeps: below 2^53.
pub(super) fn seed() -> u64 {
    word() >> 11
}

/// A name for an answer, as `cmpl-` and 32 digits.
pub(super) fn id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", word(), word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_equal() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| id("cmpl-")).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 37 && id.starts_with("cmpl-")));
        assert!((0..1000).all(|_| seed() < 1 << 53));
    }
}
