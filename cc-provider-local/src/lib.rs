//! Nodes that are agents on this machine: each has a directory and a loopback address of its
//! own, and outlives the process that started it.
//!
//! This crate starts and ends agents, and deletes their directories. It must never signal a
//! process that is not the agent of the directory in question, nor delete anything that is not
//! a node's directory.

mod executable;
mod launch;
pub mod machine;
mod process;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_core::ids::{Handle, NodeIndex};
use cc_core::limits;
use cc_core::provider::{AgentLaunch, NodeState, Provider, ProviderError, ProviderFuture, Sign};
use cc_core::record::NodeRecord;
use cc_core::resolve::Plan;
use cc_core::wire::PROTOCOL;
use cc_core::wire::bootstrap::{Ready, Settings};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::process::Process;

const LOOK: &str = "look at the node's directory";
const STOP: &str = "stop the agent";
const REMOVE: &str = "remove the node's directory";

/// The first and the longest pause between two looks at a lock.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Makes nodes that are agents on this machine.
///
/// Its futures must be polled on a tokio runtime with I/O and time enabled; the runtime also
/// reaps the agents that were started on it when they end. Linux 5.3 or later.
///
/// ```
/// use cc_core::contract::Contract;
/// use cc_core::ids::{Handle, NodeIndex};
/// use cc_core::provider::Provider as _;
///
/// let provider = cc_provider_local::LocalProvider::new("/tmp/state".into());
/// let plan = Contract::new().resolve_locally()?;
/// let node = provider.intend(Handle::random(), NodeIndex(0), &plan);
/// assert!(node.address.is_none(), "nothing listens yet");
/// # Ok::<(), cc_core::contract::ContractError>(())
/// ```
#[derive(Debug)]
pub struct LocalProvider {
    state_directory: PathBuf,
    start_wait: Duration,
    stop_grace: Duration,
    starts: Semaphore,
}

/// What a record says about a local node.
#[derive(Debug, Serialize, Deserialize)]
struct Data {
    /// The node's directory.
    directory: PathBuf,
    /// The agent's process, once it has been started, and when that started.
    pid: Option<u32>,
    start_ticks: Option<u64>,
}

impl LocalProvider {
    /// A provider whose nodes' directories are below `state_directory`, with the content store
    /// that they share.
    pub fn new(state_directory: PathBuf) -> Self {
        Self {
            // An agent does not run in the driver's working directory. Without one there is
            // nothing that the path could be relative to.
            state_directory: std::path::absolute(&state_directory).unwrap_or(state_directory),
            start_wait: limits::AGENT_START,
            stop_grace: limits::AGENT_STOP,
            starts: Semaphore::new(limits::AGENT_STARTS),
        }
    }

    /// How long an agent may take from its start to listening; [`limits::AGENT_START`] if not
    /// given.
    #[must_use]
    pub fn start_wait(mut self, wait: Duration) -> Self {
        self.start_wait = wait;
        self
    }

    /// How long an agent that was asked to end may take before it is killed;
    /// [`limits::AGENT_STOP`] if not given.
    #[must_use]
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// The directory of a node: its agent's identity, log and lock, and its workers' default
    /// working directory.
    pub fn node_directory(&self, handle: Handle, node: NodeIndex) -> PathBuf {
        let mut path = self.state_directory.join("clusters");
        path.extend([handle.as_str(), "nodes", &node.0.to_string()]);
        path
    }

    /// Starts the agent unless it runs.
    async fn ensure(
        &self,
        launch: &AgentLaunch,
        node: &NodeRecord,
        sign: Sign<'_>,
    ) -> Result<Ready, ProviderError> {
        let at = At::new(node)?;
        // Bounded, as each that holds a permit is.
        let _permit = self.starts.acquire().await;
        if let Some(ready) = at.running(self.start_wait).await? {
            return Ok(ready);
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&at.directory)
            .map_err(|e| at.io("make the node's directory", &e))?;
        let plan = &launch.plan;
        let store = match plan.settings().shared_store {
            Some(false) => at.directory.join("store"),
            _ => self.state_directory.join("store"),
        };
        let settings = Settings {
            protocol: PROTOCOL,
            handle: launch.handle,
            node: node.node,
            directory: at.directory,
            store,
            listen: listen(node.node, plan.settings().agent_port),
            workers: plan.workers_per_node(),
            driver_timeout: plan.effective_driver_timeout().as_secs(),
        };
        let executable =
            std::path::absolute(&launch.executable).unwrap_or(launch.executable.clone());
        launch::launch(&executable, &settings, sign, self.start_wait).await
    }
}

impl Provider for LocalProvider {
    fn name(&self) -> &'static str {
        "local"
    }

    fn intend(&self, handle: Handle, node: NodeIndex, plan: &Plan) -> NodeRecord {
        let data = Data {
            directory: self.node_directory(handle, node),
            pid: None,
            start_ticks: None,
        };
        let port = plan.settings().agent_port;
        NodeRecord {
            node,
            address: port.map(|port| listen(node, Some(port))),
            provider_data: data.to_json(),
        }
    }

    fn start<'a>(
        &'a self,
        launch: &'a AgentLaunch,
        node: &'a NodeRecord,
        sign: Sign<'a>,
    ) -> ProviderFuture<'a, NodeRecord> {
        Box::pin(async move {
            let ready = self.ensure(launch, node, sign).await?;
            let data = Data {
                directory: At::new(node)?.directory,
                pid: Some(ready.pid),
                start_ticks: Some(ready.start_ticks),
            };
            Ok(NodeRecord {
                node: node.node,
                address: Some(ready.address),
                provider_data: data.to_json(),
            })
        })
    }

    fn stop<'a>(&'a self, node: &'a NodeRecord) -> ProviderFuture<'a, ()> {
        Box::pin(async move { At::new(node)?.stop(self.stop_grace).await })
    }

    fn remove<'a>(&'a self, node: &'a NodeRecord) -> ProviderFuture<'a, ()> {
        Box::pin(async move {
            let at = At::new(node)?;
            at.stop(self.stop_grace).await?;
            at.remove(self.stop_grace).await
        })
    }

    fn state<'a>(&'a self, node: &'a NodeRecord) -> ProviderFuture<'a, NodeState> {
        Box::pin(async move {
            let at = At::new(node)?;
            Ok(if at.is_locked()? {
                NodeState::Running
            } else if at.directory.try_exists().map_err(|e| at.io(LOOK, &e))? {
                NodeState::Stopped
            } else {
                NodeState::Gone
            })
        })
    }
}

/// The directory of a local node, from its record.
///
/// `None` if the record is not one of this provider's.
pub fn agent_directory(node: &NodeRecord) -> Option<PathBuf> {
    Some(At::new(node).ok()?.directory)
}

/// Where the agent of a node listens: 127.0.0.2 for the first, 250 to each block of 256, so
/// that no address ends in 0, 1 or 255.
fn listen(node: NodeIndex, port: Option<u16>) -> SocketAddr {
    let block = node.0 / 250;
    // The remainders are below 256.
    let address = Ipv4Addr::new(
        127,
        (block / 256 % 256) as u8,
        (block % 256) as u8,
        (node.0 % 250) as u8 + 2,
    );
    SocketAddr::new(IpAddr::V4(address), port.unwrap_or(0))
}

impl Data {
    fn to_json(&self) -> serde_json::Value {
        // Paths of ours are the only part that may fail, and fail only when not UTF-8: the
        // record then has no directory, which every later call says.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A node's directory and what happens there.
struct At {
    node: NodeIndex,
    directory: PathBuf,
    /// The agent's process as far as the record knows.
    recorded: Option<(u32, u64)>,
}

impl At {
    fn new(node: &NodeRecord) -> Result<Self, ProviderError> {
        let wrong = |reason| ProviderError {
            node: node.node,
            phase: "read the node's record",
            reason,
            transient: false,
        };
        let data: Data = serde_json::from_value(node.provider_data.clone())
            .map_err(|e| wrong(format!("it is not a local node's: {e}")))?;
        if !is_node_directory(&data.directory, node.node) {
            return Err(wrong(format!(
                "{} is no directory of that node, so nothing is done there",
                data.directory.display()
            )));
        }
        Ok(Self {
            node: node.node,
            directory: data.directory,
            recorded: data.pid.zip(data.start_ticks),
        })
    }

    fn fail(&self, phase: &'static str, reason: impl Into<String>) -> ProviderError {
        ProviderError {
            node: self.node,
            phase,
            reason: reason.into(),
            transient: false,
        }
    }

    fn io(&self, phase: &'static str, error: &io::Error) -> ProviderError {
        self.fail(phase, format!("{}: {error}", self.directory.display()))
    }

    fn is_locked(&self) -> Result<bool, ProviderError> {
        process::is_locked(&self.directory).map_err(|e| self.io(LOOK, &e))
    }

    /// The agent that runs already. Waits for one that is being started by somebody else.
    async fn running(&self, wait: Duration) -> Result<Option<Ready>, ProviderError> {
        let mut pause = Pause::new(wait);
        while self.is_locked()? {
            if let Some(ready) = process::holder(&self.directory) {
                return Ok(Some(ready));
            }
            if !pause.next().await {
                return Err(self.fail(
                    launch::SPAWN,
                    format!(
                        "another process holds {} and does not say where it listens; end it and \
                         try again",
                        self.directory.join(process::LOCK).display()
                    ),
                ));
            }
        }
        Ok(None)
    }

    async fn stop(&self, grace: Duration) -> Result<(), ProviderError> {
        // Kept: an agent that is ending has no more to say about itself.
        let mut agent = None;
        for (signal, wait) in [(Signal::TERM, grace), (Signal::KILL, limits::KILL_WAIT)] {
            let mut sent = false;
            let mut pause = Pause::new(wait);
            loop {
                if !self.is_locked()? {
                    return Ok(());
                }
                if agent.is_none() {
                    // One that is starting says who it is a little later.
                    agent = self.agent()?;
                }
                if !sent && let Some(agent) = &agent {
                    agent.signal(signal).map_err(|e| self.io(STOP, &e))?;
                    sent = true;
                }
                if !pause.next().await {
                    break;
                }
            }
        }
        Err(self.fail(
            STOP,
            format!(
                "{} is still held, by a process that cannot be killed or has not said who it is; \
                 find it with `fuser -v` and try again",
                self.directory.join(process::LOCK).display()
            ),
        ))
    }

    /// The process that holds the lock, if it can be told.
    fn agent(&self) -> Result<Option<Process>, ProviderError> {
        let Some((pid, ticks)) = process::holder(&self.directory)
            .map(|ready| (ready.pid, ready.start_ticks))
            .or(self.recorded)
        else {
            return Ok(None);
        };
        Process::open(pid, ticks).map_err(|e| self.fail(STOP, format!("process {pid}: {e}")))
    }

    async fn remove(&self, grace: Duration) -> Result<(), ProviderError> {
        // What a killed agent's guards have not ended yet may still write.
        let mut pause = Pause::new(limits::KILL_WAIT);
        loop {
            // Held until all is gone: an agent that is just being started must not get its lock
            // in a directory that is on its way out, and live on where nobody sees it.
            let claim = match process::claim(&self.directory) {
                Ok(process::Claim::Mine(lock)) => Some(lock),
                Ok(process::Claim::Others) if pause.next().await => {
                    self.stop(grace).await?;
                    continue;
                }
                // Without a claim, removing says best what is wrong.
                Ok(process::Claim::Others | process::Claim::Nothing) | Err(_) => None,
            };
            let directory = self.directory.clone();
            let removed = tokio::task::spawn_blocking(move || remove_all(&directory))
                .await
                .map_err(|e| self.fail(REMOVE, e.to_string()))?;
            // Not left to the closing, as in `is_locked`.
            let _ = claim.map(|lock| lock.unlock());
            let Err((error, left)) = removed else {
                return Ok(());
            };
            let again = error.kind() == io::ErrorKind::DirectoryNotEmpty;
            if !again || !pause.next().await {
                return Err(self.fail(
                    REMOVE,
                    format!(
                        "{error}; what is left: {}; remove it by hand",
                        left.join(", ")
                    ),
                ));
            }
        }
    }
}

/// Whether a path ends as a node's directory does. It comes from a file, and is going to be
/// deleted.
fn is_node_directory(path: &Path, node: NodeIndex) -> bool {
    let mut parts = path.iter().rev();
    let mut part = || {
        parts
            .next()
            .and_then(|part| part.to_str())
            .unwrap_or_default()
    };
    path.is_absolute()
        && part() == node.0.to_string()
        && part() == "nodes"
        && part().parse::<Handle>().is_ok()
}

/// Deletes a directory with everything in it; if that fails, names some of what is left.
fn remove_all(directory: &Path) -> Result<(), (io::Error, Vec<String>)> {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !directory.exists() => Ok(()),
        // Something inside went away by itself; the rest is still there.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err((io::ErrorKind::DirectoryNotEmpty.into(), vec![]))
        }
        Err(e) => {
            let mut left = Vec::new();
            name_files(directory, &mut left);
            Err((e, left))
        }
    }
}

/// Names at most ten entries that contain no others.
fn name_files(path: &Path, names: &mut Vec<String>) {
    let before = names.len();
    // Not through links: what they point at is not ours.
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if names.len() >= 10 {
                return;
            }
            name_files(&entry.path(), names);
        }
    }
    if names.len() == before {
        names.push(path.display().to_string());
    }
}

/// Pauses that grow, until a deadline.
struct Pause {
    until: Instant,
    next: Duration,
}

impl Pause {
    fn new(wait: Duration) -> Self {
        Self {
            until: Instant::now() + wait,
            next: PAUSES.0,
        }
    }

    /// Waits a little; false at the deadline.
    async fn next(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSES.1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_an_address_of_its_own() {
        assert_eq!(listen(NodeIndex(0), None).to_string(), "127.0.0.2:0");
        assert_eq!(listen(NodeIndex(249), None).to_string(), "127.0.0.251:0");
        assert_eq!(listen(NodeIndex(250), Some(7)).to_string(), "127.0.1.2:7");
        let all: std::collections::HashSet<_> = (0..limits::NODES)
            .map(|i| listen(NodeIndex(i), None))
            .collect();
        assert_eq!(all.len(), limits::NODES as usize);
        for address in all {
            let IpAddr::V4(ip) = address.ip() else {
                panic!()
            };
            assert!((2..=251).contains(&ip.octets()[3]), "{ip}");
        }
    }

    #[test]
    fn only_a_node_directory_is_ever_touched() {
        let handle = Handle::random();
        let good = PathBuf::from(format!("/s/clusters/{handle}/nodes/3"));
        assert!(is_node_directory(&good, NodeIndex(3)));
        assert!(!is_node_directory(&good, NodeIndex(4)));
        for wrong in ["/", "", "/home", "/nodes/3", "/x/nodes/3", "/a/../nodes/3"] {
            assert!(
                !is_node_directory(Path::new(wrong), NodeIndex(3)),
                "{wrong}"
            );
        }
        assert!(!is_node_directory(
            Path::new(&format!("{handle}/nodes/3")),
            NodeIndex(3)
        ));
    }
}
