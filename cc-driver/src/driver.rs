//! The driver: what a program starts with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cc_core::ids::{Handle, WorkerId};
use cc_core::provider::Provider;
use cc_core::resolve::Plan;
use cc_provider_local::LocalProvider;

use crate::binary::{self, Binary};
use crate::cluster::Cluster;
use crate::config::{Config, ConfigError};
use crate::error::DriverError;
use crate::lifecycle;
use crate::logs::{Handler, LogSink, WorkerLine};
use crate::network::Network;
use crate::planner::Planner;
use crate::records::{Listed, StateDirectory};
use crate::tools::Tools;

/// Whether this process went through [`init`], and so can be started as agent or worker.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Takes the role of an agent, guard or worker if this process was started as one, and then
/// never returns. Call it first in `main`; `#[cc_driver::main]` does.
///
/// ```
/// // The first line of `fn main`:
/// cc_driver::init();
/// // From here on the process is the user's program.
/// ```
pub fn init() {
    cc_agent::role::take();
    INITIALISED.store(true, Ordering::Relaxed);
}

/// A driver: deploys clusters, finds them again, and talks to their agents from a thread of
/// its own. Several in one process are independent.
///
/// Dropping a driver does not end its clusters: they are found again with
/// [`reconnect`](Self::reconnect) until their lease runs out.
#[derive(Debug, Clone)]
pub struct Driver {
    pub(crate) core: Arc<DriverCore>,
}

#[derive(Debug)]
pub(crate) struct DriverCore {
    pub(crate) network: Network,
    pub(crate) state: StateDirectory,
    pub(crate) log: LogSink,
    /// A mistake in it keeps nobody from looking at clusters and giving them back.
    config: Result<Config, ConfigError>,
    pub(crate) worker: Option<Binary>,
    agent: Option<PathBuf>,
    next_id: AtomicU32,
}

/// Settings of a [`Driver`] that have good defaults.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct DriverBuilder {
    state: Option<PathBuf>,
    worker: Option<PathBuf>,
    agent: Option<PathBuf>,
    log: Option<Handler>,
    config: Option<Config>,
}

impl DriverBuilder {
    /// Where records of clusters are kept, instead of `$CC_STATE_DIR` or the user's state
    /// directory.
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state = Some(directory.into());
        self
    }

    /// The executable that workers run, instead of this one. It must call [`init`] and contain
    /// the remote functions.
    pub fn worker_binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.worker = Some(path.into());
        self
    }

    /// The agent's executable, instead of the one that the search order finds.
    pub fn agent(mut self, path: impl Into<PathBuf>) -> Self {
        self.agent = Some(path.into());
        self
    }

    /// Gets every line that workers write, instead of printing it.
    pub fn on_log(mut self, handler: impl Fn(WorkerLine) + Send + 'static) -> Self {
        self.log = Some(Handler(Box::new(handler)));
        self
    }

    /// The configuration, instead of the file that [`Config::discover`] finds.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Makes the driver.
    ///
    /// # Errors
    /// Fails in a process that was started as an agent or worker and has not called [`init`],
    /// and when the state directory or the network thread cannot be had.
    pub fn build(self) -> Result<Driver, DriverError> {
        if let Some(role) = cc_agent::role::present() {
            return Err(DriverError::Role(role));
        }
        let config = self.config.map_or_else(Config::discover, Ok);
        let worker = match &self.worker {
            Some(path) => Some(Binary::at(path)?),
            None if can_be_worker() => Some(Binary::own()?),
            None => None,
        };
        let state = match self.state {
            Some(path) => StateDirectory::at(path)?,
            None => StateDirectory::discover()?,
        };
        Ok(Driver {
            core: Arc::new(DriverCore {
                network: Network::start()?,
                state,
                log: LogSink::start(self.log)
                    .map_err(|e| DriverError::local("start the log thread", e))?,
                config,
                worker,
                agent: self.agent,
                next_id: AtomicU32::new(2),
            }),
        })
    }
}

impl Driver {
    /// A driver with the default settings.
    ///
    /// # Errors
    /// As [`DriverBuilder::build`].
    pub fn new() -> Result<Self, DriverError> {
        Self::builder().build()
    }

    /// A driver with other settings.
    pub fn builder() -> DriverBuilder {
        DriverBuilder::default()
    }

    /// Makes the cluster of a plan: nodes, agents, workers. Either all of it is there
    /// afterwards, or nothing; what could not be removed is named in the error and still listed
    /// by [`clusters`](Self::clusters).
    ///
    /// ```no_run
    /// # async fn f(driver: cc_driver::Driver) -> Result<(), cc_driver::DriverError> {
    /// use cc_driver::{Contract, Resolve as _};
    /// let plan = Contract::new().node_count(4).node_process_count(2).resolve()?;
    /// let cluster = driver.deploy(&plan).await?;
    /// assert_eq!(cluster.workers().len(), 8);
    /// cluster.terminate().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Names the node and the phase that failed.
    pub async fn deploy(&self, plan: &Plan) -> Result<Cluster, DriverError> {
        let (core, plan) = (Arc::clone(&self.core), plan.clone());
        let deploying = lifecycle::deploy(core, plan, true);
        self.core
            .network
            .run("deploy", deploying)
            .await
            .map(Cluster::new)
    }

    /// Makes the nodes and agents of a plan and starts no workers: a program that reconnects
    /// starts them. Gives the handle.
    ///
    /// # Errors
    /// As [`deploy`](Self::deploy).
    pub async fn deploy_agents(&self, plan: &Plan) -> Result<Handle, DriverError> {
        let (core, plan) = (Arc::clone(&self.core), plan.clone());
        let deploying = lifecycle::deploy(core, plan, false);
        let cluster = self.core.network.run("deploy", deploying).await?;
        let handle = cluster.handle;
        Cluster::new(cluster).close().await;
        Ok(handle)
    }

    /// Takes up a cluster that runs: its workers and their state are as they were. Where a
    /// node has no workers, they are started with this program.
    ///
    /// # Errors
    /// Fails when another driver owns the cluster (with who that is), and when no node answers.
    pub async fn reconnect(&self, handle: Handle) -> Result<Cluster, DriverError> {
        self.reconnect_as(handle, false).await
    }

    /// Like [`reconnect`](Self::reconnect), and ends the session of another driver if one owns
    /// the cluster.
    ///
    /// # Errors
    /// As [`reconnect`](Self::reconnect), but for the owner.
    pub async fn take_over(&self, handle: Handle) -> Result<Cluster, DriverError> {
        self.reconnect_as(handle, true).await
    }

    async fn reconnect_as(&self, handle: Handle, take_over: bool) -> Result<Cluster, DriverError> {
        let core = Arc::clone(&self.core);
        let connecting = lifecycle::reconnect(core, handle, take_over);
        self.core
            .network
            .run("reconnect", connecting)
            .await
            .map(Cluster::new)
    }

    /// Starts an interrupted cluster again: the same nodes with their files, fresh workers with
    /// new ids.
    ///
    /// # Errors
    /// Names the node and phase that failed; what had started is stopped again.
    pub async fn resume(&self, handle: Handle) -> Result<Cluster, DriverError> {
        let core = Arc::clone(&self.core);
        let resuming = lifecycle::resume(core, handle, true);
        self.core
            .network
            .run("resume", resuming)
            .await
            .map(Cluster::new)
    }

    /// Like [`resume`](Self::resume), without workers: a program that reconnects starts them.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub async fn resume_agents(&self, handle: Handle) -> Result<(), DriverError> {
        let core = Arc::clone(&self.core);
        let resuming = lifecycle::resume(core, handle, false);
        let cluster = self.core.network.run("resume", resuming).await?;
        Cluster::new(cluster).close().await;
        Ok(())
    }

    /// Stops a cluster: workers and agents end, the nodes' files stay.
    ///
    /// # Errors
    /// Visits every node and gives all errors. Repeating it is safe.
    pub async fn interrupt(&self, handle: Handle) -> Result<(), DriverError> {
        let core = Arc::clone(&self.core);
        self.core
            .network
            .run("interrupt", lifecycle::interrupt(core, handle))
            .await
    }

    /// Takes a cluster down, whatever state it is in.
    ///
    /// # Errors
    /// Visits every node and gives all errors; the record stays until nothing is left.
    /// Repeating it is safe.
    pub async fn terminate(&self, handle: Handle) -> Result<(), DriverError> {
        let core = Arc::clone(&self.core);
        self.core
            .network
            .run("terminate", lifecycle::terminate(core, handle))
            .await
    }

    /// Every cluster that is recorded on this machine. A record that cannot be read is an
    /// entry too.
    ///
    /// # Errors
    /// Fails when the state directory cannot be read.
    pub fn clusters(&self) -> Result<Vec<Listed>, DriverError> {
        Ok(self.core.state.list()?)
    }

    /// Finds a cluster by its handle or the beginning of it.
    ///
    /// # Errors
    /// Fails when none or several match, listing them.
    pub fn find(&self, prefix: &str) -> Result<Handle, DriverError> {
        Ok(self.core.state.resolve_handle(prefix)?)
    }

    /// Looks at a cluster and works on its nodes beside whoever owns it.
    ///
    /// # Errors
    /// Fails when there is no readable record. Nodes that do not answer are told apart in the
    /// result.
    pub async fn tools(&self, handle: Handle) -> Result<Tools, DriverError> {
        let core = Arc::clone(&self.core);
        self.core
            .network
            .run("connect", Tools::connect(core, handle))
            .await
    }

    /// The configuration that holds for its clusters.
    ///
    /// # Errors
    /// Fails when there is a file that cannot be used, with the line that is wrong.
    pub fn config(&self) -> Result<&Config, DriverError> {
        self.core.config.as_ref().map_err(|e| e.clone().into())
    }

    /// Where records are kept.
    pub fn state_directory(&self) -> &Path {
        self.core.state.path()
    }

    /// What resolves contracts for this driver: with its configuration, and for its worker binary.
    ///
    /// ```no_run
    /// # async fn f(driver: cc_driver::Driver) -> Result<(), cc_driver::DriverError> {
    /// use cc_driver::{Contract, Units as _, at_least};
    /// let contract = Contract::new().node_memory_size(at_least(64.gib()));
    /// let plan = driver.planner()?.resolve(&contract)?;
    /// println!("{:?} dollars an hour", plan.hourly_cost());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn planner(&self) -> Result<Planner, DriverError> {
        let isa = self.core.worker.as_ref().and_then(Binary::isa);
        Ok(Planner::new(self.config()?.clone(), isa))
    }

    /// Says good-bye to all agents. Their clusters go on; a next driver need not wait for this
    /// one's time-out. `#[cc_driver::main]` does it at the end.
    pub async fn close(&self) {
        self.core.network.close().await;
        self.core.log.flush().await;
    }
}

/// Whether this process went through [`init`], and its executable can so be a worker.
pub(crate) fn can_be_worker() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

impl DriverCore {
    /// A number for a worker that was never used in this driver.
    pub(crate) fn new_id(&self) -> WorkerId {
        WorkerId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Uses numbers from above this one from now on; gives whether it was unused.
    pub(crate) fn claim_id(&self, id: WorkerId) -> bool {
        id.0 >= 2
            && id.0 < u32::MAX / 2
            && self
                .next_id
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                    (id.0 >= next).then_some(id.0 + 1)
                })
                .is_ok()
    }

    pub(crate) fn provider(&self, name: &str) -> Result<Arc<dyn Provider>, DriverError> {
        match name {
            "local" => Ok(Arc::new(LocalProvider::new(
                self.state.path().to_path_buf(),
            ))),
            other => Err(DriverError::local(
                "find the provider",
                format!("`{other}` is not compiled into this program"),
            )),
        }
    }

    /// The agent's executable for the local provider.
    pub(crate) fn agent(&self, configured: Option<&Path>) -> Result<PathBuf, DriverError> {
        let configured = configured.or(self.agent.as_deref());
        let own_may = can_be_worker();
        binary::find_agent(
            configured,
            StateDirectory::agents(std::env::consts::ARCH),
            own_may,
        )
    }
}

/// Runs a program's main future with a driver, for `#[cc_driver::main]`.
#[doc(hidden)]
pub fn run_main<F, Fut, R>(main: F) -> R
where
    F: FnOnce(Driver) -> Fut,
    Fut: Future<Output = R>,
{
    init();
    start_logging();
    let started = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| DriverError::local("start the runtime", e))
        .and_then(|runtime| Ok((runtime, Driver::new()?)));
    let (runtime, driver) = match started {
        Ok(started) => started,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "this is the program's entry point")]
            {
                eprintln!("error: {error}");
            }
            std::process::exit(1);
        }
    };
    let result = runtime.block_on(async {
        let result = main(driver.clone()).await;
        driver.close().await;
        result
    });
    // Blocking tasks that the program left behind do not hold its end up.
    runtime.shutdown_background();
    result
}

/// Warnings go to standard error, more on request through `RUST_LOG`; a program that has set up
/// its own logging keeps it.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,quinn=error,quinn_proto=error".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}
