//! Stub for hardware detection when the feature `machine` is off: nothing is known.

/// Maximum bytes of memory available to this process: unknown.
pub fn memory() -> Option<u64> {
    None
}

/// Processor name and number of cores: unknown.
pub fn processor() -> Option<(String, usize)> {
    None
}
