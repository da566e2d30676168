//! How an agent comes to life: settings in, a key made here, a certificate signed elsewhere,
//! a port, and then a life apart from whoever started it.
//!
//! The private key never leaves the node and no secret is ever in an argument. Whatever goes
//! wrong is reported to the starter, who waits for an answer on the other side of two pipes;
//! nothing here waits longer than [`limits::AGENT_START`] in all.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cc_core::limits;
use cc_core::net::endpoint;
use cc_core::net::identity::{self, Credentials, Role, Subject};
use cc_core::wire::PROTOCOL;
use cc_core::wire::bootstrap::{Identity, Ready, Report, Settings};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions};

use crate::agent::{self, Agent};
use crate::logfile::LogFile;
use crate::status;

/// Descriptors for [`limits::WORKERS_PER_NODE`] workers, their bulk streams, and sessions.
const DESCRIPTORS: u64 = 16 * 1024;

/// How often the lock of a directory is tried for.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The lock of a node's directory, held for life. Its content names the holder.
pub(crate) type Lock = Flock<File>;

/// Runs this process as an agent, from its first line on standard input to its end. Gives the
/// process's exit status.
pub(crate) fn agent_main() -> i32 {
    leave_starter();
    let mut starter = match Starter::new() {
        Ok(starter) => starter,
        // Without a standard output there is nobody to tell.
        Err(_) => return 1,
    };
    match start(&mut starter) {
        Ok(status) => status,
        Err(reason) => {
            // Whoever is gone cannot be told.
            let _ = starter.say(&Report::Failed(reason));
            1
        }
    }
}

/// Leaves the starter's session and the descriptors that came along by accident: a terminal's
/// Ctrl-C must not reach an agent, and whoever waits for the end of a pipe must not wait for one.
fn leave_starter() {
    // Fails for a process that leads a group already, and then it was given its own on purpose.
    let _ = nix::unistd::setsid();
    // SAFETY: nothing in this process has opened a descriptor above standard error yet.
    unsafe {
        // By number: older C libraries lack the function. Older kernels lack the call, and
        // then what was inherited stays open.
        nix::libc::syscall(nix::libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
    // A worker takes five descriptors here, and the usual limit is 1,024. With less than this
    // the agent still works, for fewer workers.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(
            Resource::RLIMIT_NOFILE,
            soft.max(DESCRIPTORS.min(hard)),
            hard,
        );
    }
}

fn start(starter: &mut Starter) -> Result<i32, String> {
    let mut settings = read_settings(starter)?;
    // Whoever terminates a cluster whose driver was killed sees an agent by its lock only. One
    // that has not come that far yet must make nothing that would be left.
    if starter.is_gone() {
        return Err("whoever started the agent is gone".to_owned());
    }
    make_directory(&settings.directory)?;
    // Paths must mean the same after the change of directory.
    settings.directory = absolute(&settings.directory)?;
    make_directory(&settings.store)?;
    settings.store = absolute(&settings.store)?;
    let directory = settings.directory.clone();
    let lock = lock(&directory)?;
    make_directory(&directory.join("work"))?;
    std::env::set_current_dir(&directory)
        .map_err(|e| format!("enter {}: {e}", directory.display()))?;

    let credentials = obtain_identity(starter, &settings)?;
    keep_identity(&directory, &credentials)?;

    let runtime = Builder::new_current_thread()
        .enable_all()
        // Each ends when it has had nothing to do for some seconds.
        .max_blocking_threads(limits::FILE_THREADS)
        .build_local(LocalOptions::default())
        .map_err(|e| format!("start the runtime: {e}"))?;
    let status = runtime.block_on(serve(starter, settings, credentials, lock));
    // Nothing on another thread is worth waiting for any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    status
}

async fn serve(
    starter: &mut Starter,
    settings: Settings,
    credentials: Credentials,
    mut lock: Lock,
) -> Result<i32, String> {
    let started = Instant::now();
    let directory = settings.directory.clone();
    let log_path = directory.join("agent.log");
    let mut log =
        LogFile::open(&log_path).map_err(|e| format!("open {}: {e}", log_path.display()))?;
    let signals = agent::Signals::install().map_err(|e| format!("install signal handlers: {e}"))?;
    let endpoint = endpoint::serve(settings.listen, &credentials)
        .map_err(|e| listen_failed(settings.listen, &e))?;
    let ready = Ready {
        address: endpoint
            .local_addr()
            .map_err(|e| format!("look at the socket: {e}"))?,
        pid: std::process::id(),
        start_ticks: status::start_ticks().ok_or("read the start time in /proc/self/stat")?,
    };
    let agent = Agent::new(settings, credentials, started)?;
    write_holder(&mut lock, &ready)
        .map_err(|e| format!("write {}: {e}", directory.join("agent.lock").display()))?;

    log.adopt_stderr()
        .map_err(|e| format!("redirect standard error: {e}"))?;
    start_log(log);
    // Before the starter hears of it, so that it can rely on it.
    detach().map_err(|e| format!("leave standard input and output: {e}"))?;
    starter
        .say(&Report::Ready(ready.clone()))
        .map_err(|e| format!("tell the starter: {e}"))?;
    starter.leave();
    tracing::info!(address = %ready.address, pid = ready.pid, "the agent listens");

    let status = agent::run(agent, endpoint, signals).await;
    // An empty lock file says that nobody is to be found here, even to those who don't try it.
    let _ = lock.set_len(0);
    tracing::info!("the agent ends");
    Ok(status)
}

fn listen_failed(address: SocketAddr, error: &endpoint::EndpointError) -> String {
    match error {
        endpoint::EndpointError::Socket(_, e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            format!(
                "listen on {address}: the port is taken; end what holds it, set agent_port to \
                 another one, or leave it out to have any free one"
            )
        }
        other => format!("listen on {address}: {other}"),
    }
}

fn read_settings(starter: &mut Starter) -> Result<Settings, String> {
    let line = starter.hear("the settings")?;
    // The version first: another version's settings may have another form.
    let any: serde_json::Value =
        serde_json::from_slice(&line).map_err(|e| format!("read the settings: {e}"))?;
    match any.get("protocol").and_then(serde_json::Value::as_u64) {
        Some(theirs) if theirs == u64::from(PROTOCOL) => {}
        theirs => {
            let theirs = theirs.map_or("none".to_owned(), |v| v.to_string());
            return Err(format!(
                "this agent (version {}) speaks protocol {PROTOCOL}, its starter {theirs}: \
                 use an agent and a driver of one version",
                env!("CARGO_PKG_VERSION")
            ));
        }
    }
    serde_json::from_value(any).map_err(|e| format!("read the settings: {e}"))
}

fn make_directory(path: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| format!("make the directory {}: {e}", path.display()))
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, String> {
    path.canonicalize()
        .map_err(|e| format!("find {}: {e}", path.display()))
}

fn lock(directory: &Path) -> Result<Lock, String> {
    let path = directory.join("agent.lock");
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| format!("open {}: {e}", path.display()))
    };
    let until = Instant::now() + limits::AGENT_LOCK_WAIT;
    let mut taken = Flock::lock(open()?, FlockArg::LockExclusiveNonblock);
    // Who looks whether an agent is there holds it for a moment, too.
    while let Err((_, nix::errno::Errno::EWOULDBLOCK)) = taken
        && Instant::now() < until
    {
        std::thread::sleep(LOCK_PAUSE);
        taken = Flock::lock(open()?, FlockArg::LockExclusiveNonblock);
    }
    match taken {
        // Whoever removes the directory holds the lock for it: then this one is nobody's.
        Ok(lock) if !is_at(&lock, &path) => Err(format!(
            "lock {}: the node was removed meanwhile",
            path.display()
        )),
        Ok(lock) => {
            // What an earlier holder left behind names nobody any more.
            lock.set_len(0)
                .map_err(|e| format!("write {}: {e}", path.display()))?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let holder = serde_json::from_str::<Ready>(&text).map_or(
                "another agent, which is just starting".to_owned(),
                |ready| format!("an agent with pid {} at {}", ready.pid, ready.address),
            );
            Err(format!(
                "lock {}: {holder} holds it; terminate its cluster or use another directory",
                path.display()
            ))
        }
        Err((_, e)) => Err(format!("lock {}: {e}", path.display())),
    }
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let name = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let at = std::fs::metadata(path).map(name);
    at.is_ok_and(|at| file.metadata().map(name).is_ok_and(|ours| ours == at))
}

fn write_holder(lock: &mut Lock, ready: &Ready) -> std::io::Result<()> {
    let text = serde_json::to_vec(ready)?;
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(&text)
}

fn obtain_identity(starter: &mut Starter, settings: &Settings) -> Result<Credentials, String> {
    let subject = Subject {
        handle: settings.handle,
        role: Role::Agent(settings.node),
    };
    // A new key for every start: whoever starts the agent signs anyway.
    let (key, request) =
        identity::request(subject).map_err(|e| format!("make the agent's key: {e}"))?;
    starter
        .say(&Report::Request(request))
        .map_err(|e| format!("send the certificate request: {e}"))?;
    let line = starter.hear("the certificate")?;
    let Identity { certificate, ca } =
        serde_json::from_slice(&line).map_err(|e| format!("read the certificate: {e}"))?;
    Ok(Credentials {
        certificate,
        key,
        ca,
    })
}

fn keep_identity(directory: &Path, credentials: &Credentials) -> Result<(), String> {
    for (name, text) in [
        ("agent.key", &credentials.key),
        ("agent.pem", &credentials.certificate),
        ("ca.pem", &credentials.ca),
    ] {
        let path = directory.join(name);
        write_private(&path, text.as_bytes())
            .map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    // One that is left from a crash might have other permissions.
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(&temporary, path)
}

fn start_log(log: LogFile) {
    let level = std::env::var("CC_LOG")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(tracing::level_filters::LevelFilter::INFO);
    // Fails when there is one already, which then serves as well.
    let _ = tracing_subscriber::fmt()
        .with_writer(Mutex::new(log))
        .with_ansi(false)
        .with_max_level(level)
        .try_init();
}

fn detach() -> std::io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

/// Whoever started this process, at the other ends of standard input and output.
struct Starter {
    /// Standard output as it was at the start, until it is left.
    out: Option<File>,
    deadline: Instant,
    /// What was read beyond the last line.
    rest: Vec<u8>,
}

impl Starter {
    fn new() -> std::io::Result<Self> {
        let out = std::io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            out: Some(out.into()),
            deadline: Instant::now() + limits::AGENT_START,
            rest: Vec::new(),
        })
    }

    fn say(&mut self, report: &Report) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        match &mut self.out {
            Some(out) => out.write_all(&line),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Whether nobody reads what is said.
    fn is_gone(&self) -> bool {
        let Some(out) = &self.out else { return true };
        let mut polled = [PollFd::new(out.as_fd(), PollFlags::empty())];
        let looked = nix::poll::poll(&mut polled, PollTimeout::ZERO);
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
        looked.is_ok()
            && polled[0]
                .revents()
                .is_some_and(|seen| seen.intersects(gone))
    }

    /// Lets go of the starter for good.
    fn leave(&mut self) {
        self.out = None;
    }

    /// Reads a line. `what` it should be is for the error.
    fn hear(&mut self, what: &str) -> Result<Vec<u8>, String> {
        let stdin = std::io::stdin();
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.rest.iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.rest.len() > limits::BOOTSTRAP_LINE {
                return Err(format!(
                    "wait for {what}: a line of more than {} bytes",
                    limits::BOOTSTRAP_LINE
                ));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut polled, timeout) {
                Ok(0) => {
                    return Err(format!(
                        "wait for {what}: nothing within {} s",
                        limits::AGENT_START.as_secs()
                    ));
                }
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(format!("wait for {what}: {e}")),
            }
            // Past the standard library's buffer, which `poll` knows nothing of.
            match nix::unistd::read(stdin.as_fd(), &mut buffer) {
                Ok(0) => return Err(format!("wait for {what}: standard input has ended")),
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(format!("wait for {what}: {e}")),
            }
        }
    }
}
