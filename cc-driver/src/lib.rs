//! What a program imports to get clusters of virtual machines by stating assumptions about
//! them, and to run its own typed functions there.
//!
//! ```no_run
//! use cc_driver::prelude::*;
//!
//! #[remote]
//! fn double(n: u64) -> u64 {
//!     2 * n
//! }
//!
//! #[cc_driver::main]
//! async fn main(driver: Driver) -> anyhow::Result<()> {
//!     let contract = Contract::new().node_count(4).node_process_count(2);
//!     let cluster = driver.deploy(&contract.resolve()?).await?;
//!     println!("{}", cluster.call(double::task(21)).await?);
//!     println!("{:?}", cluster.map(0..10, double::task).collect().await?);
//!     cluster.terminate().await?;
//!     Ok(())
//! }
//! ```
//!
//! The same executable is driver, agent and worker: [`main`] (or [`init`]) takes the role that
//! a process was started with.

mod balance;
mod binary;
mod bulk;
mod call;
mod cluster;
mod completion;
pub mod config;
mod driver;
mod error;
mod everywhere;
mod failure;
mod files;
mod lane;
mod lifecycle;
mod logs;
mod map;
mod network;
mod planner;
mod pool;
mod progress;
pub mod records;
mod session;
mod ship;
mod task;
mod tools;
mod workers;

pub use call::Call;
pub use cc_agent::client::ExecSession;
pub use cc_core::context::Context;
pub use cc_core::contract::{
    Contract, ContractError, Market, Quantity, Role, Settings, Topology, Units, at_least, at_most,
    between, just,
};
pub use cc_core::death::{Cause, Death};
pub use cc_core::ids::{Handle, NodeIndex, WorkerId, WorkerKey};
pub use cc_core::payload::{Array, Bytes};
pub use cc_core::platform::{Kind, Taxonomy};
pub use cc_core::record::{ClusterRecord, ClusterState, NodeRecord};
pub use cc_core::resolve::{Choice, Explanation, Match, Plan, ResolveError, RolePlan};
pub use cc_core::settings;
pub use cc_core::wire::control::{LogSource, NodeStatus, RefusalKind, WorkerStatus};
pub use cc_core::wire::stream::{Exec, ExecFrame};
pub use cc_macros::{main, remote};
pub use cluster::{Cluster, Interrupted, Worker};
pub use driver::{Driver, DriverBuilder, init};
pub use error::{CallError, DriverError, Failures};
pub use everywhere::Everywhere;
pub use failure::Failure;
pub use logs::WorkerLine;
pub use map::{AsCompleted, Map, Ordered};
pub use planner::{Planner, Resolve, catalog_path};
pub use task::Task;
pub use tools::Tools;

/// What most programs use.
pub mod prelude {
    pub use crate::{
        Array, Bytes, CallError, Cluster, Context, Contract, Driver, DriverError, Failure, Market,
        Planner, Resolve, Task, Topology, Units, Worker, at_least, at_most, between, just, remote,
    };
}

/// What generated code uses. Not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use cc_core::context::Context;
    pub use cc_core::{function, inventory, payload};

    pub use crate::driver::run_main;
}
