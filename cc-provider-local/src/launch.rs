//! Starting an agent's process and taking it through its bootstrap.
//!
//! The agent outlives its starter once it listens; until then any failure, and giving the
//! start up, ends it. Nothing secret is in its arguments or environment, and it is always
//! reaped while its starter lives.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cc_core::ids::{Handle, NodeIndex};
use cc_core::limits;
use cc_core::provider::{ProviderError, Sign};
use cc_core::wire::bootstrap::{Ready, Report, Settings};
use cc_core::wire::local::{ROLE, ROLE_AGENT};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::executable;

pub(crate) const SPAWN: &str = "start the agent";
const REQUEST: &str = "wait for the agent's certificate request";
const SIGN: &str = "sign the agent's certificate";
const LISTEN: &str = "wait for the agent to listen";

/// Variables by which MPI launchers and batch systems tell a process that it is one of
/// theirs. An agent is not, whatever its driver is, nor is what it starts.
const FOREIGN: [&str; 5] = ["OMPI_", "PMI_", "PMIX_", "SLURM_", "HYDRA_"];

/// How long an agent that has closed its output may take to exit, and the rest of its
/// stderr to arrive.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// Bytes of stderr that are kept for the error.
const TAIL: usize = 8 * 1024;

/// Starts an agent and waits until it listens.
pub(crate) async fn launch(
    executable: &Path,
    settings: &Settings,
    sign: Sign<'_>,
    wait: Duration,
) -> Result<Ready, ProviderError> {
    let node = settings.node;
    let fail = |phase, reason, transient| ProviderError {
        node,
        phase,
        reason,
        transient,
    };
    let mut child = command(executable, settings.handle, node)
        .spawn()
        .map_err(|e| {
            // Out of processes or memory, or the file is just being written.
            let transient = matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock
                    | std::io::ErrorKind::OutOfMemory
                    | std::io::ErrorKind::ExecutableFileBusy
            );
            fail(SPAWN, executable::explain(executable, &e), transient)
        })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let starting = Starting(Some(child));
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(fail(SPAWN, "the agent has no pipes".to_owned(), false));
    };
    let tail = Tail::default();
    let mut drained = tokio::spawn(drain(stderr, tail.clone()));
    let mut bootstrap = Bootstrap {
        stdin,
        stdout: BufReader::new(stdout),
        phase: REQUEST,
    };
    let trouble = match timeout(wait, bootstrap.run(settings, sign)).await {
        Ok(Ok(ready)) => {
            starting.settle(bootstrap.stdout);
            return Ok(ready);
        }
        Ok(Err(trouble)) => trouble,
        Err(_) => Trouble {
            reason: format!("no answer within {} s", wait.as_secs_f32()),
            ended: false,
            transient: true,
        },
    };
    let mut reason = trouble.reason;
    if let Some(status) = starting.end(trouble.ended).await {
        reason = format!("{reason} ({status})");
    }
    // A descendant may hold the other end open, so the wait is short.
    let _ = timeout(EXIT_WAIT, &mut drained).await;
    drained.abort();
    let last = tail.lines();
    if !last.is_empty() {
        reason = format!("{reason}; the last lines of its stderr:\n{last}");
    }
    Err(fail(bootstrap.phase, reason, trouble.transient))
}

fn command(executable: &Path, handle: Handle, node: NodeIndex) -> Command {
    let mut command = Command::new(executable);
    command
        .arg0("cc-agent")
        .args([handle.as_str(), "node", &node.0.to_string()])
        // Not the driver's directory: the agent would keep it busy.
        .current_dir("/")
        .env(ROLE, ROLE_AGENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if FOREIGN.iter().any(|p| bytes.starts_with(p.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}

/// A process that is not an agent yet. Dropping it ends it.
struct Starting(Option<Child>);

impl Starting {
    /// Lets the process go on by itself, and sees that it is reaped.
    fn settle(mut self, mut stdout: BufReader<ChildStdout>) {
        if let Some(mut child) = self.0.take() {
            tokio::spawn(async move {
                // The pipe stays open until the agent has left it: a write of its to a
                // closed one would be an error there.
                let _ = tokio::io::copy_buf(&mut stdout, &mut tokio::io::sink()).await;
                drop(stdout);
                let _ = child.wait().await;
            });
        }
    }

    /// Ends the process and gives its status if it ended by itself.
    async fn end(mut self, ended: bool) -> Option<std::process::ExitStatus> {
        let child = self.0.as_mut()?;
        if ended && let Ok(Ok(status)) = timeout(EXIT_WAIT, child.wait()).await {
            return Some(status);
        }
        // Its pid cannot be another's: it has not been waited for.
        let _ = child.start_kill();
        let _ = timeout(limits::KILL_WAIT, child.wait()).await;
        None
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.start_kill();
        }
    }
}

/// Why a bootstrap did not come to its end.
struct Trouble {
    reason: String,
    /// The agent seems to have ended by itself.
    ended: bool,
    transient: bool,
}

impl Trouble {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ended: false,
            transient: false,
        }
    }
}

struct Bootstrap {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    phase: &'static str,
}

impl Bootstrap {
    async fn run(&mut self, settings: &Settings, sign: Sign<'_>) -> Result<Ready, Trouble> {
        self.write(settings).await?;
        let request = match self.read().await? {
            Report::Request(request) => request,
            _ => {
                return Err(Trouble::new(
                    "the agent is ready before it has a certificate",
                ));
            }
        };
        self.phase = SIGN;
        let identity = sign(settings.node, &request).map_err(Trouble::new)?;
        self.phase = LISTEN;
        self.write(&identity).await?;
        match self.read().await? {
            Report::Ready(ready) => Ok(ready),
            _ => Err(Trouble::new("the agent asks for a certificate twice")),
        }
    }

    async fn write(&mut self, line: &impl Serialize) -> Result<(), Trouble> {
        let mut text = serde_json::to_vec(line).map_err(|e| Trouble::new(e.to_string()))?;
        text.push(b'\n');
        // An agent that reads no more has said why, or has exited: reading tells.
        let _ = self.stdin.write_all(&text).await;
        Ok(())
    }

    /// The next report that is not a failure.
    async fn read(&mut self) -> Result<Report, Trouble> {
        let mut line = Vec::new();
        (&mut self.stdout)
            .take(limits::BOOTSTRAP_LINE as u64)
            .read_until(b'\n', &mut line)
            .await
            .map_err(|e| Trouble::new(format!("the agent's output: {e}")))?;
        if line.is_empty() {
            return Err(Trouble {
                reason: "the agent ended before it listened".to_owned(),
                ended: true,
                transient: false,
            });
        }
        match serde_json::from_slice(&line) {
            Ok(Report::Failed(reason)) => Err(Trouble::new(reason)),
            Ok(report) => Ok(report),
            Err(_) => {
                let said: String = String::from_utf8_lossy(&line).chars().take(120).collect();
                Err(Trouble::new(format!(
                    "the process said {said:?}, which is no agent's report: name the agent's \
                     binary, or let the program's main begin with #[cc_driver::main] or \
                     cc_driver::init()"
                )))
            }
        }
    }
}

/// The last bytes of a process's stderr.
#[derive(Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(TAIL);
        kept.drain(..excess);
    }

    fn lines(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(limits::STDERR_TAIL_LINES);
        lines[from..].join("\n")
    }
}

async fn drain(mut stream: ChildStderr, tail: Tail) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        tail.push(&chunk[..count]);
    }
}
