//! Stands in for what the system tells where the feature `machine` is off: nothing is known.

/// Bytes of memory that this process can have at most: unknown.
pub fn memory() -> Option<u64> {
    None
}

/// The name of the processor, and how many cores there are: unknown.
pub fn processor() -> Option<(String, usize)> {
    None
}
