//! Files that are whole or not there: written beside, flushed, renamed into place, readable by
//! their owner alone.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest pause between two attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes a directory and those above it, for their owner alone.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file so that a reader, also after a crash, finds the old one or the new one.
pub(super) fn write(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    // Mode 0600 from the start.
    let mut file = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(directory.join(name))?;
    sync_directory(directory)
}

/// Reads a text file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Makes renames and new names in a directory survive a crash.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A lock that is held until dropped, among threads and processes that ask for it.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of a file, which is made if missing; `None` if others keep it for longer
    /// than `wait`.
    pub(super) fn take(path: &Path, wait: Duration) -> io::Result<Option<Self>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        let until = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(std::fs::TryLockError::Error(e)) => return Err(e),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Ok(None);
                }
                Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(PAUSE);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to the closing: a child that another thread is just making has a copy of
        // the descriptor until it executes.
        let _ = self.0.unlock();
    }
}
