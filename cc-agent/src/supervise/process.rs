//! Starts one worker under its guard.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use cc_core::ids::WorkerKey;
use cc_core::wire::control::WorkerCommand;
use cc_core::wire::local::{ROLE, ROLE_WORKER};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout};

use super::socket::ControlSocket;
use super::{guard, spawn};

/// A worker's process as the agent holds it. Dropping it makes the guard kill the worker.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) guard: Child,
    /// The socket to the guard.
    pub(super) reports: UnixStream,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Starts a worker; gives also the socket to it. Whether the program itself can be run only its
/// guard's report tells.
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
    let (control, workers_end) = ControlSocket::pair()?;
    let control = ControlSocket::from_fd(control)?;
    let mut spawned = spawn::guarded(program.as_os_str(), &command.arguments, directory);
    spawned
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !command.name.is_empty() {
        spawned.env(guard::NAME, &command.name);
    }
    if let Some(bytes) = command.memory_limit {
        spawned.env(guard::MEMORY, bytes.to_string());
    }
    for (name, value) in &command.environment {
        spawn::set(&mut spawned, name, value);
    }
    spawn::set(&mut spawned, ROLE, ROLE_WORKER);
    let (mut guard, reports) = spawn::start(spawned, &mark(key), Some(workers_end))?;
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

/// What marks a worker's descendants.
pub(super) fn mark(key: WorkerKey) -> String {
    format!("{}.{}", key.slot, key.incarnation)
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
