//! What can go wrong with a call, and with a cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cc_core::death::Death;
use cc_core::ids::{Handle, NodeIndex, WorkerId};
use cc_core::provider::ProviderError;
use cc_core::resolve::ResolveError;
use cc_core::wire::control::Refusal;

use crate::config::ConfigError;
use crate::records::RecordError;

/// Why a call gave no output. What the function itself returns, errors included, is the
/// output and not here.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The function panicked. The worker goes on.
    #[error("{function} panicked on worker {worker}: {message}{}", .location.as_ref().map(|l| format!(" ({l})")).unwrap_or_default())]
    Panicked {
        /// The function's path.
        function: &'static str,
        /// Where it ran.
        worker: WorkerId,
        /// The panic's message.
        message: String,
        /// File, line and column of the panic.
        location: Option<String>,
    },
    /// The worker or its node ended before the function did. The function may have run in
    /// part or whole; `.retries(n)` runs it again on another worker.
    #[error("{function} was lost with worker {worker} on {node}: {death}")]
    Lost {
        /// The function's path.
        function: &'static str,
        /// The worker.
        worker: WorkerId,
        /// Its node.
        node: NodeIndex,
        /// What is known of the end.
        death: Arc<Death>,
    },
    /// The deadline passed. A worker that does not come back soon after is replaced.
    #[error("{function} exceeded its deadline of {deadline:?}{}", .worker.map(|w| format!(" on worker {w}")).unwrap_or_else(|| " before a worker was free for it".into()))]
    DeadlineExceeded {
        /// The function's path.
        function: &'static str,
        /// Where it was, if it had been sent.
        worker: Option<WorkerId>,
        /// The deadline.
        deadline: Duration,
    },
    /// The framework could not do its part; the function has not run to its end.
    #[error("{function}: {phase}{}: {reason}", .worker.map(|w| format!(" (worker {w})")).unwrap_or_default())]
    Framework {
        /// The function's path.
        function: &'static str,
        /// What was being done, such as `encode the arguments`.
        phase: &'static str,
        /// Which worker was concerned.
        worker: Option<WorkerId>,
        /// What happened, and what to do about it.
        reason: String,
    },
}

impl CallError {
    /// The function that was called.
    pub fn function(&self) -> &'static str {
        match self {
            Self::Panicked { function, .. }
            | Self::Lost { function, .. }
            | Self::DeadlineExceeded { function, .. }
            | Self::Framework { function, .. } => function,
        }
    }

    /// The worker concerned, if there is one.
    pub fn worker(&self) -> Option<WorkerId> {
        match self {
            Self::Panicked { worker, .. } | Self::Lost { worker, .. } => Some(*worker),
            Self::DeadlineExceeded { worker, .. } | Self::Framework { worker, .. } => *worker,
        }
    }
}

/// Several errors from visiting every node, none of them left out.
#[derive(Debug)]
pub struct Failures(pub Vec<DriverError>);

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// What went wrong with a driver or a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The contract cannot be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The configuration file cannot be used, or settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A record cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A provider could not do something with a node.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// This process is to be a worker or agent and tries to be a driver.
    #[error(
        "this process has the role `{0}`: start the program through #[cc_driver::main] or call cc_driver::init() first in main"
    )]
    Role(String),
    /// Another driver owns the cluster.
    #[error("{node} of cluster {handle} refused: {refusal}", refusal = .refusal.message)]
    Refused {
        /// The cluster.
        handle: Handle,
        /// The node.
        node: NodeIndex,
        /// The agent's words.
        refusal: Box<Refusal>,
    },
    /// A node's agent could not be talked to.
    #[error("{node}: {phase}: {reason}")]
    Node {
        /// The node.
        node: NodeIndex,
        /// What was being done.
        phase: &'static str,
        /// What happened, and what to do about it.
        reason: String,
    },
    /// A worker did not start.
    #[error("{node}: worker in slot {slot} {death}")]
    Worker {
        /// The node.
        node: NodeIndex,
        /// The worker's place on it.
        slot: u32,
        /// What is known.
        death: Death,
    },
    /// A cluster is not in a state in which that can be done.
    #[error("cluster {handle} is {state}: {hint}")]
    State {
        /// The cluster.
        handle: Handle,
        /// Its state.
        state: String,
        /// What to do.
        hint: &'static str,
    },
    /// No agent binary for the nodes was found.
    #[error("no agent binary: looked at {}; build one with `cargo xtask agent` and name it in $CC_AGENT", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoAgent(Vec<PathBuf>),
    /// Something on this machine failed.
    #[error("{phase}: {reason}")]
    Local {
        /// What was being done.
        phase: &'static str,
        /// What happened.
        reason: String,
    },
    /// More than one node failed, or a failed deployment left something behind.
    #[error("{0}")]
    Several(Failures),
}

impl DriverError {
    pub(crate) fn local(phase: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Local {
            phase,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn node(
        node: NodeIndex,
        phase: &'static str,
        reason: impl std::fmt::Display,
    ) -> Self {
        Self::Node {
            node,
            phase,
            reason: reason.to_string(),
        }
    }

    /// Whether an agent refused because somebody else owns the cluster, or the like.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Several(Failures(errors)) => errors.iter().any(Self::is_refusal),
            _ => false,
        }
    }

    /// One error for several.
    pub(crate) fn several(mut errors: Vec<Self>) -> Self {
        match errors.len() {
            1 => errors.remove(0),
            _ => Self::Several(Failures(errors)),
        }
    }

    /// One error for all, or none.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(Failures(errors))),
        }
    }
}
