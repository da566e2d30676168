//! A running cluster: calls, maps, files, and the end of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cc_core::death::{Cause, Death};
use cc_core::ids::{Handle, NodeIndex, WorkerId};
use cc_core::provider::{NodeState, Provider};
use cc_core::record::{ClusterRecord, NodeRecord};
use cc_core::resolve::Plan;
use futures::future::join_all;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::call::Call;
use crate::driver::{Driver, DriverCore};
use crate::error::DriverError;
use crate::everywhere::Everywhere;
use crate::map::Map;
use crate::pool::{Pool, Target, WorkerInfo};
use crate::session::{Event, Session};
use crate::ship::Receivers;
use crate::task::Task;
use crate::{files, lifecycle, workers};

/// What a cluster's handle and its background work share.
pub(crate) struct ClusterCore {
    pub(crate) driver: Arc<DriverCore>,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) handle: Handle,
    pub(crate) plan: Plan,
    pub(crate) pool: Arc<Pool>,
    nodes: Vec<NodeRecord>,
    sessions: Mutex<BTreeMap<NodeIndex, Arc<Session>>>,
    missing: Mutex<Vec<DriverError>>,
    /// Ended on purpose: nothing that happens from now on is news.
    ended: AtomicBool,
}

impl std::fmt::Debug for ClusterCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterCore")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl Drop for ClusterCore {
    fn drop(&mut self) {
        // Calls and workers may be held longer than the cluster and its driver.
        self.pool.close("the cluster was dropped");
        // Only lets go, as dropping a connection does: nobody can use the sessions any more, and
        // they would go on renewing the lease and keep every other driver out.
        for session in lock(&self.sessions).values() {
            session.close("the driver has let go of the cluster");
        }
    }
}

impl ClusterCore {
    /// Takes charge of open sessions; runs on the network thread.
    pub(crate) fn new(
        driver: Arc<DriverCore>,
        provider: Arc<dyn Provider>,
        record: ClusterRecord,
        sessions: Vec<Arc<Session>>,
        missing: Vec<DriverError>,
        events: mpsc::Receiver<(NodeIndex, Event)>,
    ) -> Arc<Self> {
        let (hung, given_up) = mpsc::channel(64);
        let pool = Pool::new(driver.network.handle().clone(), hung);
        let cluster = Arc::new(Self {
            driver,
            provider,
            handle: record.handle,
            plan: record.plan,
            pool: Arc::clone(&pool),
            nodes: record.nodes,
            sessions: Mutex::new(sessions.into_iter().map(|s| (s.node, s)).collect()),
            missing: Mutex::new(missing),
            ended: AtomicBool::new(false),
        });
        tokio::spawn(watch(Arc::downgrade(&cluster), events));
        tokio::spawn(replace_hung(Arc::downgrade(&cluster), given_up));
        tokio::spawn(keep_time(Arc::downgrade(&pool)));
        cluster
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).values().cloned().collect()
    }

    pub(crate) fn session(&self, node: NodeIndex) -> Option<Arc<Session>> {
        lock(&self.sessions).get(&node).cloned()
    }

    /// All nodes, for content.
    pub(crate) fn receivers(&self) -> Receivers {
        self.receivers_of(&self.sessions())
    }

    /// Some of the nodes, for content.
    pub(crate) fn receivers_of(&self, sessions: &[Arc<Session>]) -> Receivers {
        Receivers {
            sessions: sessions.to_vec(),
            one_store: self.plan.has_one_store(),
        }
    }

    /// The nodes that are not there, each as an error.
    pub(crate) fn absent(&self) -> Vec<DriverError> {
        let sessions = lock(&self.sessions);
        let absent = self
            .nodes
            .iter()
            .filter(|n| !sessions.contains_key(&n.node));
        let error = |n: &NodeRecord| {
            let reason = "the node is lost; `resume` starts it again";
            DriverError::node(n.node, "reach the agent", reason)
        };
        absent.map(error).collect()
    }

    pub(crate) fn note_missing(&self, errors: Vec<DriverError>) {
        lock(&self.missing).extend(errors);
    }

    /// Fails if a node was not reached.
    pub(crate) fn all_nodes(&self) -> Result<(), DriverError> {
        DriverError::all(std::mem::take(&mut *lock(&self.missing)))
    }

    /// Ends all sessions from this side; agents go on.
    fn leave(&self, reason: &str) {
        self.ended.store(true, Ordering::Relaxed);
        self.pool.close(reason);
        for session in lock(&self.sessions).values() {
            session.close(reason);
        }
    }

    /// Orders every agent to end what it runs and itself. Whether it did is its provider's
    /// business, which comes next.
    async fn end_agents(self: Arc<Self>, reason: &str) {
        self.ended.store(true, Ordering::Relaxed);
        self.pool.close(reason);
        let sessions = self.sessions();
        let orders = sessions.iter().map(|session| session.shut_down(reason));
        for error in join_all(orders).await.into_iter().filter_map(Result::err) {
            tracing::info!(cluster = %self.handle, %error, "an agent did not end by itself");
        }
    }

    fn node_lost(&self, node: NodeIndex, reason: &str) {
        lock(&self.sessions).remove(&node);
        if !self.ended.load(Ordering::Relaxed) {
            tracing::warn!(cluster = %self.handle, %node, reason, "lost a node");
        }
        let death = Death::of(Cause::NodeLost(reason.to_owned()));
        for worker in self.pool.workers().into_iter().filter(|w| w.node == node) {
            self.pool.lost(worker.id, death.clone());
        }
    }

    /// Ends the session of a silent node that its provider knows to be gone, long before
    /// silence alone would.
    async fn check_silent(&self, node: NodeIndex, silence: std::time::Duration) {
        tracing::info!(cluster = %self.handle, %node, ?silence, "a node is silent");
        let Some(record) = self.nodes.iter().find(|n| n.node == node) else {
            return;
        };
        let gone = match self.provider.state(record).await {
            Ok(NodeState::Running) => return,
            Ok(NodeState::Stopped) => "its agent is not running any more",
            Ok(NodeState::Gone) => "the node does not exist any more",
            // Not knowing is no reason to give a node up.
            Err(_) => return,
        };
        if let Some(session) = self.session(node) {
            session.close(gone);
        }
        self.node_lost(node, gone);
    }
}

/// Handles what happens on the nodes, for as long as the cluster is used.
async fn watch(
    cluster: std::sync::Weak<ClusterCore>,
    mut events: mpsc::Receiver<(NodeIndex, Event)>,
) {
    while let Some((node, event)) = events.recv().await {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        match event {
            Event::WorkerDown(key, death) => {
                if let Some(id) = cluster.pool.find(node, key) {
                    cluster.pool.down(id, death);
                }
            }
            Event::Log(lines) => {
                let pool = &cluster.pool;
                cluster
                    .driver
                    .log
                    .write(node, lines, |line| pool.find(node, line.worker));
            }
            Event::Silent(silence) => cluster.check_silent(node, silence).await,
            Event::Over(reason) => cluster.node_lost(node, &reason),
        }
    }
}

async fn replace_hung(
    cluster: std::sync::Weak<ClusterCore>,
    mut given_up: mpsc::Receiver<WorkerId>,
) {
    while let Some(id) = given_up.recv().await {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        if let Err(error) = workers::replace(&cluster, id).await {
            tracing::warn!(cluster = %cluster.handle, worker = %id, %error, "replace a worker");
        }
    }
}

/// Calls the pool's tick while it has something to watch.
async fn keep_time(pool: std::sync::Weak<Pool>) {
    loop {
        let pause = {
            let Some(pool) = pool.upgrade() else { return };
            pool.tick(Instant::now())
        };
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                let Some(pool) = pool.upgrade() else { return };
                // With an end, so that a pool that nobody uses can go away.
                let _ = tokio::time::timeout(cc_core::limits::SILENT, pool.timer.notified()).await;
            }
        }
    }
}

/// A running cluster that this program owns.
///
/// Dropping it neither stops nor terminates anything: its agents keep their work until their
/// lease runs out, and [`Driver::reconnect`] finds it again.
#[derive(Debug)]
#[must_use = "a cluster that is dropped goes on until its lease ends: terminate it"]
pub struct Cluster {
    pub(crate) core: Arc<ClusterCore>,
    settled: bool,
}

/// A worker of a cluster.
#[derive(Debug, Clone)]
pub struct Worker {
    pool: Arc<Pool>,
    info: WorkerInfo,
}

impl Worker {
    /// Its number in this driver.
    pub fn id(&self) -> WorkerId {
        self.info.id
    }

    /// The node it runs on.
    pub fn node(&self) -> NodeIndex {
        self.info.node
    }

    /// How many blocking tasks it runs at once.
    pub fn slots(&self) -> u32 {
        self.info.slots
    }

    /// Calls a function on this worker.
    pub fn call<O: DeserializeOwned>(&self, task: Task<O>) -> Call<O> {
        Call::new(&self.pool, task, Target::Worker(self.info.id))
    }
}

impl Cluster {
    pub(crate) fn new(core: Arc<ClusterCore>) -> Self {
        Self {
            core,
            settled: false,
        }
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.core.handle
    }

    /// What it was deployed from.
    pub fn plan(&self) -> &Plan {
        &self.core.plan
    }

    /// The living workers, by id.
    pub fn workers(&self) -> Vec<Worker> {
        let pool = &self.core.pool;
        pool.workers()
            .into_iter()
            .map(|info| Worker {
                pool: Arc::clone(pool),
                info,
            })
            .collect()
    }

    /// A living worker by its id.
    pub fn worker(&self, id: WorkerId) -> Option<Worker> {
        self.workers().into_iter().find(|w| w.id() == id)
    }

    /// The nodes that are there.
    pub fn nodes(&self) -> Vec<NodeIndex> {
        lock(&self.core.sessions).keys().copied().collect()
    }

    /// What was not there when the cluster was taken up again.
    pub fn missing(&self) -> Vec<String> {
        lock(&self.core.missing)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Calls a function on a free worker.
    ///
    /// ```no_run
    /// # use cc_driver::prelude::*;
    /// #[remote]
    /// fn double(n: u64) -> u64 { 2 * n }
    ///
    /// # async fn f(cluster: &Cluster) -> Result<(), CallError> {
    /// assert_eq!(cluster.call(double::task(21)).await?, 42);
    /// # Ok(()) }
    /// ```
    pub fn call<O: DeserializeOwned>(&self, task: Task<O>) -> Call<O> {
        Call::new(&self.core.pool, task, Target::Any)
    }

    /// Calls a function for every item, on all workers.
    ///
    /// ```no_run
    /// # use cc_driver::prelude::*;
    /// #[remote]
    /// fn double(n: u64) -> u64 { 2 * n }
    ///
    /// # async fn f(cluster: &Cluster) -> Result<(), CallError> {
    /// let doubled = cluster.map(0..1_000_000, double::task).collect().await?;
    /// assert_eq!(doubled[7], 14);
    /// # Ok(()) }
    /// ```
    pub fn map<I, F, O>(&self, items: I, task: F) -> Map<I::IntoIter, F, O>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> Task<O>,
        O: DeserializeOwned,
    {
        Map::new(&self.core.pool, items.into_iter(), task)
    }

    /// Calls a function once on every worker. Large arguments cross the driver's network once
    /// and are passed on by the agents.
    pub fn everywhere<O: DeserializeOwned>(&self, task: Task<O>) -> Everywhere<O> {
        Everywhere::new(&self.core, task)
    }

    /// Copies a local file or folder to a path on every node. A relative path is inside the
    /// node's working directory. It crosses the driver's network once.
    ///
    /// # Errors
    /// Names the node, the phase and the reason; every node is visited.
    pub async fn upload(
        &self,
        local: impl AsRef<Path>,
        remote: impl Into<String>,
    ) -> Result<(), DriverError> {
        let (core, local) = (Arc::clone(&self.core), local.as_ref().to_path_buf());
        let uploading = files::upload(core.receivers(), local, remote.into(), None);
        core.driver.network.run("upload", uploading).await
    }

    /// Like [`upload`](Self::upload), with a progress bar on standard error.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub async fn upload_with_progress(
        &self,
        local: impl AsRef<Path>,
        remote: impl Into<String>,
        label: impl Into<String>,
    ) -> Result<(), DriverError> {
        let (core, local) = (Arc::clone(&self.core), local.as_ref().to_path_buf());
        let uploading = files::upload(core.receivers(), local, remote.into(), Some(label.into()));
        core.driver.network.run("upload", uploading).await
    }

    /// Copies a file or folder from a node to a local path.
    ///
    /// # Errors
    /// Names the node, the phase and the reason.
    pub async fn download(
        &self,
        node: NodeIndex,
        remote: impl Into<String>,
        local: impl AsRef<Path>,
    ) -> Result<u64, DriverError> {
        let local = local.as_ref().to_path_buf();
        let session = self
            .core
            .session(node)
            .ok_or_else(|| DriverError::node(node, "download", "the node is not there"))?;
        let downloading = files::download(session, remote.into(), local, None);
        self.core.driver.network.run("download", downloading).await
    }

    /// Ends every worker and starts fresh ones, with new ids. Calls under way are lost.
    ///
    /// # Errors
    /// Visits every node and gives all errors.
    pub async fn restart(&self) -> Result<(), DriverError> {
        let core = Arc::clone(&self.core);
        self.core
            .driver
            .network
            .run("restart", workers::restart(core))
            .await
    }

    /// Stops the cluster: workers and agents end, the nodes' files stay.
    /// [`Interrupted::resume`] or [`Driver::resume`] start it again.
    ///
    /// # Errors
    /// Visits every node and gives all errors.
    pub async fn interrupt(mut self) -> Result<Interrupted, DriverError> {
        self.settled = true;
        let (core, handle) = (Arc::clone(&self.core), self.core.handle);
        let driver = Arc::clone(&self.core.driver);
        let interrupting = async move {
            let driver = Arc::clone(&core.driver);
            core.end_agents("the cluster was interrupted").await;
            lifecycle::interrupt(driver, handle).await
        };
        driver.network.run("interrupt", interrupting).await?;
        Ok(Interrupted {
            driver: Driver { core: driver },
            handle,
        })
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// Visits every node and gives all errors; what remains is listed by
    /// [`Driver::clusters`], and [`Driver::terminate`] tries again.
    pub async fn terminate(mut self) -> Result<(), DriverError> {
        self.settled = true;
        let (core, handle) = (Arc::clone(&self.core), self.core.handle);
        let terminating = async move {
            let driver = Arc::clone(&core.driver);
            core.end_agents("the cluster was terminated").await;
            lifecycle::terminate(driver, handle).await
        };
        self.core.driver.network.run("terminate", terminating).await
    }

    /// Leaves the cluster running without this program. Its agents keep their work until their
    /// lease runs out.
    pub async fn close(mut self) {
        self.settled = true;
        self.core.leave("the driver left");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.settled {
            let lease = self.core.plan.effective_driver_timeout();
            tracing::warn!(
                cluster = %self.core.handle,
                "dropped without terminate or close: its agents end {lease:?} after this program; `cctl terminate {}` ends it now",
                self.core.handle
            );
        }
    }
}

/// A cluster that is stopped: its nodes' files are kept.
#[derive(Debug)]
pub struct Interrupted {
    driver: Driver,
    handle: Handle,
}

impl Interrupted {
    /// Its name.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Starts it again, with fresh workers and new ids.
    ///
    /// # Errors
    /// As [`Driver::resume`].
    pub async fn resume(self) -> Result<Cluster, DriverError> {
        self.driver.resume(self.handle).await
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// As [`Driver::terminate`].
    pub async fn terminate(self) -> Result<(), DriverError> {
        self.driver.terminate(self.handle).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
