//! Contracts: the assumptions about a cluster, with nothing deployed yet.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
pub use crate::settings::Settings;

/// How a cluster's nodes relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Topology {
    /// Every node is reached from the driver, and its workers are equals.
    #[default]
    PeerWorkers,
}

impl std::fmt::Display for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PeerWorkers => f.write_str("PeerWorkers"),
        }
    }
}

impl std::str::FromStr for Topology {
    type Err = ContractError;

    fn from_str(text: &str) -> Result<Self, ContractError> {
        match text {
            "PeerWorkers" => Ok(Self::PeerWorkers),
            other => Err(ContractError::Topology(other.to_owned())),
        }
    }
}

/// A contract that cannot be resolved, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// A count outside of its range.
    #[error("{parameter} = {value} is out of range: write a number from 1 to {limit}")]
    Count {
        /// The parameter.
        parameter: &'static str,
        /// What it was set to.
        value: u32,
        /// The largest that is allowed.
        limit: u32,
    },
    /// A topology that this version does not have.
    #[error("cluster_type = {0} is not supported: write PeerWorkers")]
    Topology(String),
    /// A provider that is not compiled in.
    #[error("node_provider = {0} is not known: write local")]
    Provider(String),
}

/// The assumptions about a cluster.
///
/// ```
/// use cc_core::contract::Contract;
/// let plan = Contract::new().node_count(4).node_process_count(2).resolve()?;
/// assert_eq!(plan.contract().workers(), 8);
/// # Ok::<(), cc_core::contract::ContractError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[must_use = "a contract does nothing until it is resolved and deployed"]
pub struct Contract {
    cluster_type: Topology,
    node_count: u32,
    node_process_count: u32,
    node_provider: String,
    settings: Settings,
}

impl Default for Contract {
    fn default() -> Self {
        Self {
            cluster_type: Topology::PeerWorkers,
            node_count: 1,
            node_process_count: 1,
            node_provider: "local".to_owned(),
            settings: Settings::default(),
        }
    }
}

impl Contract {
    /// One node with one worker, on this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of nodes; 1 if not given.
    pub fn node_count(mut self, nodes: u32) -> Self {
        self.node_count = nodes;
        self
    }

    /// The number of workers on each node; 1 if not given.
    pub fn node_process_count(mut self, workers: u32) -> Self {
        self.node_process_count = workers;
        self
    }

    /// The topology; [`Topology::PeerWorkers`] if not given.
    pub fn cluster_type(mut self, topology: Topology) -> Self {
        self.cluster_type = topology;
        self
    }

    /// The provider; `local`, nodes on this machine, if not given.
    pub fn node_provider(mut self, provider: impl Into<String>) -> Self {
        self.node_provider = provider.into();
        self
    }

    /// How long the agents keep their work when the driver is gone; 10 minutes if not given.
    pub fn driver_timeout(mut self, timeout: Duration) -> Self {
        self.settings.driver_timeout = Some(timeout);
        self
    }

    /// Blocking tasks that a worker runs at once; the node's cores ÷ its workers if not given.
    pub fn worker_slots(mut self, slots: u32) -> Self {
        self.settings.worker_slots = Some(slots);
        self
    }

    /// The most address space, in bytes, that a worker may take (`RLIMIT_AS`); no limit if
    /// not given.
    pub fn worker_memory_limit(mut self, bytes: u64) -> Self {
        self.settings.worker_memory_limit = Some(bytes);
        self
    }

    /// An environment variable of the workers.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.environment.insert(name.into(), value.into());
        self
    }

    /// The workers' working directory on the nodes, made if missing.
    pub fn directory(mut self, directory: impl Into<String>) -> Self {
        self.settings.directory = Some(directory.into());
        self
    }

    /// Everything about workers and lease in one place, for programs that read it from a file.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// What the contract says about workers and lease.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of nodes.
    pub fn nodes(&self) -> u32 {
        self.node_count
    }

    /// The number of workers on each node.
    pub fn workers_per_node(&self) -> u32 {
        self.node_process_count
    }

    /// The number of workers in the cluster.
    pub fn workers(&self) -> u32 {
        self.node_count.saturating_mul(self.node_process_count)
    }

    /// The topology.
    pub fn topology(&self) -> Topology {
        self.cluster_type
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.node_provider
    }

    /// Whether all nodes use the same content store, so that what one has, all have.
    pub fn has_one_store(&self) -> bool {
        self.node_provider == "local" && self.settings.shared_store.unwrap_or(true)
    }

    /// The time-out after which agents without a driver end.
    pub fn effective_driver_timeout(&self) -> Duration {
        self.settings
            .driver_timeout
            .unwrap_or(limits::DRIVER_TIMEOUT)
    }

    /// Checks the contract and decides what is deployed for it.
    ///
    /// # Errors
    /// Names the parameter that cannot be satisfied and what to write instead.
    pub fn resolve(&self) -> Result<Plan, ContractError> {
        let count = |parameter, value, limit| {
            if value == 0 || value > limit {
                Err(ContractError::Count {
                    parameter,
                    value,
                    limit,
                })
            } else {
                Ok(())
            }
        };
        count("node_count", self.node_count, limits::NODES)?;
        count(
            "node_process_count",
            self.node_process_count,
            limits::WORKERS_PER_NODE,
        )?;
        if self.node_provider != "local" {
            return Err(ContractError::Provider(self.node_provider.clone()));
        }
        Ok(Plan {
            contract: self.clone(),
        })
    }
}

/// A resolved contract: what will be deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    contract: Contract,
}

impl Plan {
    /// The contract that the plan satisfies.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_counts_are_named() {
        let error = Contract::new().node_count(0).resolve().unwrap_err();
        assert!(error.to_string().contains("node_count = 0"), "{error}");
        assert!(Contract::new().node_process_count(0).resolve().is_err());
        assert!(Contract::new().node_provider("moon").resolve().is_err());
    }
}
