//! The guard: the process between an agent and a worker (or another command) that leaves
//! nothing of it behind.
//!
//! A guard runs one program. When the program ends, when the agent orders it by closing its
//! side of the guard's socket, or when the agent is gone, it kills the program and every
//! descendant, however they were detached: it is their subreaper, so that orphans become its
//! children. It must stay small and single-threaded: a parent-death signal fires when the
//! *thread* that forked ends, and only a process without other threads may do as it likes
//! between fork and exec.
//!
//! Its socket is descriptor 3. What is read there are signals for the program's process group,
//! a byte each, and the end, which means "end it". Before it exits it writes one
//! [`GuardReport`] there. Its arguments are the program and the program's arguments, its
//! environment is the program's but for the variables named here.
//!
//! A worker is killed when it is to end. A command of somebody's, marked by [`COMMAND`], has
//! a session of its own, with a terminal if it is to have one, and some time after SIGHUP.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_core::death::Cause;
use cc_core::limits;
use cc_core::wire::local::{GUARD_FD, GuardReport, WORKER_FD};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid, execve, fork, getpid, getppid, pipe2, setpgid, setsid};

use super::{explain, family};

/// Variables of the guard itself; the program gets none that begins like this.
const PREFIX: &[u8] = b"CC_GUARD_";
/// The program's `argv[0]`, if not its path.
pub(super) const NAME: &str = "CC_GUARD_NAME";
/// The program's `RLIMIT_AS` in bytes, if limited.
pub(super) const MEMORY: &str = "CC_GUARD_MEMORY";
/// Before the name of a variable that the program gets and the guard must not heed, such as
/// `LD_PRELOAD`.
pub(super) const SET: &str = "CC_GUARD_SET_";

/// Makes the program a command. [`TERMINAL`] as its value makes standard input its terminal.
pub(crate) const COMMAND: &str = "CC_GUARD_COMMAND";
/// See [`COMMAND`].
pub(crate) const TERMINAL: &str = "terminal";

/// How often the start of a program that somebody still writes is tried: a process that is about
/// to exec may hold the file open for writing for a moment.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Between two looks at descendants that are being killed: a child's end wakes the guard
/// earlier, this is for those that become its children without a sign.
const KILL_LOOK: Duration = Duration::from_millis(20);

/// Runs the guard role; gives the process's exit status.
pub(crate) fn guard_main() -> i32 {
    // SAFETY: only looks whether the descriptor is open.
    if unsafe { libc::fcntl(GUARD_FD, libc::F_GETFD) } < 0 {
        let _ = writeln!(
            std::io::stderr(),
            "a guard is started by an agent, with a socket as descriptor {GUARD_FD}"
        );
        return 2;
    }
    // SAFETY: it is open, and nothing else in this process uses it.
    let mut agent = UnixStream::from(unsafe { OwnedFd::from_raw_fd(GUARD_FD) });
    let report = guard(&agent).unwrap_or_else(|why| GuardReport {
        cause: Cause::NotStarted(why),
        peak_memory: None,
        killed: 0,
        left: 0,
    });
    // An agent that is gone does not read it, and that is no failure.
    let _ = agent.set_write_timeout(Some(limits::STOP_GRACE));
    if let Ok(json) = serde_json::to_vec(&report) {
        let _ = agent.write_all(&json);
    }
    i32::from(report.left > 0)
}

fn guard(agent: &UnixStream) -> Result<GuardReport, String> {
    let failed = |what: &'static str| move |error: Errno| format!("guard: {what}: {error}");
    // Before anything else is opened, which could get its number.
    let control = worker_end();
    fcntl(agent, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(failed("fcntl"))?;
    // Fails only for a leader, which is as good.
    let _ = setsid();
    prctl::set_child_subreaper(true).map_err(failed("becoming a subreaper"))?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().map_err(failed("blocking SIGCHLD"))?;
    let ended = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(failed("signalfd"))?;

    let program = Program::from_process()?;
    let pid = program.start()?;
    drop(control);
    // The agent sees the end of the program's output when the last of its processes is gone,
    // not when the guard is.
    release_stdio();

    let (cause, peak_memory) = attend(agent, &ended, pid, program.command.is_some());
    let (killed, left) = kill_descendants(&ended);
    Ok(GuardReport {
        cause,
        peak_memory,
        killed,
        left,
    })
}

/// The worker's control socket, if one was passed: the program inherits it, the guard lets go
/// of it.
fn worker_end() -> Option<OwnedFd> {
    // SAFETY: only looks whether the descriptor is open.
    let open = unsafe { libc::fcntl(WORKER_FD, libc::F_GETFD) } >= 0;
    // SAFETY: it is open and nothing else in this process, which has just started, uses it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(WORKER_FD) })
}

fn release_stdio() {
    if let Ok(null) = nix::fcntl::open("/dev/null", OFlag::O_RDWR, nix::sys::stat::Mode::empty()) {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// What to run.
struct Program {
    path: PathBuf,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    memory: Option<u64>,
    /// Whether it is a command, and what kind of.
    command: Option<Command>,
}

/// What a command has besides a session.
#[derive(Clone, Copy, PartialEq)]
enum Command {
    Pipes,
    Terminal,
}

impl Program {
    /// Reads this process's arguments and environment.
    fn from_process() -> Result<Self, String> {
        let mut arguments = std::env::args_os().skip(1);
        let program = arguments.next().ok_or("no program was given")?;
        let name = std::env::var_os(NAME).unwrap_or_else(|| program.clone());
        let memory = match std::env::var(MEMORY) {
            Ok(text) => Some(
                text.parse()
                    .map_err(|_| format!("a memory limit of `{text}`"))?,
            ),
            Err(_) => None,
        };
        let command = std::env::var_os(COMMAND).map(|kind| {
            if kind == TERMINAL {
                Command::Terminal
            } else {
                Command::Pipes
            }
        });
        let environment = environment(std::env::vars_os());
        let search = environment
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone());
        let variables = environment.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        });
        let c_string = |text: OsString| {
            CString::new(text.into_vec()).map_err(|_| "a zero byte in an argument".to_owned())
        };
        let path = find(&program, search.as_deref()).map_err(|error| match command {
            Some(_) => std::io::Error::from(error).to_string(),
            None => format!(
                "cannot run {}: nothing of this name in the search path can be run",
                program.display()
            ),
        })?;
        Ok(Self {
            path,
            arguments: std::iter::once(name)
                .chain(arguments)
                .map(c_string)
                .collect::<Result<_, _>>()?,
            environment: variables.map(c_string).collect::<Result<_, _>>()?,
            memory,
            command,
        })
    }

    /// Starts it.
    fn start(&self) -> Result<Pid, String> {
        let path = CString::new(self.path.as_os_str().as_bytes())
            .map_err(|_| "a zero byte in the program's path".to_owned())?;
        self.try_start(&path).map_err(|failure| match failure {
            ("exec", error) => refusal(&self.path, error, self.command),
            (phase, error) => {
                let path = self.path.display();
                format!("cannot start {path}: {phase}: {error}")
            }
        })
    }

    /// Forks and execs. Not `std::process::Command`: that runs what the kernel cannot as a
    /// shell script, and a binary of another architecture must be an error.
    fn try_start(&self, path: &CString) -> Result<Pid, (&'static str, Errno)> {
        let (result, report) = pipe2(OFlag::O_CLOEXEC).map_err(|error| ("pipe", error))?;
        let guard = getpid();
        // SAFETY: this process has one thread, so the child may do anything.
        match unsafe { fork() }.map_err(|error| ("fork", error))? {
            ForkResult::Child => {
                let (phase, error) = match self.become_it(path, guard) {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                };
                let mut message = (error as i32).to_le_bytes().to_vec();
                message.extend_from_slice(phase.as_bytes());
                let _ = std::fs::File::from(report).write_all(&message);
                // SAFETY: ends the child without running what belongs to the guard.
                unsafe { libc::_exit(127) }
            }
            ForkResult::Parent { child } => {
                drop(report);
                let mut message = Vec::new();
                let _ = std::fs::File::from(result).read_to_end(&mut message);
                let Some((error, phase)) = message.split_first_chunk::<4>() else {
                    return Ok(child);
                };
                let _ = nix::sys::wait::waitpid(child, None);
                let phase = ["exec", "memory limit", "parent", "terminal"]
                    .into_iter()
                    .find(|name| name.as_bytes() == phase);
                let error = Errno::from_raw(i32::from_le_bytes(*error));
                Err((phase.unwrap_or("start"), error))
            }
        }
    }

    /// In the child: everything up to exec.
    fn become_it(
        &self,
        path: &CString,
        guard: Pid,
    ) -> Result<std::convert::Infallible, (&'static str, Errno)> {
        // Rust ignores it, other programs rely on it.
        // SAFETY: installs no handler.
        let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        let _ = SigSet::empty().thread_set_mask();
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| ("parent", error))?;
        if getppid() != guard {
            return Err(("parent", Errno::ESRCH));
        }
        // A program that signals its own group must not hit the guard.
        match self.command {
            None => drop(setpgid(Pid::from_raw(0), Pid::from_raw(0))),
            Some(_) => drop(setsid()),
        }
        if self.command == Some(Command::Terminal) {
            // SAFETY: takes numbers only.
            let taken = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) };
            Errno::result(taken).map_err(|error| ("terminal", error))?;
        }
        // What the agent's starter has left open is not the program's, and kept open by it
        // somebody might wait for its end. Older kernels cannot, which is as it was.
        // SAFETY: marks descriptors that this process, which is about to exec, does not need.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                WORKER_FD + 1,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if let Some(bytes) = self.memory {
            setrlimit(Resource::RLIMIT_AS, bytes, bytes)
                .map_err(|error| ("memory limit", error))?;
        }
        let mut tries = 1;
        // In this process and not in another one: a terminal is of no use any more when
        // the first that had it has ended.
        loop {
            match execve(path, &self.arguments, &self.environment) {
                Err(Errno::ETXTBSY) if tries < BUSY_TRIES => std::thread::sleep(BUSY_PAUSE),
                refused => return refused.map_err(|error| ("exec", error)),
            }
            tries += 1;
        }
    }
}

/// Why a program cannot be run. Of a command in the system's words, which its user knows, unless
/// they do not say it.
fn refusal(path: &Path, error: Errno, command: Option<Command>) -> String {
    let misleading = error == Errno::ENOEXEC || (error == Errno::ENOENT && path.exists());
    match command {
        Some(_) if !misleading => std::io::Error::from(error).to_string(),
        _ => explain::refusal(path, error),
    }
}

/// The program's environment, from the guard's.
fn environment(own: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let (for_guard, mut inherited): (Vec<_>, Vec<_>) =
        own.partition(|(name, _)| name.as_bytes().starts_with(PREFIX));
    let set: Vec<_> = for_guard
        .into_iter()
        .filter_map(|(name, value)| {
            let name = name.as_bytes().strip_prefix(SET.as_bytes())?;
            Some((OsStr::from_bytes(name).to_owned(), value))
        })
        .collect();
    let names: HashSet<_> = set.iter().map(|(name, _)| name.clone()).collect();
    inherited.retain(|(name, _)| !names.contains(name));
    inherited.extend(set);
    inherited
}

/// Where a program is: a name without a slash is looked up in the search path.
fn find(program: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, Errno> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let search = search.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    let mut error = Errno::ENOENT;
    for directory in std::env::split_paths(search) {
        let path = directory.join(program);
        if path.is_file() {
            match nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK) {
                Ok(()) => return Ok(path),
                Err(refused) => error = refused,
            }
        }
    }
    Err(error)
}

/// How far a program is on its way to its end.
enum Stage {
    Runs,
    /// It was asked to end, and is killed at this time.
    Asked(Instant),
    /// It was killed, and is given up at this time.
    Killed(Instant),
}

/// Waits for the program's end, and brings it about when the agent says so or is gone. There
/// is no deadline before that: a program may run for ever.
fn attend(
    agent: &UnixStream,
    ended: &SignalFd,
    program: Pid,
    polite: bool,
) -> (Cause, Option<u64>) {
    let mut stage = Stage::Runs;
    loop {
        loop {
            match reap() {
                Reaped::One(pid, status, peak) if pid == program => return (cause(status), peak),
                Reaped::One(..) => {}
                Reaped::NoneYet => break,
                Reaped::NoChildren => {
                    return (Cause::Stopped("it cannot be waited for".to_owned()), None);
                }
            }
        }
        let until = match stage {
            Stage::Runs => None,
            Stage::Asked(until) | Stage::Killed(until) => Some(until),
        };
        if until.is_some_and(|until| until <= Instant::now()) {
            if let Stage::Killed(_) = stage {
                let wait = limits::KILL_WAIT.as_secs();
                let why = format!("still there {wait} s after SIGKILL (stuck in the kernel)");
                return (Cause::Stopped(why), None);
            }
            stage = killed(program);
            continue;
        }
        let heed = until.is_none().then(|| agent.as_fd());
        if wait_for(ended, heed, until) && is_over(agent, program) {
            stage = if polite {
                signal_group(program, libc::SIGHUP);
                Stage::Asked(Instant::now() + limits::STOP_GRACE)
            } else {
                killed(program)
            };
        }
    }
}

fn killed(program: Pid) -> Stage {
    let _ = kill(program, Signal::SIGKILL);
    Stage::Killed(Instant::now() + limits::KILL_WAIT)
}

/// Signals the program's process group. Only until it has been waited for: its number is the
/// group's.
fn signal_group(program: Pid, number: i32) {
    // SAFETY: takes numbers only. Not all signals have names.
    let _ = unsafe { libc::kill(-program.as_raw(), number) };
}

/// Whether the agent has ended its side of the socket. Passes the signals on that it sent.
fn is_over(mut agent: &UnixStream, program: Pid) -> bool {
    let mut signals = [0; 64];
    match agent.read(&mut signals) {
        Ok(count) => {
            for number in &signals[..count] {
                signal_group(program, i32::from(*number));
            }
            count == 0
        }
        Err(error) => error.kind() != std::io::ErrorKind::Interrupted,
    }
}

/// Waits for a child's end, for the agent, or until a time; whether the agent has something.
fn wait_for(ended: &SignalFd, agent: Option<BorrowedFd<'_>>, until: Option<Instant>) -> bool {
    let timeout = match until {
        None => PollTimeout::NONE,
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, or the last millisecond would be spent spinning.
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        }
    };
    let mut watched = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    watched.extend(agent.map(|agent| PollFd::new(agent, PollFlags::POLLIN)));
    if poll(&mut watched, timeout).is_err() {
        return false;
    }
    let agent_ready = watched
        .get(1)
        .and_then(PollFd::any)
        .is_some_and(|ready| ready);
    while let Ok(Some(_)) = ended.read_signal() {}
    agent_ready
}

/// Kills every descendant. Gives the numbers of those that were killed, and left.
fn kill_descendants(ended: &SignalFd) -> (u32, u32) {
    let give_up = Instant::now() + limits::KILL_WAIT;
    let mut killed = BTreeSet::new();
    loop {
        loop {
            match reap() {
                Reaped::One(..) => {}
                Reaped::NoneYet => break,
                Reaped::NoChildren => return (killed.len() as u32, 0),
            }
        }
        let children = family::children(std::process::id()).unwrap_or_default();
        let living = children.iter().filter(|child| !child.zombie);
        let left = living
            .inspect(|child| {
                killed.insert(child.pid);
                let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
            })
            .count() as u32;
        if Instant::now() >= give_up {
            return ((killed.len() as u32).saturating_sub(left), left);
        }
        wait_for(ended, None, Some(Instant::now() + KILL_LOOK));
    }
}

enum Reaped {
    /// A child that has ended: its pid, how, and its largest resident size in bytes.
    One(Pid, i32, Option<u64>),
    /// There are children, and none has ended.
    NoneYet,
    /// There is none.
    NoChildren,
}

fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: a plain structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both point to live values of the right type.
    match unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) } {
        0 => Reaped::NoneYet,
        pid if pid > 0 => {
            let peak = u64::try_from(usage.ru_maxrss).ok().map(|kib| kib * 1024);
            Reaped::One(Pid::from_raw(pid), status, peak)
        }
        _ => Reaped::NoChildren,
    }
}

fn cause(status: i32) -> Cause {
    match WaitStatus::from_raw(Pid::from_raw(0), status) {
        Ok(WaitStatus::Exited(_, status)) => Cause::Exited(status),
        // Real-time signals have no name there.
        _ if libc::WIFSIGNALED(status) => Cause::Signalled(libc::WTERMSIG(status)),
        _ => Cause::Stopped(format!("wait status {status:#x}")),
    }
}

/// Moves descriptors to the numbers that a guard expects. Only for `pre_exec`: it is
/// async-signal-safe.
///
/// Both must be above [`WORKER_FD`].
pub(super) fn place(agent: RawFd, control: Option<RawFd>) -> std::io::Result<()> {
    for (from, to) in [(Some(agent), GUARD_FD), (control, WORKER_FD)] {
        let Some(from) = from else { continue };
        // SAFETY: the child that this runs in has no use for what was at these numbers.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A copy of a descriptor that [`place`] takes.
pub(super) fn above(fd: &impl AsFd) -> std::io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(WORKER_FD + 1))?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Occupies the numbers up to [`WORKER_FD`] as far as they are free. While it lives, nothing
/// that is opened gets a number that [`place`] overwrites; the standard library opens a pipe
/// of its own when it spawns.
pub(super) fn reserve() -> std::io::Result<Vec<OwnedFd>> {
    let mut reserved = Vec::new();
    loop {
        let file = OwnedFd::from(std::fs::File::open("/dev/null")?);
        if file.as_raw_fd() > WORKER_FD {
            return Ok(reserved);
        }
        reserved.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_gets_what_is_meant_for_it() {
        let own = [
            ("HOME", "/root"),
            ("LANG", "C"),
            ("CC_GUARD_MEMORY", "5"),
            ("CC_GUARD_SET_LANG", "en"),
            ("CC_GUARD_SET_LD_PRELOAD", "x.so"),
        ]
        .map(|(name, value)| (name.into(), value.into()));
        let got = environment(own.into_iter());
        let expected = [("HOME", "/root"), ("LANG", "en"), ("LD_PRELOAD", "x.so")]
            .map(|(n, v)| (n.into(), v.into()));
        assert_eq!(got, Vec::<(OsString, OsString)>::from(expected));
    }

    #[test]
    fn programs_are_looked_up_as_a_shell_does() {
        let find = |program: &str, search: Option<&str>| {
            super::find(OsStr::new(program), search.map(OsStr::new))
        };
        let search = Some("/nowhere:/bin");
        assert_eq!(find("a/b", None), Ok("a/b".into()));
        assert_eq!(find("sh", search), Ok("/bin/sh".into()));
        assert_eq!(find("no-such", search), Err(Errno::ENOENT));
        assert_eq!(find("", search), Err(Errno::ENOENT));
        assert_eq!(find("passwd", Some("/etc")), Err(Errno::EACCES));
    }
}
