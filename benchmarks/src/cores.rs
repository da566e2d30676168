//! Which cores a process runs on.
//!
//! On a machine where others rest, the kernel puts two processes that talk to each other on one
//! core or on two as it likes, and a message takes 4 µs or 50 accordingly. Latencies are
//! comparable only where both sides of the comparison are put the same way.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A set of cores.
#[derive(Clone, Copy)]
pub(crate) struct Cores(CpuSet);

impl Cores {
    /// Those that this process may run on.
    ///
    /// # Errors
    /// Fails where the kernel does not tell.
    pub(crate) fn own() -> anyhow::Result<Self> {
        Ok(Self(sched_getaffinity(Pid::from_raw(0))?))
    }

    /// Each of them by itself.
    pub(crate) fn each(&self) -> Vec<Self> {
        let single = |core| {
            let mut set = CpuSet::new();
            set.set(core).ok()?;
            Some(Self(set))
        };
        let all = (0..CpuSet::count()).filter(|core| self.0.is_set(*core).unwrap_or(false));
        all.filter_map(single).collect()
    }

    /// Moves every thread of this process there; what they start from then on follows.
    ///
    /// # Errors
    /// Fails where the kernel does not allow it.
    pub(crate) fn take(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir("/proc/self/task")? {
            let name = entry?.file_name();
            let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match sched_setaffinity(Pid::from_raw(thread), &self.0) {
                // A thread that has ended meanwhile.
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
