//! What a provider of nodes does. Providers know nothing of workers, tasks or sessions.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use crate::ids::{Handle, NodeIndex};
use crate::record::NodeRecord;
use crate::resolve::Plan;
use crate::wire::bootstrap::Identity;

/// A future that a provider's method gives.
pub type ProviderFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send + 'a>>;

/// What went wrong with a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{node}: {phase}: {reason}")]
pub struct ProviderError {
    /// The node.
    pub node: NodeIndex,
    /// What was being done, such as `start the agent`.
    pub phase: &'static str,
    /// What happened, and what to do about it where that is known.
    pub reason: String,
    /// Whether the same call may succeed later.
    pub transient: bool,
}

/// What is true of a node, as far as its provider can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Its agent's process or machine runs.
    Running,
    /// It does not run, and can be started again.
    Stopped,
    /// Nothing of it exists.
    Gone,
}

/// Signs an agent's certificate signing request (in PEM).
pub type Sign<'a> = &'a (dyn Fn(NodeIndex, &str) -> Result<Identity, String> + Send + Sync);

/// How agents are started.
#[derive(Debug, Clone)]
pub struct AgentLaunch {
    /// The agent's executable on the driver's machine.
    pub executable: PathBuf,
    /// The cluster.
    pub handle: Handle,
    /// The cluster's plan.
    pub plan: Plan,
}

/// Makes nodes and gives them back.
pub trait Provider: Send + Sync + 'static {
    /// Its name in contracts and records.
    fn name(&self) -> &'static str;

    /// What will be written down about a node before it is made. Creates nothing.
    fn intend(&self, handle: Handle, node: NodeIndex, plan: &Plan) -> NodeRecord;

    /// Makes the node if it does not exist, starts it if it does not run, and starts its agent
    /// with a certificate from `sign`. Gives the record with the agent's address.
    fn start<'a>(
        &'a self,
        launch: &'a AgentLaunch,
        node: &'a NodeRecord,
        sign: Sign<'a>,
    ) -> ProviderFuture<'a, NodeRecord>;

    /// Stops the node whether or not its agent answers; what is on its disk stays.
    fn stop<'a>(&'a self, node: &'a NodeRecord) -> ProviderFuture<'a, ()>;

    /// Removes the node and everything on it. Removing what is gone succeeds.
    fn remove<'a>(&'a self, node: &'a NodeRecord) -> ProviderFuture<'a, ()>;

    /// Looks at the node.
    fn state<'a>(&'a self, node: &'a NodeRecord) -> ProviderFuture<'a, NodeState>;
}
