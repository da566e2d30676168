//! The roles a process can have besides being the user's program: agent, guard, worker.
//!
//! A role comes from the environment and is taken once, at the start of `main`, so that one
//! executable can be all of them. It is removed from the environment before anything else
//! runs: a child process must never inherit a role that was not meant for it.

use cc_core::wire::local::{ROLE, ROLE_AGENT, ROLE_GUARD, ROLE_WORKER};

use crate::{bootstrap, supervise, worker};

/// Takes the role that the environment gives, runs it and exits the process with its status;
/// returns at once if there is none.
///
/// Call it first in `main`, before any thread is started.
///
/// ```no_run
/// cc_agent::role::take();
/// // From here on this is the program itself.
/// ```
pub fn take() {
    let Some(role) = present() else { return };
    // SAFETY: called at the start of `main`, before there is a thread that could read the
    // environment.
    unsafe { std::env::remove_var(ROLE) };
    let status = match role.as_str() {
        ROLE_AGENT => bootstrap::agent_main(),
        ROLE_GUARD => supervise::guard_main(),
        ROLE_WORKER => worker::worker_main(),
        other => {
            complain(&format!(
                "{ROLE}={other} is no role of this version; unset {ROLE} to run the program itself"
            ));
            2
        }
    };
    std::process::exit(status)
}

/// The role in the environment that nobody has taken, if any.
///
/// A program that has one and goes on as if it had none would start itself for ever.
pub fn present() -> Option<String> {
    std::env::var_os(ROLE).map(|role| role.to_string_lossy().into_owned())
}

/// Writes a line to standard error, where one is left that can be written to.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}
