//! Information about this machine.

#[cfg_attr(not(feature = "machine"), path = "machine/no_probe.rs")]
mod probe;

use kinglet_core::error::{Error, Result};

pub use probe::{memory, processor};

/// Bytes in a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// Peak memory of this process, from Linux's `/proc`.
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim();
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

/// Returns an error if `bytes` exceeds this machine's memory; `refuse` builds it from the GiB needed and the GiB
/// available.
pub(crate) fn check_memory(bytes: u64, refuse: impl FnOnce(f64, f64) -> Error) -> Result<()> {
    match memory() {
        Some(have) if bytes > have => Err(refuse(bytes as f64 / GIB, have as f64 / GIB)),
        _ => Ok(()),
    }
}
