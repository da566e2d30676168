//! Whether the agent of a node directory is alive, who it is, and signals that reach it and
//! nobody else.
//!
//! Alive means that the directory's lock is held, which ends with the process however it ends.
//! A pid alone is never trusted: a signal goes through a pidfd, opened before the process's
//! start time is compared, so that a pid that was used again is left alone.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cc_core::limits;
use cc_core::wire::bootstrap::Ready;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The lock's name in a node's directory.
pub(crate) const LOCK: &str = "agent.lock";

/// Whether some process holds the lock of a node's directory.
pub(crate) fn is_locked(directory: &Path) -> io::Result<bool> {
    let file = match File::open(directory.join(LOCK)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    // Shared, so that two that look do not take each other for the agent.
    match file.try_lock_shared() {
        Ok(()) => {
            // Not left to the closing: a child that another thread is just making has a
            // copy of the descriptor until it executes, and would hold the lock that long.
            file.unlock()?;
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The lock of a node's directory, for who wants it.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Taken; held until unlocked.
    Mine(File),
    /// Somebody else holds it.
    Others,
    /// There is no directory.
    Nothing,
}

/// Tries to take the lock of a node's directory, as an agent does.
pub(crate) fn claim(directory: &Path) -> io::Result<Claim> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = match options.open(directory.join(LOCK)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Claim::Nothing),
        Err(e) => return Err(e),
    };
    match file.try_lock() {
        Ok(()) => Ok(Claim::Mine(file)),
        Err(TryLockError::WouldBlock) => Ok(Claim::Others),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// What the agent that holds the lock says of itself; `None` until it listens. What a former
/// holder left is not taken for it.
pub(crate) fn holder(directory: &Path) -> Option<Ready> {
    let mut text = String::new();
    File::open(directory.join(LOCK))
        .ok()?
        .take(limits::BOOTSTRAP_LINE as u64)
        .read_to_string(&mut text)
        .ok()?;
    let ready: Ready = serde_json::from_str(&text).ok()?;
    (start_ticks(ready.pid) == Some(ready.start_ticks)).then_some(ready)
}

/// When a process started, in clock ticks since boot; `None` if it is no more.
fn start_ticks(pid: u32) -> Option<u64> {
    parse_start_ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_start_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may contain anything; the
    // first after it is the third.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // The 22nd; 3 are behind.
    fields.nth(22 - 4)?.parse().ok()
}

/// A process that no other can be taken for.
#[derive(Debug)]
pub(crate) struct Process(OwnedFd);

impl Process {
    /// The process of that pid and start time; `None` if it is no more.
    pub(crate) fn open(pid: u32, ticks: u64) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let descriptor = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // Now that the descriptor names one process for good, see which.
        Ok((start_ticks(pid) == Some(ticks)).then_some(Self(descriptor)))
    }

    /// Sends a signal; a process that has ended meanwhile is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_read_past_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 98 0 0 0 0 0 0 0 20 0 1 0 184530 3133440 390";
        assert_eq!(parse_start_ticks(stat), Some(184_530));
        assert_eq!(parse_start_ticks(&stat.replace(" S ", " Z ")), None);
        for wrong in ["", "7 (a", "7 (a) S 1 2"] {
            assert_eq!(parse_start_ticks(wrong), None);
        }
    }

    #[test]
    fn a_pid_with_another_start_time_is_nobody() {
        let pid = std::process::id();
        let ticks = start_ticks(pid).unwrap();
        assert!(Process::open(pid, ticks).unwrap().is_some());
        assert!(Process::open(pid, ticks + 1).unwrap().is_none());
        assert!(Process::open(0, ticks).unwrap().is_none());
        assert!(Process::open(u32::MAX, ticks).unwrap().is_none());
    }

    #[test]
    fn a_lock_is_seen_and_its_absence_too() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_locked(directory.path()).unwrap());
        let file = File::create(directory.path().join(LOCK)).unwrap();
        assert!(!is_locked(directory.path()).unwrap());
        file.lock().unwrap();
        assert!(is_locked(directory.path()).unwrap());
        // Held, but by nobody who has said who it is.
        assert_eq!(holder(directory.path()), None);
        file.unlock().unwrap();
        assert!(!is_locked(directory.path()).unwrap());
    }
}
