//! A command under its guard, from its start to the end of all that it has started.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use cc_core::death::Cause;
use nix::sys::socket::{MsgFlags, send};
use rustix::process::Signal;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use crate::supervise::{COMMAND, TERMINAL, spawn};

/// A command's life in the agent's hands. Dropping it makes the guard end the command and all
/// that descends from it: politely (SIGHUP) first, by force after
/// [`cc_core::limits::STOP_GRACE`].
pub(super) struct Job {
    guard: OwnedWriteHalf,
}

/// A command's end, to be waited for.
pub(super) struct End {
    reports: OwnedReadHalf,
    guard: Child,
    mark: String,
}

impl Job {
    /// Starts the command that [`spawn::guarded`] describes; its standard input becomes its
    /// terminal if it is to have one.
    pub(super) fn start(mut command: Command, terminal: bool) -> io::Result<(Self, End)> {
        static COMMANDS: AtomicU64 = AtomicU64::new(0);
        let mark = format!("command.{}", COMMANDS.fetch_add(1, Ordering::Relaxed));
        command.env(COMMAND, if terminal { TERMINAL } else { "" });
        let (child, socket) = spawn::start(command, &mark, None)?;
        let (reports, guard) = socket.into_split();
        let end = End {
            reports,
            guard: child,
            mark,
        };
        Ok((Self { guard }, end))
    }

    /// Sends a signal to the command's process group.
    pub(super) fn signal(&self, signal: Signal) {
        let Ok(number) = u8::try_from(signal.as_raw()) else {
            return;
        };
        let socket: &tokio::net::UnixStream = self.guard.as_ref();
        // Past tokio's readiness, which is not known at first. An error means that the guard is
        // gone, or has thousands of signals to pass on already.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(socket.as_raw_fd(), &[number], flags);
    }
}

impl End {
    /// The pipes to the command, once: its standard input, output and error.
    pub(super) fn pipes(&mut self) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
        let guard = &mut self.guard;
        let (Some(input), Some(output), Some(error)) =
            (guard.stdin.take(), guard.stdout.take(), guard.stderr.take())
        else {
            return Err(io::Error::other("no pipes"));
        };
        Ok((
            input.into_owned_fd()?,
            output.into_owned_fd()?,
            error.into_owned_fd()?,
        ))
    }

    /// Waits until the command has ended and nothing of it is left.
    pub(super) async fn wait(self) -> Cause {
        let report = spawn::read_report(self.reports).await;
        spawn::clear_up(self.guard, report.as_ref(), &self.mark, &self.mark).await;
        // Its guard's end kills it.
        let killed = Cause::Signalled(Signal::KILL.as_raw());
        report.map_or(killed, |report| report.cause)
    }
}
