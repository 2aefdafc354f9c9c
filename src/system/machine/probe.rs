//! What the system tells about the machine, by sysinfo.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Bytes of memory that this process can have at most, where the system tells: the machine's, or those of its container.
pub fn memory() -> Option<u64> {
    let only_ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(only_ram);
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    Some(system.total_memory().min(container)).filter(|&bytes| bytes > 0)
}

/// The name of the processor, and how many cores there are, where the system tells.
pub fn processor() -> Option<(String, usize)> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let cpus = system.cpus();
    Some((cpus.first()?.brand().trim().to_owned(), cpus.len()))
}
