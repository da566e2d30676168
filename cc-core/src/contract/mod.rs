//! Contracts: the assumptions about a cluster, with nothing deployed yet.
//!
//! A contract says the same in Rust, in TOML and as `key=value` on a command line. It knows
//! nothing of what machines there are: that is [`resolve`](crate::resolve)'s business.

mod assumptions;
mod check;
mod error;
mod parameter;
mod text;
mod topology;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::quantity::{
    Least, Number, Printed, Quantity, Unit, Units, at_least, at_most, between, just,
};
pub use crate::settings::Settings;
pub use assumptions::{Assumptions, RoleAssumptions};
pub use error::{ContractError, Problem};
pub use parameter::{Domain, Market, Parameter, Requirement, TypeAssumption};
pub use text::{CLUSTER_PARAMETERS, Stored};
pub use topology::{Role, Topology};

/// The assumptions about a cluster.
///
/// ```
/// use cc_core::contract::{Contract, Units as _, at_least};
/// let contract = Contract::new()
///     .node_count(8)
///     .accelerator_count(8)
///     .accelerator_architecture("Ada")
///     .node_memory_size(at_least(512.gib()));
/// let same = Contract::parse([
///     "node_count=8", "accelerator_count=8", "accelerator_architecture=Ada",
///     "node_memory_size>=512G",
/// ])?;
/// assert_eq!(contract, same);
/// # Ok::<(), cc_core::contract::ContractError>(())
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
#[must_use = "a contract does nothing until it is resolved and deployed"]
pub struct Contract {
    cluster_type: Option<Topology>,
    node_count: Option<u32>,
    node_process_count: Option<u32>,
    common: Assumptions,
    manager: Assumptions,
    worker: Assumptions,
    settings: Settings,
    /// Where keys were written, for errors; not part of what a contract says.
    places: BTreeMap<String, String>,
    notes: Vec<String>,
}

impl PartialEq for Contract {
    fn eq(&self, other: &Self) -> bool {
        self.cluster_type == other.cluster_type
            && self.node_count == other.node_count
            && self.node_process_count == other.node_process_count
            && self.common == other.common
            && self.manager == other.manager
            && self.worker == other.worker
            && self.settings == other.settings
    }
}

impl Contract {
    /// A contract without any assumption: one node with one worker.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of nodes; 1 if not given. In a manager-workers cluster these are the compute
    /// nodes, and the manager comes on top.
    pub fn node_count(mut self, nodes: u32) -> Self {
        self.node_count = Some(nodes);
        self
    }

    /// The number of workers on each node; 1 if not given.
    pub fn node_process_count(mut self, workers: u32) -> Self {
        self.node_process_count = Some(workers);
        self
    }

    /// The topology; [`Topology::PeerWorkers`] if not given.
    pub fn cluster_type(mut self, topology: Topology) -> Self {
        self.cluster_type = Some(topology);
        self
    }

    /// What is assumed of the manager only, one by one instead of what is assumed of all nodes.
    ///
    /// ```
    /// use cc_core::contract::{Contract, Topology};
    /// let contract = Contract::new()
    ///     .cluster_type(Topology::ManagerWorkers)
    ///     .node_count(8)
    ///     .manager(|manager| manager.node_machinetype("t3.xlarge"))
    ///     .worker(|worker| worker.accelerator_count(8).accelerator_architecture("Ada"));
    /// assert_eq!(contract.nodes(), 9);
    /// ```
    pub fn manager(mut self, say: impl FnOnce(RoleAssumptions) -> RoleAssumptions) -> Self {
        self.manager = say(RoleAssumptions(self.manager)).0;
        self
    }

    /// What is assumed of the compute nodes only, likewise.
    pub fn worker(mut self, say: impl FnOnce(RoleAssumptions) -> RoleAssumptions) -> Self {
        self.worker = say(RoleAssumptions(self.worker)).0;
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

    /// What the contract says about how workers run and nodes are reached.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// What the contract says about how workers run and nodes are reached. A plan's settings are
    /// the effective ones.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of machines, the manager included.
    pub fn nodes(&self) -> u32 {
        let managers = u32::from(self.topology() == Topology::ManagerWorkers);
        self.count().saturating_add(managers)
    }

    fn count(&self) -> u32 {
        self.node_count.unwrap_or(1)
    }

    /// The number of workers on each node.
    pub fn workers_per_node(&self) -> u32 {
        self.node_process_count.unwrap_or(1)
    }

    /// The topology.
    pub fn topology(&self) -> Topology {
        self.cluster_type.unwrap_or_default()
    }

    /// The roles of the cluster's nodes, with how many nodes have each.
    pub fn roles(&self) -> Vec<(Role, u32)> {
        match self.topology() {
            Topology::ManagerWorkers => vec![(Role::Manager, 1), (Role::Worker, self.count())],
            _ => vec![(Role::Peer, self.count())],
        }
    }

    /// What is assumed of the nodes of a role.
    pub fn assumptions(&self, role: Role) -> Assumptions {
        match role {
            Role::Peer => self.common.clone(),
            Role::Manager => self.manager.over(&self.common),
            Role::Worker => self.worker.over(&self.common),
        }
    }

    /// The key under which a parameter's requirement for a role was written.
    pub fn key_of(&self, role: Role, parameter: Parameter) -> String {
        let own = match role {
            Role::Peer => None,
            Role::Manager => self.manager.get(parameter),
            Role::Worker => self.worker.get(parameter),
        };
        match own {
            Some(_) => format!("{role}.{parameter}"),
            None => parameter.to_string(),
        }
    }

    /// Where a key was written, if that was in a file.
    pub fn place_of(&self, key: &str) -> Option<&String> {
        self.places.get(key)
    }

    /// What was understood though it is written otherwise.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether anything is assumed of one role only.
    pub fn has_role_assumptions(&self) -> bool {
        !(self.manager.is_empty() && self.worker.is_empty())
    }

    /// Whether anything is assumed of the machines themselves.
    pub fn assumes_instances(&self) -> bool {
        !(self.common.is_empty() && self.manager.is_empty() && self.worker.is_empty())
    }
}
