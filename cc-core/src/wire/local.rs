//! Between an agent, its guards and its workers, on one machine.
//!
//! A worker's control socket is a `SOCK_SEQPACKET` pair: one encoded message a packet, with at
//! most one descriptor (`SCM_RIGHTS`). A guard's is a stream pair: the guard reads the numbers of
//! signals for the program's process group, a byte each, ends everything under it when its end
//! reads as closed, and writes one JSON [`GuardReport`] when nothing is left.

use serde::{Deserialize, Serialize};

use crate::death::Cause;
use crate::ids::{NodeIndex, WorkerId, WorkerKey};
use crate::wire::stream::Direction;

/// Environment variable that gives a process its role.
pub const ROLE: &str = "CC_ROLE";
/// The role of an agent.
pub const ROLE_AGENT: &str = "agent";
/// The role of a guard.
pub const ROLE_GUARD: &str = "guard";
/// The role of a worker.
pub const ROLE_WORKER: &str = "worker";
/// The descriptor of a guard's socket.
pub const GUARD_FD: i32 = 3;
/// The descriptor of a worker's control socket, in the guard and in the worker. A command's guard
/// has none.
pub const WORKER_FD: i32 = 4;

/// From an agent to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message.
    Start {
        /// The node it is on.
        node: NodeIndex,
        /// Its name on the wire.
        key: WorkerKey,
        /// Blocking tasks that it runs at once.
        slots: u32,
    },
    /// A driver's lane; its socket comes along.
    Lane {
        /// The session, unique in the agent.
        session: u64,
        /// The driver's number for this worker.
        id: WorkerId,
        /// The content store's directory, where stored values are.
        store: String,
    },
    /// A value's stream; its socket comes along.
    Bulk {
        /// The session, unique in the agent.
        session: u64,
        /// The task in the session's lane.
        task: u32,
        /// Which way the value goes.
        direction: Direction,
    },
    /// End.
    Stop,
}

/// From a worker to its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// It takes lanes from now on.
    Ready {
        /// Its process id.
        pid: u32,
    },
    /// It cannot work, and why.
    Unable(String),
}

/// What a guard says at the end, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardReport {
    /// How the process under guard ended.
    pub cause: Cause,
    /// Largest resident size in bytes, of it and what it waited for.
    pub peak_memory: Option<u64>,
    /// Descendants that outlived the process and were killed.
    pub killed: u32,
    /// Descendants that could not be killed in time.
    pub left: u32,
}
