//! The agent's end of a command's terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The agent's end of a terminal: what is written is typed, what is read is shown.
#[derive(Clone)]
pub(super) struct Terminal {
    ours: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    /// Makes a terminal. Returns the command's end, too.
    pub(super) fn open() -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // SAFETY: an `OwnedFd` is open, and names the same descriptor for as long as it lives.
        let ours = unsafe { AsyncFd::register(ours) }?;
        let ours = Arc::new(ours);
        Ok((Self { ours }, theirs))
    }

    /// Reads what the command shows; 0 when nobody has the terminal any more. Cancel-safe.
    pub(super) async fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        let read = self
            .ours
            .async_io(Interest::READABLE, |ours| {
                Ok(rustix::io::read(ours, &mut *out)?)
            })
            .await;
        match read {
            // How Linux says that the other end is closed.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
            other => other,
        }
    }

    /// Types.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .ours
                .async_io(Interest::WRITABLE, |ours| {
                    Ok(rustix::io::write(ours, bytes)?)
                })
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// What changes the terminal's size.
    pub(super) fn window(&self) -> Window {
        Window(self.clone())
    }
}

/// The size of a terminal.
pub(super) struct Window(Terminal);

impl Window {
    /// Sets the size; the command is told by a signal.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // An error means that the terminal is closed.
        let _ = rustix::termios::tcsetwinsize(self.0.ours.get_ref(), size);
    }
}
