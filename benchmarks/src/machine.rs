//! The machine that the figures are from.

use std::fmt;

use serde::Serialize;

/// What figures depend on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    /// Processes that wanted to run in the minute before, on average: above a few tenths, others
    /// were at work.
    load_before: f64,
    /// Seconds since 1970.
    time: u64,
}

/// Looks at this machine.
pub(crate) fn describe() -> Machine {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let first = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let memory = field("/proc/meminfo", "MemTotal");
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    Machine {
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: kib.div_ceil(1 << 20),
        kernel: first("/proc/sys/kernel/osrelease"),
        load_before: first("/proc/loadavg").parse().unwrap_or(f64::NAN),
        time: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, {} GiB, Linux {}, load before {}",
            self.processor, self.cores, self.memory_gib, self.kernel, self.load_before
        )
    }
}
