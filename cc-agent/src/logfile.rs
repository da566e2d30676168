//! The agent's own log: a file that never grows beyond a bound.
//!
//! At the bound it becomes `agent.log.1` (the one before is lost) and a new one is begun.
//! Standard error goes along, so that a panic's message is not lost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use cc_core::limits;

/// The log file, as a writer.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
    /// Whether standard error is this file.
    adopted: bool,
}

impl LogFile {
    /// Opens the log for appending.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            written,
            adopted: false,
        })
    }

    /// Makes the log the process's standard error, from now on.
    pub(crate) fn adopt_stderr(&mut self) -> std::io::Result<()> {
        nix::unistd::dup2_stderr(&self.file)?;
        self.adopted = true;
        Ok(())
    }

    fn turn(&mut self) -> std::io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        let adopted = self.adopted;
        *self = Self::open(&self.path)?;
        if adopted {
            self.adopt_stderr()?;
        }
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.written >= limits::AGENT_LOG {
            // Rather a log that is too long than none.
            let _ = self.turn();
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_within_twice_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let mut log = LogFile::open(&path).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..(3 * limits::AGENT_LOG) >> 20 {
            log.write_all(&piece).unwrap();
        }
        let length = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(length(&path) <= limits::AGENT_LOG);
        assert!(length(&path.with_extension("log.1")) <= limits::AGENT_LOG);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
