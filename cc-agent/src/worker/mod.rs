//! The worker: the process that runs the user's functions.
//!
//! Its agent passes it sockets over a control socket: a lane for every driver, and a stream
//! for every large value. One thread (`cc-io`) serves the control socket and the streams; the
//! slots' threads read lanes, run tasks and write results ([`pool`]). Whatever the user's
//! functions do, short of ending the process, every task is answered once, and the worker
//! ends promptly when it is told to or its agent is gone.

mod asynchronous;
mod bulk;
mod control;
mod handover;
mod lane;
mod pool;
mod run;
mod state;
mod streams;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use cc_core::limits;
use cc_core::wire::local;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigHandler, Signal, signal};

/// The worker's role: serves the control socket at [`local::WORKER_FD`] until it is told to
/// stop or the socket closes, and gives the process's exit status.
pub(crate) fn worker_main() -> i32 {
    match start() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "worker: {error}");
            1
        }
    }
}

fn start() -> io::Result<()> {
    let control = inherited()?;
    // SAFETY: no handler is installed. A peer that has gone away is an error of the write.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    let (ready, pool) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("cc-io".to_owned())
        .spawn(move || control::serve(control, &ready))?;
    // The agent sends the first message at once.
    let pool = pool.recv_timeout(limits::WORKER_START).map_err(|_| {
        io::Error::other("the agent sent no start message, or the worker could not start")
    })?;
    // The main thread is the first of the pool's. The process ends from the I/O thread.
    pool.work(0);
    Ok(())
}

/// Takes the control socket, which the user's child processes must not have.
fn inherited() -> io::Result<OwnedFd> {
    // SAFETY: the role promises that this descriptor is the control socket, and nothing else
    // in the process has taken it; the call below fails if it is not open.
    let control = unsafe { OwnedFd::from_raw_fd(local::WORKER_FD) };
    if let Err(error) = fcntl(&control, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        std::mem::forget(control);
        return Err(io::Error::other(format!(
            "no control socket at descriptor {}, only an agent starts workers: {error}",
            local::WORKER_FD
        )));
    }
    Ok(control)
}

/// Locks, also after a panic: the state is whole between any two of its statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
