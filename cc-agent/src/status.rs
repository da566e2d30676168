//! What an agent can say about its machine. Looks, and changes nothing.

use std::sync::OnceLock;

use cc_core::wire::control::Holder;

/// What stays the same of a machine for as long as the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its host name.
    pub(crate) hostname: String,
    /// Logical processors that this process may use.
    pub(crate) cores: u32,
    /// Bytes of memory.
    pub(crate) memory: u64,
}

/// The machine this process runs on.
pub(crate) fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| Machine {
        hostname: nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        cores: std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        memory: std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| memory_total(&text))
            .unwrap_or(0),
    })
}

/// `MemTotal` in bytes, from the text of `/proc/meminfo`.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The fields of `/proc/<pid>/stat` from the third on: the first is the pid and the second a
/// name that may contain anything.
fn stat_fields(stat: &str) -> Option<Vec<&str>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().collect())
}

/// When this process started, in clock ticks since boot: field 22 of `/proc/self/stat`.
pub(crate) fn start_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    stat_fields(&stat)?.get(22 - 3)?.parse().ok()
}

/// Whether a session's holder is known to be gone: it was a process of this machine, and there
/// is no such process. A holder elsewhere cannot be known to be gone.
pub(crate) fn is_gone(holder: &Holder) -> bool {
    let here = &machine().hostname;
    if holder.host != *here || here.is_empty() {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{}/stat", holder.pid)) {
        // A zombie runs no more: only its parent has not noticed.
        Ok(stat) => stat_fields(&stat).is_some_and(|f| matches!(f.first(), Some(&"Z" | &"X"))),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_plausible() {
        let machine = machine();
        assert!(
            machine.cores >= 1 && machine.memory > 1 << 20,
            "{machine:?}"
        );
        assert!(start_ticks().unwrap() > 0);
    }

    #[test]
    fn memory_and_stat_lines_are_read_and_nonsense_is_not() {
        assert_eq!(
            memory_total("MemTotal:   16 kB\nMemFree: 1 kB"),
            Some(16 << 10)
        );
        for wrong in [
            "",
            "MemTotal:",
            "MemTotal: x kB",
            "MemTotal: 99999999999999999999 kB",
        ] {
            assert_eq!(memory_total(wrong), None, "{wrong}");
        }
        assert_eq!(stat_fields("7 (a ) b) R 1 2").unwrap(), ["R", "1", "2"]);
        assert_eq!(stat_fields("nothing"), None);
    }

    #[test]
    fn only_a_dead_process_of_this_machine_is_gone() {
        let mut holder = Holder {
            host: machine().hostname.clone(),
            pid: std::process::id(),
            program: "p".into(),
            started: 0,
        };
        assert!(!is_gone(&holder));
        // Beyond the kernel's largest pid.
        holder.pid = u32::MAX;
        assert!(is_gone(&holder));
        holder.host.push_str("-elsewhere");
        assert!(!is_gone(&holder));
    }
}
