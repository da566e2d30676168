//! How a cluster's nodes relate.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a cluster's nodes relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Topology {
    /// Every node is reached from the driver, and its workers are equals.
    #[default]
    PeerWorkers,
    /// The same, and the workers are the ranks of one MPI communicator.
    PeerWorkersMpi,
    /// A manager, and compute nodes that only it reaches, whose workers are ranks.
    ManagerWorkers,
}

impl Topology {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::PeerWorkers,
        Self::PeerWorkersMpi,
        Self::ManagerWorkers,
    ];

    /// Its name in contracts.
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerWorkers => "PeerWorkers",
            Self::PeerWorkersMpi => "PeerWorkersMPI",
            Self::ManagerWorkers => "ManagerWorkers",
        }
    }

    /// Whether its workers are MPI ranks.
    pub fn has_ranks(self) -> bool {
        self != Self::PeerWorkers
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node is for in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// One of equals.
    Peer,
    /// The access node of a manager-workers cluster.
    Manager,
    /// A compute node behind a manager.
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "node",
            Self::Manager => "manager",
            Self::Worker => "worker",
        })
    }
}
