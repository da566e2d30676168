//! One task on every worker.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cc_core::ids::WorkerId;
use cc_core::wire::lane;
use futures::future::join_all;
use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::cluster::ClusterCore;
use crate::error::CallError;
use crate::pool::Target;
use crate::ship;
use crate::task::{Arguments, Task};

/// A task on every worker that is there when it is awaited; gives the outputs in the order of
/// the workers' ids.
#[must_use = "it does nothing until it is awaited"]
pub struct Everywhere<O> {
    cluster: Arc<ClusterCore>,
    task: Task<O>,
    deadline: Option<Duration>,
}

impl<O> std::fmt::Debug for Everywhere<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Everywhere")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

impl<O: DeserializeOwned> Everywhere<O> {
    pub(crate) fn new(cluster: &Arc<ClusterCore>, task: Task<O>) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            task,
            deadline: None,
        }
    }

    /// Fail on workers that give no result this long after their call started.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Waits for every worker and gives what each of them gave.
    ///
    /// # Errors
    /// Fails as a whole only when the arguments could not be encoded or passed on to the nodes.
    pub async fn each(self) -> Result<Vec<(WorkerId, Result<O, CallError>)>, CallError> {
        let Self {
            cluster,
            task,
            deadline,
        } = self;
        let workers = cluster.pool.workers();
        let stored = match &task.arguments {
            Ok(arguments) if worth_storing(arguments, workers.len()) => {
                Some(store(&cluster, &task, arguments.clone()).await?)
            }
            _ => None,
        };
        let calls = workers.into_iter().map(|worker| {
            let mut call = Call::new(&cluster.pool, task.clone(), Target::Worker(worker.id));
            if let Some((hash, length)) = stored {
                call = call.stored(hash, length);
            }
            if let Some(deadline) = deadline {
                call = call.deadline(deadline);
            }
            async move { (worker.id, call.await) }
        });
        Ok(join_all(calls).await)
    }
}

/// Whether arguments are passed on by the agents rather than sent to each worker.
fn worth_storing(arguments: &Arguments, workers: usize) -> bool {
    workers > 1 && !lane::fits_inline(arguments.body.len(), &arguments.attachments)
}

async fn store<O>(
    cluster: &Arc<ClusterCore>,
    task: &Task<O>,
    arguments: Arguments,
) -> Result<(cc_core::ids::ContentHash, u64), CallError> {
    let length = arguments.size();
    let core = Arc::clone(cluster);
    let storing = async move { ship::value(&core, &arguments).await };
    let hash = cluster
        .driver
        .network
        .run("broadcast", storing)
        .await
        .map_err(|e| CallError::Framework {
            function: task.function(),
            phase: "pass the arguments on to the nodes",
            worker: None,
            reason: e.to_string(),
        })?;
    Ok((hash, length))
}

impl<O: DeserializeOwned + Send + 'static> IntoFuture for Everywhere<O> {
    type Output = Result<Vec<O>, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Waits for every worker; the first error, by worker id, stands for all.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let results = self.each().await?;
            results.into_iter().map(|(_, result)| result).collect()
        })
    }
}
