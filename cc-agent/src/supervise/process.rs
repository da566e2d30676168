//! Starts one worker under its guard, and clears up after a guard that was itself killed.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cc_core::ids::WorkerKey;
use cc_core::limits;
use cc_core::wire::control::WorkerCommand;
use cc_core::wire::local::{ROLE, ROLE_GUARD, ROLE_WORKER};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::socket::ControlSocket;
use super::{family, guard};

/// Names a worker to its descendants, and them to an agent that looks for them:
/// `<slot>.<incarnation>`.
pub(super) const MARK: &str = "CC_WORKER";

/// Between two looks at what a killed guard has left.
const SWEEP_LOOK: Duration = Duration::from_millis(20);

/// A worker's process as the agent holds it. Dropping it makes the guard kill the worker.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) guard: Child,
    /// The socket to the guard.
    pub(super) reports: UnixStream,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Starts a worker; gives also the socket to it. That the program itself can be run is only known to its guard.
///
/// # Errors
/// Says what could not be made: the working directory, a socket, the guard.
pub(super) fn spawn(
    key: WorkerKey,
    command: &WorkerCommand,
    program: &Path,
    base: &Path,
) -> Result<(Process, ControlSocket), String> {
    let directory = working_directory(base, command.directory.as_deref())?;
    start(key, command, program, &directory)
        .map_err(|error| format!("its guard cannot be started: {error}"))
}

fn start(
    key: WorkerKey,
    command: &WorkerCommand,
    program: &Path,
    directory: &Path,
) -> std::io::Result<(Process, ControlSocket)> {
    let (reports, guards_end) = UnixStream::pair()?;
    let guards_end = guards_end.into_std()?;
    // The guard waits in poll before it reads and must not fail when it writes.
    guards_end.set_nonblocking(false)?;
    let (control, workers_end) = ControlSocket::pair()?;
    let control = ControlSocket::from_fd(control)?;
    let guards_end = guard::above(&guards_end)?;
    let workers_end = guard::above(&workers_end)?;

    // The executable as it was started, even if the file was replaced since.
    let mut spawned = Command::new("/proc/self/exe");
    spawned
        .arg0("cc-guard")
        .arg(program)
        .args(&command.arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env(ROLE, ROLE_GUARD);
    if !command.name.is_empty() {
        spawned.env(guard::NAME, &command.name);
    }
    if let Some(bytes) = command.memory_limit {
        spawned.env(guard::MEMORY, bytes.to_string());
    }
    let own = [(MARK, mark(key)), (ROLE, ROLE_WORKER.to_owned())];
    let given = command.environment.iter().map(|(n, v)| (n.as_str(), v));
    for (name, value) in given.chain(own.iter().map(|(name, value)| (*name, value))) {
        spawned.env(format!("{}{name}", guard::SET), value);
    }
    let numbers = (guards_end.as_raw_fd(), workers_end.as_raw_fd());
    // SAFETY: `place` calls nothing but dup2 and allocates nothing.
    unsafe { spawned.pre_exec(move || guard::place(numbers.0, numbers.1)) };
    let reserved = guard::reserve()?;
    let mut guard = spawned.spawn()?;
    drop(reserved);
    let (Some(stdout), Some(stderr)) = (guard.stdout.take(), guard.stderr.take()) else {
        return Err(std::io::Error::other("no pipes"));
    };
    let process = Process {
        guard,
        reports,
        stdout,
        stderr,
    };
    Ok((process, control))
}

/// Makes a worker's working directory.
fn working_directory(base: &Path, wanted: Option<&str>) -> Result<PathBuf, String> {
    let directory = base.join(wanted.unwrap_or_default());
    let failed = |error: std::io::Error| {
        let path = directory.display();
        format!("its working directory {path} cannot be used: {error}")
    };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    // Fails here, by name, where the guard's start would fail without one.
    nix::unistd::access(&directory, nix::unistd::AccessFlags::X_OK)
        .map_err(|error| failed(error.into()))?;
    Ok(directory)
}

pub(super) fn mark(key: WorkerKey) -> String {
    format!("{}.{}", key.slot, key.incarnation)
}

/// Kills what is left of a worker whose guard was killed and is gone. Orphans have become
/// this process's children; the worker's are known by the guard's session, or by their
/// environment. Gives the number of those that could not be killed in time.
pub(super) async fn sweep(guard: u32, key: WorkerKey) -> usize {
    let mark = mark(key);
    let session = i32::try_from(guard).unwrap_or(0);
    let give_up = tokio::time::Instant::now() + limits::KILL_WAIT;
    let mut ours: BTreeSet<i32> = BTreeSet::new();
    let mut quiet = 0;
    loop {
        let children = family::children(std::process::id()).unwrap_or_default();
        let mut left = 0;
        for child in children {
            let known = ours.contains(&child.pid)
                || child.session == session
                || family::has_environment(child.pid, MARK, &mark);
            if !known || child.pid == session {
                continue;
            }
            ours.insert(child.pid);
            left += 1;
            let pid = Pid::from_raw(child.pid);
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        // A second look: whoever was a grandchild at the first is a child by now.
        quiet = if left == 0 { quiet + 1 } else { 0 };
        if quiet == 2 || tokio::time::Instant::now() >= give_up {
            return left;
        }
        tokio::time::sleep(SWEEP_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let base = tempfile::tempdir().unwrap();
        let made = working_directory(base.path(), Some("a/b")).unwrap();
        assert!(made.is_dir() && made.ends_with("a/b"));
        assert_eq!(
            working_directory(base.path(), None).unwrap().file_name(),
            base.path().file_name()
        );
        std::fs::write(base.path().join("file"), "").unwrap();
        let error = working_directory(base.path(), Some("file/x")).unwrap_err();
        assert!(error.contains("file/x"), "{error}");
    }
}
