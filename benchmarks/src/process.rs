//! What the kernel says of a process's memory.

use anyhow::Context as _;

/// Bytes of a process's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident at present.
    pub(crate) resident: u64,
    /// Of that, what no file holds.
    pub(crate) anonymous: u64,
    /// The largest resident size since the start or the last [`forget_peak`].
    pub(crate) peak: u64,
}

/// The memory of a process; `self` for this one.
///
/// # Errors
/// Fails when there is no such process.
pub(crate) fn memory(process: &str) -> anyhow::Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = value
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("no {name} in {path}"))?;
        anyhow::Ok(kib * 1024)
    };
    Ok(Memory {
        resident: field("VmRSS:")?,
        anonymous: field("RssAnon:")?,
        peak: field("VmHWM:")?,
    })
}

/// Lets this process's peak begin anew from what is resident now.
///
/// # Errors
/// Fails where the kernel does not allow it.
pub(crate) fn forget_peak() -> std::io::Result<()> {
    std::fs::write("/proc/self/clear_refs", "5")
}
