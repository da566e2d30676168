//! A command's processes: its session, from start to the last one's end.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cc_core::death::Cause;
use cc_core::limits;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// Between looks at whether killed processes are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A command in a session of its own. Dropping it ends the session: politely (SIGHUP) first, by
/// force after [`limits::STOP_GRACE`], on a thread of its own.
pub(super) struct Job {
    /// The session, too; not reused while the child has not been waited for.
    pid: Pid,
    /// Becomes readable when the child ends.
    pidfd: AsyncFd<OwnedFd>,
    /// Taken when the child has been waited for.
    child: Mutex<Option<Child>>,
}

impl Job {
    /// Starts the command; its standard input becomes its terminal if it is to have one.
    pub(super) fn start(mut command: Command, terminal: bool) -> io::Result<Self> {
        // SAFETY: between fork and exec, the closure makes two system calls and nothing else.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                if terminal {
                    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        match Self::watch(&child) {
            Ok((pid, pidfd)) => Ok(Self {
                pid,
                pidfd,
                child: Mutex::new(Some(child)),
            }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    fn watch(child: &Child) -> io::Result<(Pid, AsyncFd<OwnedFd>)> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is open, and names the same descriptor for as long as it lives.
        let pidfd = unsafe { AsyncFd::register(pidfd) }?;
        Ok((pid, pidfd))
    }

    /// The pipes to the command, once: its standard input, output and error.
    pub(super) fn pipes(&mut self) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
        let taken = self.child.get_mut().as_mut().and_then(|child| {
            let (input, output) = (child.stdin.take()?, child.stdout.take()?);
            Some((input.into(), output.into(), child.stderr.take()?.into()))
        });
        taken.ok_or_else(|| io::Error::other("no pipes"))
    }

    /// Sends a signal to the command's process group.
    pub(super) fn signal(&self, signal: Signal) {
        // An error means that there is nobody any more.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    /// Waits for the command's end, and ends what it left behind.
    pub(super) async fn ended(&self) -> io::Result<Cause> {
        let _ready = self.pidfd.readable().await?;
        let mut child = self.child.lock().await;
        // Its pid is taken until it has been waited for, and with it the session's.
        self.end_session(Signal::KILL);
        let deadline = Instant::now() + limits::STOP_GRACE;
        while self.end_session(Signal::KILL) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let status = match child.as_mut() {
            Some(running) => running.wait()?,
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        *child = None;
        Ok(match (status.code(), status.signal()) {
            (Some(status), _) => Cause::Exited(status),
            (None, signal) => Cause::Signalled(signal.unwrap_or_default()),
        })
    }

    fn end_session(&self, signal: Signal) -> bool {
        signal_session(self.pid, signal)
    }
}

/// Sends a signal to every living process of a session. Returns whether there were any.
fn signal_session(session: Pid, signal: Signal) -> bool {
    let mut any = false;
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    for entry in processes.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        if session_of(pid) == Some(session) {
            any |= rustix::process::kill_process(pid, signal).is_ok();
        }
    }
    any
}

/// The session of a process that has not ended.
fn session_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // After the name, which may contain anything: state, parent, group, session.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(2)?.parse().ok().and_then(Pid::from_raw)
}

impl Drop for Job {
    fn drop(&mut self) {
        let Some(mut child) = self.child.get_mut().take() else {
            return;
        };
        let (pid, pidfd) = (self.pid, self.pidfd.get_ref().try_clone());
        let end = move || {
            signal_session(pid, Signal::HUP);
            if let Ok(pidfd) = pidfd {
                let mut watched = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
                let grace = Timespec::try_from(limits::STOP_GRACE).ok();
                let _ = rustix::event::poll(&mut watched, grace.as_ref());
            }
            let deadline = Instant::now() + limits::STOP_GRACE;
            while signal_session(pid, Signal::KILL) && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
            }
            let _ = child.wait();
        };
        let thread = std::thread::Builder::new().name("exec-end".to_owned());
        if thread.spawn(end).is_err() {
            signal_session(self.pid, Signal::KILL);
        }
    }
}
