//! How long an agent keeps its work without hearing from a driver.
//!
//! Pure state: it is told the time and never looks at a clock, so that every rule of it can be
//! tested without waiting. A lease only ever grows longer; what happens at its end is the
//! agent's business.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// A lease, on the monotonic clock of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    end: Instant,
    /// How long the first driver is waited for; over once it has come.
    arrival: Option<Instant>,
}

impl Lease {
    /// A lease of `timeout` from now, and of at least `arrival` if no driver comes.
    pub(crate) fn new(now: Instant, timeout: Duration, arrival: Duration) -> Self {
        Self {
            end: now + timeout,
            arrival: Some(now + arrival),
        }
    }

    /// A driver has come: from now on only what it asks for counts. Gives whether it is the
    /// first.
    pub(crate) fn arrived(&mut self) -> bool {
        self.arrival.take().is_some()
    }

    /// Makes the lease last for at least `duration` from now; never makes it shorter.
    pub(crate) fn keep(&mut self, now: Instant, duration: Duration) {
        self.end = self.end.max(now + duration);
    }

    /// When it ends, unless it is kept for longer.
    pub(crate) fn end(&self) -> Instant {
        self.arrival
            .map_or(self.end, |arrival| arrival.max(self.end))
    }

    /// What is left of it.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.end().saturating_duration_since(now)
    }

    /// Whether nothing is left of it.
    pub(crate) fn expired(&self, now: Instant) -> bool {
        self.left(now).is_zero()
    }
}

/// An extension as it is written down, for the agent's next process.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    /// The lease's end in seconds since 1970.
    until: u64,
}

/// The extensions of a lease on disk.
#[derive(Debug)]
pub(crate) struct Extensions {
    path: PathBuf,
    /// The latest end that is written down. Held while the file is written.
    until: Mutex<u64>,
}

impl Extensions {
    /// Finds what was written down: the lease's end in seconds since 1970, if any.
    pub(crate) fn open(path: PathBuf) -> (Self, Option<u64>) {
        let until = read_back(&path);
        let extensions = Self {
            path,
            until: Mutex::new(until.unwrap_or(0)),
        };
        (extensions, until)
    }

    /// Writes an extension down, unless a longer one is.
    ///
    /// # Errors
    /// Fails when the file cannot be written; what it held before stays.
    pub(crate) async fn extend(&self, until: u64) -> Result<(), String> {
        let mut written = self.until.lock().await;
        if until <= *written {
            return Ok(());
        }
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || write_down(&path, until))
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
            .map_err(|e| format!("write {}: {e}", self.path.display()))?;
        *written = until;
        Ok(())
    }
}

/// Writes an extension down: the lease lasts until `until`, in seconds since 1970.
///
/// # Errors
/// Fails when the file cannot be written; what it held before stays.
fn write_down(path: &Path, until: u64) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(&Written { until })?)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

/// The end of an extension that was written down, in seconds since 1970. A file that is
/// missing or damaged extends nothing.
fn read_back(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let written: Written = serde_json::from_slice(&bytes).ok()?;
    Some(written.until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_runs_out_when_nobody_keeps_it() {
        let start = Instant::now();
        let lease = Lease::new(start, 10 * SECOND, SECOND);
        assert!(!lease.expired(start + 9 * SECOND));
        assert_eq!(lease.left(start + 4 * SECOND), 6 * SECOND);
        assert!(lease.expired(start + 10 * SECOND));
        assert_eq!(lease.left(start + 99 * SECOND), Duration::ZERO);
    }

    #[test]
    fn keeping_it_lengthens_and_never_shortens() {
        let start = Instant::now();
        let mut lease = Lease::new(start, 10 * SECOND, Duration::ZERO);
        lease.keep(start + SECOND, 2 * SECOND);
        assert_eq!(lease.left(start), 10 * SECOND);
        lease.keep(start + 5 * SECOND, 10 * SECOND);
        assert_eq!(lease.left(start), 15 * SECOND);
        lease.keep(start + 6 * SECOND, 3600 * SECOND);
        lease.keep(start + 7 * SECOND, 10 * SECOND);
        assert_eq!(lease.end(), start + 3606 * SECOND);
    }

    #[test]
    fn the_first_driver_is_waited_for_longer() {
        let start = Instant::now();
        let mut lease = Lease::new(start, SECOND, 60 * SECOND);
        assert_eq!(lease.end(), start + 60 * SECOND);
        assert!(lease.arrived());
        lease.keep(start + 2 * SECOND, SECOND);
        assert_eq!(lease.end(), start + 3 * SECOND);
        assert!(!lease.arrived());
    }

    #[tokio::test]
    async fn of_extensions_at_once_the_longest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease.json");
        let (extensions, until) = Extensions::open(path.clone());
        assert_eq!(until, None);
        let extend = |until| extensions.extend(until);
        let (a, b, c) = tokio::join!(extend(300), extend(900), extend(600));
        assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
        assert_eq!(Extensions::open(path).1, Some(900));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_extension_is_found_again_and_a_damaged_one_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease.json");
        assert_eq!(read_back(&path), None);
        write_down(&path, 1_234).unwrap();
        write_down(&path, 5_678).unwrap();
        assert_eq!(read_back(&path), Some(5_678));
        std::fs::write(&path, b"{\"until\":").unwrap();
        assert_eq!(read_back(&path), None);
    }
}
