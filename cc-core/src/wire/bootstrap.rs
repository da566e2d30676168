//! How an agent that was just started gets its identity: three JSON lines on its standard
//! input and output, so that no secret is in an argument and no private key leaves the node.
//!
//! 1. to the agent: [`Settings`]
//! 2. from the agent: [`Report::Request`], a certificate signing request for a key made there
//! 3. to the agent: [`Identity`]
//! 4. from the agent: [`Report::Ready`], after which it leaves the starter's session
//!
//! At any point the agent may answer [`Report::Failed`] and exit.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{Handle, NodeIndex};

/// What an agent is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The starter's protocol.
    pub protocol: u32,
    /// The cluster.
    pub handle: Handle,
    /// The node.
    pub node: NodeIndex,
    /// The node's directory: identity, agent log, lock; made if missing.
    pub directory: PathBuf,
    /// The content store; may be shared by agents of one machine.
    pub store: PathBuf,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// How many workers the node has, for their share of cores.
    pub workers: u32,
    /// Seconds that the agent keeps its work without a driver.
    pub driver_timeout: u64,
}

/// The agent's certificate and the cluster's CA, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The agent's certificate.
    pub certificate: String,
    /// The cluster's CA certificate.
    pub ca: String,
}

/// What an agent says while it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A certificate signing request, in PEM.
    Request(String),
    /// It listens.
    Ready(Ready),
    /// It cannot go on: phase and reason.
    Failed(String),
}

/// A listening agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (`/proc/<pid>/stat`, field 22): with
    /// the pid it names the process for good.
    pub start_ticks: u64,
}
