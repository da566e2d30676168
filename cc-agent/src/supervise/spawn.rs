//! Starts a program under a guard, hears the guard's report, and clears up after a guard that was
//! itself killed. What the program is, a worker or a command, is its caller's business.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use cc_core::limits;
use cc_core::wire::local::{GuardReport, ROLE, ROLE_GUARD};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::{family, guard};

/// Names a worker or command to its descendants, and them to an agent that looks for them.
pub(super) const MARK: &str = "CC_JOB";

/// Between two looks at what a killed guard has left, or at what an agent has.
const LOOK: Duration = Duration::from_millis(20);

/// The command of a guard that runs a program. The guard's standard streams are the program's.
pub(crate) fn guarded(program: &OsStr, arguments: &[String], directory: &Path) -> Command {
    // The executable as it was started, even if the file was replaced since.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cc-guard")
        .arg(program)
        .args(arguments)
        .current_dir(directory)
        .env(ROLE, ROLE_GUARD);
    command
}

/// Gives the program a variable that its guard does not heed.
pub(crate) fn set(command: &mut Command, name: &str, value: &str) {
    command.env(format!("{}{name}", guard::SET), value);
}

/// Starts a guard; gives also the socket to it. When that is closed or shut down, the guard ends
/// the program. Whether the program itself can be run only the guard's report tells.
///
/// The mark tells this program and its descendants from all others of this agent. The control
/// socket becomes the program's [`cc_core::wire::local::WORKER_FD`].
pub(crate) fn start(
    mut command: Command,
    mark: &str,
    control: Option<OwnedFd>,
) -> io::Result<(Child, UnixStream)> {
    let (reports, guards_end) = UnixStream::pair()?;
    let guards_end = guards_end.into_std()?;
    // The guard waits in poll before it reads and must not fail when it writes.
    guards_end.set_nonblocking(false)?;
    let guards_end = guard::above(&guards_end)?;
    let control = control.map(|control| guard::above(&control)).transpose()?;
    set(&mut command, MARK, mark);
    let numbers = (
        guards_end.as_raw_fd(),
        control.as_ref().map(|control| control.as_raw_fd()),
    );
    // SAFETY: `place` calls nothing but dup2 and allocates nothing.
    unsafe { command.pre_exec(move || guard::place(numbers.0, numbers.1)) };
    let reserved = guard::reserve()?;
    let guard = command.spawn()?;
    drop(reserved);
    Ok((guard, reports))
}

/// Reads what the guard says at its end; `None` if it ends without.
pub(crate) async fn read_report(guard: OwnedReadHalf) -> Option<GuardReport> {
    let mut json = Vec::new();
    // A guard that was killed may have left an incomplete one.
    let _ = guard
        .take(limits::LOCAL_FRAME as u64)
        .read_to_end(&mut json)
        .await;
    serde_json::from_slice(&json).ok()
}

/// Clears up after a guard that has closed its socket, with or without a report: waits for it, and
/// kills what it has left.
pub(crate) async fn clear_up(guard: Child, report: Option<&GuardReport>, what: &str, mark: &str) {
    let pid = guard.id().unwrap_or(0);
    let ended = end_of_guard(guard, report.is_some()).await;
    if report.is_some_and(|report| report.left == 0) {
        return;
    }
    tracing::warn!(
        "{what}: its guard {pid} {}",
        report.map_or_else(
            || format!("ended without a report ({ended})"),
            |report| format!("could not kill {} processes", report.left)
        )
    );
    let left = sweep(pid, mark).await;
    if left > 0 {
        tracing::error!("{what}: {left} processes of it cannot be killed");
    }
}

/// Waits for a guard that has closed its socket.
async fn end_of_guard(mut guard: Child, reported: bool) -> String {
    if !reported {
        // It may have closed its socket and live on; without it, it is of no use.
        let _ = guard.start_kill();
    }
    match timeout(limits::STOP_GRACE, guard.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "still there".to_owned(),
    }
}

/// Kills what is left of a program whose guard was killed and is gone. Orphans have become
/// this process's children; the program's are known by the guard's session, or by their
/// environment. Gives the number of those that could not be killed in time.
async fn sweep(guard: u32, mark: &str) -> usize {
    let session = i32::try_from(guard).unwrap_or(0);
    let give_up = Instant::now() + limits::KILL_WAIT;
    let mut ours: BTreeSet<i32> = BTreeSet::new();
    let mut quiet = 0;
    loop {
        let children = family::children(std::process::id()).unwrap_or_default();
        let mut left = 0;
        for child in children {
            let known = ours.contains(&child.pid)
                || child.session == session
                || family::has_environment(child.pid, MARK, mark);
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
        if quiet == 2 || Instant::now() >= give_up {
            return left;
        }
        sleep(LOOK).await;
    }
}

/// Waits until no child of this process lives: every guard that was let go is gone, and with it all
/// that it guarded. Only for a process that starts nothing any more; the caller sets the deadline.
pub(crate) async fn childless() {
    let lives = |child: &family::Child| !child.zombie;
    while family::children(std::process::id()).is_ok_and(|all| all.iter().any(lives)) {
        sleep(LOOK).await;
    }
}
