//! What is known about the end of a worker or a node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It exited with this status.
    Exited(i32),
    /// A signal killed it.
    Signalled(i32),
    /// It never became ready; the reason says in which phase and why.
    NotStarted(String),
    /// It was asked to end (stop, restart, deadline), for this reason.
    Stopped(String),
    /// Its node is gone, or cannot be reached; the reason says what was seen.
    NodeLost(String),
}

/// Everything an agent can say about a worker's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// How it ended.
    pub cause: Cause,
    /// Largest resident size in bytes, of the worker and what it waited for.
    pub peak_memory: Option<u64>,
    /// What shows that the kernel killed it for lack of memory, in words.
    pub out_of_memory: Option<String>,
    /// Last lines of its standard error, oldest first.
    pub stderr_tail: Vec<String>,
}

impl Death {
    /// A death of which only the cause is known.
    pub fn of(cause: Cause) -> Self {
        Self {
            cause,
            peak_memory: None,
            out_of_memory: None,
            stderr_tail: Vec::new(),
        }
    }
}

/// The usual name of a signal, such as `SIGSEGV`.
///
/// Numbers are Linux's on x86-64 and aarch64 (`signal(7)`).
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "signal",
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Exited(status) => write!(f, "exited with status {status}")?,
            Cause::Signalled(signal) => {
                write!(f, "killed by signal {signal} ({})", signal_name(*signal))?;
            }
            Cause::NotStarted(why) => write!(f, "did not start: {why}")?,
            Cause::Stopped(why) => write!(f, "stopped: {why}")?,
            Cause::NodeLost(why) => write!(f, "node lost: {why}")?,
        }
        if let Some(evidence) = &self.out_of_memory {
            write!(f, "; out of memory: {evidence}")?;
        }
        if let Some(peak) = self.peak_memory {
            write!(f, "; peak memory {} MiB", peak >> 20)?;
        }
        if !self.stderr_tail.is_empty() {
            write!(f, "; last lines of stderr:")?;
            for line in &self.stderr_tail {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}
