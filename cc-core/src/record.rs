//! What a driver writes down about a cluster, so that another process can find it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, Handle, NodeIndex};
use crate::resolve::Plan;
use crate::wire::control::WorkerCommand;

/// The version of [`ClusterRecord`]'s format.
///
/// - 2: the first that was released; its plan has instance types, prices and effective settings.
pub const RECORD_VERSION: u32 = 2;

/// A cluster as its driver knows it. Written before anything is created, and after each
/// change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The cluster.
    pub handle: Handle,
    /// Where it stands in its life.
    pub state: ClusterState,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// What was asked for.
    pub plan: Plan,
    /// Its nodes, in the order of their index.
    pub nodes: Vec<NodeRecord>,
    /// What workers were last started with.
    pub worker: Option<WorkerCommand>,
    /// The hash of the worker binary that was shipped last.
    pub shipped: Option<ContentHash>,
}

/// Where a cluster stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterState {
    /// Being made; some of the nodes may exist.
    Deploying,
    /// Made.
    Running,
    /// Stopped on purpose; `resume` starts it again.
    Interrupted,
    /// Being taken down; some of the nodes may still exist.
    Terminating,
}

impl std::fmt::Display for ClusterState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deploying => "deploying",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Terminating => "terminating",
        })
    }
}

/// A node as its driver knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeIndex,
    /// Where its agent listens, once that is known.
    pub address: Option<SocketAddr>,
    /// What its provider needs to find it again.
    pub provider_data: serde_json::Value,
}
