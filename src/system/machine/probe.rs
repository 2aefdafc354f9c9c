//! Hardware information, from sysinfo.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Maximum bytes of memory available to this process, if the OS reports it: the machine's memory or the container's
/// limit.
pub fn memory() -> Option<u64> {
    let only_ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(only_ram);
    // Without /proc, as in a bare chroot, nothing is known, and sysinfo panics when it is asked for limits.
    let machine = Some(system.total_memory()).filter(|&bytes| bytes > 0)?;
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    Some(machine.min(container)).filter(|&bytes| bytes > 0)
}

/// Processor name and number of cores, if the OS reports them.
pub fn processor() -> Option<(String, usize)> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let cpus = system.cpus();
    Some((cpus.first()?.brand().trim().to_owned(), cpus.len()))
}
