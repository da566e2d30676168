//! What every group of figures has: a driver, clusters that are taken down whatever happens,
//! and rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use cc_driver::{Cluster, Contract, Driver, Resolve as _};
use tokio::runtime::Runtime;

use crate::options::Options;
use crate::report::Row;

/// How long nodes outlive a benchmark that was killed.
const LEASE: Duration = Duration::from_secs(60);

/// A contract as all clusters here have it: nothing but the nodes is said.
pub(crate) fn contract(nodes: u32, workers: u32) -> Contract {
    Contract::new()
        .node_count(nodes)
        .node_process_count(workers)
        .driver_timeout(LEASE)
}

/// A group of figures under way.
pub(crate) struct Bench {
    pub(crate) options: Options,
    /// As a user's program has it.
    pub(crate) runtime: Runtime,
    root: PathBuf,
    states: u32,
    rows: Vec<Row>,
}

impl Bench {
    pub(crate) fn new(options: Options, root: PathBuf) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            options,
            runtime,
            root,
            states: 0,
            rows: Vec::new(),
        })
    }

    pub(crate) fn rounds(&self) -> usize {
        self.options.rounds()
    }

    pub(crate) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// A directory for a driver's state that nothing was ever shipped to. What is deployed
    /// from it is found and ended even if this process is not there any more.
    pub(crate) fn fresh_state(&mut self) -> PathBuf {
        self.states += 1;
        self.root.join(self.states.to_string())
    }

    /// A driver as a user's program has it.
    pub(crate) fn driver(&self, state: &Path) -> anyhow::Result<Driver> {
        Ok(Driver::builder().state_directory(state).build()?)
    }

    /// Deploys a cluster for `work`, and terminates it also after an error.
    pub(crate) fn with_cluster<T>(
        &mut self,
        contract: &Contract,
        work: impl FnOnce(&mut Self, &Driver, &Cluster) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let state = self.fresh_state();
        let driver = self.driver(&state)?;
        let plan = contract.resolve()?;
        let cluster = self
            .runtime
            .block_on(driver.deploy(&plan))
            .context("deploy")?;
        let result = work(self, &driver, &cluster);
        let ended = self.runtime.block_on(async {
            let ended = cluster.terminate().await;
            driver.close().await;
            ended
        });
        let result = result?;
        ended.context("terminate")?;
        Ok(result)
    }
}
